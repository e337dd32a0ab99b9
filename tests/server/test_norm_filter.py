import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.norm_filter import FAR_DEVIATIONS, FAR_TIMES, FEWEST, far_from_others

norms = st.lists(st.floats(0, 1e30), max_size=20)


@given(norms)
def test_fewer_than_half_are_ever_far(values):
    far = far_from_others(values)
    assert 2 * len(far) < max(1, len(values))
    assert list(far) == sorted(set(far))


@given(norms, st.floats(1e-3, 1e3))
def test_every_one_that_is_far_is_longer_than_every_one_that_is_not(values, times):
    far = set(far_from_others(values))
    near = [value for place, value in enumerate(values) if place not in far]
    assert all(values[place] > max(near) for place in far)


@given(norms)
def test_nobody_is_far_for_being_short(values):
    positive = sorted(value for value in values if value > 0)
    assert all(values[place] > FAR_TIMES * positive[(len(positive) - 1) // 2] for place in far_from_others(values))


@pytest.mark.parametrize(("times", "far"), [(0.99, ()), (1.01, (3,))])
def test_of_equal_norms_one_is_far_above_the_stated_multiple(times, far):
    values = [2.0] * 9
    values[3] *= FAR_TIMES * times
    assert far_from_others(values) == far


@pytest.mark.parametrize(("times", "far"), [(0.99, ()), (1.01, (6,))])
def test_where_norms_differ_anyway_one_is_far_above_the_stated_deviations(times, far):
    logs = [-2.0, -1.0, 0.0, 0.0, 1.0, 2.0]  # and the one: median 0, median absolute deviation 1
    values = [math.exp(log) for log in [*logs, times * FAR_DEVIATIONS * 1.4826]]
    assert far_from_others(values) == far


def test_of_few_merchants_nobody_can_say_who_lies_apart():
    assert far_from_others([1.0] * (FEWEST - 2) + [1e9]) == ()
    assert far_from_others([1.0] * (FEWEST - 1) + [1e9]) == (FEWEST - 1,)


def test_norms_of_zero_say_nothing_of_the_others():
    assert far_from_others([0.0] * 9 + [1.0]) == ()
    assert far_from_others([0.0] * 9 + [1.0] * 5 + [1e9]) == (14,)


@pytest.mark.parametrize("sizes", [0.5, 1.0], ids="sizes-differ-by-exp-{}".format)
def test_honest_shops_of_very_different_sizes_are_not_far(sizes):
    """Norms of a noise that is alike and a signal as large as the shop; lognormal sizes, 1,000 rounds of 20 shops."""
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(1_000):
        signal = 0.3 * np.exp(sizes * rng.standard_normal(20))
        alarms += len(far_from_others(np.hypot(1 + 0.044 * rng.standard_normal(20), signal)))
    assert alarms <= 20_000 * 3e-3


@pytest.mark.parametrize("attackers", [1, 4, 9])
def test_the_same_shops_with_attackers_of_a_hundred_times_the_norm_lose_exactly_those(attackers):
    rng = np.random.default_rng(3)
    for _ in range(200):
        values = np.hypot(1 + 0.044 * rng.standard_normal(20), 0.3 * np.exp(0.5 * rng.standard_normal(20)))
        values[:attackers] *= 100
        assert far_from_others(list(values)) == tuple(range(attackers))
