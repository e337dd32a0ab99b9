"""Whole numbers that merchants add up in secret: a clipped sum on a public grid, and each one's share of the noise.

    merchant:  clipped sum  ->  nearest point of the grid  +  base share  +  top-up   (mod 2**64)
    platform:  sum over the survivors  -  the top-ups, where nobody was lost          (mod 2**64)

The noise is sized so that the honest survivors alone carry the plan's: `n` members of a block, `m` of them dishonest,
`T` survivors at the least. The base shares are enough when all members survive; base and top-up together are when only
`T` do. Where all survive, the seeds of the top-ups are revealed, and the surplus is taken out again.

Sources: Kairouz, Liu and Steinke 2021 (arXiv:2102.06387), the distributed discrete Gaussian; Jiang et al. 2022
(arXiv:2209.12528), noise that is added for those who may be lost and removed when they are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pp_model.accounting import PrivacyEvent, epsilon_spent
from pp_model.discrete_noise import Words, discrete_gaussian
from pp_model.plan import SecureSumPlan, TrainingPlan

GRID_BITS = 32  # the clip norm is 2**32 steps of the grid: what rounding adds to the sensitivity is below 1e-6
LARGEST_BITS = 52  # a coordinate of one merchant's sum: a million customers that all pull the same way
NOISE_MARGIN = 2.0**-12  # more noise than the plan's: it pays for all that discrete noise is not continuous noise
# All merchants that there may be, of 2**52 each, and their noise stay below 2**63: no sum ever wraps around.


@dataclass(frozen=True, kw_only=True)
class NoiseShares:
    """Standard deviations, in steps of the grid, of the two parts of one merchant's noise in one round."""

    base: float
    top_up: float


def sensitivity(parameters: int) -> float:
    """How far one customer moves the integers, in L2 norm and steps of the grid.

    The clip norm, and one step in each coordinate: two numbers that lie apart by d are rounded to integers at most
    d + 1 apart.
    """
    return 2.0**GRID_BITS + math.sqrt(parameters)


def noise_shares(plan: TrainingPlan, *, members: int, parameters: int) -> NoiseShares:
    """Each member's noise in a block of `members` merchants.

    A sum of discrete Gaussians, drawn with rounding errors, is not quite the continuous one that is priced. What that
    costs in epsilon (`discrete_noise.slack`) is below 1e-7 with 100 merchants, 1,000 rounds and 100,000 parameters,
    below 1e-5 in any plan. `NOISE_MARGIN` more noise earns more than that back wherever epsilon is above 1e-3, or in
    any plan above 0.05: what is charged is an upper bound of what is done.
    """
    sums = secure_sum_of(plan)
    total = plan.dp.noise_multiplier * (1 + NOISE_MARGIN) * sensitivity(parameters)
    base = total**2 / (members - sums.dishonest)
    with_losses = total**2 / (plan.server.min_completions - sums.dishonest)
    return NoiseShares(base=math.sqrt(base), top_up=math.sqrt(max(0.0, with_losses - base)))


def integer_share(
    clipped: NDArray[np.float64], *, max_grad_norm: float, shares: NoiseShares, base: Words, top_up: Words
) -> NDArray[np.uint64]:
    """[parameters] modulo 2**64: one merchant's part of the sum.

    Args:
        clipped: the sum of clipped gradients, no noise.
        base: the words that the base share is drawn from, secret for ever.
        top_up: those of the top-up, of a seed that is revealed where all members survive.
    """
    largest = 2.0**LARGEST_BITS
    # Holding a coordinate within bounds, like rounding it, moves no two sums further apart than they were.
    steps = np.clip(np.rint(np.nan_to_num(clipped / step_of(max_grad_norm))), -largest, largest).astype(np.int64)
    return (steps + _noise(steps.size, shares.base, base)).view(np.uint64) + top_up_of(steps.size, shares, top_up)


def top_up_of(size: int, shares: NoiseShares, words: Words) -> NDArray[np.uint64]:
    """The top-up that a seed's words make: the same at the merchant and, where it may, at the platform."""
    return _noise(size, shares.top_up, words).view(np.uint64)


def as_update(total: NDArray[np.uint64], plan: TrainingPlan) -> NDArray[np.float64]:
    """The model's update that a sum of shares stands for: minus the summed gradient, divided by public constants alone.

    The divisor counts the whole roster, lost or not.
    """
    divisor = plan.nominal_batch_size * len(secure_sum_of(plan).roster)
    return -total.view(np.int64).astype(np.float64) * (step_of(plan.dp.max_grad_norm) / divisor)


def step_of(max_grad_norm: float) -> float:
    """One step of the grid, in gradient units."""
    return max_grad_norm / 2.0**GRID_BITS


def secure_epsilons(plan: TrainingPlan) -> dict[str, float]:
    """Epsilon of a run at the plan's delta, by who looks, in this order.

    "platform": the platform and outsiders, helped by no merchant. All merchants' noise then counts, whose variance is
    at least n / (n - m) times the plan's. "with_dishonest": helped by as many as the plan assumes, which is what is
    charged. "all_others": by everybody but the own merchant, whose base share is then the only noise that nobody can
    take out.
    """
    sums = secure_sum_of(plan)
    honest, merchants = len(sums.roster) - sums.dishonest, len(sums.roster)
    factors = {"platform": math.sqrt(merchants / honest), "with_dishonest": 1.0, "all_others": 1 / math.sqrt(honest)}
    return {who: epsilon_spent([_event(plan, factor)], delta=plan.delta) for who, factor in factors.items()}


def secure_sum_of(plan: TrainingPlan) -> SecureSumPlan:
    """The plan's secure sum.

    Raises:
        ValueError: it has none.
    """
    if plan.secure_sum is None:
        raise ValueError(f"plan {plan.plan_id!r} has no secure sum")
    return plan.secure_sum


def _noise(size: int, sigma: float, words: Words) -> NDArray[np.int64]:
    return discrete_gaussian(size, sigma=sigma, words=words) if sigma > 0 else np.zeros(size, np.int64)


def _event(plan: TrainingPlan, factor: float) -> PrivacyEvent:
    return replace(plan.event, noise_multiplier=plan.dp.noise_multiplier * factor).times(plan.rounds)
