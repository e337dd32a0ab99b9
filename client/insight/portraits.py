"""Who the customers are: what each is interested in, what it is expected to spend, how likely it is to stay away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from client.insight.customers import NEVER, Facts, Interests, facts_of, interests_of, summed
from client.insight.data import InsightData
from client.insight.groups import BAND_NAMES, TIER_NAMES, category_name, churn_band, few_note, tier_of
from client.insight.made import Made, list_file, made, plain_rows, shown_rows
from client.score_file import TIERS
from web.charts import Chart, Series
from web.report import Column, Figure, Table
from web.words import Kind, Phrase, phrase

NAME = "portraits"
INTERESTS = 3  # categories named in a portrait
_CATEGORIES_SHOWN = 8
_SCORED = (
    *("customer_id", "score", "tier", "purchase_probability", "churn_risk", "expected_spend_cents", "spend_low_cents"),
    *("spend_high_cents", "change", "reason_1", "reason_2", "reason_3", "newcomer", "orders_seen"),
)
_SHOWN: Mapping[str, Kind] = {
    "customer_id": "text",
    "score": "number",
    "tier": "text",
    "churn_risk": "share",
    "expected_spend_cents": "money",
    "last_order": "date",
    "orders_seen": "count",
    "spend_so_far_cents": "money",
    "category_1": "text",
    "share_1": "share",
}


def build(data: InsightData) -> Made:
    """The report, and the list of everybody's portrait, those with the highest expected spend first."""
    scores, tier = data.scores, tier_of(data.scores)
    everybody = portrait_table(scores, data.facts, data.interests, data.category_names)
    order = np.argsort(-scores["expected_spend_cents"].to_numpy(), kind="stable")
    everybody = everybody.take(pa.array(order))
    counts = np.bincount(tier, minlength=len(TIERS))
    expected = summed(tier, scores["expected_spend_cents"].to_numpy(), len(TIERS))
    return made(
        data,
        NAME,
        figures=(
            Figure(label=phrase("portraits.figure.customers"), value=scores.num_rows, kind="count"),
            Figure(label=phrase("portraits.figure.expected"), value=float(expected.sum()), kind="money"),
            Figure(
                label=phrase("portraits.figure.churn"),
                value=float(scores["churn_risk"].to_numpy().mean()),
                kind="share",
            ),
            Figure(
                label=phrase("portraits.figure.newcomers"),
                value=int(np.count_nonzero(scores["newcomer"].to_numpy())),
                kind="count",
            ),
        ),
        charts=(_tiers(counts, expected), *_categories(data, tier)),
        tables=(
            _matrix(tier, churn_band(scores["churn_risk"].to_numpy()), data),
            shown_rows(
                everybody,
                _SHOWN,
                title=phrase("portraits.table.customers"),
                file=list_file(NAME, "customers"),
                words="insight.column",
            ),
        ),
        notes=(phrase("portraits.note.tier"), phrase("portraits.note.interest"), *few_note(counts)),
        lists={"customers": everybody},
    )


def portrait_of(data: InsightData, customer: int) -> dict[str, Any] | None:
    """One customer's portrait by its code: what the list says of it, as plain values.

    Made of its own orders and scores alone. The log is looked through for them: 12 ms where it has ten million rows.
    None for a customer without a score.
    """
    codes = data.scores["customer"].to_numpy()
    place = int(np.searchsorted(codes, customer))
    if place == len(codes) or codes[place] != customer:
        return None
    own = data.log.select(np.flatnonzero(data.log.customer == customer))
    own = own.with_customers(np.zeros(len(own), np.int32), num_customers=1)
    scores = data.scores.slice(place, 1)
    scores = scores.set_column(scores.schema.get_field_index("customer"), "customer", pa.array([0], pa.int64()))
    table = portrait_table(scores, facts_of(own), interests_of(own, cutoff=data.cutoff), data.category_names)
    portrait: dict[str, Any] = table.to_pylist()[0]
    return portrait


