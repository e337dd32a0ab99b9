"""A log of orders to scores, some customers at a time: what a merchant is told about each of its customers."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from client.reasons import CODES, average_customer, contributions, outputs_at, points_read, top_reasons
from pp_model.baskets import Baskets
from pp_model.features import FEATURE_NAMES, Examples, FeatureSpec, rows_at
from pp_model.loss import Prediction, prediction
from pp_model.model import PurchasePowerModel, load_model
from pp_model.plan import TrainingPlan
from pp_model.schema import EventType, day_start
from pp_model.serialization import Arrays

NEWCOMER_ORDERS = 2  # with fewer orders a customer has no rhythm yet: scored all the same, and marked
LOW, HIGH = 0.1, 0.9  # the ends of the 80 % interval
REASON_COLUMNS = ("reason_1", "reason_2", "reason_3")
DRIFT_FEATURES = {"recency": "log_recency", "visits": "log_visits", "basket": "log_mean_visit"}
_ROWS_AT_ONCE = 4_096


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A model, ready to score at one cutoff.

    Attributes:
        average: the public baseline of the reasons, at the same cutoff.
    """

    model: PurchasePowerModel
    features: FeatureSpec
    cutoff: dt.date
    average: Examples


def new_scorer(plan: TrainingPlan, arrays: Arrays, cutoff: dt.date) -> Scorer:
    """The scorer of a plan's model.

    Raises:
        ArraysError: the arrays are not the plan's model.
    """
    model = load_model(plan.model, arrays).requires_grad_(False)
    return Scorer(model=model, features=plan.features, cutoff=cutoff, average=average_customer(plan.features, cutoff))


def score_block(scorer: Scorer, baskets: Baskets) -> pa.RecordBatch:
    """The scores of the customers of a block (`basket_blocks`) who did something before the cutoff, in code order.

    A customer's figures depend on the model and its own events alone. Columns: `customer` (the code in the log), what
    is delivered but for what needs all customers or an earlier run, and one column for each of `DRIFT_FEATURES`.
    """
    examples = rows_at(baskets, scorer.cutoff, scorer.features)
    parts = [
        _scored(scorer, examples.select(np.arange(start, min(start + _ROWS_AT_ONCE, len(examples)))))
        for start in range(0, max(len(examples), 1), _ROWS_AT_ONCE)
    ]
    predicted = Prediction(
        buying_probability=np.concatenate([part.buying_probability for part, _ in parts]),
        log_location=np.concatenate([part.log_location for part, _ in parts]),
        log_spread=np.concatenate([part.log_spread for part, _ in parts]),
    )
    orders = _orders_seen(baskets, examples, scorer.cutoff)
    columns = {
        "customer": examples.customer,
        "purchase_probability": predicted.buying_probability.round(6),
        "expected_spend_cents": _cents(predicted.expected_spend_cents),
        "spend_low_cents": _cents(predicted.spend_quantile_cents(LOW)),
        "spend_high_cents": _cents(predicted.spend_quantile_cents(HIGH)),
        "score": predicted.score.round(2),
        "churn_risk": predicted.churn_risk.round(6),
        "orders_seen": orders,
        "newcomer": orders < NEWCOMER_ORDERS,
    }
    reasons = np.concatenate([reasons for _, reasons in parts])
    columns |= {name: _codes(reasons[:, place]) for place, name in enumerate(REASON_COLUMNS)}
    columns |= {name: examples.features[:, FEATURE_NAMES.index(of)] for name, of in DRIFT_FEATURES.items()}
    return pa.RecordBatch.from_pydict(columns)


def _scored(scorer: Scorer, examples: Examples) -> tuple[Prediction, NDArray[np.int8]]:
    points = points_read(scorer.model, examples)
    said = prediction(outputs_at(scorer.model, points, torch.from_numpy(examples.log_anchor)))
    return said, top_reasons(contributions(scorer.model, examples, points, scorer.average))


def _orders_seen(baskets: Baskets, examples: Examples, cutoff: dt.date) -> NDArray[np.int64]:
    """Purchases of each row's customer before the cutoff; the lines of one order on one day are one purchase."""
    bought = (baskets.event_type == EventType.PURCHASE) & (baskets.timestamp < day_start(cutoff))
    rows = np.searchsorted(examples.customer, baskets.customer[bought])
    return np.bincount(rows, minlength=len(examples)).astype(np.int64)


def _cents(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(values).astype(np.int64)


def _codes(places: NDArray[np.int8]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(places, mask=places < 0), pa.array(CODES))
