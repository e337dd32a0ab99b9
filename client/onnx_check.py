"""Whether an exported graph says what the model says: both are asked of made-up customers with every kind of gap.

The customers are public, the same on every machine, and nothing of any shop is in them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from client.onnx_baskets import FIRST_SECOND, LARGEST_CENTS, LARGEST_QUANTITY, NO_ORDER
from client.scoring import HIGH, LOW
from pp_model.baskets import baskets_of
from pp_model.features import Examples, FeatureSpec, rows_at
from pp_model.loss import Prediction
from pp_model.metrics import evaluate
from pp_model.plan import TrainingPlan
from pp_model.schema import NO_CATEGORY, SECONDS_PER_DAY, EventType, OrderLog, day_start
from pp_model.serialization import Arrays
from pp_model.train import predict

Events = Mapping[str, NDArray[Any]]
Outputs = Mapping[str, NDArray[Any]]
Run = Callable[[Events], Outputs]

LIMIT = 1e-5  # of each difference that `Difference` names
MADE_UP_CUTOFF = dt.date(2025, 6, 1)
_LINES, _ROWS_AT_ONCE = 40, 1_000
_MONEY = (EventType.PURCHASE, EventType.RETURN)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far a graph is from the model, over all customers; infinite where one has a row and the other has none.

    Attributes:
        probability: largest of purchase probabilities.
        expected_spend: largest of expected spends, relative.
        interval: largest of the ends of the interval, as a probability: how far the level at which the model's own
            distribution places the graph's end is from 0.1 and 0.9. Cents would not do: where the level comes near to
            the chance of no purchase, the end falls from cents to nothing.
    """

    customers: int
    probability: float
    expected_spend: float
    interval: float

    @property
    def largest(self) -> float:
        """The largest of all; NaN is infinite."""
        worst = float(np.max([self.probability, self.expected_spend, self.interval]))
        return worst if worst < np.inf else np.inf


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What a coarser graph gives away against the model, on the made-up customers.

    Attributes:
        largest, mean: difference of purchase probabilities.
        expected_spend: mean difference of expected spends, relative.
        auc, auc_lost: of the model, and how much lower that of the graph is, in foretelling who buys.
    """

    largest: float
    mean: float
    expected_spend: float
    auc: float
    auc_lost: float


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What the model itself says of customers at one cutoff; the rows are of `examples.customer`."""

    events: Events
    examples: Examples
    said: Prediction


def made_up_truth(plan: TrainingPlan, arrays: Arrays, *, customers: int = 12_000) -> Truth:
    """The model's own word on made-up customers."""
    events = made_up_events(customers, spec=plan.features)
    examples = rows_at(baskets_of(log_of(events)), MADE_UP_CUTOFF, plan.features)
    return Truth(events=events, examples=examples, said=predict(plan.model, arrays, examples))


def run_in_parts(run: Run, events: Events) -> dict[str, NDArray[Any]]:
    """What `run` says of all customers, asked some at a time."""
    parts = []
    for start in range(0, len(events["order"]), _ROWS_AT_ONCE):
        parts.append(run({n: a[start : start + _ROWS_AT_ONCE] if a.ndim else a for n, a in events.items()}))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def difference(truth: Truth, outputs: Outputs) -> Difference:
    """How far the outputs are from the truth."""
    rows, said = truth.examples.customer, truth.said
    if not np.array_equal(np.flatnonzero(~np.isnan(outputs["purchase_probability"])), rows):
        return Difference(customers=len(rows), probability=np.inf, expected_spend=np.inf, interval=np.inf)
    probability = np.abs(outputs["purchase_probability"][rows] - said.buying_probability)
    expected = outputs["expected_spend_cents"][rows] / said.expected_spend_cents - 1
    ends = [
        _level_missed(said, outputs[name][rows], level=level)
        for name, level in (("spend_low_cents", LOW), ("spend_high_cents", HIGH))
    ]
    return Difference(
        customers=len(rows),
        probability=float(probability.max()),
        expected_spend=float(np.abs(expected).max()),
        interval=float(np.max(ends)),
    )


def loss(truth: Truth, outputs: Outputs) -> Loss:
    """What the outputs give away against the truth."""
    rows, said = truth.examples.customer, truth.said
    probability, expected = outputs["purchase_probability"][rows], outputs["expected_spend_cents"][rows]
    away = np.abs(probability - said.buying_probability)
    of_model, of_graph = (
        evaluate(spend_cents=truth.examples.spend_cents, expected_cents=spend, buying_probability=buying).auc
        for spend, buying in ((said.expected_spend_cents, said.buying_probability), (expected, probability))
    )
    return Loss(
        largest=float(away.max()),
        mean=float(away.mean()),
        expected_spend=float(np.abs(expected / said.expected_spend_cents - 1).mean()),
        auc=of_model,
        auc_lost=of_model - of_graph,
    )


