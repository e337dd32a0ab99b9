"""Checklist: D12, D14.

The loss against an independent formula; what a prediction says against draws of the distribution it names.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, log_expit

from pp_model.loss import (
    LARGEST_SPREAD,
    LEAST_SPREAD,
    SPEND_WEIGHT,
    TAIL_FREEDOM,
    Prediction,
    prediction,
    tiers,
    ziln_gradient,
    ziln_loss,
)

FALSE_ALARM = 1e-6  # per assertion; the seeds are fixed, so that a failure repeats
DRAWS = 200_000

logits, locations, raws = st.floats(-30, 30), st.floats(-5, 20), st.floats(-10, 10)
cents = st.one_of(st.just(0), st.integers(1, 10**9))


def spread_of(raw: float) -> float:
    return LEAST_SPREAD + (LARGEST_SPREAD - LEAST_SPREAD) * float(expit(raw))


def slow_loss(logit: float, location: float, raw: float, spend: int) -> float:
    """The likelihood of a coin and of the log of an amount, less the constants that no parameter moves."""
    if spend == 0:
        return -float(log_expit(-logit))
    density = stats.t(df=TAIL_FREEDOM, loc=location, scale=spread_of(raw)).logpdf(math.log(spend))
    return float(-log_expit(logit) - SPEND_WEIGHT * (density - stats.t(df=TAIL_FREEDOM).logpdf(0.0)))


def said(probability: float, location: float, spread: float) -> Prediction:
    return Prediction(
        buying_probability=np.array([probability]), log_location=np.array([location]), log_spread=np.array([spread])
    )


def draws(probability: float, location: float, spread: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.random(DRAWS) < probability) * np.exp(location + spread * rng.standard_normal(DRAWS))


@given(logits, locations, raws, cents)
def test_the_loss_is_the_likelihood_of_a_coin_and_of_log_spend_by_students_t(logit, location, raw, spend):
    outputs = torch.tensor([[logit, location, raw]], dtype=torch.float64)
    found = float(ziln_loss(outputs, torch.tensor([spend])))
    assert found == pytest.approx(slow_loss(logit, location, raw, spend), rel=1e-9, abs=1e-9)


@given(locations, raws, st.integers(1, 10**15))
def test_no_amount_pulls_harder_than_a_bound_that_knows_only_the_spread(location, raw, spend):
    gradient = ziln_gradient(torch.tensor([[0.0, location, raw]], dtype=torch.float64), torch.tensor([spend]))[0]
    most = SPEND_WEIGHT * (TAIL_FREEDOM + 1) / (2 * math.sqrt(TAIL_FREEDOM)) / spread_of(raw)
    assert abs(float(gradient[1])) <= most * (1 + 1e-9)
    slope = (LARGEST_SPREAD - LEAST_SPREAD) / 4
    assert abs(float(gradient[2])) <= SPEND_WEIGHT * TAIL_FREEDOM * slope / spread_of(raw) * (1 + 1e-9)


@given(st.lists(st.tuples(logits, locations, raws, cents), min_size=1, max_size=5))
def test_the_loss_of_a_row_depends_on_that_row_alone(rows):
    outputs = torch.tensor([row[:3] for row in rows], dtype=torch.float64)
    spend = torch.tensor([row[3] for row in rows])
    together = ziln_loss(outputs, spend)
    alone = torch.cat([ziln_loss(outputs[i : i + 1], spend[i : i + 1]) for i in range(len(rows))])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("logit", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("location", [-60.0, 0.0, 60.0])
@pytest.mark.parametrize("raw", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("spend", [0, 1, 10**15])
def test_extreme_outputs_have_a_finite_loss_and_gradient(logit, location, raw, spend):
    outputs = torch.tensor([[logit, location, raw]], requires_grad=True)
    loss = ziln_loss(outputs, torch.tensor([spend])).sum()
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(outputs.grad).all()


def autograd_of_the_loss(outputs: torch.Tensor, spend: torch.Tensor) -> torch.Tensor:
    watched = outputs.clone().requires_grad_()
    return torch.autograd.grad(ziln_loss(watched, spend).sum(), watched)[0]


@given(st.lists(st.tuples(logits, locations, raws, cents), min_size=1, max_size=5))
def test_the_gradient_written_out_is_that_of_the_loss(rows):
    outputs = torch.tensor([row[:3] for row in rows], dtype=torch.float64)
    spend = torch.tensor([row[3] for row in rows])
    torch.testing.assert_close(
        ziln_gradient(outputs, spend), autograd_of_the_loss(outputs, spend), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("logit", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("location", [-60.0, 0.0, 60.0])
@pytest.mark.parametrize("raw", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("spend", [0, 1, 10**15])
def test_the_gradient_written_out_is_that_of_the_loss_for_extreme_outputs_in_single_precision(
    logit, location, raw, spend
):
    outputs, labels = torch.tensor([[logit, location, raw]]), torch.tensor([spend])
    torch.testing.assert_close(
        ziln_gradient(outputs, labels), autograd_of_the_loss(outputs, labels), rtol=1e-4, atol=1e-6
    )


def test_the_gradient_written_out_leaves_outputs_and_labels_as_they_were_in_any_shape():
    outputs, labels = torch.randn(2, 3, 5, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 3, 0, 9, 1])
    labels = labels.expand(2, 3, 5).clone()
    before, spent = outputs.clone(), labels.clone()
    found = ziln_gradient(outputs, labels)
    assert found.shape == outputs.shape
    assert torch.equal(outputs, before)
    assert torch.equal(labels, spent)
    torch.testing.assert_close(found, autograd_of_the_loss(outputs, labels))


def test_outputs_are_put_into_words():
    out = prediction(torch.tensor([[0.3, 7.0, -1.0]]))
    assert out.buying_probability[0] == pytest.approx(expit(0.3), rel=1e-6)
    assert out.log_location[0] == 7.0
    assert out.log_spread[0] == pytest.approx(spread_of(-1.0), rel=1e-6)
    assert out.churn_risk[0] == pytest.approx(1 - expit(0.3), rel=1e-6)


@given(st.floats(-1e6, 1e6))
def test_the_spread_stays_within_its_bounds(raw):
    spread = prediction(torch.tensor([[0.0, 0.0, raw]])).log_spread[0]
    assert LEAST_SPREAD <= spread <= LARGEST_SPREAD + 1e-7


# --- against draws; the mean of N draws is normal by N, the count below a quantile is binomial


@pytest.mark.statistical
@pytest.mark.parametrize(("probability", "spread"), [(0.2, 0.5), (0.9, 0.3), (1.0, 0.9)])
def test_expected_spend_is_the_mean_of_the_distribution(probability, spread):
    assert _mean_fits(said(probability, 8.0, spread).expected_spend_cents[0], probability, spread)


@pytest.mark.statistical
def test_the_mean_check_would_notice_a_mean_without_its_half_variance():
    assert not _mean_fits(0.2 * math.exp(8.0), 0.2, 0.5)


def _mean_fits(claimed: float, probability: float, spread: float) -> bool:
    sample = draws(probability, 8.0, spread)
    error = stats.norm.isf(FALSE_ALARM / 2) * sample.std() / math.sqrt(DRAWS)
    return bool(abs(sample.mean() - claimed) < error)


@pytest.mark.statistical
@pytest.mark.parametrize("probability", [0.3, 0.8, 1.0])
@pytest.mark.parametrize("level", [0.75, 0.9, 0.99])
def test_a_quantile_is_not_exceeded_with_its_probability(probability, level):
    assert _quantile_fits(said(probability, 8.0, 0.7).spend_quantile_cents(level)[0], probability, level)


@pytest.mark.statistical
def test_the_quantile_check_would_notice_a_quantile_of_buyers_alone():
    assert not _quantile_fits(math.exp(8.0 + 0.7 * stats.norm.ppf(0.9)), 0.3, 0.9)


def _quantile_fits(claimed: float, probability: float, level: float) -> bool:
    low, high = stats.binom.interval(1 - FALSE_ALARM, DRAWS, level)
    return bool(low <= (draws(probability, 8.0, 0.7) <= claimed).sum() <= high)


def test_below_the_mass_at_zero_every_quantile_is_zero():
    out = said(0.3, 8.0, 0.7)
    assert [out.spend_quantile_cents(level)[0] for level in (0.01, 0.5, 0.699)] == [0.0, 0.0, 0.0]
    assert out.spend_quantile_cents(0.75)[0] > 0


@given(st.floats(0, 1), locations, st.floats(LEAST_SPREAD, LARGEST_SPREAD), st.lists(st.floats(0.001, 0.999)))
def test_quantiles_never_fall_as_the_level_rises(probability, location, spread, levels):
    out = said(probability, location, spread)
    values = [float(out.spend_quantile_cents(level)[0]) for level in sorted(levels)]
    assert values == sorted(values)


@pytest.mark.parametrize(("expected", "score"), [(0.0, 0.0), (1.0, 0.0), (1_000.0, 50.0), (1e6, 100.0), (1e9, 100.0)])
def test_the_score_is_a_public_logarithmic_scale_of_expected_spend(expected, score):
    location = math.log(expected) if expected else 0.0
    out = said(1.0 if expected else 0.0, location - 0.5 * 0.5**2, 0.5)
    assert out.score[0] == pytest.approx(score, abs=1e-9)


def test_tiers_at_public_cuts_begin_at_the_cut():
    assert tiers(np.array([0.0, 39.9, 40.0, 69.9, 70.0, 100.0]), cuts=(40.0, 70.0)).tolist() == [0, 0, 1, 1, 2, 2]


def test_tiers_without_cuts_are_the_lower_half_and_the_upper_tenth():
    counts = np.bincount(tiers(np.random.default_rng(0).permutation(1_000).astype(float)))
    assert counts.tolist() == [500, 400, 100]


def test_public_tiers_of_a_customer_do_not_depend_on_the_others():
    """The merchant's own quantiles do, which is why they stay at the merchant (D12)."""
    assert tiers(np.array([55.0]), cuts=(40.0, 70.0)).tolist() == [1]
    assert tiers(np.array([55.0, 99.0, 100.0]), cuts=(40.0, 70.0))[0] == 1
    assert tiers(np.array([55.0, 99.0, 100.0]))[0] == 0


def test_nobody_has_no_tier():
    assert tiers(np.empty(0)).tolist() == []
