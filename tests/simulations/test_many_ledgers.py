"""The ledgers of a simulation: for each merchant what `PrivacyLedger` says, in one file."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from client.ledger import Cost, PlanUsedUpError, SealedReplyGoneError
from pp_model.accounting import epsilon_spent
from pp_model.errors import BudgetExceededError, LedgerError
from simulations.many_ledgers import ManyLedgers
from tests.support.ledgers import LINEAGE, PLAN, event, ledger_of_steps, steps

NAMES = ("bakery", "florist", "grocer")
BUDGET = 100.0


def many(
    folder: Path, *, names: Sequence[str] = NAMES, budget: float = BUDGET, delta: float = 1e-6, cost: Cost = steps
) -> ManyLedgers:
    lineages = [replace(LINEAGE, merchant=name) for name in names]
    return ManyLedgers(folder / "ledgers.sqlite", lineages=lineages, budget=budget, delta=delta, cost=cost)


def charged_on_disk(folder: Path) -> list[list[int]]:
    """The steps that each merchant was charged, as another program reads them."""
    with many(folder) as ledgers:
        return [[one.num_steps for one in ledger.events] for ledger in ledgers.ledgers]


class ManyLives(RuleBasedStateMachine):
    """Three merchants: any order of charges, seals, repeats, refusals and restarts, against dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.charged: list[list[str]] = [[], [], []]
        self.sealed: list[dict[str, bytes]] = [{}, {}, {}]
        self.ledgers = many(self.folder)

    def teardown(self) -> None:
        with self.ledgers:
            shutil.rmtree(self.folder)

    @rule()
    def restart(self) -> None:
        with self.ledgers:
            self.ledgers = many(self.folder)

    @rule(merchant=st.integers(0, 2), task=st.sampled_from("abcdef"))
    def charge(self, merchant: int, task: str) -> None:
        ledger, known = self.ledgers.ledgers[merchant], self.charged[merchant]
        if task in known or cost_of(known) + cost_of([task]) <= BUDGET:
            ledger.charge(task, event(cost_of([task])), plan=PLAN, most_tasks=None)
            known += [task] * (task not in known)
        else:
            with pytest.raises(BudgetExceededError):
                ledger.charge(task, event(cost_of([task])), plan=PLAN, most_tasks=None)

    @rule(merchant=st.integers(0, 2), task=st.sampled_from("abcdef"), payload=st.binary(max_size=3))
    def seal(self, merchant: int, task: str, payload: bytes) -> None:
        ledger, kept = self.ledgers.ledgers[merchant], self.sealed[merchant]
        if task not in self.charged[merchant]:
            with pytest.raises(LedgerError, match="never charged"):
                ledger.seal(task, payload)
        elif task in list(kept)[:-1]:
            with pytest.raises(SealedReplyGoneError):
                ledger.seal(task, payload)
        else:
            assert ledger.seal(task, payload) == kept.setdefault(task, payload)

    @invariant()
    def the_latest_reply_is_kept_and_of_older_ones_that_they_were(self) -> None:
        for ledger, kept in zip(self.ledgers.ledgers, self.sealed, strict=True):
            for number, (task, payload) in enumerate(kept.items()):
                if number == len(kept) - 1:
                    assert ledger.sealed(task) == payload
                else:
                    with pytest.raises(SealedReplyGoneError):
                        ledger.sealed(task)
            assert [ledger.sealed(task) for task in "abcdef" if task not in kept] == [None] * (6 - len(kept))

    @invariant()
    def spent_is_what_was_charged(self) -> None:
        for ledger, known in zip(self.ledgers.ledgers, self.charged, strict=True):
            assert ledger.spent == cost_of(known) <= BUDGET
            assert sorted(one.num_steps for one in ledger.events) == sorted(cost_of([task]) for task in known)


def cost_of(tasks: Sequence[str]) -> int:
    return sum(15 + 5 * "abcdef".index(task) for task in tasks)


TestManyLives = ManyLives.TestCase
TestManyLives.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_a_charge_and_a_sealed_reply_are_on_disk_when_the_call_returns(tmp_path):
    with many(tmp_path) as ledgers:
        ledgers.ledgers[1].charge("a", event(5), plan=PLAN, most_tasks=3)
        assert charged_on_disk(tmp_path) == [[], [5], []]
        ledgers.ledgers[1].seal("a", b"reply")
        with many(tmp_path) as read:
            assert [ledger.sealed("a") for ledger in read.ledgers] == [None, b"reply", None]


def test_what_was_sealed_first_stays_whatever_is_sealed_later(tmp_path):
    with many(tmp_path) as ledgers:
        first, second, _ = ledgers.ledgers
        for ledger in (first, second):
            ledger.charge("a", event(5), plan=PLAN, most_tasks=3)
        assert (first.seal("a", b"first"), second.seal("a", b"another")) == (b"first", b"another")
        assert first.seal("a", b"second") == b"first"
    with many(tmp_path) as again:
        assert again.ledgers[0].seal("a", b"third") == again.ledgers[0].sealed("a") == b"first"


def test_what_is_done_together_is_on_disk_when_that_ends_and_not_before(tmp_path):
    with many(tmp_path) as ledgers:
        with ledgers.together():
            for ledger in ledgers.ledgers:
                ledger.charge("a", event(5), plan=PLAN, most_tasks=3)
            assert charged_on_disk(tmp_path) == [[], [], []]
        assert charged_on_disk(tmp_path) == [[5], [5], [5]]