def log_of(events: Events) -> OrderLog:
    """What pp-client reads of such lines where bad rows are skipped: the twin of the graph's own reading."""
    kind, spend, quantity = events["event_type"], events["spend_cents"], events["quantity"]
    money, pieces = np.isin(kind, _MONEY), np.where(np.isnan(quantity), 1, quantity)
    used = np.isin(kind, list(EventType)) & (events["timestamp"] >= FIRST_SECOND)
    used &= (np.abs(pieces) <= LARGEST_QUANTITY) & (~money | (np.abs(spend) <= LARGEST_CENTS))
    customer, place = np.nonzero(used)
    kind, spend = kind[used], np.where(money, spend, 0.0)[used]
    kind = np.where((kind == EventType.PURCHASE) & (spend < 0), EventType.RETURN, kind)
    order = events["order"][used]
    return OrderLog(
        customer=customer.astype(np.int32),
        timestamp=np.floor(events["timestamp"][used]).astype(np.int64),
        order=np.where(order == NO_ORDER, -1 - place, order),
        spend_cents=np.where(kind == EventType.RETURN, -np.abs(spend), spend).astype(np.int64),
        quantity=pieces[used].astype(np.int32),
        category=np.maximum(events["category"][used], NO_CATEGORY).astype(np.int32),
        event_type=kind.astype(np.int8),
        num_customers=len(used),
    )


def made_up_events(customers: int, *, spec: FeatureSpec, seed: int = 0) -> dict[str, NDArray[Any]]:
    """The graph's inputs for customers of every kind, with nulls, ties, orders of several lines and lines to ignore.

    Of a hundred customers some five each only look, only return, come once, come on one day alone, come after the
    cutoff alone, and have nothing; half of the others go on after the cutoff. Each column has nulls in some lines.
    """
    rng, shape, now = np.random.default_rng(seed), (customers, _LINES), day_start(MADE_UP_CUTOFF)
    habit, stays = rng.integers(0, 20, (customers, 1)), rng.random((customers, 1)) < 0.5
    tenure = np.exp(rng.uniform(np.log(10), np.log(1_500), (customers, 1)))
    newest = np.where(stays, -float(spec.horizon_days), tenure * rng.random((customers, 1)) / 2)
    days = newest + (tenure - newest) * rng.random(shape)
    days = np.where(habit == 3, tenure, days)
    days = np.where(habit == 4, -np.abs(days), days)
    timestamp = np.floor(now - days * SECONDS_PER_DAY)
    order = rng.integers(-(2**62), 2**62, shape)
    kind = rng.choice([0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 3, 4], shape)
    spend = np.round(np.exp(rng.normal(rng.normal(8, 1, (customers, 1)), 0.6, shape)))
    category = rng.integers(0, 2**31, (40,))[rng.integers(0, 40, shape)]
    quantity = np.ceil(rng.exponential(1.5, shape)) + 0.0
    for place in range(1, _LINES):  # some lines go on with the order before, some are of its second
        again, tied = rng.random(customers) < 0.3, rng.random(customers) < 0.05
        order[again, place] = order[again, place - 1]
        later = timestamp[:, place - 1] + rng.integers(0, 600, customers)
        timestamp[:, place] = np.where(again, later, np.where(tied, timestamp[:, place - 1], timestamp[:, place]))
    kind = np.where(habit == 0, EventType.VIEW, np.where(habit == 1, EventType.RETURN, kind))
    nulls = rng.random((6, *shape)) < 0.03
    number = np.floor(np.exp(rng.uniform(0, np.log(_LINES + 1), (customers, 1))))
    number = np.where(habit == 2, 1, np.where(habit == 5, 0, number))
    padding = rng.random(shape).argsort(axis=1) >= number  # at any place
    return {
        "timestamp": np.where(nulls[0], np.nan, timestamp),
        "spend_cents": np.where(nulls[1], np.nan, spend),
        "quantity": np.where(nulls[2], np.nan, quantity),
        "category": np.where(nulls[3], NO_CATEGORY, category),
        "event_type": np.where(padding | nulls[4], -1, kind),
        "order": np.where(nulls[5], NO_ORDER, order),
        "cutoff_day": np.array(now // SECONDS_PER_DAY),
    }


def _level_missed(said: Prediction, cents: NDArray[np.float64], *, level: float) -> float:
    """How far the level is at most from where the model's distribution places the cents."""
    with np.errstate(divide="ignore"):
        away = (np.log(cents) - said.log_location) / said.log_spread
    reached = said.churn_risk + said.buying_probability * ndtr(away)
    missed = np.where(cents == 0, np.maximum(level - said.churn_risk, 0.0), np.abs(reached - level))
    return float(missed.max())
