"""Intervals: known values, the slow way, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from client.insight.intervals import (
    LEVEL,
    Estimate,
    auc,
    auc_of,
    difference,
    gini_of,
    mean_of,
    share_of,
    weighted_gini,
)
from pp_model.metrics import gini

FALSE_ALARM = 1e-6


def test_a_share_has_wilsons_interval():
    none, half = share_of(0, 10), share_of(5, 10)
    assert (none.low, none.high) == pytest.approx((0.0, 0.27753), abs=1e-5)  # Wilson, by hand
    assert (half.low, half.high) == pytest.approx((0.23659, 0.76341), abs=1e-5)


def test_the_mean_of_two_values_has_students_interval():
    found = mean_of(np.array([1.0, 3.0]))
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2 - 12.7062, 2 + 12.7062), abs=1e-3)


def test_what_cannot_be_known_is_unknown_and_holds_everything():
    for unknown in (share_of(0, 0), mean_of(np.empty(0)), auc_of(np.ones(5, bool), np.arange(5.0))):
        assert unknown.shown is None
        assert unknown.band is None
        assert unknown.holds(1e9)
    assert mean_of(np.array([2.0])).band is None


def slow_auc(bought: np.ndarray, predicted: np.ndarray) -> float:
    pairs = [(b, o) for b in predicted[bought] for o in predicted[~bought]]
    return sum(1.0 if b > o else 0.5 if b == o else 0.0 for b, o in pairs) / len(pairs)


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(3)
    bought, predicted = rng.random(60) < 0.4, rng.integers(0, 8, 60).astype(float)
    assert auc(bought, predicted) == pytest.approx(slow_auc(bought, predicted))


def test_a_perfect_order_of_a_few_customers_is_not_certain():
    found = auc_of(np.array([True] * 5 + [False] * 5), np.array([9.0, 8, 7, 6, 5, 4, 3, 2, 1, 0]))
    assert found.value == found.high == 1.0
    assert 0.5 < found.low < 0.75  # 1 of 252 orders is perfect, so 0.5 is out, and little more
    worst = auc_of(np.array([True] * 5 + [False] * 5), np.arange(10.0))
    assert (worst.value, worst.low, worst.high) == pytest.approx((0.0, 0.0, 1 - found.low))


def holds_at_least(hits: int, draws: int, *, level: float) -> bool:
    """A count that a coverage of `level` falls below with a probability of `FALSE_ALARM`."""
    return hits >= stats.binom.ppf(FALSE_ALARM, draws, level)


def coverage(shift: float, *, narrower: float = 1.0, seed: int = 11) -> tuple[int, int]:
    """How often the interval of an area holds the true one, of 25 buyers and 60 others, normal with this shift."""
    rng, draws = np.random.default_rng(seed), 800
    truth, hits = float(stats.norm.cdf(shift / np.sqrt(2))), 0
    bought = np.arange(85) < 25
    for _ in range(draws):
        found = auc_of(bought, rng.standard_normal(85) + shift * bought)
        half_low, half_high = narrower * (found.value - found.low), narrower * (found.high - found.value)
        hits += found.value - half_low <= truth <= found.value + half_high
    return hits, draws


@pytest.mark.statistical
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_the_interval_of_an_area_holds_the_truth_as_often_as_it_says(shift):
    hits, draws = coverage(shift)
    assert holds_at_least(hits, draws, level=LEVEL - 0.015)  # Newcombe found 0.935 to 0.96 at such sizes


@pytest.mark.statistical
def test_the_coverage_check_would_notice_an_interval_of_half_the_length():
    hits, draws = coverage(1.0, narrower=0.5)
    assert not holds_at_least(hits, draws, level=LEVEL - 0.015)


def test_a_difference_of_two_estimates_is_as_uncertain_as_both():
    first, second = Estimate(value=0.8, low=0.7, high=0.9), Estimate(value=0.5, low=0.3, high=0.6)
    found = difference(first, second)
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - np.hypot(0.1, 0.1))
    assert found.high == pytest.approx(0.3 + np.hypot(0.1, 0.2))


def test_the_weighted_gini_is_that_of_rows_repeated():
    rng = np.random.default_rng(5)
    spend, predicted = rng.integers(0, 6, 50).astype(float), rng.integers(0, 9, 50).astype(float)
    weights = rng.integers(0, 4, 50)
    repeated = np.repeat(np.arange(50), weights)
    truth = gini(spend[repeated], predicted[repeated])
    assert weighted_gini(spend, predicted)(weights.astype(float)) == pytest.approx(truth, abs=1e-12)


def test_the_gini_has_an_interval_around_the_figure_of_all_rows():
    rng = np.random.default_rng(7)
    spend = rng.exponential(10, 400)
    predicted = spend + rng.normal(0, 10, 400)
    found = gini_of(spend, predicted, rng=rng)
    assert found.value == pytest.approx(gini(spend, predicted))
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.2


def test_where_all_spent_alike_there_is_no_gini():
    assert gini_of(np.ones(50), np.arange(50.0), rng=np.random.default_rng(1)).shown is None
