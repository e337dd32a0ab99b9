"""Checklist: D3, D4, D22, D32, D41, D42.

The accountant between a floor (exact or independently computed) and a ceiling (published bounds).
The independent values come from tests/support/privacy_loss.py: numerical integration and a Fourier transform of our
own, sharing nothing with `dp-accounting`.
"""

from __future__ import annotations

import dataclasses
import math
import time
import tomllib
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pp_model.accounting import PrivacyEvent, epsilon_spent, noise_multiplier_for, rdp_epsilon
from pp_model.errors import AccountingError
from tests.support.privacy_loss import gaussian_delta, gaussian_epsilon, old_conversion_epsilon, tight_epsilon

DELTA = 1e-5
GRID = 0.003  # the accountant's own figure for its grid: epsilon is good to 0.3 %
TABLE = tomllib.loads((Path(__file__).parents[1] / "golden" / "published_epsilons.toml").read_text())["row"]
PUBLISHED = [pytest.param(row, id=row["id"]) for row in TABLE]


def event(sample_rate: float, noise_multiplier: float, num_steps: int) -> PrivacyEvent:
    return PrivacyEvent(sample_rate=sample_rate, noise_multiplier=noise_multiplier, num_steps=num_steps)


def price(sample_rate: float, noise_multiplier: float, num_steps: int, *, delta: float = DELTA) -> float:
    return epsilon_spent([event(sample_rate, noise_multiplier, num_steps)], delta=delta)


def mechanism(row: dict) -> tuple[float, float, int]:
    return row["sample_rate"], row["noise_multiplier"], row["num_steps"]


# --- published numbers


@pytest.mark.parametrize("row", PUBLISHED)
def test_the_renyi_curve_under_the_old_conversion_gives_the_published_number(row):
    old = old_conversion_epsilon(mechanism(row), DELTA)
    assert Decimal(old).quantize(Decimal("0.01"), ROUND_HALF_UP) == Decimal(str(row["published"]))


@pytest.mark.parametrize("row", PUBLISHED)
def test_epsilon_lies_between_the_tight_value_and_the_published_bound(row):
    ours = price(*mechanism(row))
    assert row["tight"] - 1e-3 <= ours <= row["published"] + 0.005
    independent = tight_epsilon([mechanism(row)], DELTA)
    assert independent - 1e-3 <= ours <= independent * (1 + GRID)


@pytest.mark.parametrize("row", PUBLISHED)
def test_the_renyi_cross_check_lies_above_and_below_the_published_bound(row):
    assert price(*mechanism(row)) < rdp_epsilon([event(*mechanism(row))], delta=DELTA) <= row["published"]


# --- the exact floor: one Gaussian release


def test_one_full_step_is_never_below_the_exact_gaussian_and_close_to_it():
    points = [
        (sigma, epsilon)
        for sigma in np.geomspace(0.3, 300, 30)
        for epsilon in np.linspace(0.2, 6, 24) / sigma
        if 1e-11 < gaussian_delta(epsilon, sigma) < 0.3
    ]
    assert len(points) >= 500
    for sigma, epsilon in points:
        ours = price(1.0, float(sigma), 1, delta=gaussian_delta(epsilon, sigma))
        assert epsilon * (1 - 1e-5) <= ours <= epsilon * (1 + GRID) + 1e-3 / sigma, (sigma, epsilon)


@pytest.mark.parametrize(("sigma", "steps"), [(2.0, 4), (10.0, 50), (30.0, 900), (500.0, 10_000)])
def test_full_steps_compose_like_one_gaussian_of_less_noise(sigma, steps):
    exact = gaussian_epsilon(sigma / math.sqrt(steps), DELTA)
    assert exact * (1 - 1e-5) <= price(1.0, sigma, steps) <= exact * (1 + GRID)


def test_the_floor_would_notice_the_classical_formula():
    """sqrt(2 log(1.25 / delta)) / noise is proven below epsilon 1 only; here it promises too much."""
    noise, delta = 0.1, 0.1
    assert math.sqrt(2 * math.log(1.25 / delta)) / noise < 0.8 * gaussian_epsilon(noise, delta)


# --- small losses, where a fixed grid is too coarse


@pytest.mark.parametrize(
    ("mechanism", "delta"),
    [
        ((0.01, 1000.0, 10_000), 1e-5),
        ((0.01, 10_000.0, 10_000), 1e-6),
        ((0.1, 100.0, 300), 1e-5),
        ((0.5, 300.0, 100), 1e-7),
        ((0.001, 100.0, 1_000), 1e-6),
    ],
)
def test_tiny_losses_are_priced_as_tightly_as_large_ones(mechanism, delta):
    q, sigma, steps = mechanism
    # so much noise that a step is a Gaussian release of noise sigma / q, to first order
    limit = gaussian_epsilon(sigma / q / math.sqrt(steps), delta)
    assert limit * 0.999 <= price(*mechanism, delta=delta) <= limit * 1.01


