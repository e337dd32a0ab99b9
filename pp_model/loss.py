"""Zero-inflated lognormal spend: the robust loss that it is learnt by, and everything that a prediction says."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor
from torch.nn import functional

LEAST_SPREAD, LARGEST_SPREAD = 0.15, 2.5
SPEND_WEIGHT = 0.4  # of the spend's loss: a customer's clip is mostly for whether it buys, which is harder to learn
TAIL_FREEDOM = 4.0  # degrees of freedom of Student's t, in place of a normal: a few huge orders move nobody's spend
_LEAST_SPEND_CENTS = 1.0


def _spread(raw: Tensor) -> Tensor:
    """Standard deviation of log spend from the head's third output; bounded, so no example's loss explodes."""
    return LEAST_SPREAD + (LARGEST_SPREAD - LEAST_SPREAD) * torch.sigmoid(raw)


def ziln_loss(outputs: Tensor, spend_cents: Tensor) -> Tensor:
    """How badly the outputs of each row foretold its spend, as a robust form of the zero-inflated lognormal likelihood.

    The log of what a buyer spends is judged by Student's t, whose gradient for location and spread is bounded: clipping
    then hardly ever cuts a customer short because of one amount, which would bend what is learnt of buying as well.
    The two parts have no parameter of the readout in common, so their weights move no optimum.

    Args:
        outputs: [rows, 3]: logit of buying, mean of log cents given a purchase, raw spread.
        spend_cents: [rows], at least 0.

    Returns:
        [rows], in nats; the constants of the t density are left out.

    Source: Wang, Liu and Miao 2019 (arXiv:1912.07753), equation 2; the t in place of the normal, Lange, Little and
    Taylor 1989 ("Robust statistical modeling using the t distribution", JASA 84).
    """
    logit, location, raw = outputs.unbind(-1)
    bought = (spend_cents > 0).to(outputs.dtype)
    spread = _spread(raw)
    log_spend = torch.log(spend_cents.to(outputs.dtype).clamp(min=_LEAST_SPEND_CENTS))
    buying = functional.binary_cross_entropy_with_logits(logit, bought, reduction="none")
    away = (log_spend - location) / spread
    spending = torch.log(spread) + 0.5 * (TAIL_FREEDOM + 1) * torch.log1p(away**2 / TAIL_FREEDOM)
    return buying + SPEND_WEIGHT * bought * spending


def log_expected_spend(outputs: Tensor) -> Tensor:
    """[rows]: the logarithm of `Prediction.expected_spend_cents`, differentiable in the outputs [rows, 3]."""
    logit, location, raw = outputs.unbind(-1)
    return functional.logsigmoid(logit) + location + 0.5 * _spread(raw) ** 2


def ziln_gradient(outputs: Tensor, spend_cents: Tensor) -> Tensor:
    """The gradient of `ziln_loss` for its outputs, in their shape, written out: autograd would cost as much again."""
    gradient = torch.sigmoid(outputs)
    share = gradient[..., 2].clone()
    bought = (spend_cents > 0).to(outputs.dtype)
    gradient[..., 0] -= bought
    log_spend = spend_cents.to(outputs.dtype).clamp(min=_LEAST_SPEND_CENTS).log_()  # `to` may be the labels themselves
    width = LARGEST_SPREAD - LEAST_SPREAD
    spread = share.mul(width).add_(LEAST_SPREAD)
    away = log_spend.sub_(outputs[..., 1]).div_(spread)
    per_spread = bought.mul_(SPEND_WEIGHT).div_(spread)
    pull = away.square().add_(TAIL_FREEDOM).reciprocal_().mul_(TAIL_FREEDOM + 1).mul_(away)  # at most 1.25
    torch.mul(per_spread, pull, out=gradient[..., 1]).neg_()
    slope = (share - share * share).mul_(width)
    torch.mul(per_spread.mul_(1 - pull.mul_(away)), slope, out=gradient[..., 2])
    return gradient


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model says of each customer over the coming horizon.

    Attributes:
        buying_probability: [rows], of net spend above 0; churn risk is one minus it.
        log_location, log_spread: [rows], of the lognormal spend in cents given a purchase.
    """

    buying_probability: NDArray[np.float64]
    log_location: NDArray[np.float64]
    log_spread: NDArray[np.float64]

    @property
    def expected_spend_cents(self) -> NDArray[np.float64]:
        """Mean of the zero-inflated lognormal."""
        mean = np.exp(np.minimum(self.log_location + 0.5 * self.log_spread**2, 40.0))
        return np.asarray(self.buying_probability * mean, np.float64)

    @property
    def churn_risk(self) -> NDArray[np.float64]:
        """Probability of no purchase within the horizon."""
        return 1.0 - self.buying_probability

    def spend_quantile_cents(self, level: float) -> NDArray[np.float64]:
        """The spend that is not exceeded with probability `level` (0 < level < 1); 0 below the mass at zero."""
        above = (level - self.churn_risk) / np.maximum(self.buying_probability, 1e-12)
        normal = ndtri(np.clip(above, 1e-12, 1 - 1e-12))
        return np.where(above > 0, np.exp(np.minimum(self.log_location + self.log_spread * normal, 40.0)), 0.0)

    @property
    def score(self) -> NDArray[np.float64]:
        """Purchase power, 0 to 100: a public logarithmic scale of expected spend, 0 at 1 cent, 100 at 10,000 units."""
        return np.clip(100 * np.log10(np.maximum(self.expected_spend_cents, 1.0)) / 6, 0.0, 100.0)


def prediction(outputs: Tensor) -> Prediction:
    """The head's outputs [rows, 3] in words a merchant can use."""
    logit, location, raw = outputs.detach().double().unbind(-1)
    return Prediction(
        buying_probability=torch.sigmoid(logit).numpy(),
        log_location=location.numpy(),
        log_spread=_spread(raw).numpy(),
    )


def tiers(score: NDArray[np.float64], *, cuts: tuple[float, float] | None = None) -> NDArray[np.int8]:
    """Purchase-power tier of each customer: 2 high, 1 middle, 0 low.

    Args:
        cuts: public scores at which middle and high begin; None takes this merchant's own 50 % and 90 % quantiles,
            which are data and must stay at the merchant.
    """
    low, high = cuts if cuts is not None else tuple(np.quantile(score, [0.5, 0.9])) if len(score) else (0.0, math.inf)
    return np.asarray(score >= low, np.int8) + np.asarray(score >= high, np.int8)
