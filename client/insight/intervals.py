"""Intervals of 95 %, for what an insight estimates from a shop's customers. NaN stands where nothing can be said."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LEVEL = 0.95
Z = float(stats.norm.ppf(0.5 + LEVEL / 2))
_BOOTSTRAPS = 200
_CLOSE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with the ends of its interval."""

    value: float
    low: float
    high: float

    @property
    def band(self) -> tuple[float, float] | None:
        """Both ends; None where one of them is unknown."""
        return (self.low, self.high) if math.isfinite(self.low) and math.isfinite(self.high) else None

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """Both ends, each None where both are not known."""
        return self.band or (None, None)

    @property
    def shown(self) -> float | None:
        """The figure; None where there is none."""
        return self.value if math.isfinite(self.value) else None

    def holds(self, value: float) -> bool:
        """Whether the interval holds `value`; an unknown one holds everything."""
        return not (value < self.low or value > self.high)


UNKNOWN = Estimate(value=math.nan, low=math.nan, high=math.nan)


def share_of(hits: float, number: float) -> Estimate:
    """A share of independent trials.

    Source: Wilson 1927 ("Probable inference, the law of succession, and statistical inference", JASA 22).
    """
    if not number > 0:
        return UNKNOWN
    value, spread = hits / number, Z**2 / number
    middle = (value + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(value * (1 - value) / number + spread / (4 * number))
    return Estimate(value=value, low=min(value, max(0.0, middle - half)), high=max(value, min(1.0, middle + half)))


def mean_of(values: Floats) -> Estimate:
    """The mean of independent values, with Student's interval; one value alone has none."""
    if not len(values):
        return UNKNOWN
    value = float(values.mean())
    if len(values) == 1:
        return Estimate(value=value, low=math.nan, high=math.nan)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Estimate(value=value, low=value - half, high=value + half)


def auc(bought: Bools, predicted: Floats) -> float:
    """The probability that a buyer is predicted above one who did not buy, ties half; NaN without either."""
    buyers, others = int(bought.sum()), int((~bought).sum())
    if not buyers or not others:
        return math.nan
    above = float(stats.rankdata(predicted)[bought].sum()) - buyers * (buyers + 1) / 2
    return above / (buyers * others)


def auc_of(bought: Bools, predicted: Floats) -> Estimate:
    """`auc` with an interval that is honest in small groups, and where the order is perfect too.

    Source: Newcombe 2006 ("Confidence intervals for an effect size measure based on the Mann-Whitney statistic.
    Part 2", Statistics in Medicine 25), method 5.
    """
    value, buyers = auc(bought, predicted), int(bought.sum())
    if math.isnan(value):
        return UNKNOWN
    others, number = len(bought) - buyers, len(bought) / 2 - 1

    def away(theta: float) -> float:
        variance = theta * (1 - theta) * (1 + number * (1 - theta) / (2 - theta) + number * theta / (1 + theta))
        return abs(value - theta) - Z * math.sqrt(max(0.0, variance) / (buyers * others))

    low = optimize.brentq(away, 0.0, value - _CLOSE) if value > _CLOSE else 0.0
    high = optimize.brentq(away, value + _CLOSE, 1.0) if value < 1 - _CLOSE else 1.0
    return Estimate(value=value, low=float(low), high=float(high))


def difference(first: Estimate, second: Estimate) -> Estimate:
    """First minus second, of two separate groups, from their own intervals.

    Source: Zou and Donner 2008 ("Construction of confidence limits about effect measures: a general approach",
    Statistics in Medicine 27), equation 9.
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value=value, low=value - below, high=value + above)


def bootstrap_of(statistic: Callable[[Floats], float], rows: int, *, rng: np.random.Generator) -> Estimate:
    """The statistic of all rows, with the middle 95 % of what it is when rows are drawn with replacement.

    Args:
        statistic: of how often each row counts: [rows].

    Source: Efron 1979; each row counts a Poisson number of times, as in Chamandy et al. 2012 ("Estimating uncertainty
    for massive data streams"), which needs no second copy of the rows.
    """
    value = statistic(np.ones(rows))
    drawn = np.array([statistic(rng.poisson(1.0, rows).astype(np.float64)) for _ in range(_BOOTSTRAPS)])
    drawn = drawn[np.isfinite(drawn)]
    if not math.isfinite(value) or len(drawn) < _BOOTSTRAPS // 2:
        return Estimate(value=value, low=math.nan, high=math.nan)
    low, high = np.quantile(drawn, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)))


def gini_of(spend: Floats, predicted: Floats, *, rng: np.random.Generator) -> Estimate:
    """`pp_model.metrics.gini`, with its interval."""
    return bootstrap_of(weighted_gini(spend, predicted), len(spend), rng=rng)


def weighted_gini(spend: Floats, predicted: Floats) -> Callable[[Floats], float]:
    """`pp_model.metrics.gini` of rows that count several times, or not at all: [rows] to a figure."""
    by_prediction, by_spend = (np.unique(-by, return_inverse=True)[1] for by in (predicted, spend))

    def area(group: NDArray[np.intp], weights: Floats) -> float:
        # Of the curve of cumulated spend; within a tie it is a straight line.
        number, paid = np.bincount(group, weights), np.bincount(group, weights * spend)
        before, total = np.cumsum(paid) - paid, number.sum()
        return float((number * before + paid * (number + 1) / 2).sum() / (total * paid.sum()) - 0.5 - 0.5 / total)

    def gini(weights: Floats) -> float:
        drawn = weights > 0
        if not drawn.any() or not np.ptp(spend[drawn]) > 0:
            return math.nan
        return area(by_prediction, weights) / area(by_spend, weights)

    return gini
