"""The budget's numbers and its chart: parts that come to the whole, in the order in which they were charged."""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
from dataclasses import replace

import pytest

from client.ledger import Charge
from client.pages.budget import MOST_BARS, budget_of, charge_days, left_words
from client.pages.numbers import down, small, up
from client.spending import Spending
from daemons.logs import JsonFormatter
from pp_model.accounting import epsilon_spent
from tests.support.ledgers import event

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
DELTA = 1e-5


def spending(*plans: str, budget: float = 3.0) -> Spending:
    """One charge for each name."""
    events = [event(1, sample_rate=0.02) for _ in plans]
    charges = tuple(
        Charge(
            seq=at + 1,
            task=f"{at:064x}",
            plan=plan * 64,
            event=events[at],
            epsilon_after=epsilon_spent(events[: at + 1], delta=DELTA),
        )
        for at, plan in enumerate(plans)
    )
    return Spending(charges=charges, budget=budget, delta=DELTA)


def test_the_last_bar_is_what_was_spent_and_every_bar_is_the_total_at_that_charge():
    found = budget_of(spending("a", "b", "a", "b"), [], days={}, now=NOW)
    *plans, limit = found.chart.series
    totals = [sum(series.values[at] or 0 for series in plans) for at in range(4)]
    assert totals == pytest.approx([charge.epsilon_after for charge in spending("a", "b", "a", "b").charges], abs=1e-5)
    assert totals[-1] == pytest.approx(found.spent, abs=1e-5)
    assert set(limit.values) == {3.0}
    assert found.chart.categories == ("1", "2", "3", "4")
    assert [(plan.name, plan.tasks) for plan in found.plans] == [("a" * 12, 2), ("b" * 12, 2)]


def test_charges_whose_days_the_log_knows_are_drawn_by_day():
    days = {f"{at:064x}"[:12]: dt.date(2026, 5, 1 + at // 2) for at in range(1)}
    some = spending("a", "a", "b", "b")
    unique = {charge.task[:12] for charge in some.charges}
    assert len(unique) == 1  # tasks of this test begin alike, so the log cannot tell them apart
    found = budget_of(some, [], days=days, now=NOW)
    assert found.chart.categories == ("2026-05-01",)


def test_a_long_history_is_thinned_and_keeps_its_end():
    one = spending("a").charges[0]
    charges = [replace(one, seq=at, task=f"{at:064x}", epsilon_after=0.01 * at) for at in range(1, 2 * MOST_BARS + 1)]
    many = Spending(charges=tuple(charges), budget=3.0, delta=DELTA)
    found = budget_of(many, [], days={}, now=NOW)
    assert len(found.chart.categories) == MOST_BARS
    assert found.chart.categories[-1] == str(2 * MOST_BARS)


def test_without_charges_all_is_left():
    found = budget_of(spending(), [], days={}, now=NOW)
    assert (found.spent, found.promised, found.left, found.chart.empty) == (0.0, 0.0, 3.0, True)
    assert left_words(found).values == {"spent": "0.00", "budget": "3.00", "left": "3.00"}


def test_an_infinite_budget_is_said_to_be_none():
    found = budget_of(spending("a", budget=math.inf), [], days={}, now=NOW)
    assert not found.private
    assert left_words(found).key == "budget.none"


def test_the_days_of_charges_are_those_of_the_daemons_log(tmp_path):
    log = tmp_path / "client.jsonl"
    record = logging.makeLogRecord(
        {
            "name": "shop",
            "levelname": "INFO",
            "msg": "12:00:00 INFO client.task: task trained task=abcdef012345 round=1",
        }
    )
    record.created = dt.datetime(2026, 5, 4, 12, tzinfo=dt.UTC).timestamp()
    lines = [JsonFormatter().format(record), "no json: task trained task=000000000000", json.dumps({"event": "x"})]
    log.write_text("\n".join(lines) + "\n", encoding="ascii")
    assert charge_days(log) == {"abcdef012345": dt.date(2026, 5, 4)}
    assert charge_days(tmp_path / "none.jsonl") == {}


def test_what_was_spent_is_rounded_up_and_what_is_left_down():
    assert (up(0.801), down(0.809), up(0.8), down(0.8)) == ("0.81", "0.80", "0.80", "0.80")
    assert (up(math.inf), down(math.inf)) == ("∞", "∞")
    assert (small(1e-5), small(0.04), small(1.5)) == ("1e-5", "0.04", "1.5")
