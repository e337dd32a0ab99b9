"""Events of customers in, what is said of each customer out: the graph that pp-client exports, as one module.

The encoder and the readout are those of `pp_model.model`, with the pulled arrays in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from client.onnx_baskets import Lines, dense_baskets
from client.onnx_features import features, history, log_anchor, sequence
from client.scoring import HIGH, LOW, NEWCOMER_ORDERS
from pp_model.features import FeatureSpec
from pp_model.loss import LARGEST_SPREAD, LEAST_SPREAD
from pp_model.model import PurchasePowerModel

# What the graph takes and gives, in order; the words go into the file.
INPUTS: Mapping[str, str] = {
    "timestamp": "float64 [customers, lines], seconds since 1970 in the shop's own clock; NaN: the line is left out",
    "spend_cents": "float64 [customers, lines], cents of a purchase or return; NaN there: the line is left out",
    "quantity": "float64 [customers, lines], pieces; NaN is 1",
    "category": "int64 [customers, lines], code of the category, see category_code; -1 for none",
    "event_type": "int64 [customers, lines], 0 purchase, 1 return, 2 view, 3 cart, 4 search; others are left out",
    "order": "int64 [customers, lines], fingerprint of the order id, see fingerprint64; 0 for none",
    "cutoff_day": "int64 [], days since 1970 of the cutoff; lines from its midnight on are left out",
}
OUTPUTS: Mapping[str, str] = {
    "purchase_probability": "float64 [customers], of net spend above zero within the horizon",
    "expected_spend_cents": "float64 [customers], mean of net spend within the horizon",
    "spend_low_cents": "float64 [customers], not exceeded with probability 0.1",
    "spend_high_cents": "float64 [customers], not exceeded with probability 0.9",
    "score": "float64 [customers], purchase power from 0 to 100",
    "churn_risk": "float64 [customers], probability of no purchase within the horizon",
    "orders_seen": "int64 [customers], purchases before the cutoff",
    "newcomer": "bool [customers], fewer than two orders: the score rests on little",
}
_LARGEST_LOG = 40.0  # of cents, as in `pp_model.loss`

# Numerators and denominators of the rational functions, highest power first, around the median, in the tails and far
# out. Source: Wichura 1988, "Algorithm AS 241: The Percentage Points of the Normal Distribution", PPND16.
_MIDDLE = (
    (
        *(2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4),
        *(1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080e0),
    ),
    (
        *(5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4),
        *(5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0),
    ),
)
_TAIL = (
    (
        *(7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e0),
        *(3.64784832476320460504e0, 5.76949722146069140550e0, 4.63033784615654529590e0, 1.42343711074968357734e0),
    ),
    (
        *(1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1),
        *(6.89767334985100004550e-1, 1.67638483018380384940e0, 2.05319162663775882187e0, 1.0),
    ),
)
_FAR = (
    (
        *(2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2),
        *(2.96560571828504891230e-1, 1.78482653991729133580e0, 5.46378491116411436990e0, 6.65790464350110377720e0),
    ),
    (
        *(2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4),
        *(1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0),
    ),
)


class ScoringGraph(nn.Module):
    """`INPUTS` to `OUTPUTS`, both in their order: what `client.scoring` says of customers, reasons and tiers left out.

    A customer without any event before the cutoff, of whom pp-client has no row, gets NaN in every figure.
    """

    def __init__(self, model: PurchasePowerModel, spec: FeatureSpec) -> None:
        super().__init__()
        self.model, self.spec = model, spec

    def forward(
        self,
        timestamp: Tensor,
        spend_cents: Tensor,
        quantity: Tensor,
        category: Tensor,
        event_type: Tensor,
        order: Tensor,
        cutoff_day: Tensor,
    ) -> tuple[Tensor, ...]:
        lines = Lines(timestamp, spend_cents, quantity, category, event_type, order)
        baskets = dense_baskets(lines, cutoff_day)
        past = history(baskets, horizon_days=self.spec.horizon_days)
        tokens = sequence(past, self.spec.sequence_length)
        outputs = self.model(features(past, cutoff_day), tokens, log_anchor(past))
        known = baskets.present.any(dim=1)
        orders = past.bought_number.long()
        figures = [torch.where(known, figure, torch.nan) for figure in _figures(outputs)]
        return (*figures, orders, orders < NEWCOMER_ORDERS)


def _figures(outputs: Tensor) -> Sequence[Tensor]:
    """What `pp_model.loss.Prediction` says of the head's outputs [customers, 3], in the order of `OUTPUTS`."""
    logit, location, raw = outputs.double().unbind(-1)
    spread = LEAST_SPREAD + (LARGEST_SPREAD - LEAST_SPREAD) * torch.sigmoid(raw)
    probability = torch.sigmoid(logit)
    churn = 1.0 - probability
    expected = probability * torch.exp((location + 0.5 * spread**2).clamp(max=_LARGEST_LOG))

    def quantile(level: float) -> Tensor:
        above = (level - churn) / probability.clamp(min=1e-12)
        log_spend = location + spread * normal_quantile(above.clamp(1e-12, 1 - 1e-12))
        return torch.where(above > 0, torch.exp(log_spend.clamp(max=_LARGEST_LOG)), 0.0)

    score = (100 * torch.log(expected.clamp(min=1.0)) / math.log(10) / 6).clamp(0.0, 100.0)
    return probability, expected, quantile(LOW), quantile(HIGH), score, churn


def normal_quantile(level: Tensor) -> Tensor:
    """The standard normal's quantile for levels in (0, 1), float64; relative error about 1e-16."""
    away = level - 0.5
    middle = away * _ratio(_MIDDLE, 0.180625 - away * away)
    rarity = torch.sqrt(-torch.log(torch.minimum(level, 1.0 - level)))
    beyond = torch.where(rarity <= 5.0, _ratio(_TAIL, rarity - 1.6), _ratio(_FAR, rarity - 5.0))
    return torch.where(away.abs() <= 0.425, middle, torch.where(away < 0, -beyond, beyond))


def _ratio(of: tuple[tuple[float, ...], tuple[float, ...]], at: Tensor) -> Tensor:
    over, under = (_polynomial(coefficients, at) for coefficients in of)
    return over / under


def _polynomial(coefficients: tuple[float, ...], at: Tensor) -> Tensor:
    """Horner's rule; the highest power first."""
    value = coefficients[0] * at + coefficients[1]
    for coefficient in coefficients[2:]:
        value = value * at + coefficient
    return value
