"""Where this shop stands among all merchants' customers, by the quantiles that the platform published under privacy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from agreement.market import Market, Points
from client.insight.data import InsightData
from client.insight.intervals import LEVEL, Estimate
from client.insight.made import Made, made
from web.charts import Chart, Series
from web.report import MOST_ROWS, Column, Figure, Table
from web.words import Kind, Phrase, phrase

NAME = "market"
LEAST_CUSTOMERS = 100  # of the own shop, for its quantiles to say something
# Columns of the scores that a platform may publish quantiles of, under these names, and how they are written.
COMPARED: Mapping[str, Kind] = {"score": "number", "expected_spend_cents": "money", "churn_risk": "share"}


def build(data: InsightData) -> Made:
    """The report; empty where the platform published nothing that can be compared."""
    market = data.market
    if market is None:
        return made(data, NAME, empty=phrase("market.empty.none"))
    if market.horizon_days != data.horizon_days:
        other = phrase("market.empty.horizon", theirs=market.horizon_days, ours=data.horizon_days)
        return made(data, NAME, empty=other)
    known = [name for name in COMPARED if name in market.quantiles]
    if not known:
        return made(data, NAME, empty=phrase("market.empty.names", known=", ".join(COMPARED)))
    if data.scores.num_rows < LEAST_CUSTOMERS:
        return made(data, NAME, empty=phrase("market.empty.few", least=LEAST_CUSTOMERS))
    own = {name: np.sort(data.scores[name].to_numpy()).astype(np.float64) for name in known}
    return made(
        data,
        NAME,
        figures=[_position(name, own[name], market.quantiles[name]) for name in known],
        charts=[_chart(name, own[name], market.quantiles[name]) for name in known],
        tables=[_table(name, own[name], market.quantiles[name]) for name in known],
        notes=_notes(market),
    )


def _notes(market: Market) -> tuple[Phrase, ...]:
    return (
        phrase("market.note.read"),
        phrase(
            "market.note.privacy",
            epsilon=market.epsilon,
            delta=f"{market.delta:.3g}",
            mechanism=market.mechanism,
            made=market.made,
        ),
        phrase("market.note.noisy"),
        phrase("market.note.alike"),
    )


def quantile_of(ascending: NDArray[np.float64], share: float) -> Estimate:
    """The value that this share of the customers does not exceed; the interval rests on nothing but their order.

    Source: Conover 1999, "Practical nonparametric statistics", section 3.2.
    """
    rows = len(ascending)
    low, high = (int(stats.binom.ppf(0.5 + side * LEVEL / 2, rows, share)) for side in (-1, 1))
    return Estimate(
        value=float(np.quantile(ascending, share)),
        low=float(ascending[max(low - 1, 0)]),
        high=float(ascending[min(high, rows - 1)]),
    )


def position_of(value: float, points: Points) -> float:
    """The share of the federation's customers below `value`; outside of what was published, its first or last share."""
    shares, values = zip(*points, strict=True)
    return float(np.interp(value, values, shares))


def _position(name: str, ascending: NDArray[np.float64], points: Points) -> Figure:
    median = quantile_of(ascending, 0.5)
    return Figure(
        label=phrase(f"market.figure.{name}"),
        value=position_of(median.value, points),
        kind="share",
        band=(position_of(median.low, points), position_of(median.high, points)),
    )


def _chart(name: str, ascending: NDArray[np.float64], points: Points) -> Chart:
    own = [quantile_of(ascending, share) for share, _ in points]
    return Chart(
        kind="line",
        title=phrase(f"market.chart.{name}"),
        x=phrase("market.axis.share"),
        y=phrase(f"market.axis.{name}"),
        categories=tuple(f"{100 * share:g} %" for share, _ in points),
        series=(
            Series(
                label=phrase("market.series.own"),
                values=tuple(each.shown for each in own),
                band=tuple(each.ends for each in own),
            ),
            Series(label=phrase("market.series.all"), values=tuple(value for _, value in points), shape="dashed"),
        ),
        kind_of_value=COMPARED[name],
    )


def _table(name: str, ascending: NDArray[np.float64], points: Points) -> Table:
    kind = COMPARED[name]
    columns = (
        Column(label=phrase("market.column.share"), kind="share"),
        *(Column(label=phrase(f"market.column.{each}"), kind=kind) for each in ("own", "low", "high", "all")),
    )
    rows = []
    for share, value in points[:MOST_ROWS]:
        own = quantile_of(ascending, share)
        rows.append((share, own.shown, *own.ends, value))
    return Table(title=phrase(f"market.table.{name}"), columns=columns, rows=tuple(rows))
