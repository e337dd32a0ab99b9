"""Checklist: D1, D5, D17, D21, D32, D44.

An attack on the whole mechanism. Two neighbouring shops, one with and one without a customer made for the purpose,
train one task many times; the best threshold on the attacker's statistic tells them apart as well as it can; the
Clopper-Pearson ends of its rates are an epsilon that the mechanism certainly has. It may not exceed the claimed one.
It sees gross mistakes end to end (a mean, a forgotten factor); the tests of the parts see small ones.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pp_model.accounting import epsilon_spent
from pp_model.customer_rows import CustomerRows
from pp_model.model import load_model
from pp_model.model_spec import ModelSpec
from pp_model.plan import TrainingPlan
from pp_model.randomness import SystemSource
from pp_model.serialization import Arrays
from pp_model.train import customer_rows, train_locally
from tests.support.examples import random_arrays, random_examples
from tests.support.plans import tiny_dp, tiny_plan

pytestmark = [pytest.mark.slow, pytest.mark.statistical]

FALSE_ALARM = 1e-6  # of each Clopper-Pearson end; half of the runs choose the threshold, the other half judge it
RUNS = 2_000
MODEL = ModelSpec(encoder="linear")
PLAN = tiny_plan(
    model=MODEL,
    algorithm="fedavg",
    local_learning_rate=0.5,
    delta=1e-2,
    declared_customers=50,
    dp=tiny_dp(sample_rate=0.8, noise_multiplier=1.6, max_grad_norm=0.05, num_steps=2),
)
ARRAYS = random_arrays(MODEL)


def shops() -> tuple[CustomerRows, CustomerRows]:
    """Four customers, and the same four with a fifth: one of 20 windows, all alike, far beyond the clip norm."""
    everyone = random_examples([1, 2, 1, 2, 20], length=2)
    hers = np.flatnonzero(everyone.customer == 4)
    for column in (everyone.features, everyone.sequence, everyone.log_anchor, everyone.spend_cents):
        column[hers] = column[hers[0]]
    everyone.spend_cents[hers] = 10**9
    without = replace(everyone.select(everyone.customer != 4), num_customers=4)
    model = load_model(MODEL, ARRAYS)
    return customer_rows(model, without), customer_rows(model, everyone)


def train(rows: CustomerRows, plan: TrainingPlan) -> NDArray[np.float64]:
    return flat(train_locally(ARRAYS, rows, plan, secret=SystemSource()))


def direction() -> NDArray[np.float64]:
    """Where the fifth customer pulls: what it alone adds when there is no noise."""
    without, everyone = shops()
    quiet = replace(PLAN, dp=replace(PLAN.dp, noise_multiplier=0.0, sample_rate=1.0))
    pulled = train(everyone, quiet) - train(without, quiet)
    return pulled / np.linalg.norm(pulled)


def flat(update: Arrays) -> NDArray[np.float64]:
    return np.concatenate([array.ravel() for array in update.values()]).astype(np.float64)


def statistics_of(plan: TrainingPlan) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far the releases of either shop lie in the fifth customer's direction."""
    towards = direction()
    scores = [np.array([train(shop, plan) @ towards for _ in range(RUNS)]) for shop in shops()]
    return scores[0], scores[1]


def demonstrated_epsilon(without: NDArray[np.float64], with_her: NDArray[np.float64], delta: float) -> float:
    """The largest epsilon that the releases prove: hits <= exp(epsilon) * alarms + delta for any test, either way."""
    half = len(without) // 2
    proven = 0.0
    for out, inside in ((without, with_her), (-with_her, -without)):
        thresholds = np.quantile(np.concatenate([out[:half], inside[:half]]), np.linspace(0.01, 0.995, 200))
        best = max(thresholds, key=lambda t: _epsilon_at(t, out[:half], inside[:half], delta))
        proven = max(proven, _epsilon_at(best, out[half:], inside[half:], delta))
    return proven


def _epsilon_at(threshold: float, out: NDArray[np.float64], inside: NDArray[np.float64], delta: float) -> float:
    hits, alarms = int((inside > threshold).sum()), int((out > threshold).sum())
    least_hits = float(stats.beta.ppf(FALSE_ALARM, hits, len(inside) - hits + 1)) if hits else 0.0
    most_alarms = float(stats.beta.ppf(1 - FALSE_ALARM, alarms + 1, len(out) - alarms)) if alarms < len(out) else 1.0
    return math.log((least_hits - delta) / most_alarms) if least_hits > delta else 0.0


def claimed() -> float:
    return epsilon_spent([PLAN.dp.event], delta=PLAN.delta)


def test_the_attack_proves_no_more_than_is_claimed():
    assert demonstrated_epsilon(*statistics_of(PLAN), PLAN.delta) <= claimed()


def test_the_attack_would_notice_a_third_of_the_noise():
    """1.59 is claimed and 2.4 proven, give or take 0.2: the twin itself fails about once in 30,000 times."""
    third = replace(PLAN, dp=replace(PLAN.dp, noise_multiplier=PLAN.dp.noise_multiplier / 3))
    assert demonstrated_epsilon(*statistics_of(third), PLAN.delta) > claimed()
