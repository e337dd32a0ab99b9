"""How long the sum of honest merchants can be at the most: all that a sum says of those who made it."""

from __future__ import annotations

import math

from pp_model.errors import ProtocolError
from pp_model.plan import TrainingPlan

FALSE_ALARM = 1e-12  # per sum, over the noise


class SumTooLongError(ProtocolError):
    """The sum is no sum of honest merchants: somebody's part, or its mask, was not what the plan computes."""

    def __init__(self, *, norm: float, bound: float) -> None:
        self.norm, self.bound = norm, bound
        super().__init__(
            f"the sum's norm is {norm:.3g}, honest merchants' is at most {bound:.3g}; the round is void, and nobody "
            "can tell from a sum whose part is wrong"
        )


def longest_update(plan: TrainingPlan, *, parameters: int, merchants: int, noisy: int) -> float:
    """L2 norm that the update of an honest secure sum passes with a probability of at most `FALSE_ALARM`.

    The update is the sum divided by `merchants * nominal_batch_size`. It is that of the clipped gradients, of which
    `update_clip_norm` is the longest that the plan allows a merchant, so also their mean; and the noise. The noise of
    the sum has at most the variance of a block in which nobody is lost and nobody's top-up is taken out: `merchants /
    noisy` times the plan's. Discrete Gaussians are subgaussian with the variance of the continuous ones (Canonne,
    Kamath and Steinke 2020, arXiv:2004.00010, Corollary 17), and the norm of a subgaussian vector of d coordinates and
    deviation s passes s * sqrt(d + 2 * sqrt(d * t) + 2 * t) with a probability of at most exp(-t) (Hsu, Kakade and
    Zhang 2012, arXiv:1110.2842, Theorem 2.1).

    What passes: a merchant may add whatever keeps the sum below the bound. What does not: a part whose masks do not
    cancel is a vector of uniform 64-bit numbers, which a step of 2**-32 clip norms makes 2**31 clip norms a coordinate.

    Args:
        merchants: on the roster.
        noisy: honest survivors that the plan's noise is sized for, threshold less dishonest; at least 1.
    """
    tail = -math.log(FALSE_ALARM)
    length = math.sqrt(parameters + 2 * math.sqrt(parameters * tail) + 2 * tail)
    one_sum = plan.dp.noise_multiplier * plan.dp.max_grad_norm * math.sqrt(merchants / noisy)
    noise = one_sum * length / (merchants * plan.nominal_batch_size)
    return (plan.update_clip_norm + noise) * (1 + 1e-6)  # what rounding to the grid adds is far less


def check_sum_norm(norm: float, *, bound: float) -> None:
    """Nothing, where a sum of this norm can be honest merchants'.

    Raises:
        SumTooLongError: it is longer than `bound`, or no number.
    """
    if not norm <= bound:
        raise SumTooLongError(norm=norm, bound=bound)
