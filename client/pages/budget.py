"""The budget as it is looked at: spent, promised to approved plans, left; and which plan it went to."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from agreement.offer import DecisionState
from client.agreements import Agreement
from client.ledger import Charge
from client.pages.numbers import down, up
from client.spending import Spending
from pp_model.accounting import epsilon_spent
from web.charts import Chart, Series
from web.words import Phrase, phrase

MOST_BARS = 60
_MOST_LOG_BYTES = 20_000_000
_TASK_DIGITS = 12
_TASK = re.compile(r'(?:task trained|task refused)[^\n]*?task[=": ]+([0-9a-f]{12})')


@dataclass(frozen=True, kw_only=True)
class PlanCost:
    """What one plan took of the budget.

    Attributes:
        name: its id; a beginning of its fingerprint where the offer is no longer known.
        alone: epsilon of its charges as if there were no others.
    """

    name: str
    tasks: int
    alone: float


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The period's budget. Epsilons do not add up: parts are differences of totals.

    Attributes:
        promised: what the approved plans would still take on top of what was spent.
        chart: the total after each charge, in the colours of the plans.
    """

    budget: float
    delta: float
    spent: float
    promised: float
    charges: int
    plans: tuple[PlanCost, ...]
    chart: Chart

    @property
    def left(self) -> float:
        """What is neither spent nor promised."""
        return math.inf if self.budget == math.inf else max(0.0, self.budget - self.spent - self.promised)

    @property
    def private(self) -> bool:
        """Whether the budget bounds anything."""
        return math.isfinite(self.budget)

    def share(self, epsilon: float) -> float:
        """Of the budget, 0 to 1."""
        return min(1.0, epsilon / self.budget) if 0 < self.budget < math.inf else 0.0


def budget_of(
    spending: Spending, agreements: Sequence[Agreement], *, days: Mapping[str, dt.date], now: dt.datetime
) -> Budget:
    """The budget with all that is known beside it.

    Args:
        days: of `charge_days`.
    """
    names = {each.offer.plan.fingerprint: each.offer.plan.plan_id for each in agreements}
    fingerprints = list(dict.fromkeys(charge.plan for charge in spending.charges))
    spent, charges = spending.spent, [charge.event for charge in spending.charges]
    open_plans = {
        each.offer.plan.fingerprint: each.offer.plan
        for each in agreements
        if each.state is DecisionState.APPROVED and now < each.offer.expires
    }
    rest = [
        plan.event.times(left)
        for plan in open_plans.values()
        if (left := plan.rounds - len(spending.of(plan.fingerprint))) > 0
    ]
    after = epsilon_spent([*charges, *rest], delta=spending.delta) if rest else spent
    return Budget(
        budget=spending.budget,
        delta=spending.delta,
        spent=spent,
        promised=max(0.0, after - spent) if math.isfinite(after) else math.inf,
        charges=len(charges),
        plans=tuple(
            PlanCost(
                name=names.get(fingerprint, fingerprint[:_TASK_DIGITS]),
                tasks=len(spending.of(fingerprint)),
                alone=epsilon_spent([c.event for c in spending.of(fingerprint)], delta=spending.delta),
            )
            for fingerprint in fingerprints
        ),
        chart=_history(spending, fingerprints, names, days),
    )


def _history(
    spending: Spending, fingerprints: Sequence[str], names: Mapping[str, str], days: Mapping[str, dt.date]
) -> Chart:
    """Bars that grow to the total of each day, or after each charge where the days are not all known."""
    steps = list(_steps(spending.charges, days))
    if len(steps) > MOST_BARS:
        steps = [steps[round(at * (len(steps) - 1) / (MOST_BARS - 1))] for at in range(MOST_BARS)]
    series = [
        Series(
            label=phrase("budget.plan", plan=names.get(fingerprint, fingerprint[:_TASK_DIGITS])),
            values=tuple(round(of.get(fingerprint, 0.0), 6) for _, of in steps),
        )
        for fingerprint in fingerprints
    ]
    if steps and math.isfinite(spending.budget):
        series.append(Series(label=phrase("budget.limit"), values=(spending.budget,) * len(steps), shape="dashed"))
    return Chart(
        kind="bar",
        title=phrase("budget.history"),
        x=phrase("budget.day" if _dated(spending.charges, days) else "budget.charge"),
        y=phrase("budget.epsilon"),
        categories=tuple(name for name, _ in steps),
        series=tuple(series),
        stacked=True,
        kind_of_value="epsilon",
    )


def _steps(charges: Sequence[Charge], days: Mapping[str, dt.date]) -> Iterator[tuple[str, dict[str, float]]]:
    """For each day, or charge: its name, and by plan what the total has grown by since the first."""
    dated, total, grown = _dated(charges, days), 0.0, dict[str, float]()
    for at, charge in enumerate(charges):
        step = charge.epsilon_after - total
        grown[charge.plan] = grown.get(charge.plan, 0.0) + (max(0.0, step) if math.isfinite(step) else 0.0)
        total = max(total, charge.epsilon_after)
        name = days[charge.task[:_TASK_DIGITS]].isoformat() if dated else str(at + 1)
        following = charges[at + 1] if at + 1 < len(charges) else None
        if not dated or following is None or days[following.task[:_TASK_DIGITS]].isoformat() != name:
            yield name, dict(grown)


def _dated(charges: Sequence[Charge], days: Mapping[str, dt.date]) -> bool:
    return bool(charges) and all(charge.task[:_TASK_DIGITS] in days for charge in charges)


def charge_days(log: Path) -> Mapping[str, dt.date]:
    """The day (UTC) on which each task was last worked on, by the beginning of its fingerprint, as the daemon's log
    says; the ledger itself keeps no times."""
    found: dict[str, dt.date] = {}
    room = _MOST_LOG_BYTES
    for path in (log, *(log.with_name(f"{log.name}.{number}") for number in range(1, 6))):
        try:
            stamp = path.stat()
        except OSError:
            break
        room -= stamp.st_size
        if room < 0:
            break
        found = {**_days_in(path, stamp.st_mtime_ns, stamp.st_size), **found}
    return found


@lru_cache(maxsize=8)
def _days_in(path: Path, _changed: int, _size: int) -> Mapping[str, dt.date]:
    found: dict[str, dt.date] = {}
    try:
        with path.open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                if "task trained" not in line:
                    continue
                if (match := _TASK.search(line)) and (day := _day(line)):
                    found[match[1]] = day
    except OSError:
        return found
    return found


def _day(line: str) -> dt.date | None:
    try:
        return dt.datetime.fromisoformat(json.loads(line)["time"]).date()
    except (ValueError, KeyError, TypeError):
        return None


def left_words(budget: Budget) -> Phrase:
    """The gauge in words."""
    if not budget.private:
        return phrase("budget.none")
    if budget.promised > 0:
        return phrase(
            "budget.words_promised", spent=up(budget.spent), promised=up(budget.promised), budget=up(budget.budget)
        )
    return phrase("budget.words", spent=up(budget.spent), budget=up(budget.budget), left=down(budget.left))
