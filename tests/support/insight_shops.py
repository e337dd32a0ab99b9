"""Shops made by hand, as the reports see them, and models whose truth is known."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from agreement.market import Market
from client.insight.backtest import Backtest
from client.insight.data import InsightData, scores_of
from client.insight.made import Made
from client.scoring import new_scorer
from pp_model.plan import TrainingPlan
from pp_model.schema import Order, OrderLog, category_code, order_log
from pp_model.serialization import Arrays
from tests.support.scored import linear_model
from web.report import Figure, Table
from web.words import Phrase

CUTOFF = dt.date(2024, 9, 1)


def day_before(days: float, *, cutoff: dt.date = CUTOFF) -> dt.datetime:
    """Noon, so many days before the cutoff's day."""
    return dt.datetime.combine(cutoff, dt.time(12)) - dt.timedelta(days=days)


def insight_data(
    orders: Sequence[Order] | OrderLog,
    *,
    model: tuple[TrainingPlan, Arrays] | None = None,
    cutoff: dt.date = CUTOFF,
    discount_cents: Sequence[int] | None = None,
    slices: Mapping[str, tuple[Sequence[int], tuple[str, ...]]] | None = None,
    market: Market | None = None,
    ids: pa.Array | None = None,
    scores: pa.Table | None = None,
    **changes: Any,
) -> InsightData:
    """A shop at a cutoff, scored by `model` unless there are scores; customer 7 is called "k0007" unless there are ids.

    Args:
        model: None takes a linear model that foretells buying by recency; its plan's holdout is long past.
        slices: by label, a code per customer and the names of the codes.
    """
    log = orders if isinstance(orders, OrderLog) else order_log(orders, num_customers=_customers(orders))
    names = {category_code(o.category): o.category for o in orders if o.category} if log is not orders else {}
    plan, arrays = model or linear_model(log_recency=-2.0)
    scorer = new_scorer(plan, arrays, cutoff)
    if ids is None:
        ids = pa.array([f"k{number:04d}" for number in range(log.num_customers)], pa.string())
    fields: dict[str, Any] = {
        "log": log,
        "customer_ids": ids,
        "category_names": names,
        "discount_cents": None if discount_cents is None else np.array(discount_cents, np.int64),
        "slices": {name: (np.array(codes, np.int32), of) for name, (codes, of) in (slices or {}).items()},
        "scores": scores_of(scorer, log, ids=ids) if scores is None else scores,
        "scorer": scorer,
        "shared": scorer,
        "plan": plan,
        "model_id": 1,
        "model": "0" * 64,
        "cutoff": cutoff,
        "currency": "GBP",
        "market": market,
        "made": dt.datetime(2024, 9, 1, 8, tzinfo=dt.UTC),
    }
    return InsightData(**{**fields, **changes})


def hand_made_test(
    *, probability: Sequence[float], bought: Sequence[bool], seen: bool = False, **changes: Any
) -> Backtest:
    """What a model said of customers 0, 1, 2, ... and what they did: 10.00 each where they bought."""
    said, did = np.array(probability, np.float64), np.array(bought, np.bool_)
    fields: dict[str, Any] = {
        "cutoff": CUTOFF - dt.timedelta(days=28),
        "ends": CUTOFF,
        "seen": seen,
        "customer": np.arange(len(said)),
        "probability": said,
        "expected_cents": 1_000 * said,
        "score": 100 * said,
        "spend_cents": np.where(did, 1_000, 0).astype(np.int64),
    }
    return Backtest(**{**fields, **changes})


def regulars(customers: int, *, seed: int = 1, days: int = 300, cutoff: dt.date = CUTOFF) -> list[Order]:
    """Customers with a rate each, from once a week to once a season, who keep to it until the cutoff."""
    rng = np.random.default_rng(seed)
    orders = []
    for customer in range(customers):
        gap = float(rng.choice([7, 20, 60, 120]))
        at = float(rng.exponential(gap))
        while at < days:
            orders.append(
                Order(
                    customer=customer,
                    timestamp=day_before(1 + at, cutoff=cutoff),
                    spend_cents=int(rng.integers(500, 5_000)),
                )
            )
            at += float(rng.exponential(gap))
        orders.append(
            Order(customer=customer, timestamp=day_before(days + 1 + customer % 20, cutoff=cutoff), spend_cents=1_000)
        )
    return orders


def figure(made: Made, name: str) -> Figure:
    """The figure with this label, without the report's name."""
    return next(each for each in made.report.figures if each.label.key == f"{made.report.name}.figure.{name}")


def rows_of_table(made: Made, name: str) -> list[dict[str, Any]]:
    """The rows of the table with this title, by the last part of its columns' keys."""
    table: Table = next(each for each in made.report.tables if each.title.key == f"{made.report.name}.{name}")
    names = [column.label.key.rpartition(".")[2] for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in table.rows]


def notes(made: Made) -> set[str]:
    """The keys of the notes."""
    return {note.key for note in made.report.notes}


def phrases(value: Any) -> list[Phrase]:
    """All phrases of a report's plain values."""
    if isinstance(value, Mapping):
        own = [Phrase.from_json(value)] if set(value) == {"key", "values"} else []
        return own + [found for each in value.values() for found in phrases(each)]
    return [found for each in value for found in phrases(each)] if isinstance(value, list) else []


def _customers(orders: Sequence[Order]) -> int:
    return max((order.customer for order in orders), default=-1) + 1
