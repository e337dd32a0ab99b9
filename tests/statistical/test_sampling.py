"""Checklist: D5, D13, D16, D17, D34.

Who is in a batch. Every check is a binomial law, and has a twin: the ways of sampling that are often accounted as
Poisson and are not.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pp_model.randomness import SystemSource, poisson_batch

pytestmark = pytest.mark.statistical

FALSE_ALARM = 1e-9
CUSTOMERS, RATE, BATCHES = 60, 0.2, 4_000


def poisson(batches: int = BATCHES, *, rate: float = RATE) -> NDArray[np.bool_]:
    member = np.zeros((batches, CUSTOMERS), bool)
    for row in member:
        row[poisson_batch(SystemSource(), num_customers=CUSTOMERS, sample_rate=rate)] = True
    return member


def fixed_size(batches: int = BATCHES) -> NDArray[np.bool_]:
    """Exactly rate x customers, without replacement: what a data loader with a batch size does."""
    rng, member = np.random.default_rng(1), np.zeros((batches, CUSTOMERS), bool)
    for row in member:
        row[rng.choice(CUSTOMERS, round(CUSTOMERS * RATE), replace=False)] = True
    return member


def shuffled_epochs(batches: int = BATCHES) -> NDArray[np.bool_]:
    """Shuffle, cut into batches, repeat: everyone once an epoch."""
    rng, per_epoch = np.random.default_rng(2), round(1 / RATE)
    epochs = []
    for _ in range(batches // per_epoch):
        batch_of = rng.permutation(CUSTOMERS) % per_epoch
        epochs.append(batch_of[None, :] == np.arange(per_epoch)[:, None])
    return np.concatenate(epochs)


def weighted(batches: int = BATCHES) -> NDArray[np.bool_]:
    """Half of the customers a tenth more often, the others less."""
    rates = np.where(np.arange(CUSTOMERS) % 2, RATE * 1.2, RATE * 0.8)
    return np.random.default_rng(3).random((batches, CUSTOMERS)) < rates


def everyone_is_in_at_the_rate(member: NDArray[np.bool_], rate: float = RATE) -> bool:
    """How often each customer is in, and all together, is binomial; the alarm is shared among these counts."""
    share = FALSE_ALARM / (CUSTOMERS + 1)
    low, high = stats.binom.interval(1 - share, len(member), rate)
    times = member.sum(axis=0)
    least, most = stats.binom.interval(1 - share, member.size, rate)
    return bool((low <= times).all() and (times <= high).all() and least <= times.sum() <= most)


def sizes_are_binomial(member: NDArray[np.bool_]) -> bool:
    """Pearson's chi-square of batch sizes against the binomial, tails pooled to at least 20 expected a cell."""
    law = stats.binom(CUSTOMERS, RATE)
    cells = [k for k in range(CUSTOMERS + 1) if len(member) * law.pmf(k) >= 20]
    sizes = np.clip(member.sum(axis=1), cells[0], cells[-1])
    expected = np.array([law.pmf(k) for k in cells])
    expected[0], expected[-1] = law.cdf(cells[0]), law.sf(cells[-1] - 1)
    seen = np.array([(sizes == k).sum() for k in cells])
    return bool(stats.chisquare(seen, expected * len(member)).pvalue > FALSE_ALARM)


def customers_are_independent(member: NDArray[np.bool_]) -> bool:
    """How many of all pairs of neighbours are in together: binomial at rate squared for disjoint pairs."""
    together = member[:, 0::2] & member[:, 1::2]
    low, high = stats.binom.interval(1 - FALSE_ALARM, together.size, RATE**2)
    return bool(low <= together.sum() <= high)


def batches_are_independent(member: NDArray[np.bool_]) -> bool:
    """How often a customer is in two batches running: binomial at rate squared for disjoint pairs of batches."""
    twice = member[0::2] & member[1::2]
    low, high = stats.binom.interval(1 - FALSE_ALARM, twice.size, RATE**2)
    return bool(low <= twice.sum() <= high)


def test_every_customer_is_in_at_the_stated_rate():
    assert everyone_is_in_at_the_rate(poisson())


def test_the_rate_check_would_notice_weighted_sampling():
    assert not everyone_is_in_at_the_rate(weighted())


def test_the_rate_check_would_notice_a_requested_tenth_served_as_an_eleventh():
    assert not everyone_is_in_at_the_rate(poisson(rate=1 / 11), rate=0.1)


def test_batch_sizes_are_binomial():
    assert sizes_are_binomial(poisson())


@pytest.mark.parametrize("sampler", [fixed_size, shuffled_epochs])
def test_the_size_check_would_notice_batches_of_one_size(sampler):
    assert not sizes_are_binomial(sampler())


def test_customers_join_independently_of_each_other():
    assert customers_are_independent(poisson())


def test_the_customer_check_would_notice_households_that_join_together():
    member = poisson()
    member[:, 1::2] = np.where(
        np.random.default_rng(4).random(member[:, 1::2].shape) < 0.1, member[:, 0::2], member[:, 1::2]
    )
    assert not customers_are_independent(member)


def test_batches_are_drawn_independently_of_each_other():
    assert batches_are_independent(poisson())


def test_the_batch_check_would_notice_shuffled_epochs():
    assert not batches_are_independent(shuffled_epochs())


def empty_batches(member: NDArray[np.bool_]) -> int:
    return int((~member.any(axis=1)).sum())


def test_empty_batches_happen_as_often_as_they_should():
    rate = 0.02
    low, high = stats.binom.interval(1 - FALSE_ALARM, BATCHES, (1 - rate) ** CUSTOMERS)
    assert low <= empty_batches(poisson(rate=rate)) <= high


def test_the_empty_check_would_notice_a_loader_that_draws_again():
    rate = 0.02
    low, _ = stats.binom.interval(1 - FALSE_ALARM, BATCHES, (1 - rate) ** CUSTOMERS)
    batches = poisson(rate=rate)
    assert empty_batches(batches[batches.any(axis=1)]) < low
