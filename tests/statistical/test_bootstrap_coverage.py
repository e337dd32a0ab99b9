"""How often the interval of the paired bootstrap holds the gain that all customers there are would show.

Many small samples of one population with a known gain; how many intervals hold it is binomial, where each does with the
stated probability. False alarm per assertion: 1e-6, on top of what the bootstrap promises only for large samples, for
which the width of the binomial's interval (7 points either way) leaves room.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.bootstrap import LEVEL, paired_gains

FALSE_ALARM = 1e-6
SAMPLES, CUSTOMERS, RESAMPLES = 200, 300, 300
EVERYBODY = 400_000

pytestmark = [pytest.mark.statistical, pytest.mark.slow]


def drawn(customers, rng):
    """(who bought, what the better model says, what the worse one says) of customers of one population."""
    log_odds = rng.normal(0, 1.5, customers)
    bought = rng.random(customers) < 1 / (1 + np.exp(-log_odds))
    errors = rng.normal(0, [[0.4], [0.8]], (2, customers))
    return bought, *(1 / (1 + np.exp(-(log_odds + errors))))


def gains(sample, *, rng, resamples):
    bought, ours, theirs = sample
    return paired_gains(bought, ours[None], theirs[None], rng=rng, resamples=resamples)


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    return gains(drawn(EVERYBODY, rng), rng=rng, resamples=1)


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(1)
    return [gains(drawn(CUSTOMERS, rng), rng=rng, resamples=RESAMPLES) for _ in range(SAMPLES)]


def covers_as_stated(gains, true):
    held = sum(gain.low <= true <= gain.high for gain in gains)
    low, high = stats.binom.interval(1 - FALSE_ALARM, SAMPLES, LEVEL)
    return low <= held <= high


def narrowed(gain):
    """The interval of somebody who took half the deviation."""
    return replace(gain, low=(gain.mean + gain.low) / 2, high=(gain.mean + gain.high) / 2)


@pytest.mark.parametrize("figure", ["log_loss", "auc"])
def test_the_interval_holds_the_true_gain_as_often_as_it_says(found, truth, figure):
    assert covers_as_stated([each[figure] for each in found], truth[figure].mean)


@pytest.mark.parametrize("figure", ["log_loss", "auc"])
def test_the_check_would_notice_intervals_of_half_the_width(found, truth, figure):
    assert not covers_as_stated([narrowed(each[figure]) for each in found], truth[figure].mean)


@pytest.mark.parametrize("figure", ["log_loss", "auc"])
def test_an_interval_is_as_wide_as_gains_of_other_samples_lie_apart(found, figure):
    """Without pairs it would be far wider: who buys differs from sample to sample, and both models pay for it.

    The deviation of SAMPLES gains is that of a chi-square; the intervals' mean width has an error too, allowed for with
    a tenth.
    """
    apart = np.std([each[figure].mean for each in found], ddof=1)
    width = np.mean([each[figure].high - each[figure].low for each in found]) / (2 * stats.norm.ppf((1 + LEVEL) / 2))
    low, high = np.sqrt(stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], df=SAMPLES - 1) / (SAMPLES - 1))
    assert 0.9 * low < apart / width < 1.1 * high
