"""Checklist: D26, D27, D28, D29.

The noise that is really drawn. Each check states its statistic and its false-alarm probability, and has a twin that
plants an error and must be noticed.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pp_model.randomness import SystemSource
from simulations.seeded import SeededSource

pytestmark = pytest.mark.statistical

FALSE_ALARM = 1e-9  # per assertion; the real source cannot be seeded: every run draws afresh
N = 20_000  # at this size an error of 5 % in the scale is seen; 100 000 would see 2.3 %


def noise(size: int = N) -> NDArray[np.float64]:
    return SystemSource().standard_normal(size)


def scale_looks_right(sample: NDArray[np.float64], std: float) -> bool:
    """The sum of (sample / std) ** 2 is chi-square with len(sample) degrees of freedom."""
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], df=len(sample))
    return bool(low < np.sum((sample / std) ** 2) < high)


def looks_normal(sample: NDArray[np.float64]) -> bool:
    """The largest distance between the sample's and the normal distribution function is Kolmogorov's."""
    return bool(stats.kstest(sample, "norm").pvalue > FALSE_ALARM)


def looks_independent(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """The correlation of independent normals of n pairs follows Student's t with n - 2 degrees of freedom."""
    r, n = float(np.corrcoef(first, second)[0, 1]), len(first)
    if abs(r) >= 1:
        return False
    return bool(2 * stats.t.sf(abs(r) * np.sqrt((n - 2) / (1 - r * r)), df=n - 2) > FALSE_ALARM)


def tails_look_right(sample: NDArray[np.float64], beyond: float = 3.0) -> bool:
    """How many lie beyond `beyond` standard deviations is binomial."""
    low, high = stats.binom.interval(1 - FALSE_ALARM, len(sample), 2 * stats.norm.sf(beyond))
    return bool(low <= np.sum(np.abs(sample) > beyond) <= high)


def test_noise_has_unit_scale():
    assert scale_looks_right(noise(), std=1.0)


@pytest.mark.parametrize("error", [0.9, 1.1])
def test_the_scale_check_would_notice_noise_a_tenth_too_small_or_too_large(error):
    assert not scale_looks_right(error * noise(), std=1.0)


def test_the_scale_check_would_notice_a_sum_of_four_that_was_not_halved():
    assert not scale_looks_right(2 * noise(), std=1.0)


def test_noise_is_normal():
    assert looks_normal(noise())


def test_the_normality_check_would_notice_uniform_noise_of_the_same_scale():
    assert not looks_normal(np.sqrt(12) * (SystemSource().uniform(N) - 0.5))


def test_the_normality_check_would_notice_a_mean_that_is_not_zero():
    assert not looks_normal(noise() + 0.1)


def test_noise_has_the_tails_of_a_normal():
    assert tails_look_right(noise(200_000))


def test_the_tail_check_would_notice_noise_cut_off_at_three():
    assert not tails_look_right(np.clip(noise(200_000), -3, 3))


def test_consecutive_calls_are_independent():
    source = SystemSource()
    assert looks_independent(source.standard_normal(N), source.standard_normal(N))


def test_consecutive_numbers_of_one_call_are_independent():
    sample = noise(2 * N)
    assert looks_independent(sample[0::2], sample[1::2])
    assert looks_independent(sample[:N], sample[N:])


def test_the_independence_check_would_notice_a_source_that_repeats_itself():
    repeated = SeededSource(3).standard_normal(N), SeededSource(3).standard_normal(N)
    assert not looks_independent(*repeated)


def test_the_independence_check_would_notice_a_tenth_of_the_old_noise_in_the_new():
    first, second = noise(), noise()
    assert not looks_independent(first, 0.1 * first + second)


# --- low-order bits (D29)
#
# A single Gaussian from one uniform number of 52 bits takes at most 2 ** 52 values, and in [0.5, 1) a double has as
# many places as that: some doubles can never be drawn. An observer of `sum + noise` who knows the candidates for
# `sum` may rule one out by a value that no noise could have made. Here the uniform numbers are cut to 12 bits, so
# that the effect can be counted: one draw fills few of the places, the sum of four fills nearly all that a sample
# can fill. What this shows: which value came out no longer points at one uniform number. What it does not show:
# that a patient attacker gains nothing (there is no proof of that for floating-point numbers; a discrete Gaussian
# on a grid would have one), or anything about timing.

BITS = 12


class CoarseSource(SystemSource):
    """Uniform numbers of 12 bits."""

    def uniform(self, size: int) -> NDArray[np.float64]:
        return (np.floor(super().uniform(size) * 2**BITS) + 0.5) / 2**BITS


def different_values(sample: NDArray[np.float64]) -> int:
    return len(np.unique(sample.view(np.int64)))


def test_the_sum_of_four_draws_is_not_confined_to_the_values_of_one():
    # four draws give about 2 ** 48 / 24 sums, so N of them meet with probability N ** 2 / 2 / 1e13 < 1e-4 each;
    # more than five meetings of an expected 2e-5 have probability below 1e-9
    assert different_values(CoarseSource().standard_normal(N)) >= N - 5


def test_the_confinement_check_would_notice_a_single_draw():
    assert different_values(stats.norm.ppf(CoarseSource().uniform(N))) <= 2**BITS


def lowest_bits_are_fair(released: NDArray[np.float32]) -> bool:
    """The lowest four bits of the significand, each binomial. A check of rounding, not of security."""
    low, high = stats.binom.interval(1 - FALSE_ALARM / 4, len(released), 0.5)
    ones = [int(((released.view(np.uint32) >> np.uint32(bit)) & np.uint32(1)).sum()) for bit in range(4)]
    return all(low <= count <= high for count in ones)


def test_the_lowest_bits_of_a_released_number_are_fair_coins_whatever_the_sum_was():
    for total in (0.0, 0.125, 1.0, 3.7):
        assert lowest_bits_are_fair((total + noise()).astype(np.float32))


def test_the_bit_check_would_notice_noise_from_few_random_bits():
    assert not lowest_bits_are_fair(noise().astype(np.float16).astype(np.float32))


def test_in_double_precision_the_lowest_bit_is_not_fair_so_only_rounded_numbers_may_leave():
    """A sum lies on the grid of its largest part: where parts cancel, the last bits of a double are zeros."""
    ones = int((noise().view(np.uint64) & np.uint64(1)).sum())
    assert ones < stats.binom.ppf(FALSE_ALARM, N, 0.5)
