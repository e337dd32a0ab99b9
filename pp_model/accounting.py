"""What a list of mechanism events costs: epsilon at a delta, an upper bound, infinite on any trouble.

The number is from the privacy loss distribution (PLD), by `dp-accounting`; the Renyi accountant (RDP) cross-checks
it. Relation: add or remove one customer of one merchant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Context
from functools import lru_cache, reduce

from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant

from pp_model.errors import AccountingError

_Mechanism = tuple[float, float, int, int]  # sample rate, noise multiplier, steps, merchants that share the noise

_POINTS_PER_DEVIATION = 25  # grid points in the standard deviation of one step's loss: epsilon good to 0.3 %
_MOST_POINTS_IN_A_STEP = 30_000  # half a second
_MOST_POINTS_IN_A_RUN = 100_000
_LARGEST_NOISE_MULTIPLIER = 10_000
_LARGEST_LOSS = 10_000.0  # a run that can lose this much in epsilon is as good as published
_RDP_ORDERS = (*range(2, 64), 80, 128, 256, 512, 1024)  # integers alone: fractional orders do not always converge


@dataclass(frozen=True, kw_only=True, order=True)
class PrivacyEvent:
    """`num_steps` steps of the Poisson-sampled Gaussian mechanism: what is stored and charged, never an epsilon.

    Attributes:
        shared: the noise is that of a sum over merchants. Whoever is a customer of k of them moves the sum k times as
            far, under noise that was added once.
    """

    sample_rate: float
    noise_multiplier: float
    num_steps: int
    shared: bool = False

    def times(self, count: int) -> PrivacyEvent:
        """The same mechanism, `count` times as often."""
        return replace(self, num_steps=self.num_steps * count)


def epsilon_spent(events: Iterable[PrivacyEvent], *, delta: float, merchants: int = 1) -> float:
    """Upper bound on epsilon at `delta` for all events together; infinite where no bound can be trusted.

    Args:
        merchants: how many merchants a person is a customer of, each of which released these events (checklist D4).
            Noise of their own composes. Of an event with shared noise it is one sum, which the person moves by as many
            clip norms as merchants happened to draw it: a mixture of Gaussians.

    Source: Koskela et al. 2020 (arXiv:1906.03049); connect-the-dots, Doroshenko et al. 2022 (arXiv:2207.04380);
    mixtures of Gaussians, Choquette-Choo et al. 2023 (arXiv:2310.15526).
    """
    mechanisms = _mechanisms(events, merchants)
    if mechanisms is None or not 0 < delta < 1:
        return math.inf
    return _epsilon(mechanisms, delta) if mechanisms else 0.0


def rdp_epsilon(events: Iterable[PrivacyEvent], *, delta: float, merchants: int = 1) -> float:
    """The Renyi accountant's upper bound, the cross-check of `epsilon_spent`; infinite on the same inputs.

    Shared noise is bounded from above: whoever is drawn by any merchant counts as drawn by all.

    Source: Mironov et al. 2019 (arXiv:1908.10530); conversion of Canonne et al. 2020 (arXiv:2004.00010).
    """
    mechanisms = _mechanisms(events, merchants)
    if mechanisms is None or not 0 < delta < 1:
        return math.inf
    return _rdp_epsilon(mechanisms, delta)


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


def _mechanisms(events: Iterable[PrivacyEvent], merchants: int) -> tuple[_Mechanism, ...] | None:
    """The events with equal ones added up; None where one of them has no price."""
    steps: dict[tuple[float, float, int], int] = {}
    for event in events:
        q, sigma, n = event.sample_rate, event.noise_multiplier, event.num_steps
        if not (0 < q <= 1 and 0 < sigma < math.inf and isinstance(n, int) and n >= 0 and merchants >= 1):
            return None
        key = (q, sigma, merchants if event.shared else 1)
        steps[key] = steps.get(key, 0) + (n if event.shared else n * merchants)
    return tuple(sorted((q, sigma, n, k) for (q, sigma, k), n in steps.items() if n > 0))


@lru_cache(maxsize=65_536)
def _epsilon(mechanisms: tuple[_Mechanism, ...], delta: float) -> float:
    try:
        interval = _interval(mechanisms)
        parts = [_step(q, sigma, k, interval).self_compose(n) for q, sigma, n, k in mechanisms]
        tight = float(reduce(pld.PrivacyLossDistribution.compose, parts).get_epsilon_for_delta(delta))
        bound = _rdp_epsilon(mechanisms, delta)
    except (ValueError, ArithmeticError, MemoryError):
        return math.inf
    # A PLD above the looser bound means that one of the two is wrong; then neither is worth charging.
    return tight if 0 <= tight <= 1.01 * bound < math.inf else math.inf


def _rdp_epsilon(mechanisms: tuple[_Mechanism, ...], delta: float) -> float:
    accountant = RdpAccountant(orders=_RDP_ORDERS)
    for mechanism in mechanisms:
        q, sigma = _as_one_merchant(mechanism)
        accountant.compose(PoissonSampledDpEvent(q, GaussianDpEvent(sigma)), mechanism[2])
    return float(accountant.get_epsilon(delta))


def _as_one_merchant(mechanism: _Mechanism) -> tuple[float, float]:
    """Sample rate and noise multiplier of a Gaussian step at one merchant that costs no less."""
    q, sigma, _, merchants = mechanism
    if 1 in (merchants, q):
        return q, sigma / merchants
    return -math.expm1(merchants * math.log1p(-q)), sigma / merchants


def _interval(mechanisms: tuple[_Mechanism, ...]) -> float:
    """The grid on which the loss is computed: a power of two, fine against the loss of the average step.

    Rounding on a grid adds at most `interval ** 2 / 4` to the variance of one step's loss.

    Raises:
        OverflowError: the loss is too wide for any grid that fits.
    """
    bounds = [(*_as_one_merchant(mechanism), mechanism[2]) for mechanism in mechanisms]
    variances = [(_step_deviation(q, sigma) ** 2, n) for q, sigma, n in bounds]
    variance, steps = sum(v * n for v, n in variances), sum(n for _, n in variances)
    largest_step = max(10 / sigma + 0.5 / sigma**2 + math.log(q) for q, sigma, _ in bounds)
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
def _step(sample_rate: float, noise_multiplier: float, merchants: int, interval: float) -> pld.PrivacyLossDistribution:
    if merchants > 1:
        drawn = {
            k: math.comb(merchants, k) * sample_rate**k * (1 - sample_rate) ** (merchants - k)
            for k in range(merchants + 1)
        }
        return pld.from_mixture_gaussian_mechanism(
            standard_deviation=noise_multiplier,
            sensitivities=[float(k) for k, chance in drawn.items() if chance > 0],
            sampling_probs=[chance for chance in drawn.values() if chance > 0],
            value_discretization_interval=interval,
            pessimistic_estimate=True,
        )
    return pld.from_gaussian_mechanism(
        standard_deviation=noise_multiplier,
        sensitivity=1.0,
        sampling_prob=sample_rate,
        value_discretization_interval=interval,
        pessimistic_estimate=True,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
    )
