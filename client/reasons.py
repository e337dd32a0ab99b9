"""Why a score is what it is: how much each group of features moves it away from the score of an average customer.

The average customer is made up and public: a constant in this file, the same for every merchant. The score here is the
logarithm of expected spend in points of the score, before it is cut to 0 .. 100.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pp_model.baskets import baskets_of
from pp_model.feature_columns import RECENT_HORIZONS
from pp_model.feature_history import CATEGORY_BUCKETS, NEWCOMER_BASKET_CENTS
from pp_model.features import CORE_FEATURES, FEATURE_NAMES, Examples, FeatureSpec, rows_at
from pp_model.loss import log_expected_spend
from pp_model.model import HIDDEN_SCALE, PurchasePowerModel
from pp_model.schema import Order, order_log

Floats = NDArray[np.float64]

POINTS_PER_LOG = 100 / math.log(1e6)  # the slope of `Prediction.score`
LEAST_POINTS = 0.1  # what moves the score by less is no reason
# Of the quadrature: exact to float32 on the shipped encoders, but for features that no history makes.
_NODES = 16
_PLACES, _WEIGHTS = np.polynomial.legendre.leggauss(_NODES)
_POINTS_AT_ONCE = 512  # of all rows; more do not fit into the cache
# Horizons since each order of the average customer: near the mean of the synthetic shops that encoders are trained on.
_AVERAGE_ORDERS = (1.0, 2.5, 4.0, 5.5)

GROUPS: Mapping[str, tuple[str, ...]] = {
    "recency": (
        *("log_recency", "recency", "log_silence_in_gaps", "log_silence_in_typical_gaps"),
        *("silence_rank", "log_silence_in_longest_gap"),
    ),
    "frequency": (
        *("log_visits", "log_expected_visits", "buying_probability_at_own_rate", "no_visit", "one_visit", "two_visits"),
        *(f"log_visits_last_{share:g}" for share in RECENT_HORIZONS),
    ),
    "trend": ("spend_trend_2", "spend_trend_4", *(f"visit_trend_{share:g}" for share in RECENT_HORIZONS if share >= 1)),
    "rhythm": ("log_usual_gap", "gap_spread", "log_longest_gap", "log_latest_gap"),
    "tenure": ("log_tenure",),
    "spend": (*("log_mean_visit", "log_typical_basket", "log_latest_basket", "log_largest_basket", "basket_spread"),),
    "basket": ("log_baskets_per_visit", "log_lines", "log_quantity"),
    "returns": ("returned_share", "returns_per_basket"),
    "season": ("season_cosine", "season_sine", "weekend_share", "log_visits_same_season", "same_season_known"),
    "browsing": ("log_browsing_last_0.125", "log_browsing_last_1"),
    "category": tuple(f"category_share_{bucket}" for bucket in range(CATEGORY_BUCKETS)),
    "latest_orders": (),  # the order of the last events, where the encoder reads it
}
CODES: tuple[str, ...] = tuple(f"{group}:{sign}" for group in GROUPS for sign in "+-")
_PLACE = {group: place for place, group in enumerate(GROUPS)}
_MEMBERS = np.array([[name in names for names in GROUPS.values()] for name in FEATURE_NAMES], np.float64)
_MEAN_VISIT = FEATURE_NAMES.index("log_mean_visit")


def average_customer(spec: FeatureSpec, cutoff: dt.date) -> Examples:
    """One row: a made-up customer with four orders of 30.00, of no category, 1, 2.5, 4 and 5.5 horizons ago."""
    now = dt.datetime.combine(cutoff, dt.time())
    orders = [
        Order(
            customer=0,
            timestamp=now - dt.timedelta(days=spec.horizon_days * horizons),
            spend_cents=int(NEWCOMER_BASKET_CENTS),
        )
        for horizons in _AVERAGE_ORDERS
    ]
    return rows_at(baskets_of(order_log(orders, num_customers=1)), cutoff, spec)


def points_read(model: PurchasePowerModel, examples: Examples) -> Tensor:
    """[rows, F + summary]: what the trained layers read: public coordinates and, where used, the sequence's summary."""
    features, sequence = torch.from_numpy(examples.features), torch.from_numpy(examples.sequence)
    coordinates = model.coordinates(features)
    return coordinates if model.encoder is None else torch.cat([coordinates, model.encoder.summary(sequence)], dim=-1)


