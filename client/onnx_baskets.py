"""Lines of orders into baskets, in operations that ONNX has: the dense twin of `pp_model.baskets`.

A line is read as pp-client reads a row with `bad_rows = "skip"`: without a time, an amount or an event type that can
be used it is left out; without a quantity it is one piece, without a category of none, without an order its own order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pp_model.feature_history import CATEGORY_BUCKETS
from pp_model.schema import NO_CATEGORY, SECONDS_PER_DAY, EventType

FIRST_SECOND = -2_208_988_800.0  # the year 1900: no order is older
LARGEST_CENTS = 1e12  # of a line, as in `client.sources.contract`
LARGEST_QUANTITY = 2.0**31 - 1
NO_ORDER = 0  # in place of an order's fingerprint
# As plain numbers: the tracer compares tensors with no enumeration.
_PURCHASE, _RETURN, _SEARCH = EventType.PURCHASE.value, EventType.RETURN.value, EventType.SEARCH.value
_KINDS = 8  # more than there are event types
_NOWHERE = 2**62  # beyond every key of a line that is used


class Lines(NamedTuple):
    """Lines of some customers, each [customers, lines], those of one customer in a row; padded as one likes.

    Attributes:
        timestamp: float64, seconds since 1970; NaN where there is none.
        spend_cents: float64, what was paid, or given back by a return; NaN where nobody knows.
        quantity: float64, pieces; NaN where nothing is said.
        category: int64, `category_code`, or below 0.
        event_type: int64, an `EventType`, or any other number where there is none.
        order: int64, fingerprint of the order id, or `NO_ORDER`.
    """

    timestamp: Tensor
    spend_cents: Tensor
    quantity: Tensor
    category: Tensor
    event_type: Tensor
    order: Tensor


class DenseBaskets(NamedTuple):
    """Baskets of some customers before a cutoff, each [customers, lines]: oldest first, the newest in the last column.

    Attributes:
        present: whether there is a basket; the columns before a customer's first one are empty.
        age: float64, days from the basket to the cutoff; 0 where there is none.
        day: float64, days from 1970 to the basket's midnight.
        kind: int64, an `EventType`.
        category_token: int64: 1 no category, then the buckets.
    """

    present: Tensor
    age: Tensor
    day: Tensor
    kind: Tensor
    spend_cents: Tensor
    quantity: Tensor
    lines: Tensor
    category_token: Tensor


def dense_baskets(lines: Lines, cutoff_day: Tensor) -> DenseBaskets:
    """The baskets of what happened before midnight of the cutoff.

    Args:
        cutoff_day: int64 [], days since 1970.
    """
    now = cutoff_day.double() * SECONDS_PER_DAY
    used, lines = _usable(lines, now)
    key, places = torch.sort(torch.where(used, _basket_key(lines), _NOWHERE), dim=1)
    used = key < _NOWHERE
    time, spend, quantity, kind, category = (
        column.gather(1, places)
        for column in (lines.timestamp, lines.spend_cents, lines.quantity, lines.event_type, lines.category)
    )
    basket = torch.cumsum(_differs(key).long(), dim=1) - 1
    nothing = torch.zeros_like(time)
    number = nothing.scatter_add(1, basket, used.double())
    first = torch.full_like(time, torch.inf).scatter_reduce(1, basket, time, "amin")
    dearest = nothing.scatter_reduce(1, basket, spend.abs(), "amax").gather(1, basket)
    leading = torch.where(spend.abs() == dearest, category, NO_CATEGORY)
    nowhere = torch.full_like(category, NO_CATEGORY)
    category = nowhere.scatter_reduce(1, basket, leading, "amax")
    kind = torch.zeros_like(kind).scatter_reduce(1, basket, kind, "amax")
    spend, quantity = nothing.scatter_add(1, basket, spend), nothing.scatter_add(1, basket, quantity)

    # By time, and baskets of one second as they stand: in the order of the order's fingerprint, then of the kind.
    second = torch.where(number > 0, first, 0.0)
    by_time = second.long() * second.shape[1] + torch.arange(second.shape[1])
    key, places = torch.sort(torch.where(number > 0, by_time, -_NOWHERE), dim=1)
    present = key > -_NOWHERE
    second, kind, spend, quantity, number, category = (
        column.gather(1, places) for column in (second, kind, spend, quantity, number, category)
    )
    return DenseBaskets(
        present=present,
        age=torch.where(present, (now - second) / SECONDS_PER_DAY, 0.0),
        day=torch.floor(second / SECONDS_PER_DAY),
        kind=kind,
        spend_cents=spend,
        quantity=quantity,
        lines=number,
        category_token=torch.where(category >= 0, torch.remainder(category, CATEGORY_BUCKETS) + 2, 1),
    )


def _usable(lines: Lines, now: Tensor) -> tuple[Tensor, Lines]:
    """Which lines are used, and the lines with every null replaced; of a line that is not used, by anything finite."""
    # Each comparison is false for NaN where that must leave the line out, and true where it must not.
    with_money = lines.event_type <= _RETURN
    used = (
        (lines.timestamp >= FIRST_SECOND)
        & (lines.timestamp < now)
        & (lines.event_type >= _PURCHASE)
        & (lines.event_type <= _SEARCH)
        & (~with_money | (lines.spend_cents.abs() <= LARGEST_CENTS))
        & ~(lines.quantity.abs() > LARGEST_QUANTITY)
    )
    spend = torch.where(used & with_money, torch.round(lines.spend_cents), 0.0)
    returned = (lines.event_type == _RETURN) | (spend < 0)
    alone = -1 - torch.arange(lines.order.shape[1])
    return used, Lines(
        timestamp=torch.where(used, torch.floor(lines.timestamp), 0.0),
        spend_cents=torch.where(returned, -spend.abs(), spend),
        quantity=torch.where(used, torch.where(torch.isnan(lines.quantity), 1.0, torch.round(lines.quantity)), 0.0),
        category=torch.where(lines.category >= 0, lines.category, NO_CATEGORY),
        event_type=torch.where(used, torch.where(returned, _RETURN, lines.event_type), 0),
        order=torch.where(lines.order == NO_ORDER, alone, lines.order),
    )


def _basket_key(lines: Lines) -> Tensor:
    """[customers, lines]: equal for the lines of one basket; ascending by day, order's fingerprint and kind."""
    in_order, places = torch.sort(lines.order, dim=1)
    rank = torch.zeros_like(places).scatter(1, places, torch.cumsum(_differs(in_order).long(), dim=1))
    day = torch.floor(lines.timestamp / SECONDS_PER_DAY).long()
    return (day * (lines.order.shape[1] + 1) + rank) * _KINDS + lines.event_type


def _differs(ascending: Tensor) -> Tensor:
    """Where a column differs from the one before it; so does the first column."""
    return torch.cat(
        [torch.ones_like(ascending[:, :1], dtype=torch.bool), ascending[:, 1:] != ascending[:, :-1]], dim=1
    )
