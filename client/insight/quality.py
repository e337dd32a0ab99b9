"""How good the model is for this shop: scored one horizon ago, compared with what the customers then did."""

from __future__ import annotations

import datetime as dt

import numpy as np
from numpy.typing import NDArray

from client.insight.backtest import LEAST_CUSTOMERS, Backtest, backtest
from client.insight.data import InsightData
from client.insight.intervals import Estimate, auc_of, gini_of, mean_of, share_of
from client.insight.made import Made, made
from pp_model.metrics import DECILES
from web.charts import Chart, Series
from web.report import Column, Figure, Table
from web.words import Kind, Phrase, phrase

NAME = "quality"
_SURE = 1e-7  # as in `pp_model.metrics`: a probability of 0 or 1 costs something finite
_SEED = 1  # of the bootstrap: the same orders have the same report


def build(data: InsightData) -> Made:
    """The report; empty with fewer than `LEAST_CUSTOMERS` customers before the horizon that is looked back at."""
    test = backtest(data)
    if test is None:
        needed = phrase("quality.empty", least=LEAST_CUSTOMERS, days=data.horizon_days)
        return made(data, NAME, empty=needed)
    parts = _tenths(test.expected_cents), _tenths(test.probability)
    return made(
        data,
        NAME,
        figures=_figures(test),
        charts=(_deciles(test, parts[0]), _calibration(test, parts[1])),
        tables=(_table(test, parts[0]),),
        notes=(_seen_note(data, test), phrase("quality.note.window", first=test.cutoff, last=_last_day(test)), *_NOTES),
    )


_NOTES = (phrase("quality.note.shared"), phrase("quality.note.own"), phrase("quality.note.intervals"))


def _figures(test: Backtest) -> tuple[Figure, ...]:
    bought = test.bought
    surprise = log_losses(bought, test.probability)
    base = log_losses(bought, np.full(len(test), bought.mean()))
    errors = np.abs(test.spend_cents - test.expected_cents)
    gini = gini_of(test.spend_cents.astype(np.float64), test.expected_cents, rng=np.random.default_rng(_SEED))
    return (
        Figure(
            label=phrase("quality.figure.seen"),
            value=phrase("quality.seen.yes" if test.seen else "quality.seen.no"),
            kind="text",
            warning=test.seen,
        ),
        Figure(label=phrase("quality.figure.customers"), value=len(test), kind="count"),
        _figure("bought", share_of(float(bought.sum()), len(test)), "share"),
        _figure("auc", auc_of(bought, test.probability), "number"),
        _figure("gini", gini, "number"),
        _figure("log_loss", mean_of(surprise), "number", warning=bool(surprise.mean() > base.mean())),
        Figure(label=phrase("quality.figure.log_loss_base"), value=float(base.mean()), kind="number"),
        _figure("mae", mean_of(errors), "money"),
        _figure("predicted_mean", mean_of(test.expected_cents), "money"),
        _figure("actual_mean", mean_of(test.spend_cents.astype(np.float64)), "money"),
    )


def log_losses(bought: NDArray[np.bool_], probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """[rows]: what each prediction costs, in nats."""
    sure = np.clip(probability, _SURE, 1 - _SURE)
    return -np.where(bought, np.log(sure), np.log1p(-sure))


def _figure(name: str, estimate: Estimate, kind: Kind, *, warning: bool = False) -> Figure:
    label = phrase(f"quality.figure.{name}")
    return Figure(label=label, value=estimate.shown, kind=kind, band=estimate.band, warning=warning)


def _seen_note(data: InsightData, test: Backtest) -> Phrase:
    if not test.seen:
        return phrase("quality.note.fresh", holdout=data.plan.holdout_start)
    fair = data.plan.holdout_start + dt.timedelta(days=data.horizon_days)
    return phrase("quality.note.seen", holdout=data.plan.holdout_start, fair=fair)


def _last_day(test: Backtest) -> dt.date:
    return test.ends - dt.timedelta(days=1)


def _tenths(predicted: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Rows of each tenth of the customers, lowest predicted first."""
    return np.array_split(np.argsort(predicted, kind="stable"), DECILES)


def _deciles(test: Backtest, parts: list[NDArray[np.intp]]) -> Chart:
    actual = [mean_of(test.spend_cents[part].astype(np.float64)) for part in parts]
    return Chart(
        kind="bar",
        title=phrase("quality.chart.deciles"),
        x=phrase("quality.axis.decile"),
        y=phrase("quality.axis.spend"),
        categories=tuple(str(place + 1) for place in range(len(parts))),
        series=(
            Series(
                label=phrase("quality.series.predicted"),
                values=tuple(float(test.expected_cents[part].mean()) for part in parts),
            ),
            Series(
                label=phrase("quality.series.actual"),
                values=tuple(each.shown for each in actual),
                band=tuple(each.ends for each in actual),
            ),
        ),
        kind_of_value="money",
    )


def _calibration(test: Backtest, parts: list[NDArray[np.intp]]) -> Chart:
    shares = [share_of(float(test.bought[part].sum()), len(part)) for part in parts]
    return Chart(
        kind="scatter",
        title=phrase("quality.chart.calibration"),
        x=phrase("quality.axis.predicted_share"),
        y=phrase("quality.axis.actual_share"),
        series=(
            Series(
                label=phrase("quality.series.tenths"),
                x=tuple(float(test.probability[part].mean()) for part in parts),
                values=tuple(each.shown for each in shares),
                band=tuple(each.ends for each in shares),
            ),
        ),
        kind_of_value="share",
        kind_of_x="share",
        diagonal=True,
    )


def _table(test: Backtest, parts: list[NDArray[np.intp]]) -> Table:
    kinds: tuple[Kind, ...] = ("count", "count", "money", "money", "money", "money", "share", "share")
    names = ("decile", "customers", "predicted", "actual", "low", "high", "probability", "share")
    rows = []
    for place, part in enumerate(parts):
        actual = mean_of(test.spend_cents[part].astype(np.float64))
        said = (float(test.expected_cents[part].mean()), actual.shown, *actual.ends)
        bought = (float(test.probability[part].mean()), float(test.bought[part].mean()))
        rows.append((place + 1, len(part), *said, *bought))
    columns = tuple(
        Column(label=phrase(f"quality.column.{name}"), kind=kind) for name, kind in zip(names, kinds, strict=True)
    )
    return Table(title=phrase("quality.table.deciles"), columns=columns, rows=tuple(rows))
