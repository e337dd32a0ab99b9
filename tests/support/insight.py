"""Small shops whose truth is known, as reports get them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from client.insight.data import InsightData
from client.score_file import SCHEMA
from pp_model.schema import EventType, Order, OrderLog, category_code, order_log
from tests.support.insight_shops import insight_data
from tests.support.scored import shipped

CUTOFF = dt.date(2025, 7, 1)
HORIZON = 28  # days, of the shipped model's plan in tests


def bought(
    customer: int,
    days_ago: int,
    cents: int = 1_000,
    category: str = "",
    *,
    event_type: EventType = EventType.PURCHASE,
) -> Order:
    """A line so many days before `CUTOFF`, to the second; negative cents are a return."""
    return Order(
        customer=customer,
        timestamp=dt.datetime.combine(CUTOFF, dt.time()) - dt.timedelta(days=days_ago),
        spend_cents=cents,
        category=category,
        event_type=EventType.RETURN if cents < 0 else event_type,
    )


def hand_scores(number: int, **columns: Sequence[Any]) -> pa.Table:
    """Scores of customers 0, 1, ... as a model might have given them, with these columns."""
    plain: dict[str, Any] = {
        "customer_id": [f"c{code}" for code in range(number)],
        "purchase_probability": [0.5] * number,
        "expected_spend_cents": [1_000] * number,
        "spend_low_cents": [0] * number,
        "spend_high_cents": [5_000] * number,
        "score": [50.0] * number,
        "tier": ["middle"] * number,
        "churn_risk": [1 - value for value in columns.get("purchase_probability", [0.5] * number)],
        "change": [None] * number,
        "reason_1": ["recency:+"] * number,
        "reason_2": [None] * number,
        "reason_3": [None] * number,
        "orders_seen": [3] * number,
        "newcomer": [False] * number,
    }
    table = pa.table({name: pa.array(values) for name, values in (plain | columns).items()}).cast(SCHEMA)
    return table.append_column("customer", pa.array(range(number), pa.int64()))


def data_of(orders: Sequence[Order], *, scores: pa.Table | None = None, **changes: Any) -> InsightData:
    """A shop with these orders; without hand-made scores the shipped model gives them."""
    number = 1 + max((order.customer for order in orders), default=-1)
    names = {category_code(order.category): order.category for order in orders if order.category}
    return data_of_log(order_log(orders, num_customers=number), scores=scores, **{"category_names": names, **changes})


def data_of_log(log: OrderLog, *, scores: pa.Table | None = None, **changes: Any) -> InsightData:
    """The same of a whole log; events from the cutoff on are left out."""
    codes = np.unique(log.category[log.category >= 0]).tolist()
    fields: dict[str, Any] = {
        "category_names": {code: f"category {code}" for code in codes},
        "cutoff": CUTOFF,
        "ids": pa.array([f"c{code}" for code in range(log.num_customers)], pa.string()),
        "model": shipped("mlp"),
        "model_id": 7,
        "made": dt.datetime(2025, 7, 1, 8, tzinfo=dt.UTC),
    }
    return insight_data(log, scores=scores, **{**fields, **changes})


def figures(report: Any) -> dict[str, Any]:
    """The report's headline values by their text."""
    return {figure.label.key: figure.value for figure in report.figures}


def rows(table: pa.Table) -> dict[str, dict[str, Any]]:
    """A list's rows by customer."""
    return {row["customer_id"]: row for row in table.to_pylist()}


def phrases(value: Any) -> list[dict[str, Any]]:
    """Every phrase within a report's JSON."""
    if isinstance(value, dict):
        inner = [found for each in value.values() for found in phrases(each)]
        return [value, *inner] if set(value) == {"key", "values"} else inner
    return [found for each in value for found in phrases(each)] if isinstance(value, list) else []
