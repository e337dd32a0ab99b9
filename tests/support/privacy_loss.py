"""Epsilon computed from first principles, for comparison: numerical integration and one Fourier transform.

Nothing here is pessimistic and nothing is shared with the accountant of the product or its library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, logsumexp

Mechanism = tuple[float, float, int]  # sample rate, noise multiplier, steps
_OLD_ORDERS = (1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0, 4.5, *range(5, 64), 128.0, 256.0, 512.0)


def gaussian_delta(epsilon: float, noise_multiplier: float) -> float:
    """The exact delta of one Gaussian release. Source: Balle and Wang 2018 (arXiv:1805.06530), Theorem 8."""
    half, lean = 0.5 / noise_multiplier, epsilon * noise_multiplier
    return float(np.exp(log_ndtr(half - lean)) - np.exp(epsilon + log_ndtr(-half - lean)))


def gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    """The exact epsilon of one Gaussian release at `delta`; 0 where delta alone is enough."""
    if gaussian_delta(0.0, noise_multiplier) <= delta:
        return 0.0
    return float(brentq(lambda e: gaussian_delta(e, noise_multiplier) - delta, 0, 500, xtol=1e-13))


def _loss(q: float, sigma: float, points: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The loss log P/Q at points x, and the masses of P = (1 - q) N(0, s^2) + q N(1, s^2) and Q = N(0, s^2) there."""
    x = np.linspace(-13 * sigma, 13 * sigma + 1, points)
    step = x[1] - x[0]
    loss = np.logaddexp(np.log1p(-q) if q < 1 else -np.inf, math.log(q) + (x - 0.5) / sigma**2)
    q_mass = np.exp(-0.5 * (x / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi)) * step
    return loss, q_mass * np.exp(loss), q_mass


def old_conversion_epsilon(mechanism: Mechanism, delta: float) -> float:
    """The Renyi bound as it was computed in 2016 to 2020: moments by integration, then Mironov 2017, Proposition 3."""
    q, sigma, steps = mechanism
    epsilons = []
    for order in _OLD_ORDERS:
        # the integrand's mass sits near x = order, so integrate around there
        x = np.linspace(-13 * sigma, order + 13 * sigma, 20_001)
        log_ratio = np.logaddexp(math.log1p(-q), math.log(q) + (x - 0.5) / sigma**2)
        log_density = -0.5 * (x / sigma) ** 2 - math.log(sigma * math.sqrt(2 * math.pi))
        log_moment = logsumexp(log_density + order * log_ratio) + math.log(x[1] - x[0])
        epsilons.append(steps * log_moment / (order - 1) - math.log(delta) / (order - 1))
    return float(min(epsilons))


def tight_epsilon(
    mechanisms: Sequence[Mechanism], delta: float, *, largest_loss: float = 40.0, bits: int = 19
) -> float:
    """Epsilon of all mechanisms together, from the distribution of their loss on `2 ** bits` points.

    Each step's loss is put on the grid with its mean kept; sums become products of characteristic functions.
    """
    size = 2**bits
    interval = 2 * largest_loss / size
    worst = 0.0
    for adding in (False, True):
        transform = np.ones(size // 2 + 1, dtype=np.complex128)
        for q, sigma, steps in mechanisms:
            loss, p_mass, q_mass = _loss(q, sigma, 200_001)
            loss, mass = (-loss, q_mass) if adding else (loss, p_mass)
            place = loss / interval
            below = np.floor(place).astype(np.int64)
            part = place - below
            grid = np.bincount(below % size, mass * (1 - part), size) + np.bincount(
                (below + 1) % size, mass * part, size
            )
            transform *= np.fft.rfft(grid) ** steps
        masses = np.fft.irfft(transform, size)
        losses = np.fft.fftfreq(size, 1 / size) * interval
        worst = max(worst, _epsilon_of(losses, np.maximum(masses, 0.0), delta))
    return worst


def _epsilon_of(losses: NDArray[np.float64], masses: NDArray[np.float64], delta: float) -> float:
    above, mass = losses[losses > 0], masses[losses > 0]

    def spare(epsilon: float) -> float:
        return float(np.sum(mass * np.maximum(-np.expm1(epsilon - above), 0.0))) - delta

    return 0.0 if spare(0.0) <= 0 else float(brentq(spare, 0.0, float(above[-1]), xtol=1e-12))
