"""What a list of mechanism events costs: epsilon at a delta, an upper bound, infinite on any trouble.

The number is from the privacy loss distribution (PLD), by `dp-accounting`; the Renyi accountant (RDP) cross-checks
it. Relation: add or remove one customer of one merchant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from functools import lru_cache, reduce

from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant

from pp_model.errors import AccountingError

_Mechanism = tuple[float, float, int]  # sample rate, noise multiplier, steps

_POINTS_PER_DEVIATION = 25  # grid points in the standard deviation of one step's loss: epsilon good to 0.3 %
_MOST_POINTS_IN_A_STEP = 30_000  # half a second
_MOST_POINTS_IN_A_RUN = 100_000
_LARGEST_NOISE_MULTIPLIER = 10_000
_LARGEST_LOSS = 10_000.0  # a run that can lose this much in epsilon is as good as published
_RDP_ORDERS = (*range(2, 64), 80, 128, 256, 512, 1024)  # integers alone: fractional orders do not always converge


@dataclass(frozen=True, kw_only=True, order=True)
class PrivacyEvent:
    """`num_steps` steps of the Poisson-sampled Gaussian mechanism: what is stored and charged, never an epsilon."""

    sample_rate: float
    noise_multiplier: float
    num_steps: int

    def times(self, count: int) -> PrivacyEvent:
        """The same mechanism, `count` times as often."""
        return PrivacyEvent(
            sample_rate=self.sample_rate,
            noise_multiplier=self.noise_multiplier,
            num_steps=self.num_steps * count,
        )


def epsilon_spent(events: Iterable[PrivacyEvent], *, delta: float) -> float:
    """Upper bound on epsilon at `delta` for all events together; infinite where no bound can be trusted.

    Events may differ and may belong to different merchants: composing k merchants' events is the price for a
    customer of all k (checklist D4).

    Source: Koskela et al. 2020 (arXiv:1906.03049); connect-the-dots, Doroshenko et al. 2022 (arXiv:2207.04380).
    """
    mechanisms = _mechanisms(events)
    if mechanisms is None or not 0 < delta < 1:
        return math.inf
    return _epsilon(mechanisms, delta) if mechanisms else 0.0


def rdp_epsilon(events: Iterable[PrivacyEvent], *, delta: float) -> float:
    """The Renyi accountant's upper bound, the cross-check of `epsilon_spent`; infinite on the same inputs.

    Source: Mironov et al. 2019 (arXiv:1908.10530); conversion of Canonne et al. 2020 (arXiv:2004.00010).
    """
    mechanisms = _mechanisms(events)
    if mechanisms is None or not 0 < delta < 1:
        return math.inf
    accountant = RdpAccountant(orders=_RDP_ORDERS)
    for q, sigma, n in mechanisms:
        accountant.compose(PoissonSampledDpEvent(q, GaussianDpEvent(sigma)), n)
    return float(accountant.get_epsilon(delta))


def noise_multiplier_for(*, epsilon: float, delta: float, sample_rate: float, num_steps: int) -> float:
    """The least noise multiplier, to four digits and rounded up, at which `num_steps` cost at most `epsilon`.

    Returns 0.0 (no noise, no privacy) exactly when `epsilon` is infinite.

    Raises:
        AccountingError: no step is taken, `epsilon` is not above 0, or out of reach with a noise multiplier up to
            10,000.
    """
    if num_steps < 1:
        raise AccountingError(f"num_steps is {num_steps}; what takes no step needs no noise: ask for 1 or more")
    if epsilon == math.inf:
        return 0.0

    def price(noise_multiplier: float) -> float:
        event = PrivacyEvent(sample_rate=sample_rate, noise_multiplier=noise_multiplier, num_steps=num_steps)
        return epsilon_spent([event], delta=delta)

    return _least(price, epsilon)


def _least(price: Callable[[float], float], epsilon: float) -> float:
    if not epsilon > 0:
        raise AccountingError(f"epsilon is {epsilon!r}; give a number above 0, or inf for no privacy")
    low, high = 0.0, 1.0
    while not price(high) <= epsilon:
        low, high = high, high * 2
        if high > _LARGEST_NOISE_MULTIPLIER:
            raise AccountingError(
                f"epsilon {epsilon:g} cannot be reached; ask for fewer steps, a lower sample rate or more epsilon"
            )
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if price(middle) <= epsilon else (middle, high)
    digits = Context(prec=4, rounding=ROUND_CEILING)
    least = digits.create_decimal_from_float(high)
    while price(float(digits.next_minus(least))) <= epsilon:
        least = digits.next_minus(least)
    return float(least)


def _mechanisms(events: Iterable[PrivacyEvent]) -> tuple[_Mechanism, ...] | None:
    """The events with equal ones added up; None where one of them has no price."""
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        q, sigma, n = event.sample_rate, event.noise_multiplier, event.num_steps
        if not (0 < q <= 1 and 0 < sigma < math.inf and isinstance(n, int) and n >= 0):
            return None
        steps[q, sigma] = steps.get((q, sigma), 0) + n
    return tuple(sorted((q, sigma, n) for (q, sigma), n in steps.items() if n > 0))


@lru_cache(maxsize=65_536)
def _epsilon(mechanisms: tuple[_Mechanism, ...], delta: float) -> float:
    try:
        interval = _interval(mechanisms)
        parts = [_step(q, sigma, interval).self_compose(n) for q, sigma, n in mechanisms]
        tight = float(reduce(pld.PrivacyLossDistribution.compose, parts).get_epsilon_for_delta(delta))
        bound = rdp_epsilon(
            [PrivacyEvent(sample_rate=q, noise_multiplier=sigma, num_steps=n) for q, sigma, n in mechanisms],
            delta=delta,
        )
    except (ValueError, ArithmeticError, MemoryError):
        return math.inf
    # A PLD above the looser bound means that one of the two is wrong; then neither is worth charging.
    return tight if 0 <= tight <= 1.01 * bound < math.inf else math.inf


def _interval(mechanisms: tuple[_Mechanism, ...]) -> float:
    """The grid on which the loss is computed: a power of two, fine against the loss of the average step.

    Rounding on a grid adds at most `interval ** 2 / 4` to the variance of one step's loss.

    Raises:
        OverflowError: the loss is too wide for any grid that fits.
    """
    variances = [(_step_deviation(q, sigma) ** 2, n) for q, sigma, n in mechanisms]
    variance, steps = sum(v * n for v, n in variances), sum(n for _, n in variances)
    largest_step = max(10 / sigma + 0.5 / sigma**2 + math.log(q) for q, sigma, _ in mechanisms)
    widest = max(10 * math.sqrt(variance) + variance / 2, largest_step)
    if not widest < _LARGEST_LOSS:
        raise OverflowError
    wanted = max(
        math.sqrt(variance / steps) / _POINTS_PER_DEVIATION,
        largest_step / _MOST_POINTS_IN_A_STEP,
        widest / _MOST_POINTS_IN_A_RUN,
    )
    return float(2.0 ** math.floor(math.log2(wanted)))  # few different grids, so that `_step` finds its own again


def _step_deviation(sample_rate: float, noise_multiplier: float) -> float:
    """About the standard deviation of one step's privacy loss."""
    whole = 1 / noise_multiplier
    if whole > 5:
        return whole  # the exponential below would overflow, and sampling hides little of a loss this large
    return min(whole, sample_rate * math.sqrt(math.expm1(whole**2)))


@lru_cache(maxsize=256)
def _step(sample_rate: float, noise_multiplier: float, interval: float) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(
        standard_deviation=noise_multiplier,
        sensitivity=1.0,
        sampling_prob=sample_rate,
        value_discretization_interval=interval,
        pessimistic_estimate=True,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
    )
