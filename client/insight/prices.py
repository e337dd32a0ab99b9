"""What is bought at a discount, by whom, and how quantity goes with it: a report on groups, never a price for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from client.insight.data import InsightData
from client.insight.elasticity import LEAST_CUSTOMERS, LEAST_LINES, Elasticity, elasticity_of
from client.insight.intervals import Bools, Estimate, mean_of, share_of
from client.insight.made import Made, list_file, made, plain_rows
from client.score_file import TIERS
from pp_model.schema import NO_CATEGORY, SECONDS_PER_DAY, EventType
from web.charts import Chart, Series
from web.report import MOST_ROWS, Column, Figure, Table
from web.words import Kind, Phrase, phrase

NAME = "prices"
LEAST_VISITS = 3  # days with a purchase, for "only at a discount" to mean something
MOST_DRAWN = 20  # categories
DEPTHS = (0.1, 0.2, 0.3, 0.5)  # where one depth of discount ends and the next begins


@dataclass(frozen=True, kw_only=True)
class _Lines:
    """Lines of purchases, as columns.

    Attributes:
        depth: the discount as a share of what was on the price tag.
    """

    customer: NDArray[np.int32]
    day: NDArray[np.int64]
    category: NDArray[np.int32]
    spend_cents: NDArray[np.int64]
    quantity: NDArray[np.int32]
    depth: NDArray[np.float64]

    @property
    def reduced(self) -> Bools:
        """Whether the line was bought at a discount."""
        return self.depth > 0


def build(data: InsightData) -> Made:
    """The report; empty where no discount column is declared, or no line has a discount."""
    if data.discount_cents is None:
        return made(data, NAME, empty=phrase("prices.empty.undeclared"))
    lines = _lines(data, data.discount_cents)
    if not lines.reduced.any():
        return made(data, NAME, empty=phrase("prices.empty.none"))
    only, elasticity = _only_reduced(data, lines), _elasticity(lines)
    return made(
        data,
        NAME,
        figures=_figures(lines, elasticity, only),
        charts=(_by_category(data, lines), _by_tier(data, lines), _by_depth(lines)),
        tables=(
            _category_table(data, lines),
            _only_table(only),
        ),
        notes=_NOTES,
        lists={"only_at_a_discount": only},
    )


_NOTES = (
    phrase("prices.note.not_random"),
    phrase("prices.note.elasticity", lines=LEAST_LINES, customers=LEAST_CUSTOMERS),
    phrase("prices.note.within"),
    phrase("prices.note.only", visits=LEAST_VISITS),
    phrase("prices.note.no_price"),
)


def _lines(data: InsightData, discount_cents: NDArray[np.int64]) -> _Lines:
    log = data.log
    rows = np.flatnonzero((log.event_type == EventType.PURCHASE) & (log.spend_cents > 0) & (log.quantity > 0))
    paid, off = log.spend_cents[rows], discount_cents[rows]
    return _Lines(
        customer=log.customer[rows],
        day=log.timestamp[rows] // SECONDS_PER_DAY,
        category=log.category[rows],
        spend_cents=paid,
        quantity=log.quantity[rows],
        depth=off / (paid + off),
    )


def _elasticity(lines: _Lines) -> Elasticity:
    month = lines.day.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    return elasticity_of(
        customer=lines.customer, category=lines.category, month=month, depth=lines.depth, quantity=lines.quantity
    )


def _only_reduced(data: InsightData, lines: _Lines) -> pa.Table:
    """Customers with several visits, none of them with a line at full price; by what they spent, the most first."""
    customers = data.log.num_customers
    full = np.bincount(lines.customer[~lines.reduced], minlength=customers) > 0
    visits = data.facts.visits
    spend = np.bincount(lines.customer, lines.spend_cents, minlength=customers).astype(np.int64)
    codes = np.flatnonzero((visits >= LEAST_VISITS) & ~full & (spend > 0))
    codes = codes[np.argsort(-spend[codes], kind="stable")]
    return pa.table(
        {
            "customer_id": data.customer_ids.take(pa.array(codes)),
            "tier": pa.array(_tiers(data)[codes].astype(object), pa.string(), from_pandas=True),
            "visits": visits[codes],
            "spend_cents": spend[codes],
        }
    )


def _only_table(only: pa.Table) -> Table:
    kinds: dict[str, Kind] = {"customer_id": "text", "tier": "text", "visits": "count", "spend_cents": "money"}
    first = only.slice(0, MOST_ROWS).to_pylist()
    rows = [{**row, "tier": phrase(f"prices.tier.{row['tier']}") if row["tier"] else None} for row in first]
    return Table(
        title=phrase("prices.table.only"),
        columns=_columns(kinds),
        rows=tuple(tuple(row[name] for name in kinds) for row in rows),
        file=list_file(NAME, "only_at_a_discount"),
    )


def _tiers(data: InsightData) -> NDArray[np.object_]:
    """[customers]: the tier of each customer code; None where it has no score."""
    found = np.full(data.log.num_customers, None, object)
    found[data.scores["customer"].to_numpy()] = np.array(data.scores["tier"].to_pylist(), object)
    return found


def _figures(lines: _Lines, elasticity: Elasticity, only: pa.Table) -> tuple[Figure, ...]:
    reduced, spend = lines.reduced, lines.spend_cents
    depth = float(np.average(lines.depth[reduced], weights=spend[reduced]))
    return (
        Figure(label=phrase("prices.figure.spend"), value=float(spend[reduced].sum() / spend.sum()), kind="share"),
        Figure(label=phrase("prices.figure.lines"), value=float(reduced.mean()), kind="share"),
        Figure(label=phrase("prices.figure.depth"), value=depth, kind="share"),
        Figure(
            label=phrase("prices.figure.elasticity"),
            value=elasticity.estimate.shown,
            kind="number",
            band=elasticity.estimate.band,
        ),
        Figure(label=phrase("prices.figure.elasticity_lines"), value=elasticity.lines, kind="count"),
        Figure(label=phrase("prices.figure.only"), value=only.num_rows, kind="count"),
    )


def _category_name(data: InsightData, code: int) -> str | Phrase:
    return phrase("prices.no_category") if code == NO_CATEGORY else data.category_names.get(code, str(code))


def _share_at_a_discount(lines: _Lines, group: NDArray[np.intp], number: int) -> list[float | None]:
    """[groups]: the share of spend at a discount; None where nothing was spent."""
    of_all = np.bincount(group, lines.spend_cents, minlength=number)
    reduced = np.bincount(group, lines.spend_cents * lines.reduced, minlength=number)
    return [float(part / whole) if whole > 0 else None for part, whole in zip(reduced, of_all, strict=True)]


def _categories(lines: _Lines) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Category codes, the most spend first, and the place of each line's in them."""
    codes, place = np.unique(lines.category, return_inverse=True)
    order = np.argsort(-np.bincount(place, lines.spend_cents), kind="stable")
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order))
    return codes[order], rank[place]


