"""Checklist: D16, D26, D27, D28.

What every source of secret randomness must do, whoever wrote it.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pp_model.randomness import SecretSource, SystemSource, poisson_batch
from simulations.seeded import SeededSource

FALSE_ALARM = 1e-9
SOURCES = {"system": SystemSource, "seeded": lambda: SeededSource(7)}


@pytest.fixture(params=SOURCES)
def source(request) -> SecretSource:
    return SOURCES[request.param]()


@pytest.mark.parametrize("size", [0, 1, 2, 1_001])
@pytest.mark.parametrize(
    ("kind", "dtype"), [("uniform", np.float64), ("standard_normal", np.float64), ("words", np.uint64)]
)
def test_it_gives_as_many_numbers_as_were_asked(source, kind, dtype, size):
    numbers = getattr(source, kind)(size)
    assert numbers.shape == (size,)
    assert numbers.dtype == dtype


def test_its_numbers_lie_in_the_open_interval(source):
    numbers = source.uniform(100_000)
    assert numbers.min() > 0
    assert numbers.max() < 1


def test_its_calls_do_not_repeat(source):
    assert not set(source.uniform(1_000)) & set(source.uniform(1_000))
    assert not set(source.words(1_000)) & set(source.words(1_000))


@pytest.mark.statistical
def test_its_normal_numbers_are_normal_and_those_of_two_calls_unrelated(source):
    first, second = source.standard_normal(20_000), source.standard_normal(20_000)
    assert stats.kstest(first, "norm").pvalue > FALSE_ALARM
    assert stats.pearsonr(first, second).pvalue > FALSE_ALARM


def test_its_normal_numbers_are_not_made_of_its_next_uniform_ones(source):
    """Who is in a batch must say nothing about the noise."""
    uniform, normal = source.uniform(1_000), source.standard_normal(1_000)
    assert abs(stats.spearmanr(uniform, normal).statistic) < 0.25  # of 1,000 pairs: eight standard deviations


@pytest.mark.statistical
def test_its_numbers_are_uniform(source):
    assert stats.kstest(source.uniform(20_000), "uniform").pvalue > FALSE_ALARM


@pytest.mark.statistical
def test_each_of_its_leading_bits_is_a_fair_coin(source):
    words = (source.uniform(20_000) * 2.0**52).astype(np.uint64)
    low, high = stats.binom.interval(1 - FALSE_ALARM / 52, 20_000, 0.5)
    for bit in range(52):
        assert low <= int(((words >> np.uint64(bit)) & np.uint64(1)).sum()) <= high


@pytest.mark.statistical
def test_each_bit_of_its_words_is_a_fair_coin_and_unrelated_to_the_next(source):
    words = source.words(20_000)
    low, high = stats.binom.interval(1 - FALSE_ALARM / 127, 20_000, 0.5)
    for coins in (words, words ^ (words >> np.uint64(1))):
        for bit in range(64 if coins is words else 63):
            assert low <= int(((coins >> np.uint64(bit)) & np.uint64(1)).sum()) <= high


@pytest.mark.statistical
def test_it_drives_noise_and_batches(source):
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], df=5_000)
    assert low < np.sum(source.standard_normal(5_000) ** 2) < high
    low, high = stats.binom.interval(1 - FALSE_ALARM, 5_000, 0.3)
    assert low <= len(poisson_batch(source, num_customers=5_000, sample_rate=0.3)) <= high


def test_a_seed_repeats_the_sequence_and_another_seed_does_not():
    one, again, other = SeededSource(3), SeededSource(3), SeededSource(4)
    first = [one.uniform(5), one.standard_normal(5), one.uniform(5)]
    assert [list(x) for x in first] == [list(x) for x in (again.uniform(5), again.standard_normal(5), again.uniform(5))]
    assert not set(first[0]) & set(other.uniform(5))
    assert not set(first[1]) & set(other.standard_normal(5))


def test_a_seed_repeats_its_words_and_they_leave_the_normal_numbers_as_they_were():
    one, again, other = SeededSource(3), SeededSource(3), SeededSource(4)
    first = one.words(5)
    assert first.tolist() == again.words(5).tolist()
    assert not set(first) & set(other.words(5))
    assert one.standard_normal(5).tolist() == SeededSource(3).standard_normal(5).tolist()


def test_the_system_source_takes_no_seed():
    with pytest.raises(TypeError):
        SystemSource(3)  # type: ignore[call-arg]