def outputs_at(model: PurchasePowerModel, points: Tensor, log_anchor: Tensor) -> Tensor:
    """[rows, 3]: the model's outputs at `points_read`, equal to those of the model itself."""
    number = len(FEATURE_NAMES)
    representation = points[:, :number]
    if model.encoder is not None:
        joined = torch.cat([points[:, : len(CORE_FEATURES)], points[:, number:]], dim=-1)
        representation = torch.cat([representation, HIDDEN_SCALE * model.encoder.encode(joined)], dim=-1)
    outputs: Tensor = model.readout(representation, log_anchor)
    return outputs


def contributions(model: PurchasePowerModel, examples: Examples, points: Tensor, average: Examples) -> Floats:
    """[rows, groups], in points of the score: their sum is the customer's score less the average customer's.

    Integrated gradients on the straight line from the average customer to this one, in the model's bounded coordinates
    (and the summary of the sequence); a coordinate is a bounded function of one weighted sum of features, and what it
    contributes is shared among them in the shares of that sum, which is exact. The customer's own past rate, on which
    the model builds, is shared exactly between spend (its mean basket) and frequency. Nothing is drawn at random.

    Args:
        points: `points_read` of the examples; the model's parameters must not ask for gradients.
        average: one row, of `average_customer`.

    Source: Sundararajan, Taly and Yan 2017 (arXiv:1703.01365), equation 1 and, for the sum, proposition 1.
    """
    start = points_read(model, average)
    mean_gradient = _mean_gradient(model, start, points).numpy()
    number = len(FEATURE_NAMES)
    away = (examples.features - average.features).astype(np.float64)
    mix = model.mix.detach().double().numpy()
    moved = away @ mix
    step = (points - start)[:, :number].double().numpy()
    share = np.divide(step, moved, out=np.ones_like(moved), where=np.abs(moved) > 1e-6)
    by_feature = away * ((mean_gradient[:, :number] * share) @ mix.T)
    found = np.asarray(by_feature @ _MEMBERS, np.float64)
    summary = (points - start)[:, number:].double().numpy()
    found[:, _PLACE["latest_orders"]] += (mean_gradient[:, number:] * summary).sum(axis=1)
    basket = 2 * away[:, _MEAN_VISIT]  # the feature is half the logarithm of the mean basket
    rate = examples.log_anchor.astype(np.float64) - average.log_anchor
    found[:, _PLACE["spend"]] += basket
    found[:, _PLACE["frequency"]] += rate - basket
    return found * POINTS_PER_LOG


def _mean_gradient(model: PurchasePowerModel, start: Tensor, end: Tensor) -> Tensor:
    """The mean gradient of the logarithm of expected spend on the line, by Gauss and Legendre's quadrature.

    For a few rows the calls cost more than the numbers: then several places are looked at in one call.
    """
    shares, total = torch.from_numpy((_PLACES + 1) / 2).to(end.dtype), torch.zeros_like(end, dtype=torch.float64)
    at_once = max(1, _POINTS_AT_ONCE // max(len(end), 1))
    for first in range(0, _NODES, at_once):
        some = shares[first : first + at_once, None, None]
        at = torch.lerp(start.expand_as(end), end, some).flatten(0, 1).requires_grad_()
        outputs = outputs_at(model, at, torch.zeros(len(at)))
        (gradient,) = torch.autograd.grad(log_expected_spend(outputs).sum(), at)
        for each, weight in zip(
            gradient.view(len(some), *end.shape), _WEIGHTS[first : first + at_once] / 2, strict=True
        ):
            total.add_(each, alpha=float(weight))
    return total


def top_reasons(of_groups: Floats, *, count: int = 3) -> NDArray[np.int8]:
    """[rows, count]: places in `CODES` of the groups that move the score most; -1 where fewer move it noticeably.

    Compared in hundredths of a point, and equal ones in the order of `GROUPS`, so that the last bits of a sum never
    change the list.
    """
    hundredths = np.rint(of_groups * 100)
    largest = np.argsort(-np.abs(hundredths), axis=1, kind="stable")[:, :count]
    values = np.take_along_axis(hundredths, largest, axis=1)
    return np.where(np.abs(values) >= 100 * LEAST_POINTS, 2 * largest + (values < 0), -1).astype(np.int8)
