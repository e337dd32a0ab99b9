"""Whether the model serves every group of customers alike, by the columns that the merchant has declared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa

from client.insight.backtest import LEAST_CUSTOMERS, Backtest, backtest
from client.insight.data import InsightData
from client.insight.gaps import (
    LEAST_EACH,
    LEAST_GROUP,
    MEASURES,
    NOTABLE,
    Gap,
    Measure,
    gaps_of,
    groups_of,
    noisy_models,
)
from client.insight.intervals import Estimate, mean_of
from client.insight.made import Made, list_file, made
from client.insight.replay import MOST_ROUNDS
from web.charts import Chart, Series
from web.report import MOST_ROWS, Column, Figure, Table
from web.words import Kind, Phrase, phrase

NAME = "fairness"
MOST_DRAWN = 20  # groups of a column in a chart; the list has all of them


def build(data: InsightData) -> Made:
    """The report; empty where no column is declared, or too few customers can be looked back at."""
    if not data.slices:
        return made(data, NAME, empty=phrase("fairness.empty.undeclared"))
    test = backtest(data)
    if test is None:
        needed = phrase("fairness.empty.few", least=LEAST_CUSTOMERS, days=data.horizon_days)
        return made(data, NAME, empty=needed)
    models, gaps = noisy_models(data, test), list[Gap]()
    for column, of in data.slices.items():
        for group in groups_of(column, of, test):
            gaps += gaps_of(group, test, models.noise_of(group, test.bought) if models else {})
    return made(
        data,
        NAME,
        figures=_figures(gaps, test),
        charts=_charts(gaps),
        tables=(_gap_table(gaps), _group_table(gaps, test)),
        notes=_notes(data, test, known=models is not None),
        lists={"groups": _list(gaps, test)},
    )


def _figures(gaps: Sequence[Gap], test: Backtest) -> tuple[Figure, ...]:
    widened = sum(gap.verdict == "widened" for gap in gaps)
    return (
        Figure(label=phrase("fairness.figure.customers"), value=len(test), kind="count"),
        Figure(label=phrase("fairness.figure.groups"), value=len(gaps) // len(MEASURES), kind="count"),
        *(_widest(gaps, measure) for measure in MEASURES),
        Figure(label=phrase("fairness.figure.widened"), value=widened, kind="count", warning=widened > 0),
        Figure(label=phrase("fairness.figure.noise"), value=sum(gap.verdict == "noise" for gap in gaps), kind="count"),
        Figure(
            label=phrase("fairness.figure.small"), value=sum(gap.small for gap in gaps) // len(MEASURES), kind="count"
        ),
    )


def _widest(gaps: Iterable[Gap], measure: Measure) -> Figure:
    """The widest gap of a group that is not small."""
    wide = [gap.gap for gap in gaps if gap.measure == measure and gap.verdict != "small"]
    label = phrase(f"fairness.figure.{measure}")
    if not wide:
        return Figure(label=label, value=None, kind="number")
    widest = max(wide, key=lambda gap: abs(gap.value))
    return Figure(label=label, value=widest.value, kind="number", band=widest.band, warning=not widest.holds(0.0))


def _notes(data: InsightData, test: Backtest, *, known: bool) -> tuple[Phrase, ...]:
    plan = data.plan
    notes = [
        phrase("fairness.note.small", group=LEAST_GROUP, each=LEAST_EACH),
        phrase("fairness.note.several"),
        phrase("fairness.note.cause"),
    ]
    if known:
        merchants = len(plan.secure_sum.roster) if plan.secure_sum else plan.server.min_completions
        rounds = min(plan.rounds, MOST_ROUNDS)
        notes.insert(0, phrase("fairness.note.method", rounds=rounds, merchants=merchants, least=NOTABLE))
        notes.insert(1, phrase("fairness.note.approximate"))
        if plan.model.trainable == "all":
            notes.insert(2, phrase("fairness.note.encoder"))
    elif not plan.dp.noise_multiplier > 0:
        notes.insert(0, phrase("fairness.note.no_noise"))
    else:
        notes.insert(0, phrase("fairness.note.no_history", days=2 * data.horizon_days))
    if test.seen:
        notes.append(phrase("fairness.note.seen", holdout=plan.holdout_start))
    return tuple(notes)


def _charts(gaps: Sequence[Gap]) -> tuple[Chart, ...]:
    return tuple(
        _chart(column, measure, [gap for gap in of_column if gap.measure == measure][:MOST_DRAWN])
        for column, of_column in _by_column(gaps)
        for measure in MEASURES
    )


def _by_column(gaps: Iterable[Gap]) -> list[tuple[str, list[Gap]]]:
    return [(column, list(of)) for column, of in groupby(gaps, key=lambda gap: gap.group.column)]


def _chart(column: str, measure: Measure, gaps: Sequence[Gap]) -> Chart:
    return Chart(
        kind="bar",
        title=phrase(f"fairness.chart.{measure}", column=column),
        x=phrase("fairness.axis.group"),
        y=phrase(f"fairness.axis.{measure}"),
        categories=tuple(_named(gap) for gap in gaps),
        series=(
            Series(
                label=phrase(f"fairness.axis.{measure}"),
                values=tuple(gap.own.shown for gap in gaps),
                band=tuple(gap.own.ends for gap in gaps),
            ),
        ),
    )


def _named(gap: Gap) -> str | Phrase:
    return phrase("fairness.small_group", name=gap.group.name) if gap.small else gap.group.name


def _gap_table(gaps: Sequence[Gap]) -> Table:
    kinds: dict[str, Kind] = {
        **dict.fromkeys(("column", "group", "measure"), "text"),
        **dict.fromkeys(("gap", "low", "high", "spread", "widening"), "number"),
        "verdict": "text",
    }
    first = sorted(gaps, key=lambda gap: _ORDER.index(gap.verdict))[:MOST_ROWS]
    rows = tuple(
        (
            gap.group.column,
            gap.group.name,
            phrase(f"fairness.measure.{gap.measure}"),
            gap.gap.shown,
            *gap.gap.ends,
            gap.noise.spread if gap.noise else None,
            gap.noise.widening.value if gap.noise else None,
            phrase(f"fairness.verdict.{gap.verdict}"),
        )
        for gap in first
    )
    return Table(
        title=phrase("fairness.table.gaps"), columns=_columns(kinds), rows=rows, file=list_file(NAME, "groups")
    )


_ORDER = ("widened", "real", "noise", "sampling", "none", "small")


def _group_table(gaps: Sequence[Gap], test: Backtest) -> Table:
    kinds: dict[str, Kind] = {"column": "text", "group": "text", "customers": "count", "buyers": "count"}
    figures = ("auc", "auc_low", "auc_high", "calibration", "calibration_low", "calibration_high")
    kinds |= dict.fromkeys((*figures, "score", "score_low", "score_high"), "number")
    rows = []
    for auc, calibration in list(zip(gaps[::2], gaps[1::2], strict=True))[:MOST_ROWS]:
        inside = auc.group.inside
        score = mean_of(test.score[inside])
        counts = (int(inside.sum()), int(test.bought[inside].sum()))
        rows.append(
            (auc.group.column, _named(auc), *counts, *_cells(auc.own), *_cells(calibration.own), *_cells(score))
        )
    return Table(
        title=phrase("fairness.table.groups"),
        columns=_columns(kinds),
        rows=tuple(rows),
        file=list_file(NAME, "groups"),
    )


def _columns(kinds: dict[str, Kind]) -> tuple[Column, ...]:
    return tuple(Column(label=phrase(f"fairness.column.{name}"), kind=kind) for name, kind in kinds.items())


def _cells(estimate: Estimate) -> tuple[float | None, float | None, float | None]:
    return (estimate.shown, *estimate.ends)


def _list(gaps: Sequence[Gap], test: Backtest) -> pa.Table:
    rows = []
    for gap in gaps:
        inside, noise = gap.group.inside, gap.noise
        rows.append(
            {
                "column": gap.group.column,
                "group": gap.group.name,
                "customers": int(inside.sum()),
                "buyers": int(test.bought[inside].sum()),
                "mean_score": float(np.mean(test.score[inside])),
                "measure": gap.measure,
                **dict(zip(("value", "value_low", "value_high"), _cells(gap.own), strict=True)),
                **dict(zip(("gap", "gap_low", "gap_high"), _cells(gap.gap), strict=True)),
                "noise_spread": noise.spread if noise else None,
                "noise_widening": noise.widening.value if noise else None,
                "verdict": gap.verdict,
            }
        )
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


_SCHEMA = pa.schema(
    [
        ("column", pa.string()),
        ("group", pa.string()),
        ("customers", pa.int64()),
        ("buyers", pa.int64()),
        ("mean_score", pa.float64()),
        ("measure", pa.string()),
        *[(name, pa.float64()) for name in ("value", "value_low", "value_high", "gap", "gap_low", "gap_high")],
        ("noise_spread", pa.float64()),
        ("noise_widening", pa.float64()),
        ("verdict", pa.string()),
    ]
)
