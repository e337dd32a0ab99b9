"""What a list of mechanism events costs: epsilon at a delta, an upper bound, infinite on any trouble.

The number is from the privacy loss distribution (PLD), by `dp-accounting`; the Renyi accountant (RDP) cross-checks
it. Relation: add or remove one customer of one merchant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant

from pp_model.errors import AccountingError

INTERVAL = 1e-4  # PLD discretisation; the error in epsilon stays below 0.1 % for a thousand steps
COARSE_INTERVAL = 1e-3  # for events whose loss is so wide that the fine grid would not fit in memory
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
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        if not (0 < event.sample_rate <= 1 and 0 < event.noise_multiplier < math.inf and event.num_steps >= 0):
            return math.inf
        key = (event.sample_rate, event.noise_multiplier)
        steps[key] = steps.get(key, 0) + event.num_steps
    mechanisms = tuple(sorted((q, sigma, n) for (q, sigma), n in steps.items() if n > 0))
    if not 0 < delta < 1:
        return math.inf
    return _epsilon(mechanisms, delta) if mechanisms else 0.0


def rdp_epsilon(events: Iterable[PrivacyEvent], *, delta: float) -> float:
    """The Renyi accountant's upper bound, the cross-check of `epsilon_spent`.

    Source: Mironov et al. 2019 (arXiv:1908.10530); conversion of Canonne et al. 2020 (arXiv:2004.00010).
    """
    accountant = RdpAccountant(orders=_RDP_ORDERS)
    for event in events:
        step = PoissonSampledDpEvent(event.sample_rate, GaussianDpEvent(event.noise_multiplier))
        accountant.compose(step, event.num_steps)
    return float(accountant.get_epsilon(delta))


def noise_multiplier_for(*, epsilon: float, delta: float, sample_rate: float, num_steps: int) -> float:
    """The least noise multiplier, to four digits and rounded up, at which `num_steps` cost at most `epsilon`.

    Returns 0.0 (no noise, no privacy) exactly when `epsilon` is infinite.

    Raises:
        AccountingError: `epsilon` is not above 0, or out of reach with a noise multiplier up to 10,000.
    """
    if epsilon == math.inf:
        return 0.0

    def price(noise_multiplier: float) -> float:
        event = PrivacyEvent(sample_rate=sample_rate, noise_multiplier=noise_multiplier, num_steps=num_steps)
        return epsilon_spent([event], delta=delta)

    return _least(price, epsilon)


def _least(price: Callable[[float], float], epsilon: float) -> float:
    if not epsilon > 0:
        raise AccountingError(f"epsilon is {epsilon!r}; give a number above 0, or inf for no privacy")
    low, high = 0.05, 1.0
    while not price(high) <= epsilon:
        low, high = high, high * 2
        if high > 10_000:
            raise AccountingError(
                f"epsilon {epsilon:g} cannot be reached; ask for fewer steps, a lower sample rate or more epsilon"
            )
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if price(middle) <= epsilon else (middle, high)
    digits = 4 - math.ceil(math.log10(high))
    return math.ceil(high * 10**digits) / 10**digits


@lru_cache(maxsize=65_536)
def _epsilon(mechanisms: tuple[tuple[float, float, int], ...], delta: float) -> float:
    try:
        # The sum of the losses' standard deviations decides how many grid points composition needs.
        width = sum(math.sqrt(n) * q / sigma for q, sigma, n in mechanisms)
        interval = INTERVAL if width < 20 else COARSE_INTERVAL
        composed = None
        for q, sigma, n in mechanisms:
            part = _step(q, sigma, interval).self_compose(n)
            composed = part if composed is None else composed.compose(part)
        assert composed is not None
        tight = float(composed.get_epsilon_for_delta(delta))
    except (ValueError, ArithmeticError, MemoryError):
        return math.inf
    bound = rdp_epsilon(
        [PrivacyEvent(sample_rate=q, noise_multiplier=sigma, num_steps=n) for q, sigma, n in mechanisms], delta=delta
    )
    # A PLD above the looser bound means that one of the two is wrong; then neither is worth charging.
    if not (math.isfinite(tight) and 0 <= tight <= bound + 0.01 * (1 + abs(bound))):
        return math.inf
    return tight


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
