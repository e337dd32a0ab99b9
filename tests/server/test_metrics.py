"""Checklist: D36, D37.

What the platform's monitoring sees: the registry and the roster without writing to them, and nothing of a customer.
"""

from __future__ import annotations

import datetime as dt
import math
import sqlite3
import time

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

import server.metrics
from agreement.node_keys import new_node_key, public_text
from daemons.supervisor import ChildState, State
from server.metrics import Live, metrics_registry
from server.public_check import Finding, Verdict
from server.registry import Registry
from server.registry_glance import read_glance
from server.roster import Roster
from tests.support.plans import tiny_plan
from tests.support.published import outcome, record, troubled

PLAN = tiny_plan()
CHILDREN = [
    ChildState(name="superlink", state=State.RUNNING, pid=7, waits_until=None, last_exit=1, restarts=4),
    ChildState(name="superexec", state=State.WAITING, pid=None, waits_until=None, last_exit=1, restarts=0),
]


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "registry.sqlite"
    with Registry(file), Roster(file) as roster:
        for name in ("bakery", "florist"):
            roster.add(name, public_text(new_node_key().public_key()))
    return file


def scraped(path, *, online: frozenset[str] | None = frozenset(), days: int = 99) -> dict[str, float]:
    """Each sample of a scrape, by name and the values of its labels."""
    live = Live(children=CHILDREN, online=online, certificate_days=days)
    text = generate_latest(metrics_registry(path, lambda: live)).decode()
    return {
        ":".join([sample.name.removeprefix("pp_server_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_platform_says_how_it_is_itself(path):
    seen = scraped(path, days=12)
    assert (seen["child_up:superlink"], seen["child_up:superexec"]) == (1, 0)
    assert (seen["child_restarts_total:superlink"], seen["child_restarts_total:superexec"]) == (4, 0)
    assert (seen["certificate_days_left"], seen["registry_readable"]) == (12, 1)


def test_merchants_are_counted_and_each_is_connected_or_not_and_was_seen_or_not(path):
    with Roster(path) as roster:
        roster.seen(roster.merchants()[0], now=dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5), version="0.1.0")
    seen = scraped(path, online=frozenset({"florist", "who was removed"}))
    assert (seen["merchants"], seen["merchants_connected"]) == (2, 1)
    assert (seen["merchant_connected:bakery"], seen["merchant_connected:florist"]) == (0, 1)
    assert 300 <= seen["merchant_unseen_seconds:bakery"] < 400
    assert "merchant_unseen_seconds:florist" not in seen
    assert (seen["merchant_info:bakery:0.1.0"], seen["merchant_info:florist:"]) == (1, 1)


def test_while_the_superlink_cannot_be_asked_nobody_is_said_to_be_away(path):
    seen = scraped(path, online=None)
    assert seen["merchants"] == 2
    assert not [name for name in seen if "connected" in name]


def test_a_merchant_that_was_removed_is_in_no_figure(path):
    with Roster(path) as roster:
        roster.remove("florist")
    seen = scraped(path)
    assert seen["merchants"] == 1
    assert not [name for name in seen if "florist" in name]


def test_a_run_under_way_says_its_round_its_deadline_and_how_the_last_round_went(path):
    with Registry(path) as registry:
        run = registry.start_run(PLAN, first_round=1)
        record(registry, run, outcome(round=1))
        registry.record_round(run, troubled(round=2, void=True, norm=9.0), seconds=7.5)
        registry.ask_round(run, 2, deadline=dt.datetime.now(dt.UTC) + dt.timedelta(seconds=60))
    seen = scraped(path)
    labels = f"tiny:{run}"
    figures = {name: seen[f"{name}:{labels}"] for name in server.metrics._RUN_FIGURES if f"{name}:{labels}" in seen}
    assert 55 < figures.pop("run_deadline_seconds") <= 60
    assert 0 <= figures.pop("checkpoint_age_seconds") < 60
    assert 0 <= figures.pop("round_age_seconds") < 60
    assert figures == {
        "run_running": 1,
        "run_rounds_done": 1,
        "run_rounds_planned": 3,
        "run_round_asked": 2,
        "round_cohort": 4,
        "round_completions": 1,
        "round_seconds": 7.5,
        "round_void": 1,
        "sum_norm": 0.5,  # of the round that moved the model
        "public_check_log_loss": 0.61,
        "public_check_spend_error": 1.25,
        "public_check_bad": 0,
    }
    assert seen[f"round_refusals:budget:{labels}"] == seen[f"round_rejections:norm:{labels}"] == 1


def test_a_run_that_was_killed_is_past_its_deadline(path):
    with Registry(path) as registry:
        run = registry.start_run(PLAN, first_round=1)
        registry.ask_round(run, 1, deadline=dt.datetime.now(dt.UTC) - dt.timedelta(seconds=90))
    assert -150 < scraped(path)[f"run_deadline_seconds:tiny:{run}"] <= -90


@pytest.mark.parametrize("finding", list(Finding))
def test_a_bad_model_is_said_to_be_one(path, finding):
    with Registry(path) as registry:
        run = registry.start_run(PLAN, first_round=1)
        registry.record_round(run, outcome(), seconds=1.0)
        registry.record_check(run, 1, Verdict(log_loss=math.inf, spend_error=2.0), finding)
    seen = scraped(path)
    assert seen[f"public_check_bad:tiny:{run}"] == (finding in (Finding.BAD, Finding.COLLAPSED))
    assert seen[f"public_check_log_loss:tiny:{run}"] == math.inf


def test_the_totals_are_over_all_runs_and_the_figures_of_a_run_over_those_under_way_and_the_newest(path):
    with Registry(path) as registry:
        first = registry.start_run(PLAN, first_round=1)
        registry.record_round(first, troubled(), seconds=1.0)
        registry.record_round(first, troubled(void=True), seconds=1.0)
        registry.end_run(first, "failed")
        second = registry.start_run(PLAN, first_round=1)
        record(registry, second, outcome())
        third = registry.start_run(tiny_plan(plan_id="other"), first_round=4)
        registry.end_run(third, "finished")
    seen = scraped(path)
    assert [seen[f"runs:{state}"] for state in ("running", "finished", "failed")] == [1, 1, 1]
    assert (seen["rounds_total"], seen["rounds_void_total"], seen["completions_total"]) == (3, 1, 4)
    assert (seen["refusals_total:budget"], seen["rejections_total:norm"]) == (2, 2)
    assert {name.removeprefix("run_running:") for name in seen if name.startswith("run_running")} == {
        f"tiny:{second}",
        f"other:{third}",
    }
    assert (seen[f"run_rounds_done:other:{third}"], seen[f"run_running:other:{third}"]) == (3, 0)


def test_the_newest_model_is_the_newest_that_merchants_can_have(path):
    assert not [name for name in scraped(path) if name.startswith("model_")]
    with Registry(path) as registry:
        run = registry.start_run(PLAN, first_round=1)
        for letter in "ab":
            made = {"file": "m", "epsilon": 1.0, "epsilon_two": 2.0, "parent": None}
            registry.add_model(plan=PLAN, run=run, sha256=letter * 64, **made)
        registry.sign_model(1, b"signed", "card")
    seen = scraped(path)
    assert seen["model_number"] == 1
    assert 0 <= seen["model_age_seconds"] < 60


@pytest.mark.parametrize("state", ["none", "other", "empty"])
def test_without_a_registry_there_is_no_number_rather_than_a_wrong_one(tmp_path, state):
    file = tmp_path / "registry.sqlite"
    if state == "other":
        file.write_bytes(b"nothing" * 1_000)
    elif state == "empty":
        file.touch()
    seen = scraped(file)
    assert seen["registry_readable"] == 0
    assert seen["child_up:superlink"] == 1
    assert not [name for name in seen if name.startswith(("merchant", "run", "round", "model"))]
    assert file.exists() is (state != "none")


def test_scrapes_that_come_close_together_are_one_look(path, monkeypatch):
    looks = []

    def look(file):
        looks.append(file)
        return read_glance(file)

    monkeypatch.setattr("server.metrics.read_glance", look)
    registry = metrics_registry(path, lambda: Live(children=[], online=None, certificate_days=1))
    for _ in range(50):
        generate_latest(registry)
    assert len(looks) <= 2
    monkeypatch.setattr("server.metrics.LOOK_AGAIN_SECONDS", 0.0)
    deadline = time.monotonic() + 5
    while len(looks) < 4 and time.monotonic() < deadline:
        generate_latest(registry)
    assert len(looks) >= 4


def test_a_look_waits_for_nobody_who_writes(path):
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("BEGIN IMMEDIATE")  # somebody writes
    assert scraped(path)["merchants"] == 2
    database.execute("ROLLBACK")
    database.close()


def test_what_merchants_are_called_is_quoted_as_prometheus_wants_it(path):
    with Roster(path) as roster:
        roster.add('a "b" \\ {c}', public_text(new_node_key().public_key()))
    assert 'merchant_info:a "b" \\ {c}:' in scraped(path)
