"""What the customers of today are expected to spend, by category and month: for planning stock.

The method and its intervals are those of `outlook`. The model is the shared one: the readout of the merchant's own that
scores are made with was fitted to the very orders that the trials look at. Customers who are not known yet are not in
the forecast: what new ones spent in the horizon just past stands beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from client.insight.customers import summed
from client.insight.data import InsightData
from client.insight.earlier import said_at
from client.insight.groups import category_name
from client.insight.made import Made, list_file, made, plain_rows
from client.insight.outlook import (
    MOST_SAMPLED,
    Errors,
    Trial,
    by_level,
    correction_of,
    errors_of,
    month_shares,
    months_of,
    spread,
    trials_of,
)
from pp_model.schema import SECONDS_PER_DAY, day_start
from web.charts import Chart, Series
from web.report import MOST_ROWS, Column, Figure, Table
from web.words import Kind, Phrase, phrase

NAME = "demand"
_CATEGORIES_DRAWN = 12
Floats = NDArray[np.float64]
Band = tuple[Floats, Floats]


def build(data: InsightData) -> Made:
    """The report, and the list of every category and month."""
    if not np.any(data.log.spend_cents):
        return made(data, NAME, empty=phrase("demand.empty"))
    codes = np.unique(data.log.category[data.log.spend_cents != 0])
    trials = trials_of(data.shared, data.log, codes)
    errors = errors_of(trials)
    months, month_of_day = months_of(data.cutoff, data.horizon_days)
    said = said_at(data.shared, data.log, data.cutoff)  # the model that was tried: the correction is of it
    sums, _ = spread(said.customer, said.expected_spend_cents, data.interests, codes)
    cells = correction_of(trials) * np.outer(sums, month_shares(data.log, data.cutoff, month_of_day))
    order = np.argsort(-cells.sum(axis=1), kind="stable")
    return made(
        data,
        NAME,
        figures=_figures(data, cells, errors, trials),
        charts=(_by_month(months, cells, errors), _by_category(data, codes, cells, errors, order)),
        tables=(_categories(data, codes, cells, errors, order), *_trials(trials)),
        notes=_notes(data, errors, trials),
        lists={"categories": _list(data, codes, months, cells, errors, order)},
    )


def within(trials: tuple[Trial, ...]) -> float | None:
    """The share of the newest trial's categories and months that lay in the interval the trials before it give.

    None without any before it. Only what was forecast counts.
    """
    errors = errors_of(trials[1:])
    if errors is None:
        return None
    forecast = errors.correction * trials[0].forecast
    low, high = errors.interval(forecast, "cell")
    some = forecast > 0
    inside = (low <= trials[0].happened) & (trials[0].happened <= high)
    return float(inside[some].mean())


def off_by(trial: Trial, correction: float) -> tuple[float, float]:
    """By how much a corrected trial was off: of the whole, with its sign; and of single cells, by their size."""
    forecast = correction * trial.forecast
    spent = max(float(trial.happened.sum()), 1.0)
    return float(forecast.sum()) / spent - 1, float(np.abs(forecast - trial.happened).sum()) / spent


def new_customers_spend(data: InsightData, codes: NDArray[np.int32]) -> Floats:
    """[categories]: what customers who first did something in the horizon just past spent in it."""
    start = day_start(data.cutoff) - data.horizon_days * SECONDS_PER_DAY
    known = np.zeros(data.log.num_customers, np.bool_)
    known[data.log.customer[data.log.timestamp < start]] = True
    rows = np.flatnonzero(~known[data.log.customer])
    place = np.searchsorted(codes, data.log.category[rows]).clip(max=len(codes) - 1)  # rows without money add nothing
    return summed(place, data.log.spend_cents[rows], len(codes))


def _figures(data: InsightData, cells: Floats, errors: Errors | None, trials: tuple[Trial, ...]) -> tuple[Figure, ...]:
    total = cells.sum()
    band = None
    if errors:
        low, high = errors.interval(by_level(cells, "total"), "total")
        band = (float(low), float(high))
    codes = np.unique(data.log.category[data.log.spend_cents != 0])
    figures = [
        Figure(label=phrase("demand.figure.total"), value=float(total), kind="money", band=band),
        Figure(label=phrase("demand.figure.new"), value=float(new_customers_spend(data, codes).sum()), kind="money"),
    ]
    if trials:
        whole, single = off_by(trials[0], correction_of(trials[1:]))
        figures += [
            Figure(label=phrase("demand.figure.off_total"), value=whole, kind="share"),
            Figure(label=phrase("demand.figure.off_cells"), value=single, kind="share"),
            Figure(label=phrase("demand.figure.within"), value=within(trials), kind="share"),
            Figure(label=phrase("demand.figure.correction"), value=correction_of(trials), kind="number"),
        ]
    return tuple(figures)


def _band(cells: Floats, errors: Errors | None, level: Any) -> Band | None:
    return errors.interval(by_level(cells, level), level) if errors else None


def _pairs(band: Band | None, places: NDArray[np.intp] | slice) -> tuple[tuple[float, float], ...]:
    return tuple(zip(band[0][places].tolist(), band[1][places].tolist(), strict=True)) if band else ()


def _by_month(months: tuple[str, ...], cells: Floats, errors: Errors | None) -> Chart:
    return Chart(
        kind="bar",
        title=phrase("demand.chart.months"),
        x=phrase("demand.column.month"),
        y=phrase("demand.column.expected"),
        categories=months,
        series=(
            Series(
                label=phrase("demand.column.expected"),
                values=tuple(by_level(cells, "month").tolist()),
                band=_pairs(_band(cells, errors, "month"), slice(None)),
            ),
        ),
        kind_of_value="money",
    )


def _by_category(
    data: InsightData, codes: NDArray[np.int32], cells: Floats, errors: Errors | None, order: NDArray[np.intp]
) -> Chart:
    top = order[:_CATEGORIES_DRAWN]
    return Chart(
        kind="bar",
        title=phrase("demand.chart.categories"),
        x=phrase("insight.column.category"),
        y=phrase("demand.column.expected"),
        categories=tuple(category_name(int(codes[place]), data.category_names) for place in top),
        series=(
            Series(
                label=phrase("demand.column.expected"),
                values=tuple(by_level(cells, "category")[top].tolist()),
                band=_pairs(_band(cells, errors, "category"), top),
            ),
        ),
        horizontal=True,
        kind_of_value="money",
    )


def _categories(
    data: InsightData, codes: NDArray[np.int32], cells: Floats, errors: Errors | None, order: NDArray[np.intp]
) -> Table:
    top = order[:MOST_ROWS]
    band = _band(cells, errors, "category")
    nothing = [None] * len(top)
    columns: tuple[tuple[str, Kind, Any], ...] = (
        ("insight.column.category", "text", [category_name(int(codes[place]), data.category_names) for place in top]),
        ("demand.column.expected", "money", by_level(cells, "category")[top]),
        ("demand.column.low", "money", band[0][top] if band else nothing),
        ("demand.column.high", "money", band[1][top] if band else nothing),
        ("demand.column.new", "money", new_customers_spend(data, codes)[top]),
    )
    return Table(
        title=phrase("demand.table.categories"),
        columns=tuple(Column(label=phrase(key), kind=kind) for key, kind, _ in columns),
        rows=plain_rows(values for _, _, values in columns),
        file=list_file(NAME, "categories"),
    )


def _trials(trials: tuple[Trial, ...]) -> tuple[Table, ...]:
    """How the method did before, the newest trial first; the oldest of several had no correction to begin with."""
    if not trials:
        return ()
    headings: tuple[tuple[str, Kind], ...] = (
        ("demand.column.trial", "date"),
        ("demand.column.forecast", "money"),
        ("demand.column.happened", "money"),
        ("demand.column.off_total", "share"),
        ("demand.column.off_cells", "share"),
    )
    rows = []
    for place, trial in enumerate(trials[:-1] or trials):
        correction = correction_of(trials[place + 1 :])
        forecast = correction * float(trial.forecast.sum())
        rows.append((trial.cutoff, forecast, float(trial.happened.sum()), *off_by(trial, correction)))
    return (
        Table(
            title=phrase("demand.table.trials"),
            columns=tuple(Column(label=phrase(key), kind=kind) for key, kind in headings),
            rows=tuple(rows),
        ),
    )


def _notes(data: InsightData, errors: Errors | None, trials: tuple[Trial, ...]) -> tuple[Phrase, ...]:
    notes = [phrase("demand.note.known"), phrase("demand.note.months")]
    if errors is None:
        notes.append(phrase("demand.note.no_trial", days=data.horizon_days))
    else:
        notes.append(phrase("demand.note.correction", correction=float(f"{errors.correction:.3g}")))
        notes.append(phrase("demand.note.interval", trials=errors.trials))
        if trials[-1].cutoff < data.plan.holdout_start:
            notes.append(phrase("demand.note.seen", day=data.plan.holdout_start))
        if data.log.num_customers > MOST_SAMPLED:
            notes.append(phrase("demand.note.sample", customers=MOST_SAMPLED))
    return tuple(notes)


def _list(
    data: InsightData,
    codes: NDArray[np.int32],
    months: tuple[str, ...],
    cells: Floats,
    errors: Errors | None,
    order: NDArray[np.intp],
) -> pa.Table:
    """A row for each category and month; a category without a name is money spent in none."""
    names = [data.category_names.get(int(codes[place]), "") for place in order]
    band = _band(cells, errors, "cell")
    columns = {
        "category": pa.array(names, pa.string()).take(pa.array(np.repeat(np.arange(len(order)), len(months)))),
        "month": pa.array(list(months) * len(order), pa.string()),
        "expected_spend_cents": _cents(cells[order]),
    }
    if band:
        columns |= {"spend_low_cents": _cents(band[0][order]), "spend_high_cents": _cents(band[1][order])}
    return pa.table(columns)


def _cents(values: Floats) -> pa.Array:
    return pa.array(np.rint(values).astype(np.int64).ravel())