@pytest.mark.parametrize(
    "mechanism", [(0.2, 1.0, 50), (0.5, 6.0, 100), (0.1, 2.5, 300), (0.02, 0.8, 200), (0.001, 0.5, 1_000)]
)
def test_epsilon_agrees_with_an_independent_fourier_computation(mechanism):
    independent = tight_epsilon([mechanism], DELTA)
    assert independent * (1 - 1e-3) <= price(*mechanism) <= independent * (1 + GRID)


# --- monotone: what hides more never costs more

rates = st.floats(0.002, 1.0)
noises = st.floats(0.6, 30.0)
counts = st.integers(1, 2_000)


@settings(max_examples=6, deadline=None)
@given(rates, noises, counts, st.floats(1.02, 3.0))
def test_more_noise_never_costs_more(sample_rate, noise_multiplier, num_steps, more):
    dear, cheap = (
        price(sample_rate, noise_multiplier, num_steps),
        price(sample_rate, noise_multiplier * more, num_steps),
    )
    assert cheap <= dear


@settings(max_examples=6, deadline=None)
@given(rates, noises, counts, st.floats(1.02, 3.0))
def test_more_steps_never_cost_less(sample_rate, noise_multiplier, num_steps, more):
    assert price(sample_rate, noise_multiplier, num_steps) <= price(
        sample_rate, noise_multiplier, math.ceil(num_steps * more)
    )


@settings(max_examples=6, deadline=None)
@given(rates, noises, counts, st.floats(0.3, 0.98))
def test_a_lower_rate_never_costs_more(sample_rate, noise_multiplier, num_steps, less):
    assert price(sample_rate * less, noise_multiplier, num_steps) <= price(sample_rate, noise_multiplier, num_steps)


@settings(max_examples=4, deadline=None)
@given(rates, noises, counts)
def test_a_smaller_delta_never_costs_less(sample_rate, noise_multiplier, num_steps):
    mechanism = sample_rate, noise_multiplier, num_steps
    assert price(*mechanism, delta=1e-7) >= price(*mechanism, delta=1e-6) >= price(*mechanism, delta=1e-4)


@settings(max_examples=4, deadline=None)
@given(rates, noises, counts)
def test_epsilon_never_passes_the_renyi_bound(sample_rate, noise_multiplier, num_steps):
    mechanism = sample_rate, noise_multiplier, num_steps
    assert price(*mechanism) <= 1.01 * rdp_epsilon([event(*mechanism)], delta=DELTA)


# --- composition


def test_a_thousand_steps_at_once_cost_what_twenty_times_fifty_cost():
    assert price(0.05, 2.0, 1_000) == epsilon_spent([event(0.05, 2.0, 50)] * 20, delta=DELTA)
    assert event(0.05, 2.0, 50).times(20) == event(0.05, 2.0, 1_000)


def test_the_order_of_events_does_not_matter():
    events = [event(0.1, 2.0, 30), event(1.0, 20.0, 5), event(0.02, 1.0, 100)]
    assert epsilon_spent(events, delta=DELTA) == epsilon_spent(events[::-1], delta=DELTA)


def test_different_events_together_cost_what_the_independent_computation_says():
    mechanisms = [(0.1, 2.0, 30), (1.0, 20.0, 5), (0.02, 1.0, 100)]
    independent = tight_epsilon(mechanisms, DELTA)
    ours = epsilon_spent([event(*m) for m in mechanisms], delta=DELTA)
    assert independent * (1 - 1e-3) <= ours <= independent * (1 + GRID)


def test_a_cheap_event_beside_a_dear_one_still_counts():
    both = epsilon_spent([event(0.5, 2.0, 20), event(0.01, 10.0, 10_000)], delta=DELTA)
    independent = tight_epsilon([(0.5, 2.0, 20), (0.01, 10.0, 10_000)], DELTA)
    assert price(0.5, 2.0, 20) < independent * (1 - 1e-3) <= both <= independent * (1 + GRID)


def test_composition_costs_less_than_the_sum_of_its_parts():
    assert price(0.05, 2.0, 1_000) < 20 * price(0.05, 2.0, 50)


# The mechanism: sample rate 0.02, noise multiplier 1.1, 400 steps at each of k merchants, delta 1e-5.
K_MERCHANTS = [(1, 2.06), (2, 2.90), (3, 3.57), (5, 4.70), (10, 6.91)]


