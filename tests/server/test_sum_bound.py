import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from server.recipe import UPDATE_CLIP_NORM
from server.sum_bound import FALSE_ALARM, SumTooLongError, check_sum_norm, longest_update
from tests.support.plans import tiny_dp, tiny_plan

DEFAULT = {"parameters": 264, "merchants": 8, "noisy": 6}


def noise_alone(*, multiplier=2.0, parameters=264, merchants=8, noisy=6) -> float:
    """What the bound allows the noise: a plan whose updates may not be longer than almost nothing."""
    plan = tiny_plan(dp=tiny_dp(noise_multiplier=multiplier), update_clip_norm=1e-9)
    return longest_update(plan, parameters=parameters, merchants=merchants, noisy=noisy)


@pytest.mark.parametrize("parameters", [1, 10, 264, 10_000])
def test_the_noise_of_a_sum_passes_its_bound_with_the_stated_probability_at_most(parameters):
    plan = tiny_plan()
    deviation = 2.0 * plan.dp.max_grad_norm * math.sqrt(8 / 6) / (8 * plan.nominal_batch_size)  # of each coordinate
    length = noise_alone(parameters=parameters) / deviation
    assert stats.chi2.sf(length**2, df=parameters) <= FALSE_ALARM
    assert stats.chi2.sf((length / 3) ** 2, df=parameters) > FALSE_ALARM  # no more than three times too wide


def test_the_bound_is_the_longest_update_and_the_noise_on_top():
    plan = tiny_plan(dp=tiny_dp(noise_multiplier=2.0), update_clip_norm=3.0)
    assert longest_update(plan, **DEFAULT) == pytest.approx(3.0 + noise_alone(), rel=1e-5)


def test_more_merchants_make_the_noise_of_the_mean_smaller_and_fewer_that_it_is_sized_for_larger():
    assert noise_alone(merchants=32) == pytest.approx(noise_alone(merchants=8) / 2)
    assert noise_alone(noisy=1) == pytest.approx(noise_alone(noisy=4) * 2)


@pytest.mark.parametrize("norm", [math.nan, math.inf, 1.001])
def test_a_sum_above_the_bound_or_no_number_is_refused(norm):
    with pytest.raises(SumTooLongError, match="the round is void"):
        check_sum_norm(norm, bound=1.0)
    check_sum_norm(1.0, bound=1.0)


def garbled_norm(seed: int, *, coordinates: int) -> float:
    """Of the update of a sum whose masks do not cancel in so many coordinates; the grid has 2**32 steps a clip norm."""
    plan = default_plan()
    words = np.random.default_rng(seed).integers(0, 2**64, coordinates, np.uint64, endpoint=False).view(np.int64)
    step = plan.dp.max_grad_norm / 2.0**32
    return float(np.linalg.norm(words.astype(np.float64) * step / (8 * plan.nominal_batch_size)))


def default_plan():
    """The constants of the default recipe at epsilon 1."""
    dp = tiny_dp(noise_multiplier=20.5, max_grad_norm=2.5, sample_rate=0.5)
    return dataclasses.replace(tiny_plan(dp=dp), update_clip_norm=UPDATE_CLIP_NORM, nominal_batch_size=125.0)


@pytest.mark.parametrize("coordinates", [264, 1])
def test_masks_that_do_not_cancel_are_noticed_though_it_be_in_one_coordinate(coordinates):
    """Of one uniform word, the chance to pass is about the bound over 2**63 steps: below 1e-3."""
    bound = longest_update(default_plan(), **DEFAULT)
    passed = sum(garbled_norm(seed, coordinates=coordinates) <= bound for seed in range(300))
    assert passed <= stats.binom.isf(1e-6, 300, 1e-3)
