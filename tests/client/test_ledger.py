"""The ledger: charged before it is looked at, never refunded, never forgotten, never wrong in silence."""

from __future__ import annotations

import math
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from client.ledger import KEEP_SEALED, PlanUsedUpError, SealedReplyGoneError, open_ledger
from pp_model.accounting import epsilon_spent
from pp_model.errors import BudgetExceededError, LedgerError, PolicyError
from tests.support.ledgers import (
    LIFE,
    LINEAGE,
    PLAN,
    entries,
    event,
    ledger_of_steps,
    ledger_with_cost,
    live,
    payload_of,
)

ROOT = Path(__file__).parents[2]
BUDGET = 100


class LedgerLife(RuleBasedStateMachine):
    """Any order of charges, seals, repeats, refusals and restarts, against two dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.charged: dict[str, int] = {}
        self.replies: dict[str, bytes] = {}
        self.ledger = ledger_of_steps(self.folder / "ledger.sqlite", budget=BUDGET)

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.folder)

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.ledger = ledger_of_steps(self.folder / "ledger.sqlite", budget=BUDGET)

    @rule()
    def restart_after_a_crash(self) -> None:
        """The old one is not closed: what it left in the side files is all there is."""
        crashed, self.ledger = self.ledger, ledger_of_steps(self.folder / "ledger.sqlite", budget=BUDGET)
        crashed.close()

    @rule(task=st.sampled_from("abcdefghijkl"), num_steps=st.integers(1, 60))
    def charge(self, task: str, num_steps: int) -> None:
        known, room = self.charged.get(task), BUDGET - sum(self.charged.values())
        if known is None and num_steps <= room:
            self.charged[task] = num_steps  # the model accepts, so the ledger must
        elif known != num_steps:
            before = self.ledger.anchor
            with pytest.raises(LedgerError if known else BudgetExceededError):
                self.ledger.charge(task, event(num_steps), plan=PLAN, most_tasks=None)
            assert self.ledger.anchor == before
            return
        self.ledger.charge(task, event(num_steps), plan=PLAN, most_tasks=None)

    @rule(task=st.sampled_from("abcdefghijkl"))
    def repeated_delivery(self, task: str) -> None:
        self.charge(task, self.charged.get(task, 1))

    @rule(task=st.sampled_from("abcdefghijkl"), payload=st.binary(max_size=200))
    def seal(self, task: str, payload: bytes) -> None:
        if task not in self.charged:
            with pytest.raises(LedgerError):
                self.ledger.seal(task, payload)
        elif task in self.gone():
            with pytest.raises(SealedReplyGoneError):
                self.ledger.seal(task, payload)
        else:
            assert self.ledger.seal(task, payload) == self.replies.setdefault(task, payload)

    @rule(task=st.sampled_from("abcdefghijkl"))
    def sealed(self, task: str) -> None:
        if task in self.gone():
            with pytest.raises(SealedReplyGoneError):
                self.ledger.sealed(task)
        else:
            assert self.ledger.sealed(task) == self.replies.get(task)

    def gone(self) -> list[str]:
        return list(self.replies)[:-KEEP_SEALED]

    @invariant()
    def spent_is_what_was_charged(self) -> None:
        assert self.ledger.spent == sum(self.charged.values()) <= BUDGET
        assert self.ledger.remaining == BUDGET - sum(self.charged.values())
        assert self.ledger.events == tuple(map(event, self.charged.values()))

    @invariant()
    def every_charge_says_what_was_spent_by_then(self) -> None:
        total = 0
        for charge, (task, num_steps) in zip(self.ledger.charges(), self.charged.items(), strict=True):
            total += num_steps
            assert (charge.task, charge.event, charge.epsilon_after) == (task, event(num_steps), total)


TestLedgerLife = LedgerLife.TestCase
TestLedgerLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# What may be charged


def test_a_refused_charge_leaves_the_entries_as_they_were(tmp_path: Path) -> None:
    with ledger_of_steps(tmp_path / "ledger.sqlite") as ledger:
        ledger.charge("a", event(90), plan=PLAN, most_tasks=None)
        before = entries(tmp_path / "ledger.sqlite")
        with pytest.raises(BudgetExceededError) as refusal:
            ledger.charge("b", event(11), plan=PLAN, most_tasks=None)
        assert (refusal.value.spent, refusal.value.needed, refusal.value.budget) == (90, 101, 100)
        assert entries(tmp_path / "ledger.sqlite") == before
        ledger.charge("b", event(10), plan=PLAN, most_tasks=None)  # to the last drop
        assert ledger.spent == 100


@pytest.mark.parametrize("wrong", [math.nan, -1.0, -math.inf, math.inf])
def test_a_price_that_went_wrong_is_refused(tmp_path: Path, wrong: float) -> None:
    with ledger_with_cost(tmp_path, lambda _: wrong) as ledger:
        with pytest.raises(BudgetExceededError):
            ledger.charge("a", event(1), plan=PLAN, most_tasks=None)
        assert ledger.charges() == []


def test_a_price_that_falls_when_an_event_is_added_is_refused(tmp_path: Path) -> None:
    with ledger_with_cost(tmp_path, lambda events: 10.0 / len(events)) as ledger:
        ledger.charge("a", event(1), plan=PLAN, most_tasks=None)
        with pytest.raises(BudgetExceededError):
            ledger.charge("b", event(1), plan=PLAN, most_tasks=None)
        assert ledger.spent == 10.0


def test_without_a_finite_budget_an_infinite_price_is_charged_and_nan_is_not(tmp_path: Path) -> None:
    with ledger_of_steps(tmp_path / "free.sqlite", budget=math.inf) as ledger:
        ledger.charge("a", event(1, noise_multiplier=0.0), plan=PLAN, most_tasks=None)
        assert ledger.spent == ledger.remaining == math.inf
    with (
        ledger_with_cost(tmp_path, lambda _: math.nan, budget=math.inf) as ledger,
        pytest.raises(BudgetExceededError),
    ):
        ledger.charge("a", event(1), plan=PLAN, most_tasks=None)


@pytest.mark.parametrize(
    "changed", [{"noise_multiplier": math.nan}, {"noise_multiplier": math.inf}, {"num_steps": 1.5}], ids=str
)
def test_an_event_that_the_file_cannot_hold_is_refused_whatever_the_budget(
    tmp_path: Path, changed: dict[str, float]
) -> None:
    with ledger_of_steps(tmp_path / "ledger.sqlite", budget=math.inf) as ledger:
        with pytest.raises(LedgerError, match="finite"):
            ledger.charge("a", replace(event(1), **changed), plan=PLAN, most_tasks=None)  # type: ignore[arg-type]
        assert ledger.charges() == []


def test_the_cost_is_asked_once_for_a_new_charge_and_never_for_a_repeat(tmp_path: Path) -> None:
    asked: list[int] = []

    def counted(events: object) -> float:
        asked.append(len(tuple(events)))  # type: ignore[arg-type]
        return float(asked[-1])

    with ledger_with_cost(tmp_path, counted) as ledger:
        for task in ("a", "b", "b", "c", "a"):
            ledger.charge(task, event(1), plan=PLAN, most_tasks=None)
            assert ledger.spent == len(ledger.charges())
    assert asked == [1, 2, 3]


def test_the_price_of_a_thousand_steps_is_the_price_of_twenty_charges_of_fifty(tmp_path: Path) -> None:
    """Checklist D22: mechanism events are composed; epsilons are not added up."""
    delta, mechanism = 1e-5, event(50, sample_rate=0.02, noise_multiplier=1.1)
    with (
        open_ledger(tmp_path / "once", lineage=LINEAGE, budget=8.0, delta=delta) as once,
        open_ledger(tmp_path / "often", lineage=LINEAGE, budget=8.0, delta=delta) as often,
    ):
        once.charge("all", mechanism.times(20), plan=PLAN, most_tasks=None)
        for number in range(20):
            often.charge(f"part {number}", mechanism, plan=PLAN, most_tasks=None)
        assert once.spent == pytest.approx(often.spent, rel=1e-9)
        assert 0 < once.spent < 8.0
        assert once.spent == epsilon_spent([mechanism.times(20)], delta=delta)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0])
def test_charges_that_have_no_price_any_more_close_the_ledger(tmp_path: Path, wrong: float) -> None:
    with ledger_of_steps(tmp_path / "ledger.sqlite") as ledger:
        ledger.charge("a", event(1), plan=PLAN, most_tasks=None)
    with pytest.raises(LedgerError, match="no price"):
        ledger_with_cost(tmp_path, lambda _: wrong)


# How often a plan may be charged


def test_a_plan_is_charged_for_no_more_tasks_than_were_agreed_and_the_refusal_says_so(tmp_path: Path) -> None:
    with ledger_of_steps(tmp_path / "ledger.sqlite") as ledger:
        for task in "abc":
            ledger.charge(task, event(1), plan=PLAN, most_tasks=3)
        before = entries(tmp_path / "ledger.sqlite")
        with pytest.raises(PlanUsedUpError, match=r"3 tasks, and 3 were agreed.*another plan") as refusal:
            ledger.charge("d", event(1), plan=PLAN, most_tasks=3)
        assert (refusal.value.plan, refusal.value.charged, refusal.value.most_tasks) == (PLAN, 3, 3)
        assert isinstance(refusal.value, PolicyError)
        ledger.charge("a", event(1), plan=PLAN, most_tasks=3)  # a repeat is no further task
        assert entries(tmp_path / "ledger.sqlite") == before
        ledger.charge("d", event(1), plan="e" * 64, most_tasks=3)
    with ledger_of_steps(tmp_path / "ledger.sqlite") as ledger, pytest.raises(PlanUsedUpError):
        ledger.charge("e", event(1), plan=PLAN, most_tasks=3)


def test_two_programs_never_charge_a_plan_too_often_together(tmp_path: Path) -> None:
    """Counted where the charge is made, of what is in the file then, and not of what a program knew before."""
    with ledger_of_steps(tmp_path / "ledger.sqlite") as one, ledger_of_steps(tmp_path / "ledger.sqlite") as two:
        for task in "abc":
            two.charge(task, event(1), plan=PLAN, most_tasks=3)
        with pytest.raises(PlanUsedUpError):
            one.charge("d", event(1), plan=PLAN, most_tasks=3)
        assert one.spent == two.spent == 3


# What others may keep of it


def test_an_anchor_names_the_lineage_and_not_the_budget(tmp_path: Path) -> None:
    """A ledger begun anew is noticed, with a larger budget too, and another period's is no contradiction."""
    changes = {
        "twin": {},
        "rich": {"budget": 1e6},
        "lax": {"delta": 1e-3},
        "next": {"lineage": replace(LINEAGE, period="2025")},
    }
    anchors = {}
    for name, change in changes.items():
        with ledger_of_steps(tmp_path / name, **change) as ledger:  # type: ignore[arg-type]
            anchors[name] = ledger.anchor
    assert anchors["twin"].ledger == anchors["rich"].ledger == anchors["lax"].ledger != anchors["next"].ledger
    with ledger_of_steps(tmp_path / "twin") as ledger:
        ledger.check_anchor(anchors["next"])
        for name in ("rich", "lax"):
            with pytest.raises(LedgerError, match="another ledger"):
                ledger.check_anchor(anchors[name])


