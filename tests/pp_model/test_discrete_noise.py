"""Checklist: D16, D26, D29.

What is drawn is compared with the exact probabilities; each check states its false-alarm probability and has a twin
that plants an error and must be noticed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pp_model import discrete_noise
from pp_model.discrete_noise import RELATIVE_ERROR, BrokenWordsError, discrete_gaussian, slack
from pp_model.errors import ConfigError
from pp_model.randomness import SystemSource
from simulations.seeded import SeededSource

FALSE_ALARM = 1e-9  # per assertion; the system's source cannot be seeded: every run draws afresh
N = 100_000
LARGE = [2.0**20, 0.7 * 2.0**30, 2.0**40]
Whole = NDArray[np.int64]


def draws(sigma: float, size: int = N) -> Whole:
    return discrete_gaussian(size, sigma=sigma, words=SystemSource().words)


def probabilities(values: Whole, sigma: float) -> NDArray[np.float64]:
    """Of the discrete Gaussian, by summing up all that a float can hold."""
    everything = np.arange(-math.ceil(40 * sigma), math.ceil(40 * sigma) + 1)
    return np.exp(-(values**2) / (2 * sigma**2)) / np.exp(-(everything**2) / (2 * sigma**2)).sum()


def fits(sample: Whole, values: Whole, chances: NDArray[np.float64]) -> bool:
    """How often each value occurs, the rare ones and the rest together, is chi-square distributed."""
    often = chances * len(sample) >= 10
    found = np.array([np.sum(sample == value) for value in values[often]])
    expected = chances[often] * len(sample)
    found, expected = np.append(found, len(sample) - found.sum()), np.append(expected, len(sample) - expected.sum())
    return bool(
        stats.chi2.sf(((found - expected) ** 2 / np.maximum(expected, 1)).sum(), df=len(found) - 1) > FALSE_ALARM
    )


def looks_right(sample: Whole, sigma: float) -> bool:
    values = np.arange(-math.ceil(8 * sigma), math.ceil(8 * sigma) + 1)
    return fits(sample, values, probabilities(values, sigma))


def scale_looks_right(sample: Whole, sigma: float) -> bool:
    """The sum of (sample / sigma) ** 2 is chi-square but for the grid, whose part is far below 1e-10 at sigma >= 4."""
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], df=len(sample))
    return bool(low < np.sum((sample / sigma) ** 2) < high)


def is_coin(successes: int, trials: int, chance: float = 0.5) -> bool:
    low, high = stats.binom.interval(1 - FALSE_ALARM, trials, chance)
    return bool(low <= successes <= high)


# --- the distribution


@pytest.mark.statistical
@pytest.mark.parametrize("sigma", [2**-10, 0.3, 0.5, 1.0, 1.3, 3.7, 50.0])
def test_each_integer_comes_as_often_as_its_exact_probability_says(sigma):
    assert looks_right(draws(sigma), sigma)


@pytest.mark.statistical
@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.7])
def test_that_check_would_notice_two_zeros_for_one(sigma):
    sample = draws(sigma)
    assert not looks_right(np.concatenate([sample, sample[sample == 0]]), sigma)


@pytest.mark.statistical
@pytest.mark.parametrize("sigma", LARGE)
def test_large_noise_looks_normal(sigma):
    """A grid of 1 in 2**20 moves the distribution function by 4e-7: nothing against the 0.01 that N draws can see."""
    assert stats.kstest(draws(sigma) / sigma, "norm").pvalue > FALSE_ALARM


@pytest.mark.statistical
def test_the_scale_is_right_and_an_error_of_a_hundredth_would_be_noticed():
    sample = draws(LARGE[1], 500_000)  # whose sum of squares is known to 0.2 %: the error is ten times that
    assert scale_looks_right(sample, LARGE[1])
    assert not scale_looks_right(sample, 1.01 * LARGE[1])
    assert not scale_looks_right(sample, 0.99 * LARGE[1])


@pytest.mark.statistical
def test_the_noise_of_merchants_adds_up_to_the_noise_of_their_sum():
    total = draws(4.0, 4 * N).reshape(4, N).sum(axis=0)
    assert looks_right(total, 8.0)
    assert not looks_right(total + draws(3.0), 8.0)


# --- the tails


@pytest.mark.statistical
def test_values_beyond_four_deviations_come_as_often_as_they_should():
    sample = draws(2.0**30, 500_000)
    assert is_coin(np.sum(np.abs(sample) > 4 * 2.0**30), len(sample), 2 * stats.norm.sf(4))


@pytest.mark.statistical
def test_beyond_nine_deviations_the_tail_is_still_exact(monkeypatch):
    """Too rare to wait for: the first eight trials for the multiple of t, and 34 for the exponent, are given away.

    All candidates then lie at 8 t = 64 (9.1 sigma) or beyond, where no exponent is below 34: every one of their
    chances is e**34 times what it was, so that what is drawn is the discrete Gaussian given that it is so large.
    """
    sigma, honest, cap = 7.0, discrete_noise._successes, discrete_noise._MOST_TRIALS

    def helped(most: Whole, words: discrete_noise.Words) -> Whole:
        given = 8 if (most == cap).all() else 34
        assert most.min() >= given
        return honest(most - given, words) + given

    monkeypatch.setattr(discrete_noise, "_successes", helped)
    sample = np.abs(draws(sigma, 20_000))
    values = np.arange(64, 100)
    chances = probabilities(values, sigma)
    assert fits(sample, values, chances / chances.sum())
    assert not fits(np.minimum(sample, 66), values, chances / chances.sum())


# --- signs, bits and coordinates


@pytest.mark.statistical
@pytest.mark.parametrize("sigma", [1.0, *LARGE])
def test_both_signs_are_alike(sigma):
    sample = draws(sigma)
    positive, negative = sample[sample > 0], -sample[sample < 0]
    assert is_coin(len(positive), len(positive) + len(negative))
    assert stats.ks_2samp(positive, negative).pvalue > FALSE_ALARM  # conservative where values repeat


@pytest.mark.statistical
@pytest.mark.parametrize("sigma", LARGE)
def test_every_low_bit_is_a_fair_coin_whatever_the_sign(sigma):
    sample = draws(sigma)
    for bit in range(16):
        odd = (np.abs(sample) >> bit) & 1
        assert is_coin(odd.sum(), N)
        assert is_coin(np.sum(odd ^ (sample < 0)), N)


@pytest.mark.statistical
def test_neighbours_are_independent_in_sign_and_size():
    sample = draws(2.0**30)
    for first, second in [(sample[:-1], sample[1:]), (sample[: N // 2], sample[N // 2 :]), (sample, draws(2.0**30))]:
        assert stats.spearmanr(first, second).pvalue > FALSE_ALARM
        assert stats.spearmanr(np.abs(first), np.abs(second)).pvalue > FALSE_ALARM
    assert stats.spearmanr(np.abs(sample), np.abs(sample + draws(2.0**31))).pvalue < FALSE_ALARM


@pytest.mark.statistical
def test_no_word_makes_two_draws():
    """N / 2 draws at 2**40 meet 3e-4 times on average: three meetings or more have a chance below 1e-11."""
    sample = np.abs(draws(2.0**40, N // 2))
    assert len(np.unique(sample)) >= len(sample) - 3


# --- the same everywhere


def test_the_same_words_make_the_same_noise_and_others_do_not():
    one, again, other = (discrete_gaussian(500, sigma=1e9, words=SeededSource(seed).words) for seed in (3, 3, 4))
    assert one.tolist() == again.tolist()
    assert not set(one) & set(other)


@pytest.mark.parametrize(
    ("sigma", "expected"),
    [
        pytest.param(3.7, [2, -2, 6, -2, 1, 5, -3, 7], id="small"),
        pytest.param(
            1.1 * 2**32,
            [-3472388002, 9339899389, 2134396921, -6056115571, -6226277755, -7431107612, -4915783531, 85724470],
            id="large",
        ),
    ],
)
def test_the_noise_of_a_seed_is_the_same_on_every_machine(sigma, expected):
    """Merchant and platform draw it apart, and the platform subtracts it. Made on x86-64."""
    assert discrete_gaussian(8, sigma=sigma, words=SeededSource(11).words).tolist() == expected


def test_words_are_asked_for_as_the_contract_says():
    asked: list[int] = []

    def word_by_word(size: int) -> NDArray[np.uint64]:
        asked.append(size)
        return np.full(size, words[len(asked) - 1], dtype=np.uint64)

    succeed, fail = 0, 2**64 - 1
    offset, sign = 2 << 16, 1
    words: list[int] = [offset | sign, succeed, succeed, fail, succeed, fail]  # -(2 + 2 * 4)
    # sigma 3.9, t 4: centre 0.9506, magnitude 2.5, exponent 0.5 + 1.5494**2 / 1.9013 = 1.7627: one trial, and 0.7627
    assert discrete_gaussian(1, sigma=3.9, words=word_by_word).tolist() == [-10]
    assert asked == [1] * 6


# --- exactly


def test_a_trial_succeeds_with_the_chance_exp_minus_one_to_the_last_bit_of_a_word():
    with localcontext() as digits:
        digits.prec = 50
        assert int(discrete_noise._EXP_MINUS_ONE) == int(Decimal(2) ** 64 * Decimal(-1).exp())


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.7, 1e3, 0.7 * 2.0**30, 2.0**40])
def test_the_exponent_is_as_exact_as_the_stated_error_needs(sigma, monkeypatch):
    """Against fractions: x**2 / (2 sigma**2) - multiple of t + sigma**2 / (2 t**2), for all candidates."""
    seen: list[NDArray[np.float64]] = []

    def multiples(most: Whole, words: discrete_noise.Words) -> Whole:
        seen.append(most.astype(np.float64))
        return np.arange(len(most)) % 13  # out to thirteen deviations and more

    def rest(x: NDArray[np.float64], words: discrete_noise.Words) -> NDArray[np.bool_]:
        seen.append(x)
        return np.ones(len(x), dtype=np.bool_)

    monkeypatch.setattr(discrete_noise, "_successes", multiples)
    monkeypatch.setattr(discrete_noise, "_bernoulli_exp", rest)
    drawn, _ = discrete_noise._candidates(1_300, sigma, SeededSource(2).words)
    _, whole, fraction = seen
    t = Fraction(2) ** max(0, math.frexp(sigma)[1])
    for number, x in enumerate(drawn.tolist()):
        square = Fraction(x) ** 2 / Fraction(sigma) ** 2
        exact = square / 2 - number % 13 + Fraction(sigma) ** 2 / (2 * t**2)
        off = abs(Fraction(whole[number]) + Fraction(fraction[number]) - exact)
        assert off <= (Fraction(7, 2) * square + 3) / 2**53


# --- refusals


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, 2.0**-11, 2.0**40 * (1 + 1e-12)])
def test_a_deviation_out_of_range_is_refused_by_name(sigma):
    with pytest.raises(ConfigError, match=r"sigma of the discrete noise is .*allowed"):
        draws(sigma, 3)


@pytest.mark.parametrize("word", [0, 2**64 - 1, 0x5555555555555555, 1])
def test_words_that_repeat_for_ever_end_in_an_error(word):
    with pytest.raises(BrokenWordsError, match="not random"):
        discrete_gaussian(3, sigma=100.0, words=lambda size: np.full(size, word, dtype=np.uint64))


def test_no_noise_is_an_empty_array_and_takes_no_word():
    def none(size: int) -> NDArray[np.uint64]:
        raise AssertionError

    noise = discrete_gaussian(0, sigma=1.0, words=none)
    assert (noise.shape, noise.dtype) == ((0,), np.int64)


# --- what it costs


def rounded_normal(values: Whole, sigma: float) -> NDArray[np.float64]:
    """The chance that a normal number is rounded to each of the values, exact to 1e-12 out to ten deviations."""
    far = np.abs(values)
    return np.asarray(stats.norm.sf((far - 0.5) / sigma) - stats.norm.sf((far + 0.5) / sigma))


def sums_and_rounded(sigma: float, shares: int) -> Iterator[tuple[float, float, float]]:
    """(g, chance of the sum of shares, chance of the rounded normal number) of each integer within ten deviations."""
    share = sigma / math.sqrt(shares)
    one = np.arange(-math.ceil(36 * share), math.ceil(36 * share) + 1)
    chances = np.ones(1)
    for _ in range(shares):
        chances = np.convolve(chances, probabilities(one, share))
    values = np.arange(len(chances)) - len(chances) // 2
    near = np.abs(values) <= 10 * sigma
    yield from zip(1 + (values[near] / sigma) ** 2, chances[near], rounded_normal(values[near], sigma), strict=True)


@pytest.mark.parametrize(("sigma", "shares"), [(8.0, 1), (16.0, 1), (16.0, 4), (24.0, 9), (64.0, 2)])
def test_a_sum_of_shares_differs_from_the_rounded_normal_number_by_no_more_than_the_bound(sigma, shares):
    bound = 1 / (8 * sigma**2)
    used = [abs(math.log(ours / theirs)) / (bound * g) for g, ours, theirs in sums_and_rounded(sigma, shares)]
    assert max(used) <= 1
    assert max(used) > 0.3  # so the bound is no empty one: a third is the exact second order


@pytest.mark.parametrize("sigma", [8.0, 11.5, 64.0, 1_000.0])
def test_the_moment_that_the_cost_rests_on_is_below_nine(sigma):
    values = np.arange(-math.ceil(38 * sigma), math.ceil(38 * sigma) + 1)
    g = 1 + (values / sigma) ** 2
    assert 8 < np.sum(probabilities(values, sigma) * g**2 * np.exp(g / 16)) < 9


@pytest.mark.parametrize("sigma", [8.0, 32.0])
def test_the_chance_of_a_large_log_ratio_is_no_more_than_the_cost_allows_for(sigma):
    """The inequality below all: E exp((a - 1) log ratio) <= exp(4.5 (a error)**2), under either of the two."""
    error = 1 / (8 * sigma**2)
    _, ours, theirs = np.array(list(sums_and_rounded(sigma, 1))).T
    for a in np.geomspace(1, 1 / (16 * error), 20):
        allowed = math.exp(4.5 * (a * error) ** 2) * (1 + 1e-12)
        assert np.sum(ours * (ours / theirs) ** (a - 1)) <= allowed
        assert np.sum(theirs * (theirs / ours) ** (a - 1)) <= allowed


@pytest.mark.parametrize("sigma", [2.0**20, 2.0**25, 2.0**30])
def test_the_cost_of_many_draws_grows_with_the_root_of_their_number(sigma):
    """By hand: both ways, 3 error sqrt(2 n ln(1e30)), for the draws and for what their sum is compared with."""
    root = math.sqrt(2 * 100_000 * 400 * math.log(1e30))
    by_hand = 2 * 3 * (RELATIVE_ERROR * math.sqrt(16) + 1 / (8 * sigma**2)) * root
    epsilon, delta = slack(sigma=sigma, parameters=100_000, steps=400, shares=16)
    assert epsilon == pytest.approx(by_hand, rel=1e-3)
    assert delta == pytest.approx(by_hand / 2 * 1e-3, rel=1e-3)


def test_the_stated_cost_covers_what_one_number_really_costs():
    """For one release of one number: what the sum's chances exceed e**epsilon times the rounded normal's, and back."""
    epsilon, delta = slack(sigma=64.0, parameters=1, steps=1, shares=4)
    terms = list(sums_and_rounded(64.0, 4))
    factor = math.exp(epsilon / 2)
    assert sum(max(0.0, ours - factor * theirs) for _, ours, theirs in terms) <= delta
    assert sum(max(0.0, theirs - factor * ours) for _, ours, theirs in terms) <= delta
    assert 0 < epsilon < 0.1


@pytest.mark.parametrize("sigma", [2.0**28, 2.0**32])
def test_a_whole_run_costs_next_to_nothing(sigma):
    epsilon, delta = slack(sigma=sigma, parameters=1_000_000, steps=1_000, shares=100)
    assert 0 < epsilon < 1e-7
    assert 0 < delta < 1e-10
    assert slack(sigma=sigma, parameters=100_000, steps=400, shares=16) < (epsilon / 5, delta / 5)


def test_the_cost_grows_with_the_error_of_the_draws_and_of_the_grid(monkeypatch):
    fine = slack(sigma=2.0**28, parameters=10**5, steps=100, shares=10)
    assert slack(sigma=2.0**18, parameters=10**5, steps=100, shares=10) > fine
    monkeypatch.setattr(discrete_noise, "RELATIVE_ERROR", 1024 * RELATIVE_ERROR)
    assert slack(sigma=2.0**28, parameters=10**5, steps=100, shares=10)[0] == pytest.approx(1024 * fine[0], rel=0.01)


@pytest.mark.parametrize(
    "changed", [{"sigma": math.nan}, {"sigma": 7.9}, {"sigma": math.inf}, {"sigma": 8.0}, {"steps": 0}, {"shares": -1}]
)
def test_what_has_no_bound_costs_everything(changed):
    assert slack(**{"sigma": 2.0**28, "parameters": 10**5, "steps": 100, "shares": 10, **changed}) == (math.inf, 1.0)
