"""What the model looks at in this shop as a whole: the reasons of single scores, summed up over customers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from client.insight.backtest import some_of
from client.insight.data import InsightData
from client.insight.intervals import Estimate, Floats, mean_of
from client.insight.made import Made, made
from client.reasons import GROUPS, contributions, points_read
from client.score_file import TIERS
from client.score_run import one_thread
from pp_model.baskets import basket_blocks
from pp_model.features import Examples, rows_at
from web.charts import Chart, Series
from web.report import Column, Figure, Table
from web.words import Phrase, phrase

NAME = "importance"
MOST_CUSTOMERS = 20_000  # drawn by lot where there are more: a mean over them is known to a hundredth
PARTS = 5  # drawn by lot, which must agree on the order of the groups
LEAST_PER_PART = 20
_ROWS_AT_ONCE = 4_096
_SEED = 3


@dataclass(frozen=True, kw_only=True)
class Contributions:
    """What moves the scores of some customers.

    Attributes:
        customer: [rows].
        points: [rows, groups], of the score; see `client.reasons.contributions`.
    """

    customer: NDArray[np.int64]
    points: Floats


def build(data: InsightData) -> Made:
    """The report; empty where nobody has a score."""
    if not data.scores.num_rows:
        return made(data, NAME, empty=phrase("importance.empty"))
    rng = np.random.default_rng(_SEED)
    found = contributions_of(data, some_of(data.scores["customer"].to_numpy(), MOST_CUSTOMERS, rng=rng))
    sizes = importance_of(found)
    order = sorted(range(len(GROUPS)), key=lambda place: -sizes[place].value)
    agreement = agreement_of(found, rng=rng)
    return made(
        data,
        NAME,
        figures=(
            Figure(label=phrase("importance.figure.customers"), value=len(found.customer), kind="count"),
            Figure(label=phrase("importance.figure.first"), value=_name(order[0]), kind="text"),
            Figure(label=phrase("importance.figure.agreement"), value=agreement, kind="number"),
        ),
        charts=(_size_chart(sizes, order), _direction_chart(data, found, order)),
        tables=(_table(data, found, sizes, order),),
        notes=(
            phrase("importance.note.average"),
            phrase("importance.note.cause"),
            phrase("importance.note.repeat", parts=PARTS),
        ),
    )


def contributions_of(data: InsightData, customers: NDArray[np.int64]) -> Contributions:
    """What moves the scores of these customers, in the order of their codes."""
    wanted = np.zeros(data.log.num_customers, np.bool_)
    wanted[customers] = True
    scorer, parts = data.scorer, list[tuple[Examples, Floats]]()
    with one_thread():
        for baskets in basket_blocks(data.log.select(wanted[data.log.customer])):
            examples = rows_at(baskets, data.cutoff, scorer.features)
            for start in range(0, max(len(examples), 1), _ROWS_AT_ONCE):
                part = examples.select(np.arange(start, min(start + _ROWS_AT_ONCE, len(examples))))
                points = points_read(scorer.model, part)
                parts.append((part, contributions(scorer.model, part, points, scorer.average)))
    return Contributions(
        customer=np.concatenate([part.customer for part, _ in parts]),
        points=np.concatenate([points for _, points in parts]),
    )


def importance_of(found: Contributions) -> list[Estimate]:
    """By group: the mean size of its contribution, in points of the score either way."""
    return [mean_of(np.abs(column)) for column in found.points.T]


def agreement_of(found: Contributions, *, rng: np.random.Generator) -> float | None:
    """The least rank correlation between two of `PARTS` parts of the customers: 1 where all order the groups alike.

    None with fewer than `LEAST_PER_PART` customers to a part. Nothing is drawn in a contribution itself: the same
    customers give the same figures every time.
    """
    rows = len(found.customer)
    if rows < PARTS * LEAST_PER_PART:
        return None
    part = rng.permutation(rows) % PARTS
    sizes = [np.abs(found.points[part == each]).mean(axis=0) for each in range(PARTS)]
    used = np.max(sizes, axis=0) > 0  # groups that the model does not look at are equal everywhere
    if used.sum() < 2:
        return 1.0
    pairs = [(a, b) for a in range(PARTS) for b in range(a)]
    return min(float(stats.spearmanr(sizes[a][used], sizes[b][used]).statistic) for a, b in pairs)


def direction_of(data: InsightData, found: Contributions) -> dict[str, list[Estimate]]:
    """By tier and group: the mean contribution with its sign."""
    tier = np.full(data.log.num_customers, "", object)
    tier[data.scores["customer"].to_numpy()] = np.array(data.scores["tier"].to_pylist(), object)
    of_rows = tier[found.customer]
    return {name: [mean_of(column[of_rows == name]) for column in found.points.T] for name in TIERS}


def _name(place: int) -> Phrase:
    return phrase(f"importance.group.{list(GROUPS)[place]}")


def _size_chart(sizes: list[Estimate], order: list[int]) -> Chart:
    return Chart(
        kind="bar",
        title=phrase("importance.chart.size"),
        x=phrase("importance.axis.group"),
        y=phrase("importance.axis.size"),
        categories=tuple(_name(place) for place in order),
        series=(
            Series(
                label=phrase("importance.axis.size"),
                values=tuple(sizes[place].shown for place in order),
                band=tuple(sizes[place].ends for place in order),
            ),
        ),
        horizontal=True,
    )


def _direction_chart(data: InsightData, found: Contributions, order: list[int]) -> Chart:
    directions = direction_of(data, found)
    return Chart(
        kind="bar",
        title=phrase("importance.chart.direction"),
        x=phrase("importance.axis.group"),
        y=phrase("importance.axis.direction"),
        categories=tuple(_name(place) for place in order),
        series=tuple(
            Series(
                label=phrase(f"importance.tier.{tier}"),
                values=tuple(directions[tier][place].shown for place in order),
                band=tuple(directions[tier][place].ends for place in order),
            )
            for tier in TIERS
        ),
    )


def _table(data: InsightData, found: Contributions, sizes: list[Estimate], order: list[int]) -> Table:
    directions, upward = direction_of(data, found), (found.points > 0).mean(axis=0)
    names = ("group", "size", "size_low", "size_high", "upward", *TIERS)
    columns = tuple(
        Column(
            label=phrase(f"importance.column.{name}"),
            kind="text" if name == "group" else "share" if name == "upward" else "number",
        )
        for name in names
    )
    rows = tuple(
        (
            _name(place),
            sizes[place].shown,
            *sizes[place].ends,
            float(upward[place]),
            *(directions[tier][place].shown for tier in TIERS),
        )
        for place in order
    )
    return Table(title=phrase("importance.table"), columns=columns, rows=rows)
