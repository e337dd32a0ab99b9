"""Noise in whole numbers: the discrete Gaussian, and what its sum costs beyond the Gaussian that is accounted for."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pp_model.errors import ConfigError, PurchasePowerError

Words = Callable[[int], NDArray[np.uint64]]  # independent uniform 64-bit words, as many as asked

LEAST_SIGMA, LARGEST_SIGMA = 2.0**-10, 2.0**40
RELATIVE_ERROR = 2.0**-49  # |log(P drawn / P exact)| of an integer x is at most this times 1 + (x / sigma)**2

_EXP_MINUS_ONE = np.uint64(0x5E2D58D8B3BCDF1A)  # floor(2**64 / e)
_MOST_TRIALS = 512  # random words need more with probability below 2**-250
_LEAST_SHARE, _LARGEST_EPSILON, _LARGEST_DELTA, _MISS = 8.0, 20.0, 1e-3, 1e-30  # what `slack` is for


class BrokenWordsError(PurchasePowerError):
    """The words that noise should be made of repeat so much that there is no end; nothing was drawn."""

    def __init__(self) -> None:
        super().__init__(f"{_MOST_TRIALS} trials came to no end: the words are not random; check where they come from")


def discrete_gaussian(size: int, *, sigma: float, words: Words) -> NDArray[np.int64]:
    """Independent draws, P(x) proportional to exp(-x**2 / (2 sigma**2)) on all integers: [size]. No tail is cut.

    The same words make the same draws on every machine: but for integers only +, -, *, / and floor of float64 are
    used, which IEEE 754 defines to the last bit (exp it does not). Words are asked for in this order, for all draws
    still open, until none is: one each for offset and sign; one a trial for the multiple of t; one a trial for the
    whole part of the exponent; one a trial for the rest of it.

    Why `RELATIVE_ERROR` holds, with u = 2**-53, z = x / sigma, g = 1 + z**2: a trial is right to 2**-63,
    `_bernoulli_exp` to 0.7 u (x, x / 2 and x / 4 are exact; the series bounds the rest). The rounding of `centre` acts
    like another sigma: z**2 u / 2. The others are at most 6 u of the exponent, itself at most (z**2 + 1) / 2. Together
    (3.5 z**2 + 3.7) u; dividing by the sum of all, to make them probabilities, adds at most 7.2 u: below 11 u g.

    Args:
        sigma: 2**-10 to 2**40; whoever shall draw the same must have the same float.

    Raises:
        ConfigError: `sigma` is out of range.
        BrokenWordsError: there is no end.

    Source: Canonne, Kamath and Steinke 2020 (arXiv:2004.00010), Algorithms 1 to 3, with t a power of two.
    """
    if not LEAST_SIGMA <= sigma <= LARGEST_SIGMA:
        raise ConfigError(f"sigma of the discrete noise is {sigma!r}; allowed: 2**-10 to 2**40 (about 1e12)")
    result = np.zeros(size, dtype=np.int64)
    open_ = np.arange(size)
    for _ in range(_MOST_TRIALS):
        if not len(open_):
            return result
        drawn, accepted = _candidates(len(open_), sigma, words)
        result[open_[accepted]] = drawn[accepted]
        open_ = open_[~accepted]
    raise BrokenWordsError


def _candidates(size: int, sigma: float, words: Words) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Candidates, and which of them to take.

    Algorithm 2 takes one with probability exp(-offset / t), Algorithm 3 exp(-(|x| - sigma**2 / t)**2 / (2 sigma**2)):
    here both exponents are added first. All is in units of t, the power of two above sigma: dividing by it is exact.
    """
    t = 2 ** max(0, math.frexp(sigma)[1])  # at most 2**41
    centre = (sigma / t) * (sigma / t)
    word = words(size)  # the sign is its lowest bit, the offset others
    offset = ((word >> np.uint64(16)) & np.uint64(t - 1)).astype(np.float64) / t
    magnitude = _successes(np.full(size, _MOST_TRIALS), words) + offset  # exact: at most 10 + 41 bits
    away = magnitude - centre
    exponent = offset + away * away * (0.5 / centre)
    whole = np.floor(exponent)
    accepted = _successes(whole.astype(np.int64), words) == whole
    accepted &= _bernoulli_exp(exponent - whole, words)
    negative = (word & np.uint64(1)).astype(np.bool_)
    accepted &= ~(negative & (magnitude == 0))  # or zero would come twice as often
    drawn = (magnitude * t).astype(np.int64)
    return np.where(negative, -drawn, drawn), accepted


