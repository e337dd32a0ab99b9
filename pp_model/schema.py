"""What an order is. Money is integer cents; time is whole seconds since 1970 in the merchant's own clock."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

SECONDS_PER_DAY = 86_400
NO_CATEGORY = -1


class EventType(IntEnum):
    """What a customer did. Only purchases and returns carry money."""

    PURCHASE = 0
    RETURN = 1
    VIEW = 2
    CART = 3
    SEARCH = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One line of one event of one customer, as a person would write it down.

    `spend_cents` is positive for a purchase, negative for a return and 0 for everything else.
    """

    customer: int
    timestamp: dt.datetime
    spend_cents: int
    order_id: str = ""
    quantity: int = 1
    category: str = ""
    event_type: EventType = EventType.PURCHASE


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """The half-open span of time [start, end) that a computation may look at; days begin at midnight."""

    start: dt.date
    end: dt.date


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderLog:
    """Events as columns, all of length `len(log)`; the order of rows has no meaning.

    Attributes:
        customer: int32, 0 .. num_customers - 1; a code that means nothing outside this log.
        timestamp: int64, seconds since 1970.
        order: int64, fingerprint of the order id; lines of one order share it.
        spend_cents: int64, purchases positive, returns negative, other events 0.
        quantity: int32.
        category: int32, `category_code` of the category, or `NO_CATEGORY`.
        event_type: int8, an `EventType`.
        num_customers: customers in the log, those without an event in it included.
    """

    customer: NDArray[np.int32]
    timestamp: NDArray[np.int64]
    order: NDArray[np.int64]
    spend_cents: NDArray[np.int64]
    quantity: NDArray[np.int32]
    category: NDArray[np.int32]
    event_type: NDArray[np.int8]
    num_customers: int

    def __len__(self) -> int:
        return len(self.customer)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> OrderLog:
        """The chosen rows, in their order; customer codes stay."""
        return OrderLog(
            **{name: getattr(self, name)[rows] for name in COLUMNS},
            num_customers=self.num_customers,
        )

    def with_customers(self, codes: NDArray[np.int32], *, num_customers: int) -> OrderLog:
        """The same rows under other customer codes."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        return OrderLog(**{**columns, "customer": codes}, num_customers=num_customers)


# The dtypes are part of the contract: ten million rows are 410 MB.
COLUMNS: dict[str, type[np.signedinteger]] = {
    "customer": np.int32,
    "timestamp": np.int64,
    "order": np.int64,
    "spend_cents": np.int64,
    "quantity": np.int32,
    "category": np.int32,
    "event_type": np.int8,
}


def day_start(day: dt.date) -> int:
    """Midnight at the start of `day`, in seconds since 1970."""
    return (day - dt.date(1970, 1, 1)).days * SECONDS_PER_DAY


def fingerprint64(text: str) -> int:
    """A stable signed 64-bit code of `text`, the same on every machine and in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little", signed=True)


def category_code(category: str) -> int:
    """A stable code in 0 .. 2**31 - 1, blind to case and outer space; `NO_CATEGORY` for an empty name."""
    name = category.strip().casefold()
    return fingerprint64(name) & 0x7FFF_FFFF if name else NO_CATEGORY


def concatenate(logs: Sequence[OrderLog], *, num_customers: int) -> OrderLog:
    """All rows of all logs. The customer codes must already be of one numbering."""
    columns = {
        name: np.concatenate([getattr(log, name) for log in logs]) if logs else np.empty(0, dtype)
        for name, dtype in COLUMNS.items()
    }
    return OrderLog(**columns, num_customers=num_customers)


def order_log(orders: Iterable[Order], *, num_customers: int) -> OrderLog:
    """The columns of a few orders; files go through `client.sources`, which never makes an `Order` per line."""
    rows = [
        (
            o.customer,
            (o.timestamp - dt.datetime(1970, 1, 1)) // dt.timedelta(seconds=1),
            fingerprint64(o.order_id) if o.order_id else -1 - number,
            o.spend_cents,
            o.quantity,
            category_code(o.category),
            int(o.event_type),
        )
        for number, o in enumerate(orders)
    ]
    cells = list(zip(*rows, strict=True)) if rows else [()] * len(COLUMNS)
    columns = {name: np.array(cells[i], dtype) for i, (name, dtype) in enumerate(COLUMNS.items())}
    return OrderLog(**columns, num_customers=num_customers)