def portrait_table(scores: pa.Table, facts: Facts, interests: Interests, names: Mapping[int, str]) -> pa.Table:
    """A row for each row of `scores`; facts and interests are by its customer codes.

    Columns: of the scores, and `spend_so_far_cents` (net of returns), `first_order`, `last_order`, `usual_gap_days`
    (the median; none with fewer than two visits), `category_1`, `share_1` and so on: the categories with the largest
    shares of the customer's own spend, where older spend counts less.
    """
    code = scores["customer"].to_numpy()
    gap = facts.usual_gap_days[code]
    columns = {name: scores[name] for name in _SCORED}
    columns |= {
        "spend_so_far_cents": pa.array(facts.spend_cents[code]),
        "first_order": dates(facts.first_day[code]),
        "last_order": dates(facts.last_day[code]),
        "usual_gap_days": pa.array(gap, mask=np.isnan(gap)),
    }
    for place in range(INTERESTS):
        category, share = (column[code] for column in interests.top(place))
        columns[f"category_{place + 1}"] = named(category, names)
        columns[f"share_{place + 1}"] = pa.array(share.round(4), mask=np.isnan(share))
    return pa.table(columns)


def dates(days: NDArray[np.int64]) -> pa.Array:
    """Days since 1970 as dates; `NEVER` is missing."""
    return pa.array(np.where(days == NEVER, 0, days).astype(np.int32), mask=days == NEVER).cast(pa.date32())


def named(codes: NDArray[np.int32], names: Mapping[int, str]) -> pa.Array:
    """The merchant's words for category codes; none for that of no category."""
    known, places = np.unique(codes, return_inverse=True)
    words = pa.array([names.get(code, str(code)) if code >= 0 else None for code in known.tolist()], pa.string())
    return words.take(pa.array(places))


def _tiers(counts: NDArray[np.int64], expected: NDArray[np.float64]) -> Chart:
    return Chart(
        kind="bar",
        title=phrase("portraits.chart.tiers"),
        x=phrase("insight.column.tier"),
        y=phrase("portraits.chart.share"),
        categories=TIER_NAMES,
        series=(
            Series(label=phrase("portraits.chart.customers"), values=_shares(counts)),
            Series(label=phrase("portraits.chart.expected"), values=_shares(expected)),
        ),
        kind_of_value="share",
    )


def _shares(values: NDArray[Any]) -> tuple[float, ...]:
    total = float(values.sum())
    return tuple(float(value) / total if total else 0.0 for value in values)


def _categories(data: InsightData, tier: NDArray[np.int64]) -> tuple[Chart, ...]:
    """What a typical customer of each tier spends on: the mean of its customers' shares."""
    interests, codes = data.interests, data.interests.codes
    if not np.any(codes >= 0):
        return ()
    tier_by_code = np.full(data.log.num_customers, -1)
    tier_by_code[data.scores["customer"].to_numpy()] = tier
    of_row = tier_by_code[interests.customer]
    rows = of_row >= 0
    key = of_row[rows] * len(codes) + interests.category[rows]
    total = summed(key, interests.share[rows], len(TIERS) * len(codes))
    by_tier = total.reshape(len(TIERS), len(codes))
    by_tier = by_tier / np.maximum(by_tier.sum(axis=1, keepdims=True), 1e-12)
    top = np.argsort(-by_tier.sum(axis=0), kind="stable")[:_CATEGORIES_SHOWN]
    return (
        Chart(
            kind="bar",
            title=phrase("portraits.chart.interests"),
            x=phrase("insight.column.category"),
            y=phrase("portraits.chart.interest_share"),
            categories=tuple(category_name(int(codes[place]), data.category_names) for place in top),
            series=tuple(
                Series(label=name, values=tuple(by_tier[number, top].tolist()))
                for number, name in enumerate(TIER_NAMES)
            ),
            horizontal=True,
            kind_of_value="share",
        ),
    )


def _matrix(tier: NDArray[np.int64], band: NDArray[np.int64], data: InsightData) -> Table:
    """Customers and what they are expected to spend, by tier and churn risk; the high tier first."""
    size = len(BAND_NAMES)
    cell = tier * size + band
    counts = np.bincount(cell, minlength=len(TIERS) * size).reshape(-1, size)
    spend = summed(cell, data.scores["expected_spend_cents"].to_numpy(), len(TIERS) * size)
    spend = spend.reshape(-1, size)
    headings: list[tuple[Phrase, Kind]] = [(phrase("insight.column.tier"), "text")]
    for name in BAND_NAMES:
        headings += [(phrase("portraits.matrix.customers", band=name), "count")]
        headings += [(phrase("portraits.matrix.expected", band=name), "money")]
    columns: list[Any] = [TIER_NAMES[::-1]]
    for place in range(size):
        columns += [counts[::-1, place], spend[::-1, place]]
    return Table(
        title=phrase("portraits.matrix.title"),
        columns=tuple(Column(label=label, kind=kind) for label, kind in headings),
        rows=plain_rows(columns),
    )
