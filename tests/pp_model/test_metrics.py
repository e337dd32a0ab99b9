"""The figures against definitions that one can count by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pp_model.metrics import calibration_table, decile_mape, decile_table, evaluate, gini

spends = st.lists(st.integers(0, 5), min_size=2, max_size=9).filter(lambda s: len(set(s)) > 1)


def slow_gini(spend: list[float], predicted: list[float]) -> float:
    """How much more of the spend is with the higher predicted of a pair, over all pairs, against the perfect order."""

    def won(by: list[float]) -> float:
        pairs = [(i, j) for i in range(len(by)) for j in range(len(by)) if by[i] > by[j]]
        return sum(spend[i] - spend[j] for i, j in pairs)

    return won(predicted) / won(spend)


def slow_auc(bought: list[bool], score: list[float]) -> float:
    yes = [s for s, b in zip(score, bought, strict=True) if b]
    no = [s for s, b in zip(score, bought, strict=True) if not b]
    return sum((a > b) + 0.5 * (a == b) for a in yes for b in no) / (len(yes) * len(no))


def figures(spend, expected=None, probability=None):
    spend = np.array(spend, np.int64)
    expected = np.array(spend if expected is None else expected, np.float64)
    probability = np.array(np.full(len(spend), 0.5) if probability is None else probability, np.float64)
    return evaluate(spend_cents=spend, expected_cents=expected, buying_probability=probability)


@given(spends, st.data())
def test_gini_is_that_of_all_pairs(spend, data):
    size = len(spend)
    predicted = data.draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    found = gini(np.array(spend, float), np.array(predicted, float))
    assert found == pytest.approx(slow_gini(spend, predicted), abs=1e-9)


@given(spends, st.data())
def test_the_order_of_customers_cannot_matter_even_where_predictions_tie(spend, data):
    places = data.draw(st.permutations(range(len(spend))))
    predicted = np.array([s // 3 for s in spend], float)
    one = gini(np.array(spend, float), predicted)
    other = gini(np.array(spend, float)[list(places)], predicted[list(places)])
    assert one == pytest.approx(other, abs=1e-12)


@given(spends)
def test_the_perfect_order_has_gini_one_the_reverse_minus_one_and_none_zero(spend):
    truth = np.array(spend, float)
    assert gini(truth, truth) == pytest.approx(1.0)
    assert gini(truth, -truth) == pytest.approx(-1.0)
    assert gini(truth, np.zeros(len(truth))) == pytest.approx(0.0, abs=1e-9)


@given(st.floats(0, 1e6, allow_subnormal=False), st.integers(1, 40), st.data())
def test_gini_is_not_defined_where_all_spend_alike(spend, size, data):
    predicted = data.draw(st.lists(st.floats(0, 1e6), min_size=size, max_size=size))
    assert math.isnan(gini(np.full(size, spend), np.array(predicted)))


@given(spends, st.data())
def test_auc_is_the_share_of_pairs_in_the_right_order(spend, data):
    size, bought = len(spend), [s > 0 for s in spend]
    probability = data.draw(st.lists(st.sampled_from([0.1, 0.3, 0.7]), min_size=size, max_size=size))
    found = figures(spend, probability=probability).auc
    if all(bought):
        assert math.isnan(found)
    else:
        assert found == pytest.approx(slow_auc(bought, probability))


def test_average_precision_by_hand():
    """Ranked yes, no, yes: precision 1 at the first hit and 2/3 at the second."""
    assert figures([100, 0, 100], probability=[0.9, 0.5, 0.1]).average_precision == pytest.approx((1 + 2 / 3) / 2)


def test_log_loss_and_brier_by_hand():
    found = figures([100, 0], probability=[0.8, 0.4])
    assert found.log_loss == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)
    assert found.brier == pytest.approx((0.2**2 + 0.4**2) / 2)


def test_a_certain_and_wrong_probability_costs_much_and_not_infinitely_much():
    assert figures([100, 0], probability=[0.0, 0.0]).log_loss == pytest.approx(-math.log(1e-7) / 2, rel=1e-6)


def test_errors_are_in_currency_units():
    found = figures([1_000, 500], expected=[700, 900])
    assert found.mae == pytest.approx(3.5)
    assert found.rmse == pytest.approx(math.sqrt((9 + 16) / 2))


def test_spearman_is_the_correlation_of_ranks():
    """Ranks 1 2 3 against 1 3 2: 1 - 6 * 2 / (3 * 8)."""
    assert figures([100, 200, 300], expected=[1, 3, 2]).spearman == pytest.approx(0.5)


def test_decile_mape_by_hand():
    """Twenty customers, two a decile; the lowest decile spent nothing and is left out."""
    spend = np.array([0.0, 0.0, *range(2, 20)])
    predicted = np.arange(20) / 1.0
    table = decile_table(spend, predicted)
    assert table[0] == (0.5, 0.0, 2)
    assert table[9] == (18.5, 18.5, 2)
    assert decile_mape(spend, predicted) == pytest.approx(0.0)
    assert decile_mape(spend, 2 * predicted) == pytest.approx(1.0)
    assert decile_mape(spend, predicted + 1) == pytest.approx(np.mean([1 / (2 * k + 0.5) for k in range(1, 10)]))


@pytest.mark.parametrize("size", [1, 9, 10, 11, 25])
def test_deciles_hold_everyone_once(size):
    table = decile_table(np.ones(size), np.arange(size, dtype=float))
    assert sum(number for _, _, number in table) == size
    assert len(table) == min(size, 10)
    assert max(n for *_, n in table) - min(n for *_, n in table) <= 1


def test_calibration_bins_by_hand():
    bought = np.array([False, True, True, True])
    table = calibration_table(bought, np.array([0.05, 0.95, 1.0, 0.05]))
    assert table == [(0.05, 0.5, 2), (0.975, 1.0, 2)]


@pytest.mark.parametrize("spend", [[0, 0, 0], [500, 500, 500]])
def test_what_is_not_defined_is_not_a_number(spend):
    found = figures(spend, expected=[1, 2, 3], probability=[0.1, 0.2, 0.3])
    assert [math.isnan(v) for v in (found.gini, found.spearman, found.auc, found.average_precision)] == [True] * 4
    assert math.isfinite(found.log_loss + found.brier + found.mae + found.rmse)
    assert math.isnan(found.decile_mape) == (not any(spend))


def test_perfect_and_reversed_predictions():
    spend = [0, 0, 100, 200, 400]
    perfect = figures(spend, probability=[0.0, 0.0, 1.0, 1.0, 1.0])
    assert (perfect.gini, perfect.spearman, perfect.auc) == (pytest.approx(1), pytest.approx(1), 1.0)
    assert (perfect.mae, perfect.brier, perfect.decile_mape) == (0.0, 0.0, 0.0)
    worst = figures(spend, expected=[-s for s in spend], probability=[1.0, 1.0, 0.0, 0.0, 0.0])
    assert (worst.gini, worst.spearman, worst.auc) == (pytest.approx(-1), pytest.approx(-1), 0.0)


def test_nobody_cannot_be_evaluated():
    with pytest.raises(ValueError, match="cutoff"):
        figures([])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_predictions_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="not finite"):
        figures([1, 2], expected=[1, value])
    with pytest.raises(ValueError, match="not finite"):
        figures([1, 2], probability=[0.5, value])
