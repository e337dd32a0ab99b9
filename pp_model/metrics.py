"""How good predictions are: ranking, probability, money. Higher is better for the first four, lower for the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as sk

Floats = NDArray[np.float64]
DECILES = 10
CENTS_PER_UNIT = 100.0


def gini(spend: Floats, predicted: Floats) -> float:
    """Normalised Gini of ranking customers by predicted spend: 1 is the perfect order, 0 is chance.

    NaN where all spent alike. Ties of the prediction share their customers' mean spend, so their order cannot matter.
    """

    def area(by: Floats) -> float:
        # Mean spend within a tie makes the curve a straight line there.
        _, group = np.unique(-by, return_inverse=True)
        shared = np.bincount(group, spend) / np.bincount(group)
        ordered = np.sort(group)
        curve = np.cumsum(shared[ordered]) / spend.sum()
        return float(curve.mean() - 0.5 - 0.5 / len(spend))

    if not (len(spend) and np.ptp(spend) > 0):
        return math.nan
    return area(predicted) / area(spend)


def decile_table(spend: Floats, predicted: Floats) -> list[tuple[float, float, int]]:
    """(mean predicted, mean actual, customers) of each tenth of the customers, lowest predicted first."""
    order = np.argsort(predicted, kind="stable")
    parts = [part for part in np.array_split(order, DECILES) if len(part)]
    return [(float(predicted[part].mean()), float(spend[part].mean()), len(part)) for part in parts]


def decile_mape(spend: Floats, predicted: Floats) -> float:
    """Mean over deciles of |predicted - actual| / actual; deciles in which nobody spent are left out."""
    errors = [abs(p - a) / a for p, a, _ in decile_table(spend, predicted) if a > 0]
    return float(np.mean(errors)) if errors else math.nan


def calibration_table(bought: NDArray[np.bool_], probability: Floats) -> list[tuple[float, float, int]]:
    """(mean predicted, observed share, customers) of ten equal bins of the probability; empty bins are left out."""
    bins = np.minimum((probability * DECILES).astype(int), DECILES - 1)
    rows = [(bins == b) for b in range(DECILES)]
    return [(float(probability[r].mean()), float(bought[r].mean()), int(r.sum())) for r in rows if r.any()]


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The figures of one model on one set of customers; NaN where a figure is not defined.

    `mae` and `rmse` are in currency units. `auc`, `average_precision`, `log_loss` and `brier` judge the probability
    of buying; the others judge expected spend.
    """

    gini: float
    spearman: float
    auc: float
    average_precision: float
    log_loss: float
    brier: float
    mae: float
    rmse: float
    decile_mape: float
    customers: int


def evaluate(*, spend_cents: NDArray[np.int64], expected_cents: Floats, buying_probability: Floats) -> Metrics:
    """All figures for `rows` customers; arrays of [rows], finite.

    Raises:
        ValueError: no customers, or predictions that are not finite.
    """
    if not len(spend_cents):
        raise ValueError("no customers to evaluate on; choose a cutoff with orders before it")
    if not (np.isfinite(expected_cents).all() and np.isfinite(buying_probability).all()):
        raise ValueError("predictions are not finite; the model is broken")
    spend, predicted = spend_cents / CENTS_PER_UNIT, expected_cents / CENTS_PER_UNIT
    bought = spend_cents > 0
    both = bool(bought.any() and not bought.all())
    varied = np.ptp(spend) > 0 and np.ptp(predicted) > 0
    return Metrics(
        gini=gini(spend, predicted),
        spearman=float(stats.spearmanr(spend, predicted).statistic) if varied else math.nan,
        auc=float(sk.roc_auc_score(bought, buying_probability)) if both else math.nan,
        average_precision=float(sk.average_precision_score(bought, buying_probability)) if both else math.nan,
        log_loss=float(sk.log_loss(bought, np.clip(buying_probability, 1e-7, 1 - 1e-7), labels=[False, True])),
        brier=float(np.mean((buying_probability - bought) ** 2)),
        mae=float(np.mean(np.abs(spend - predicted))),
        rmse=float(np.sqrt(np.mean((spend - predicted) ** 2))),
        decile_mape=decile_mape(spend, predicted),
        customers=len(spend_cents),
    )