def charge_and_die(ledgers: ManyLedgers) -> None:
    with ledgers.together():
        ledgers.ledgers[0].charge("a", event(5), plan=PLAN, most_tasks=3)
        raise KeyboardInterrupt


def test_an_error_that_leaves_the_block_leaves_nothing_on_disk_and_ends_the_ledgers(tmp_path):
    with many(tmp_path) as ledgers:
        ledger = ledgers.ledgers[0]
        with pytest.raises(KeyboardInterrupt):
            charge_and_die(ledgers)
        for answer in (
            lambda: ledger.charge("a", event(5), plan=PLAN, most_tasks=3),  # though it is known in memory
            lambda: ledger.seal("a", b"reply"),
            lambda: ledger.sealed("a"),
            lambda: ledger.spent,
            lambda: ledger.events,
        ):
            with pytest.raises(LedgerError, match="open them again"):
                answer()
    assert charged_on_disk(tmp_path) == [[], [], []]


def test_a_disk_that_does_not_take_the_charges_is_an_error_and_ends_the_ledgers(tmp_path):
    with many(tmp_path) as ledgers:
        with closing(sqlite3.connect(tmp_path / "ledgers.sqlite")) as other:
            other.execute("DROP TABLE tasks")
        with pytest.raises(LedgerError, match="cannot be used"):
            ledgers.ledgers[0].charge("a", event(5), plan=PLAN, most_tasks=3)
        with pytest.raises(LedgerError, match="open them again"):
            ledgers.ledgers[0].charge("b", event(5), plan=PLAN, most_tasks=3)


def test_a_plan_is_charged_for_as_many_tasks_as_were_agreed_at_each_merchant(tmp_path):
    with many(tmp_path) as ledgers:
        first, second, _ = ledgers.ledgers
        first.charge("a", event(5), plan=PLAN, most_tasks=1)
        with pytest.raises(PlanUsedUpError):
            first.charge("b", event(5), plan=PLAN, most_tasks=1)
        second.charge("b", event(5), plan=PLAN, most_tasks=1)
    with many(tmp_path) as again, pytest.raises(PlanUsedUpError):
        again.ledgers[0].charge("b", event(5), plan=PLAN, most_tasks=1)


def test_a_task_whose_mechanism_changed_is_refused(tmp_path):
    with many(tmp_path) as ledgers:
        ledgers.ledgers[0].charge("a", event(5), plan=PLAN, most_tasks=None)
        with pytest.raises(LedgerError, match="another event"):
            ledgers.ledgers[0].charge("a", event(4), plan=PLAN, most_tasks=None)
    assert charged_on_disk(tmp_path) == [[5], [], []]


@pytest.mark.parametrize(
    "price", [float("nan"), float("inf"), -1.0, BUDGET + 1e-9], ids=["nan", "infinite", "falling", "over"]
)
def test_a_price_that_is_none_or_passes_the_budget_is_refused_and_leaves_no_trace(tmp_path, price):
    with many(tmp_path, cost=lambda events: price if len(events) > 1 else 1.0) as ledgers:
        ledgers.ledgers[0].charge("a", event(5), plan=PLAN, most_tasks=None)
        with pytest.raises(BudgetExceededError):
            ledgers.ledgers[0].charge("b", event(5), plan=PLAN, most_tasks=None)
    assert charged_on_disk(tmp_path) == [[5], [], []]


def test_the_price_is_the_accountants_as_in_a_merchants_own_ledger(tmp_path):
    lineages = [LINEAGE]
    with ManyLedgers(tmp_path / "l", lineages=lineages, budget=8.0, delta=1e-5) as ledgers:
        for task in ("a", "b"):
            ledgers.ledgers[0].charge(task, event(40), plan=PLAN, most_tasks=None)
        assert ledgers.ledgers[0].spent == epsilon_spent([event(40)] * 2, delta=1e-5)


def test_merchants_with_equal_histories_are_priced_once(tmp_path):
    priced: list[int] = []

    def counting(events):
        priced.append(len(events))
        return steps(events)

    names = [f"merchant-{number}" for number in range(200)]
    with many(tmp_path, names=names, cost=counting) as ledgers:
        for task in ("a", "b", "c"):
            with ledgers.together():
                for ledger in ledgers.ledgers:
                    ledger.charge(task, event(5), plan=PLAN, most_tasks=None)
        assert priced == [1, 2, 3]
        assert {ledger.spent for ledger in ledgers.ledgers} == {15.0}


OTHERS: dict[str, Callable[[Path], ManyLedgers]] = {
    "merchants": lambda folder: many(folder, names=("bakery", "florist")),
    "order": lambda folder: many(folder, names=("florist", "bakery", "grocer")),
    "budget": lambda folder: many(folder, budget=BUDGET + 1),
    "delta": lambda folder: many(folder, delta=1e-5),
}


@pytest.mark.parametrize("opened", OTHERS.values(), ids=OTHERS)
def test_ledgers_are_opened_with_what_they_were_begun_with(tmp_path, opened):
    with many(tmp_path):
        pass
    with pytest.raises(LedgerError, match="another folder"):
        opened(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no database", None], ids=["empty", "text", "a-merchants-own"])
def test_a_file_that_is_something_else_is_an_error(tmp_path, content):
    if content is None:
        ledger_of_steps(tmp_path / "ledgers.sqlite").close()
    else:
        (tmp_path / "ledgers.sqlite").write_bytes(content)
    with pytest.raises(LedgerError):
        many(tmp_path)