def _successes(most: NDArray[np.int64], words: Words) -> NDArray[np.int64]:
    """How many trials of probability exp(-1) succeed before the first that fails, at most `most` of them."""
    count = np.zeros(len(most), dtype=np.int64)
    going = np.flatnonzero(most > 0)
    for _ in range(_MOST_TRIALS):
        if not len(going):
            return count
        going = going[words(len(going)) < _EXP_MINUS_ONE]
        count[going] += 1
        going = going[count[going] < most[going]]
    raise BrokenWordsError


def _bernoulli_exp(x: NDArray[np.float64], words: Words) -> NDArray[np.bool_]:
    """True with probability exp(-x), for x in [0, 1): Algorithm 1.

    Trial k succeeds with probability x / k; that the first one to fail is an odd one has probability
    1 - x + x**2 / 2! - x**3 / 3! + ...
    """
    result = np.zeros(len(x), dtype=np.bool_)
    going = np.arange(len(x))
    for k in range(1, _MOST_TRIALS):
        if not len(going):
            return result
        succeeds = words(len(going)) < (x[going] / k * 2.0**64).astype(np.uint64)
        result[going[~succeeds]] = k % 2 == 1
        going = going[succeeds]
    raise BrokenWordsError


def slack(*, sigma: float, parameters: int, steps: int, shares: int) -> tuple[float, float]:
    """What a run costs beyond the Gaussian mechanism of the same variance: (epsilon, delta) to add to its guarantee.

    Holds for guarantees up to epsilon 20 and delta 0.001; (infinity, 1) where there is no bound.

    The mechanism that is accounted for adds R, the Gaussian rounded to integers: to integers this is rounding after
    noise, so post-processing. The real one adds the sum Q of drawn shares. Let g = 1 + (k / deviation)**2.
    1. A share as drawn and as it should be: |log ratio| <= RELATIVE_ERROR g.
    2. Q and one discrete Gaussian, if no share's deviation is below s: |log ratio| <= 5 shares exp(-(pi s)**2), by
       Poisson summation; Kairouz et al. 2021 (arXiv:2102.06387), Theorem 1.
    3. That one and R: R(k) / density(k) is the mean over |u| < 1/2 of cosh(k u / sigma**2) exp(-u**2 / (2 sigma**2));
       with 1 <= cosh(x) <= exp(x**2 / 2), |log ratio| <= g / (8 sigma**2).
    `_closeness` adds up all draws. Two neighbouring runs differ from what is accounted for, so it counts twice.

    Args:
        sigma: the least standard deviation of the whole sum's noise, in steps of the grid; a share's is at least 8.
        shares: draws that are added up in one number.
    """
    if not (_LEAST_SHARE <= sigma < math.inf and min(parameters, steps, shares) >= 1):
        return math.inf, 1.0
    summed = 1 / (8 * sigma**2) + 5 * shares * math.exp(-((math.pi * _LEAST_SHARE) ** 2))
    close = _closeness(RELATIVE_ERROR, parameters * steps * shares) + _closeness(summed, parameters * steps)
    if not close <= 1:
        return math.inf, 1.0
    missed = (1 + math.exp(_LARGEST_EPSILON + close)) * (1 + math.exp(close)) * _MISS
    return 2 * close, math.expm1(close) * _LARGEST_DELTA + missed


def _closeness(error: float, draws: int) -> float:
    """What the log ratio of all draws passes with probability `_MISS` at most, if one's is at most error * g.

    Chernoff: as the mean of g**2 exp(g / 16) is below 9, the sum passes x with probability
    exp(4.5 draws (a error)**2 - (a - 1) x) at most, for every a from 1 to 1 / (16 error).
    """
    rare, second_moment = -math.log(_MISS), 4.5 * draws * error**2
    a = min(1 + math.sqrt(1 + rare / second_moment), 1 / (16 * error))
    return (second_moment * a**2 + rare) / (a - 1)
