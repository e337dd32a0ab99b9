"""What this machine's monitoring sees: the ledger's numbers without writing to it, and how the daemon is."""

from __future__ import annotations

import datetime as dt
import logging
import os
import stat
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from client.metrics import DaemonState, LedgerGlance, glance, metrics_registry
from client.settings import MerchantSettings, load_settings
from client.shop_status import StatusKeeper, read_status
from daemons.supervisor import ChildState, State
from tests.support.market import market_plan
from tests.support.merchant_home import new_shop

CHILD = ChildState(name="supernode", state=State.RUNNING, pid=7, waits_until=None, last_exit=1, restarts=4)


@pytest.fixture
def settings(tmp_path) -> MerchantSettings:
    return load_settings(new_shop(tmp_path / "shop").config)


def scraped(
    settings: MerchantSettings, *, connected: bool = True, waiting: int = 0, clock_apart: float | None = 0.5
) -> dict[str, float]:
    state = DaemonState(connected=connected, clock_apart=clock_apart, waiting=waiting, children=[CHILD])
    registry = metrics_registry(settings, lambda: state)
    text = generate_latest(registry).decode()
    return {
        sample.name + "".join(f":{value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def charge(settings: MerchantSettings, rounds: int) -> float:
    plan = market_plan()
    with settings.open_ledger() as ledger:
        for number in range(rounds):
            ledger.charge(f"t{number}", plan.dp.event, plan=plan.fingerprint, most_tasks=plan.rounds)
        return ledger.spent


def test_the_numbers_are_the_ledgers(settings):
    spent = charge(settings, 2)
    seen = scraped(settings, waiting=3)
    assert seen["pp_epsilon_budget"] == 3.0
    assert seen["pp_epsilon_spent"] == spent > 0
    assert seen["pp_epsilon_left"] == 3.0 - spent
    assert seen["pp_delta"] == 1e-5
    assert seen["pp_tasks_charged_total"] == 2
    assert (seen["pp_plans_waiting"], seen["pp_platform_connected"]) == (3, 1)
    assert seen["pp_ledger_readable"] == 1
    assert (seen["pp_child_restarts_total:supernode"], seen["pp_child_running:supernode"]) == (4, 1)


def test_without_a_ledger_or_with_another_file_there_is_no_number_rather_than_a_wrong_one(settings):
    assert "pp_epsilon_spent" not in scraped(settings)
    assert not settings.paths.ledger.exists()
    settings.paths.ledger.write_bytes(b"nothing" * 1_000)
    assert glance(settings.paths.ledger) is None
    assert "pp_epsilon_left" not in scraped(settings)
    assert scraped(settings)["pp_ledger_readable"] == 0


def test_looking_writes_nothing_and_works_while_another_writes(settings):
    charge(settings, 1)
    ledger = settings.paths.ledger
    os.chmod(ledger, stat.S_IRUSR)  # noqa: PTH101
    before = ledger.read_bytes()
    assert glance(ledger) == LedgerGlance(spent=glance(ledger).spent, charges=1)
    assert ledger.read_bytes() == before
    os.chmod(ledger, 0o600)  # noqa: PTH101
    plan = market_plan()
    with settings.open_ledger() as opened:
        opened.charge("more", plan.dp.event, plan=plan.fingerprint, most_tasks=None)
        assert glance(ledger).charges == 2


def logged(message: str, **fields: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "levelno": logging.INFO, **fields})


def test_the_runner_counts_answers_and_refusals_by_code(settings):
    folder = settings.paths.agreements.parent
    keeper = StatusKeeper(folder, pid=99)
    for record in (
        logged("task trained"),
        logged("task refused", code="budget"),
        logged("task refused", code="budget"),
    ):
        keeper.emit(record)
    keeper.emit(logged("something else", code="secret"))
    keeper.update(ready=True, newest_order=(dt.datetime.now(dt.UTC).date() - dt.timedelta(days=3)).isoformat())
    status = read_status(folder)
    assert (status.pid, status.ready, status.answered, status.refused) == (99, True, 1, {"budget": 2})
    seen = scraped(settings)
    assert seen["pp_tasks_answered_total"] == 1
    assert seen["pp_tasks_refused_total:budget"] == 2
    assert seen["pp_tasks_refused_total:policy"] == 0  # an increase is seen from the first
    assert seen["pp_orders_age_days"] == 3
    assert seen["pp_orders_readable"] == 1
    assert abs(seen["pp_last_task_timestamp_seconds"] - dt.datetime.now(dt.UTC).timestamp()) < 60
    keeper.update(fault="orders.csv, line 5: there is no amount")
    assert scraped(settings)["pp_orders_readable"] == 0


def test_the_status_file_is_its_owners_alone_and_a_full_disk_costs_no_task(tmp_path):
    keeper = StatusKeeper(tmp_path, pid=1)
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    StatusKeeper(tmp_path / "gone", pid=1).emit(logged("task trained"))
    keeper.emit(logged("task trained"))
    assert read_status(tmp_path).answered == 1


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"pid": "x"}', '{"pid": 1, "more": 2}'])
def test_a_status_file_of_anything_is_no_status(tmp_path, text):
    Path(tmp_path / "runner.json").write_text(text)
    assert read_status(tmp_path) is None


def test_the_clocks_difference_is_shown_where_the_platform_has_answered(settings):
    assert scraped(settings, clock_apart=-31.5)["pp_clock_apart_seconds"] == -31.5
    assert "pp_clock_apart_seconds" not in scraped(settings, clock_apart=None)