# Whose budget it is


def test_a_renamed_orders_file_or_ledger_file_has_the_same_budget(tmp_path: Path) -> None:
    """Checklist D51, D52: the key is what the merchant declared, and no file's name or content is part of it."""
    with ledger_of_steps(tmp_path / "ledger.sqlite") as ledger:
        ledger.charge("a", event(70), plan=PLAN, most_tasks=None)
    (tmp_path / "ledger.sqlite").rename(tmp_path / "renamed.sqlite")
    with ledger_of_steps(tmp_path / "renamed.sqlite") as ledger, pytest.raises(BudgetExceededError):
        ledger.charge("b", event(31), plan=PLAN, most_tasks=None)


@pytest.mark.parametrize("field", ["merchant", "unit", "population", "period"])
def test_another_lineage_is_refused(tmp_path: Path, field: str) -> None:
    ledger_of_steps(tmp_path / "ledger.sqlite").close()
    with pytest.raises(LedgerError, match=r"lineage.*other.*ledger, in a file of its own"):
        ledger_of_steps(tmp_path / "ledger.sqlite", lineage=replace(LINEAGE, **{field: "other"}))


@pytest.mark.parametrize("field", ["merchant", "unit", "population", "period"])
def test_a_lineage_has_no_empty_part(field: str) -> None:
    with pytest.raises(LedgerError, match=rf"lineage\.{field}"):
        replace(LINEAGE, **{field: " "})