@pytest.mark.parametrize(("merchants", "epsilon"), K_MERCHANTS)
def test_a_customer_of_k_merchants_pays_for_all_of_them(merchants, epsilon):
    ours = epsilon_spent([event(0.02, 1.1, 400)] * merchants, delta=DELTA)
    assert ours == pytest.approx(epsilon, abs=0.005)
    assert ours == pytest.approx(tight_epsilon([(0.02, 1.1, 400 * merchants)], DELTA), rel=1e-3)


# --- trouble is infinite


@pytest.mark.parametrize(
    "bad",
    [
        event(math.nan, 1.0, 1),
        event(0.1, math.nan, 1),
        event(0.1, 1.0, math.nan),  # type: ignore[arg-type]
        event(0.1, 1.0, 1.5),  # type: ignore[arg-type]
        event(0.0, 1.0, 1),
        event(-0.1, 1.0, 1),
        event(1.0000001, 1.0, 1),
        event(0.1, 0.0, 1),
        event(0.1, -1.0, 1),
        event(0.1, math.inf, 1),
        event(0.1, 1.0, -1),
        event(1.0, 1e-6, 1),
        event(1.0, 1e-300, 1),
        event(1.0, 0.01, 10_000),
        event(0.5, 1.0, 10**30),
    ],
    ids=repr,
)
def test_an_event_without_a_trustworthy_price_costs_infinitely_much(bad):
    assert epsilon_spent([bad], delta=DELTA) == math.inf
    assert epsilon_spent([event(0.1, 5.0, 1), bad], delta=DELTA) == math.inf


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 2.0, math.nan, math.inf])
def test_a_delta_that_is_no_probability_costs_infinitely_much(delta):
    assert epsilon_spent([event(0.1, 5.0, 1)], delta=delta) == math.inf
    assert epsilon_spent([], delta=delta) == math.inf
    assert rdp_epsilon([event(0.1, 5.0, 1)], delta=delta) == math.inf


def test_a_library_that_fails_costs_infinitely_much(monkeypatch):
    from pp_model import accounting

    def fails(*_: object, **__: object) -> float:
        raise FloatingPointError

    monkeypatch.setattr(accounting, "_step", fails)
    assert price(0.123, 4.0, 3) == math.inf


@pytest.mark.parametrize("answer", [math.nan, math.inf, 1e-6, -1.0])
def test_a_price_that_the_cross_check_contradicts_is_not_charged(monkeypatch, answer):
    from pp_model import accounting

    monkeypatch.setattr(accounting, "_rdp_epsilon", lambda *_, **__: answer)
    accounting._epsilon.cache_clear()
    assert price(0.321, 4.0, 3) == math.inf
    accounting._epsilon.cache_clear()


def test_nothing_released_costs_nothing():
    assert epsilon_spent([], delta=DELTA) == 0.0
    assert epsilon_spent([event(0.1, 1.0, 0)], delta=DELTA) == 0.0


# --- calibration

TARGETS = [
    (epsilon, sample_rate, num_steps)
    for epsilon in (0.05, 1.0, 8.0)
    for sample_rate, num_steps in ((1.0, 1), (1.0, 50), (0.5, 100))
]


@pytest.mark.parametrize(("epsilon", "sample_rate", "num_steps"), TARGETS)
def test_the_noise_found_meets_the_target_and_a_digit_less_does_not(epsilon, sample_rate, num_steps):
    noise = noise_multiplier_for(epsilon=epsilon, delta=DELTA, sample_rate=sample_rate, num_steps=num_steps)
    digit = 10.0 ** (math.floor(math.log10(noise)) - 3)
    assert noise == pytest.approx(float(f"{noise:.4g}"), rel=1e-12)
    assert price(sample_rate, noise, num_steps) <= epsilon < price(sample_rate, noise - digit, num_steps)


@pytest.mark.parametrize("noise", [9.996, 7.123, 0.9999, 1.0, 10.0, 99.97])
def test_the_noise_found_for_the_price_of_a_noise_is_that_noise_to_the_last_digit(noise):
    epsilon = price(1.0, noise, 50)
    assert noise_multiplier_for(epsilon=epsilon, delta=DELTA, sample_rate=1.0, num_steps=50) == noise


def test_the_noise_for_one_full_step_is_that_of_the_exact_gaussian():
    noise = noise_multiplier_for(epsilon=1.0, delta=DELTA, sample_rate=1.0, num_steps=1)
    assert gaussian_epsilon(noise, DELTA) <= 1.0 < gaussian_epsilon(noise * 0.995, DELTA)


