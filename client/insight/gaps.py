"""How well a model serves each group of customers, how far it is from serving all others alike, and what noise did."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.insight.backtest import LEAST_CUSTOMERS, Backtest, readout_rows, some_of
from client.insight.data import InsightData, Slice
from client.insight.intervals import UNKNOWN, Bools, Estimate, Floats, auc, auc_of, difference, mean_of
from client.insight.replay import outputs_of, replayed
from client.score_run import one_thread

Measure = Literal["auc", "calibration"]
MEASURES: tuple[Measure, ...] = ("auc", "calibration")
Verdict = Literal["small", "widened", "noise", "sampling", "real", "none"]

LEAST_GROUP, LEAST_EACH = 100, 10  # customers of a group, and buyers and others among them, for it not to be small
NOTABLE = 0.01  # a gap, or what noise adds to one, that matters: a point of a hundred
DRAWS = 32  # of the noise: its spread is then known to an eighth
_MOST_TRAINED, _MOST_LOOKED_AT = 4_000, 20_000  # customers of the replay: what noise does is seen on fewer than all
_SEED = 2


@dataclass(frozen=True, kw_only=True)
class Group:
    """Customers of whom a declared column says the same, among those of a `Backtest`.

    Attributes:
        inside, others: [rows]: who is in it, and everybody else of whom the column says something.
    """

    column: str
    name: str
    inside: Bools
    others: Bools


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What privacy noise does to a gap, over `DRAWS` draws of it.

    Attributes:
        spread: standard deviation of the gap.
        widening: by how much the gap is wider than without noise, in its size and on average, with its interval.
    """

    spread: float
    widening: Estimate


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A group against all others, by one measure.

    Attributes:
        own: the group's own figure: AUC, or predicted less observed share of buyers.
        gap: own figure less that of all others.
        noise: None where it is not known.
        small, others_small: whether the group, or all others together, are too few to be read closely.
    """

    group: Group
    measure: Measure
    own: Estimate
    gap: Estimate
    noise: Noise | None
    small: bool
    others_small: bool = False

    @property
    def verdict(self) -> Verdict:
        """What may be made of it.

        "small": too few customers, or too few others.
        "widened": noise makes the gap wider by `NOTABLE` on average, beyond doubt.
        "noise": the gap is no larger than two standard deviations of what another draw of noise would do.
        "sampling": it is no larger than what other customers of the same kind would do. "none": below `NOTABLE`.
        """
        if self.small or self.others_small or not math.isfinite(self.gap.value):
            return "small"
        if self.noise and self.noise.widening.value >= NOTABLE and self.noise.widening.low > 0:
            return "widened"
        if abs(self.gap.value) < NOTABLE:
            return "none"
        if self.noise and abs(self.gap.value) <= 2 * self.noise.spread:
            return "noise"
        return "sampling" if self.gap.holds(0.0) else "real"


def groups_of(column: str, of: Slice, test: Backtest) -> list[Group]:
    """The groups of a declared column, the largest first; those without a customer in the test are left out."""
    codes, names = of
    code = codes[test.customer]
    sizes = np.bincount(code[code >= 0], minlength=len(names))
    return [
        Group(column=column, name=names[place], inside=code == place, others=(code >= 0) & (code != place))
        for place in np.argsort(-sizes, kind="stable").tolist()
        if sizes[place]
    ]


def gaps_of(group: Group, test: Backtest, noise: Mapping[Measure, Noise]) -> list[Gap]:
    """The group's gap by each of `MEASURES`."""
    bought = test.bought
    own = {measure: _ESTIMATES[measure](bought[group.inside], test.probability[group.inside]) for measure in MEASURES}
    rest = {measure: _ESTIMATES[measure](bought[group.others], test.probability[group.others]) for measure in MEASURES}
    return [
        Gap(
            group=group,
            measure=measure,
            own=own[measure],
            gap=difference(own[measure], rest[measure]) if group.others.any() else UNKNOWN,
            noise=noise.get(measure),
            small=is_small(bought[group.inside]),
            others_small=is_small(bought[group.others]),
        )
        for measure in MEASURES
    ]


def is_small(bought: Bools) -> bool:
    """Whether a group has too few customers, buyers, or others than buyers, for its figures to be read closely."""
    buyers = int(bought.sum())
    return len(bought) < LEAST_GROUP or min(buyers, len(bought) - buyers) < LEAST_EACH


@dataclass(frozen=True, kw_only=True)
class NoisyModels:
    """What models say of some customers of a `Backtest` when the plan's noise is drawn anew; see `replay`.

    Attributes:
        rows: places in the test.
        probability: [rows, 1 + DRAWS]; the first without noise.
    """

    rows: NDArray[np.intp]
    probability: Floats

    def noise_of(self, group: Group, bought: Bools) -> dict[Measure, Noise]:
        """What noise does to the group's gaps; nothing of a gap that these rows do not have."""
        inside, others = group.inside[self.rows], group.others[self.rows]
        found = {}
        for measure in MEASURES:
            statistic = _VALUES[measure]
            gaps = np.array(
                [
                    statistic(bought[self.rows[inside]], said[inside])
                    - statistic(bought[self.rows[others]], said[others])
                    for said in self.probability.T
                ]
            )
            if np.isfinite(gaps).all():
                spread = float((gaps[1:] - gaps[0]).std(ddof=1))
                found[measure] = Noise(spread=spread, widening=mean_of(np.abs(gaps[1:]) - abs(gaps[0])))
        return found


def noisy_models(data: InsightData, test: Backtest) -> NoisyModels | None:
    """The plan's last rounds run again on the horizon before the test's, and what comes of them looked at in the test.

    None where the plan adds no noise, or the orders do not reach back far enough.
    """
    if not data.plan.dp.noise_multiplier > 0:
        return None
    with one_thread():
        return _noisy_models(data, test)


def _noisy_models(data: InsightData, test: Backtest) -> NoisyModels | None:
    rng = np.random.default_rng(_SEED)
    before = test.cutoff - (test.ends - test.cutoff)
    chosen = some_of(test.customer, _MOST_TRAINED, rng=rng)
    rows, _ = readout_rows(data.shared, data.log, before, chosen)
    if len(rows) < LEAST_CUSTOMERS:
        return None
    stood_for = round(len(rows) * len(test) / len(chosen))
    values = replayed(data.shared.model.readout, rows, data.plan, customers=stood_for, draws=DRAWS, rng=rng)
    seen, customers = readout_rows(data.shared, data.log, test.cutoff, some_of(test.customer, _MOST_LOOKED_AT, rng=rng))
    probability: Tensor = torch.sigmoid(outputs_of(values, seen)[..., 0])
    return NoisyModels(rows=np.searchsorted(test.customer, customers), probability=probability.double().numpy())


def _off(bought: Bools, probability: Floats) -> float:
    return float(probability.mean() - bought.mean()) if len(bought) else math.nan


def _off_of(bought: Bools, probability: Floats) -> Estimate:
    return mean_of(probability - bought)


_ESTIMATES: Mapping[Measure, Callable[[Bools, Floats], Estimate]] = {"auc": auc_of, "calibration": _off_of}
_VALUES: Mapping[Measure, Callable[[Bools, Floats], float]] = {"auc": auc, "calibration": _off}
