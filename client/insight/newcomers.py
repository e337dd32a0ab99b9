"""What new customers are worth: what each month's joined customers spent since, and what the newest are expected to.

A customer joins on the day of its first purchase. A cohort is who joined in one calendar month; its value over so many
days is the mean net spend of its customers in the first days of each, and there is none before all of them have had
those days. Customers with fewer than `NEWCOMER_ORDERS` orders are newcomers: what is expected of them rests on what the
model learnt from other customers of few orders, hardly on themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from client.insight.customers import NEVER, summed
from client.insight.data import InsightData
from client.insight.groups import FEW, few_note
from client.insight.made import Made, list_file, made, plain_rows, shown_rows
from client.insight.portraits import dates, named
from client.scoring import NEWCOMER_ORDERS
from pp_model.schema import SECONDS_PER_DAY, day_start
from web.charts import Chart, Series
from web.report import Column, Figure, Table
from web.words import Kind, phrase

NAME = "newcomers"
VALUE_DAYS = (30, 90, 180, 365)
DRAWN_DAYS = 90  # the value in the chart, and that within which a second purchase is counted
COHORTS_SHOWN = 36
_Z = 1.2815515655446004  # of the middle 80 % of a normal distribution
_SHOWN: Mapping[str, Kind] = {
    "customer_id": "text",
    "first_order": "date",
    "spend_so_far_cents": "money",
    "expected_spend_cents": "money",
    "spend_low_cents": "money",
    "spend_high_cents": "money",
    "reason_1": "text",
}
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Cohorts:
    """Customers by the month of their first purchase, the newest first.

    Attributes:
        months: such as "2026-05".
        customers: [months].
        value: by days, [months], mean net spend in cents; NaN where not all of them have had those days.
        spread: [months], the standard deviation of the value over `DRAWN_DAYS`; NaN likewise, and for one customer.
        came_back: [months], the share with a second visit within `DRAWN_DAYS`; NaN likewise.
        expected: [months], mean spend expected over the horizon, of those with a score.
    """

    months: tuple[str, ...]
    customers: Ints
    value: Mapping[int, Floats]
    spread: Floats
    came_back: Floats
    expected: Floats


def build(data: InsightData) -> Made:
    """The report, and the lists of newcomers, the most expected spend first, and of all cohorts."""
    cohorts = cohorts_of(data)
    if not cohorts.months:
        return made(data, NAME, empty=phrase("newcomers.empty"))
    new = _newcomers(data)
    expected, shown = new["expected_spend_cents"].to_numpy(), slice(0, COHORTS_SHOWN)
    return made(
        data,
        NAME,
        figures=(
            Figure(label=phrase("newcomers.figure.number"), value=new.num_rows, kind="count"),
            Figure(label=phrase("newcomers.figure.expected"), value=int(expected.sum()), kind="money"),
            Figure(
                label=phrase("newcomers.figure.each"),
                value=float(expected.mean()) if new.num_rows else None,
                kind="money",
            ),
            Figure(label=phrase("newcomers.figure.value", days=DRAWN_DAYS), value=_recent(cohorts), kind="money"),
        ),
        charts=(_chart(cohorts),),
        tables=(
            _table(cohorts, shown),
            shown_rows(
                new,
                _SHOWN,
                title=phrase("newcomers.table.customers"),
                file=list_file(NAME, "customers"),
                words="insight.column",
            ),
        ),
        notes=(
            phrase("newcomers.note.little", orders=NEWCOMER_ORDERS),
            phrase("newcomers.note.first", month=cohorts.months[-1]),
            *few_note(cohorts.customers[shown]),
        ),
        lists={"customers": new, "cohorts": _list(cohorts)},
    )


def cohorts_of(data: InsightData) -> Cohorts:
    """The cohorts of everybody who ever bought; months in which nobody joined have none."""
    first = data.facts.first_day
    joined = np.flatnonzero(first != NEVER)
    month = first[joined].astype("datetime64[D]").astype("datetime64[M]")
    known, place = np.unique(month, return_inverse=True)
    size, customers = len(known), np.bincount(place, minlength=len(known))
    cohort = np.full(data.log.num_customers, -1)
    cohort[joined] = place
    paid = np.flatnonzero((data.log.spend_cents != 0) & (cohort[data.log.customer] >= 0))
    buyer = data.log.customer[paid]
    age = data.log.timestamp[paid] // SECONDS_PER_DAY - first[buyer]
    day = day_start(data.cutoff) // SECONDS_PER_DAY
    last_day = (known + 1).astype("datetime64[D]").astype(np.int64) - 1  # of each month: who joins then is youngest
    value, spread = {}, np.full(size, np.nan)
    for days in VALUE_DAYS:
        young = (age >= 0) & (age < days)
        each = summed(buyer[young], data.log.spend_cents[paid[young]], data.log.num_customers)
        whole = last_day + days <= day
        mean = summed(place, each[joined], size) / np.maximum(customers, 1)
        value[days] = np.where(whole, mean, np.nan)
        if days == DRAWN_DAYS:
            squares = summed(place, (each[joined] - mean[place]) ** 2, size)
            spread = np.where(whole & (customers > 1), np.sqrt(squares / np.maximum(customers - 1, 1)), np.nan)
    again = _came_back(data, joined)
    back = summed(place, again, size) / np.maximum(customers, 1)
    expected = np.full(data.log.num_customers, np.nan)
    expected[data.scores["customer"].to_numpy()] = data.scores["expected_spend_cents"].to_numpy()
    scored = ~np.isnan(expected[joined])
    number = np.bincount(place[scored], minlength=size)
    total = summed(place[scored], expected[joined][scored], size)
    return Cohorts(
        months=tuple(str(each) for each in known[::-1]),
        customers=customers[::-1],
        value={days: values[::-1] for days, values in value.items()},
        spread=spread[::-1],
        came_back=np.where(last_day + DRAWN_DAYS <= day, back, np.nan)[::-1],
        expected=np.where(number > 0, total / np.maximum(number, 1), np.nan)[::-1],
    )


def _came_back(data: InsightData, joined: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Who bought on another day within `DRAWN_DAYS` of its first purchase."""
    bought = np.flatnonzero(data.log.spend_cents > 0)
    buyer = data.log.customer[bought]
    age = data.log.timestamp[bought] // SECONDS_PER_DAY - data.facts.first_day[buyer]
    again = np.zeros(data.log.num_customers, np.bool_)
    again[buyer[(age > 0) & (age < DRAWN_DAYS)]] = True
    found: NDArray[np.bool_] = again[joined]
    return found