def test_no_privacy_needs_no_noise():
    assert noise_multiplier_for(epsilon=math.inf, delta=DELTA, sample_rate=0.5, num_steps=10) == 0.0


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, -math.inf])
def test_a_target_that_is_not_above_zero_is_refused(epsilon):
    with pytest.raises(AccountingError, match="above 0"):
        noise_multiplier_for(epsilon=epsilon, delta=DELTA, sample_rate=0.5, num_steps=10)


def test_a_target_out_of_reach_says_what_to_ask_for():
    with pytest.raises(AccountingError, match="fewer steps"):
        noise_multiplier_for(epsilon=1e-6, delta=1e-9, sample_rate=1.0, num_steps=10_000)


@pytest.mark.parametrize(("delta", "sample_rate"), [(0.0, 0.5), (math.nan, 0.5), (DELTA, 1.5), (DELTA, math.nan)])
def test_calibration_without_a_price_is_refused(delta, sample_rate):
    with pytest.raises(AccountingError):
        noise_multiplier_for(epsilon=3.0, delta=delta, sample_rate=sample_rate, num_steps=10)


def test_calibration_takes_seconds_not_minutes():
    start = time.process_time()
    noise_multiplier_for(epsilon=2.345, delta=DELTA, sample_rate=0.5, num_steps=100)
    assert time.process_time() - start < 3


@pytest.mark.parametrize("num_steps", [0, -1])
def test_what_takes_no_step_has_no_noise_to_be_found(num_steps):
    with pytest.raises(AccountingError, match="1 or more"):
        noise_multiplier_for(epsilon=1.0, delta=1e-5, sample_rate=0.5, num_steps=num_steps)


# --- noise that merchants share


RUN = event(0.5, 4.0, 120)


def shared(own: PrivacyEvent) -> PrivacyEvent:
    return dataclasses.replace(own, shared=True)


def test_for_a_customer_of_one_merchant_shared_noise_costs_what_its_own_would():
    assert epsilon_spent([shared(RUN)], delta=DELTA) == epsilon_spent([RUN], delta=DELTA)


@pytest.mark.parametrize("merchants", [2, 3, 10])
def test_without_sampling_a_customer_of_k_merchants_moves_the_one_sum_k_clip_norms_far(merchants):
    whole = event(1.0, 30.0, 20)
    farther = dataclasses.replace(whole, noise_multiplier=30.0 / merchants)
    found = epsilon_spent([shared(whole)], delta=DELTA, merchants=merchants)
    assert found == pytest.approx(epsilon_spent([farther], delta=DELTA), rel=2e-3)


@pytest.mark.parametrize("merchants", [2, 3, 5])
@pytest.mark.parametrize("epsilon", [0.5, 1.5, 4.0])
def test_one_sampled_step_of_a_shared_sum_is_the_mixture_that_integration_gives(merchants, epsilon):
    """Delta at an epsilon by adding up the densities: k coins decide how many clip norms the sum moves."""
    q, sigma = 0.3, 2.0
    x = np.linspace(-60, 60 + merchants, 2_000_001)
    without = stats.norm.pdf(x, 0, sigma)
    coins = stats.binom.pmf(np.arange(merchants + 1), merchants, q)
    with_ = sum(chance * stats.norm.pdf(x, moved, sigma) for moved, chance in enumerate(coins))
    width = x[1] - x[0]
    both = (with_, without), (without, with_)
    delta = max(np.maximum(one - math.exp(epsilon) * other, 0).sum() * width for one, other in both)
    if delta < 1e-12:
        pytest.skip("nothing is that far out")
    found = epsilon_spent([shared(event(q, sigma, 1))], delta=float(delta), merchants=merchants)
    assert epsilon * (1 - 1e-6) <= found <= epsilon * 1.02 + 1e-3


@pytest.mark.parametrize("merchants", [2, 3, 5])
def test_shared_noise_costs_a_person_of_several_merchants_more_than_noise_of_each_ones_own(merchants):
    own = epsilon_spent([RUN], delta=DELTA, merchants=merchants)
    one_sum = epsilon_spent([shared(RUN)], delta=DELTA, merchants=merchants)
    assert own * 1.05 < one_sum <= rdp_epsilon([shared(RUN)], delta=DELTA, merchants=merchants)


def test_the_prices_that_the_privacy_page_gives_as_an_example_are_those_of_the_accountant():
    found = [
        epsilon_spent([RUN], delta=DELTA),
        epsilon_spent([RUN], delta=DELTA, merchants=2),
        epsilon_spent([shared(RUN)], delta=DELTA, merchants=2),
    ]
    assert [round(epsilon, 1) for epsilon in found] == [6.5, 9.8, 15.3]


def test_own_noise_of_k_merchants_is_k_times_the_steps():
    assert epsilon_spent([RUN], delta=DELTA, merchants=3) == epsilon_spent([RUN.times(3)], delta=DELTA)