@pytest.mark.parametrize("changed", [{"budget": 101.0}, {"budget": 99.0}, {"budget": math.inf}, {"delta": 1e-5}])
def test_another_budget_or_delta_is_refused(tmp_path: Path, changed: dict[str, float]) -> None:
    ledger_of_steps(tmp_path / "ledger.sqlite").close()
    with pytest.raises(LedgerError, match=f"begun with {next(iter(changed))}"):
        ledger_of_steps(tmp_path / "ledger.sqlite", **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [{"budget": math.nan}, {"budget": -1.0}, {"delta": 0.0}, {"delta": 1.0}, {"delta": math.nan}]
)
def test_a_ledger_is_not_begun_with_an_impossible_budget_or_delta(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(LedgerError):
        ledger_of_steps(tmp_path / "ledger.sqlite", **wrong)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_closed_ledger_says_so(tmp_path: Path) -> None:
    ledger = ledger_of_steps(tmp_path / "ledger.sqlite")
    ledger.close()
    with pytest.raises(LedgerError, match="open it again"):
        ledger.charge("a", event(1), plan=PLAN, most_tasks=None)


# What is sealed


def test_only_the_latest_replies_are_kept_and_an_older_one_is_gone_for_good(tmp_path: Path) -> None:
    tasks = [f"task {number}" for number in range(KEEP_SEALED + 2)]
    with ledger_of_steps(tmp_path / "ledger.sqlite") as ledger:
        for task in tasks:
            ledger.charge(task, event(1), plan=PLAN, most_tasks=None)
            ledger.seal(task, payload_of(task))
        for task in tasks[:2]:
            with pytest.raises(SealedReplyGoneError, match="no longer kept"):
                ledger.sealed(task)
            with pytest.raises(SealedReplyGoneError):
                ledger.seal(task, b"computed again")
        assert [ledger.sealed(task) for task in tasks[2:]] == [payload_of(task) for task in tasks[2:]]


def test_a_sealed_reply_that_was_changed_is_never_sent(tmp_path: Path) -> None:
    with ledger_of_steps(tmp_path / "ledger.sqlite") as ledger:
        ledger.charge("a", event(1), plan=PLAN, most_tasks=None)
        ledger.seal("a", payload_of("a"))
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection, connection:
            connection.execute("UPDATE payloads SET payload = x'00'")
        with pytest.raises(LedgerError, match="damaged"):
            ledger.sealed("a")
    with pytest.raises(LedgerError, match="damaged"):
        ledger_of_steps(tmp_path / "ledger.sqlite")


def test_when_two_programs_compute_one_task_both_send_what_the_first_sealed(tmp_path: Path) -> None:
    with ledger_of_steps(tmp_path / "ledger.sqlite") as one, ledger_of_steps(tmp_path / "ledger.sqlite") as two:
        one.charge("a", event(1), plan=PLAN, most_tasks=None)
        two.charge("a", event(1), plan=PLAN, most_tasks=None)
        assert two.seal("a", b"from two") == b"from two"
        assert one.seal("a", b"from one") == b"from two"
        assert one.spent == two.spent == 1


# Crashes, several programs, several threads


def test_a_kill_at_any_statement_loses_no_charge_and_no_sealed_reply(tmp_path: Path) -> None:
    """Checklist D24: killed before every single statement of a life of three tasks, then delivered again."""
    run_support("kill", tmp_path).communicate(timeout=120)
    places = sorted(tmp_path.iterdir(), key=lambda place: int(place.name))
    assert len(places) > 20
    for place in places:
        diary = (place / "diary").read_text().splitlines() if (place / "diary").exists() else []
        promised = {
            word: [line.split()[1] for line in diary if line.startswith(word)] for word in ("charged", "sealed")
        }
        with ledger_of_steps(place / "ledger.sqlite") as ledger:
            charged = [charge.task for charge in ledger.charges()]
            assert charged in (promised["charged"], [*promised["charged"], LIFE[len(diary) // 2 % 3]])
            assert [ledger.sealed(task) for task in promised["sealed"]] == list(map(payload_of, promised["sealed"]))
            live(ledger, place / "second diary")
            assert [charge.task for charge in ledger.charges()] == list(LIFE)
            assert ledger.spent == 30
    assert diary == [f"{word} {task}" for task in LIFE for word in ("charged", "sealed")]  # the last one was not killed


def test_two_programs_charging_at_once_never_pass_the_budget(tmp_path: Path) -> None:
    budget = 60
    programs = [run_support("race", tmp_path / "ledger.sqlite", name, budget) for name in ("one", "two")]
    for program in programs:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    got = [int(program.communicate(timeout=120)[0]) for program in programs]
    assert sum(got) == budget
    with ledger_of_steps(tmp_path / "ledger.sqlite", budget=budget) as ledger:
        assert ledger.spent == len(ledger.charges()) == budget
    assert sorted(path.name for path in tmp_path.iterdir()) == ["go", "ledger.sqlite", "ledger.sqlite-head"]


def test_threads_share_one_ledger(tmp_path: Path) -> None:
    with ledger_of_steps(tmp_path / "ledger.sqlite") as ledger:

        def charge_all() -> None:
            for number in range(KEEP_SEALED):
                ledger.charge(f"task {number}", event(1), plan=PLAN, most_tasks=None)
                assert ledger.seal(f"task {number}", b"reply") == b"reply"

        threads = [threading.Thread(target=charge_all) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ledger.spent == KEEP_SEALED
        assert ledger.anchor.seq == 2 * KEEP_SEALED


# Helpers


def run_support(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.ledgers", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