def _by_category(data: InsightData, lines: _Lines) -> Chart:
    codes, place = _categories(lines)
    shares = _share_at_a_discount(lines, place, len(codes))[:MOST_DRAWN]
    names = tuple(_category_name(data, int(code)) for code in codes[:MOST_DRAWN])
    return _share_chart("category", names, shares)


def _by_tier(data: InsightData, lines: _Lines) -> Chart:
    tier = _tiers(data)[lines.customer]
    shares = [
        _share_at_a_discount(lines, (tier == name).astype(np.intp), 2)[1] if (tier == name).any() else None
        for name in TIERS
    ]
    return _share_chart("tier", tuple(phrase(f"prices.tier.{name}") for name in TIERS), shares)


def _share_chart(what: str, names: Sequence[str | Phrase], shares: Sequence[float | None]) -> Chart:
    return Chart(
        kind="bar",
        title=phrase(f"prices.chart.{what}"),
        x=phrase(f"prices.axis.{what}"),
        y=phrase("prices.axis.share"),
        categories=tuple(names),
        series=(Series(label=phrase("prices.axis.share"), values=tuple(shares)),),
        kind_of_value="share",
    )


def _by_depth(lines: _Lines) -> Chart:
    """The mean pieces of a line, by how deep the discount was."""
    place = np.where(lines.reduced, 1 + np.searchsorted(DEPTHS, lines.depth), 0)
    means: list[Estimate] = [mean_of(lines.quantity[place == at].astype(np.float64)) for at in range(len(DEPTHS) + 2)]
    ends = (0.0, *DEPTHS)
    names: tuple[str | Phrase, ...] = (
        phrase("prices.depth.none"),
        *(f"{100 * low:g} to {100 * high:g} %" for low, high in zip(ends, DEPTHS, strict=False)),
        f"> {100 * DEPTHS[-1]:g} %",
    )
    return Chart(
        kind="bar",
        title=phrase("prices.chart.depth"),
        x=phrase("prices.axis.depth"),
        y=phrase("prices.axis.pieces"),
        categories=names,
        series=(
            Series(
                label=phrase("prices.axis.pieces"),
                values=tuple(mean.shown for mean in means),
                band=tuple(mean.ends for mean in means),
            ),
        ),
    )


def _category_table(data: InsightData, lines: _Lines) -> Table:
    codes, place = _categories(lines)
    number = len(codes)
    reduced = np.bincount(place, lines.reduced, minlength=number)
    counts = np.bincount(place, minlength=number)
    depth = np.bincount(place, lines.depth, minlength=number) / np.maximum(reduced, 1)
    line_shares = [share_of(float(hits), float(count)) for hits, count in zip(reduced, counts, strict=True)]
    kinds: dict[str, Kind] = {"category": "text", "lines": "count", "spend_cents": "money"}
    kinds |= dict.fromkeys(("spend_share", "line_share", "low", "high", "depth"), "share")
    rows = plain_rows(
        (
            [_category_name(data, int(code)) for code in codes],
            counts,
            np.bincount(place, lines.spend_cents, minlength=number).astype(np.int64),
            _share_at_a_discount(lines, place, number),
            [share.shown for share in line_shares],
            [share.low for share in line_shares],
            [share.high for share in line_shares],
            depth,
        )
    )
    return Table(title=phrase("prices.table.categories"), columns=_columns(kinds), rows=rows[:MOST_ROWS])


def _columns(kinds: dict[str, Kind]) -> tuple[Column, ...]:
    return tuple(Column(label=phrase(f"prices.column.{name}"), kind=kind) for name, kind in kinds.items())