def _recent(cohorts: Cohorts) -> float | None:
    """The mean value over `DRAWN_DAYS` of those who joined in the newest twelve months that have one."""
    value = cohorts.value[DRAWN_DAYS]
    newest = np.flatnonzero(~np.isnan(value))[:12]
    if not len(newest):
        return None
    return float(np.average(value[newest], weights=cohorts.customers[newest]))


def _newcomers(data: InsightData) -> pa.Table:
    few = np.flatnonzero(data.scores["newcomer"].to_numpy())
    few = few[np.argsort(-data.scores["expected_spend_cents"].to_numpy()[few], kind="stable")]
    scores = data.scores.take(pa.array(few))
    code = scores["customer"].to_numpy()
    category, _ = data.interests.top(0)
    return pa.table(
        {
            "customer_id": scores["customer_id"],
            "first_order": dates(data.facts.first_day[code]),
            "spend_so_far_cents": pa.array(data.facts.spend_cents[code]),
            "expected_spend_cents": scores["expected_spend_cents"],
            "spend_low_cents": scores["spend_low_cents"],
            "spend_high_cents": scores["spend_high_cents"],
            "purchase_probability": scores["purchase_probability"],
            "reason_1": scores["reason_1"],
            "category_1": named(category[code], data.category_names),
        }
    )


def _chart(cohorts: Cohorts) -> Chart:
    """The value over `DRAWN_DAYS` by month of joining, oldest first, with the 80 % interval of the mean."""
    shown = slice(COHORTS_SHOWN - 1, None, -1) if len(cohorts.months) >= COHORTS_SHOWN else slice(None, None, -1)
    value = cohorts.value[DRAWN_DAYS][shown]
    half = _Z * cohorts.spread[shown] / np.sqrt(cohorts.customers[shown])
    return Chart(
        kind="line",
        title=phrase("newcomers.chart.title", days=DRAWN_DAYS),
        x=phrase("newcomers.column.month"),
        y=phrase("newcomers.chart.value"),
        categories=cohorts.months[shown],
        series=(
            Series(
                label=phrase("newcomers.chart.value"),
                values=tuple(map(_finite, value)),
                band=tuple(zip(map(_finite, value - half), map(_finite, value + half), strict=True)),
            ),
        ),
        kind_of_value="money",
    )


def _table(cohorts: Cohorts, shown: slice) -> Table:
    values = [(phrase("newcomers.column.value", days=days), cohorts.value[days]) for days in VALUE_DAYS]
    columns = (
        Column(label=phrase("newcomers.column.month"), kind="text"),
        Column(label=phrase("newcomers.column.customers"), kind="count"),
        *(Column(label=label, kind="money") for label, _ in values),
        Column(label=phrase("newcomers.column.came_back", days=DRAWN_DAYS), kind="share"),
        Column(label=phrase("newcomers.column.expected"), kind="money"),
        Column(label=phrase("newcomers.column.few"), kind="text"),
    )
    few = [phrase("newcomers.few") if number < FEW else "" for number in cohorts.customers[shown].tolist()]
    rows = plain_rows(
        (
            cohorts.months[shown],
            cohorts.customers[shown],
            *(list(map(_finite, value[shown])) for _, value in values),
            list(map(_finite, cohorts.came_back[shown])),
            list(map(_finite, cohorts.expected[shown])),
            few,
        )
    )
    return Table(title=phrase("newcomers.table.cohorts"), columns=columns, rows=rows, file=list_file(NAME, "cohorts"))


def _list(cohorts: Cohorts) -> pa.Table:
    numbers = {f"value_{days}_days_cents": value for days, value in cohorts.value.items()}
    numbers |= {"second_visit_share": cohorts.came_back, "expected_spend_cents": cohorts.expected}
    columns = {name: pa.array(values.round(4), mask=np.isnan(values)) for name, values in numbers.items()}
    return pa.table({"month": list(cohorts.months), "customers": pa.array(cohorts.customers)} | columns)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
