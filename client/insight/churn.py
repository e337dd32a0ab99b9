"""Early warning: customers who are overdue by their own rhythm, and what the shop would lose if they stay away.

A customer's own rhythm is the median of days between its visits, the usual gap. Its next visit was due one usual gap
after the last one. What the model says of it on that day, from what it had done by then, is the probability to buy of a
customer in its rhythm; what it says today is that of the same customer, so much later and still silent. The drop from
the one to the other is what the silence means, by the same model, for a customer like this one: a fortnight is a lot
for who comes every week and nothing for who comes twice a year.

The value at risk is the drop times what the customer is expected to spend if it buys (expected spend / purchase
probability): the spend of the coming horizon that is missing compared with a customer in its rhythm. It is not what a
campaign would bring back.

On the list is who has at least `LEAST_VISITS` visits, is overdue, has a drop of at least `LEAST_DROP`, and was last
there at most `REACH_GAPS` usual gaps or one horizon ago, whichever is longer. Who is silent for longer has left: a
warning is no longer early, and a long list of the lost would hide those who can be kept. They are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from client.insight.customers import summed
from client.insight.data import InsightData
from client.insight.earlier import buying_probability_on
from client.insight.groups import TIER_NAMES, few_note, tier_of
from client.insight.made import Made, list_file, made, plain_rows, shown_rows
from client.insight.portraits import dates, named
from client.score_file import TIERS
from pp_model.schema import SECONDS_PER_DAY, day_start
from web.charts import Chart, Series
from web.report import Column, Figure, Table
from web.words import Kind, phrase

NAME = "churn"
LEAST_VISITS = 3  # two gaps: with fewer there is no rhythm
LEAST_DROP = 0.1
REACH_GAPS = 3.0
_SHOWN: Mapping[str, Kind] = {
    "customer_id": "text",
    "tier": "text",
    "churn_risk": "share",
    "due_churn_risk": "share",
    "value_at_risk_cents": "money",
    "last_order": "date",
    "silent_days": "count",
    "usual_gap_days": "number",
    "reason_1": "text",
}


def build(data: InsightData) -> Made:
    """The report, and the list of those warned of, the most value at risk first."""
    tier, silence = tier_of(data.scores), silence_of(data)
    buying = data.scores["purchase_probability"].to_numpy()
    expected = data.scores["expected_spend_cents"].to_numpy()
    drop = silence.due - buying
    early = drop >= LEAST_DROP  # false where there is nothing to compare with
    value = np.where(early, drop, 0.0) * expected / np.maximum(buying, 1e-6)
    rows = np.flatnonzero(early)
    rows = rows[np.argsort(-value[rows], kind="stable")]
    warned = _list(data, rows, silence, value=value)
    number = np.bincount(tier[rows], minlength=len(TIERS))
    at_risk = summed(tier[rows], value[rows], len(TIERS))
    total = float(expected.sum())
    return made(
        data,
        NAME,
        figures=(
            Figure(label=phrase("churn.figure.warned"), value=len(rows), kind="count", warning=bool(len(rows))),
            Figure(label=phrase("churn.figure.value"), value=float(at_risk.sum()), kind="money"),
            Figure(label=phrase("churn.figure.share"), value=at_risk.sum() / total if total else None, kind="share"),
            Figure(label=phrase("churn.figure.lost"), value=int(np.count_nonzero(silence.lost)), kind="count"),
            Figure(
                label=phrase("churn.figure.unknown"), value=int(np.count_nonzero(np.isnan(silence.gap))), kind="count"
            ),
        ),
        charts=(_chart(at_risk),),
        tables=(
            _by_tier(number, at_risk, np.bincount(tier, minlength=len(TIERS))),
            shown_rows(
                warned,
                _SHOWN,
                title=phrase("churn.table.customers"),
                file=list_file(NAME, "customers"),
                words="insight.column",
            ),
        ),
        notes=(
            phrase("churn.note.rule", visits=LEAST_VISITS, drop=LEAST_DROP, gaps=int(REACH_GAPS)),
            phrase("churn.note.value"),
            *few_note(number),
        ),
        lists={"customers": warned},
    )


@dataclass(frozen=True, kw_only=True)
class Silence:
    """How long everybody with a score has been silent, by its own rhythm.

    Attributes:
        days: since the last visit.
        gap: the usual one; NaN without a rhythm.
        lost: silent for longer than a warning reaches.
        due: what the model said of the probability to buy on the day when the next visit was due; NaN without a rhythm,
            for who is not overdue and for who is lost.
    """

    days: NDArray[np.int64]
    gap: NDArray[np.float64]
    lost: NDArray[np.bool_]
    due: NDArray[np.float64]


def silence_of(data: InsightData) -> Silence:
    """[scored], in the order of the scores."""
    code = data.scores["customer"].to_numpy()
    last = data.facts.last_day[code]
    days = day_start(data.cutoff) // SECONDS_PER_DAY - last
    gap = np.where(data.facts.visits[code] >= LEAST_VISITS, data.facts.usual_gap_days[code], np.nan)
    overdue = days > np.ceil(gap)  # false without a rhythm
    lost = overdue & (days > np.maximum(REACH_GAPS * gap, data.horizon_days))
    rows = np.flatnonzero(overdue & ~lost)
    due = np.full(len(code), np.nan)
    due_day = last[rows] + np.ceil(gap[rows]).astype(np.int64)
    due[rows] = buying_probability_on(data.scorer, data.log, code[rows], due_day)
    return Silence(days=days, gap=gap, lost=lost, due=due)


def _list(data: InsightData, rows: NDArray[np.intp], silence: Silence, *, value: NDArray[np.float64]) -> pa.Table:
    scores = data.scores.take(pa.array(rows))
    code = scores["customer"].to_numpy()
    category, _ = data.interests.top(0)
    return pa.table(
        {
            "customer_id": scores["customer_id"],
            "tier": scores["tier"],
            "churn_risk": scores["churn_risk"],
            "due_churn_risk": pa.array((1 - silence.due[rows]).round(6)),
            "value_at_risk_cents": pa.array(np.rint(value[rows]).astype(np.int64)),
            "expected_spend_cents": scores["expected_spend_cents"],
            "last_order": dates(data.facts.last_day[code]),
            "silent_days": pa.array(silence.days[rows]),
            "usual_gap_days": pa.array(silence.gap[rows]),
            "visits": pa.array(data.facts.visits[code]),
            "reason_1": scores["reason_1"],
            "category_1": named(category[code], data.category_names),
        }
    )


def _chart(at_risk: NDArray[np.float64]) -> Chart:
    return Chart(
        kind="bar",
        title=phrase("churn.chart.title"),
        x=phrase("insight.column.tier"),
        y=phrase("churn.chart.value"),
        categories=TIER_NAMES,
        series=(Series(label=phrase("churn.chart.value"), values=tuple(at_risk.tolist())),),
        kind_of_value="money",
    )


def _by_tier(number: NDArray[np.int64], at_risk: NDArray[np.float64], of: NDArray[np.int64]) -> Table:
    columns: tuple[tuple[str, Kind], ...] = (
        ("insight.column.tier", "text"),
        ("churn.column.warned", "count"),
        ("churn.column.of", "count"),
        ("churn.chart.value", "money"),
    )
    return Table(
        title=phrase("churn.table.tiers"),
        columns=tuple(Column(label=phrase(key), kind=kind) for key, kind in columns),
        rows=plain_rows((TIER_NAMES[::-1], number[::-1], of[::-1], at_risk[::-1])),
    )
