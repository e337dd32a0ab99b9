"""Why a row of a source is not used, in the words of the merchant; never with a cell of the row."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from pp_model.schema import EventType


class Reason(IntEnum):
    """Why a row is not used; of several, the first here."""

    NONE = 0
    WRONG_NUMBER_OF_CELLS = 1
    UNDECODABLE = 2
    EMPTY_CUSTOMER = 3
    EMPTY_MERCHANT = 4
    BAD_TIMESTAMP = 5
    UNKNOWN_EVENT = 6
    UNKNOWN_CURRENCY = 7
    SECOND_CURRENCY = 8
    BAD_AMOUNT = 9
    ABSURD_AMOUNT = 10
    BAD_QUANTITY = 11
    NEGATIVE_AMOUNT = 12
    FUTURE = 13
    REPEATED_ORDER = 14
    BAD_DISCOUNT = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class _Words:
    column: str
    skipped: str
    remedy: str


_OR_SKIP = 'or leave such rows out with bad_rows = "skip"'
WORDS = {
    Reason.WRONG_NUMBER_OF_CELLS: _Words(
        column="", skipped="wrong number of cells", remedy=f"this line has not as many cells as the header; {_OR_SKIP}"
    ),
    Reason.UNDECODABLE: _Words(
        column="",
        skipped="bytes that are not text",
        remedy=f'the cell is not text in the stated encoding; set encoding (for example "cp1252"), {_OR_SKIP}',
    ),
    Reason.EMPTY_CUSTOMER: _Words(
        column="customer_id", skipped="no customer id", remedy=f"the customer id is empty; fill it in, {_OR_SKIP}"
    ),
    Reason.EMPTY_MERCHANT: _Words(
        column="merchant", skipped="no merchant", remedy=f"the merchant is empty; fill it in, {_OR_SKIP}"
    ),
    Reason.BAD_TIMESTAMP: _Words(
        column="timestamp",
        skipped="unreadable timestamp",
        remedy="not a date or time between 1900 and 2200; expected 2025-12-31 or 2025-12-31 18:05:00: correct it, "
        f"set timestamp_format, {_OR_SKIP}",
    ),
    Reason.UNKNOWN_EVENT: _Words(
        column="event_type",
        skipped="unknown event type",
        remedy=f"not one of {', '.join(e.name.lower() for e in EventType)}; correct it, {_OR_SKIP}",
    ),
    Reason.UNKNOWN_CURRENCY: _Words(column="currency", skipped="unknown currency", remedy=""),
    Reason.SECOND_CURRENCY: _Words(
        column="currency",
        skipped="",
        remedy="the orders are in more than one currency; set currency to the one that counts, the others are skipped",
    ),
    Reason.BAD_AMOUNT: _Words(
        column="amount",
        skipped="unreadable amount",
        remedy=f"not a plain decimal number such as 1234.50 (point, no thousands separator); correct it, {_OR_SKIP}",
    ),
    Reason.ABSURD_AMOUNT: _Words(
        column="amount",
        skipped="absurd amount",
        remedy=f"larger than one order line can be; correct it, raise max_order_cents, {_OR_SKIP}",
    ),
    Reason.BAD_QUANTITY: _Words(
        column="quantity", skipped="unreadable quantity", remedy=f"not a number of pieces; correct it, {_OR_SKIP}"
    ),
    Reason.NEGATIVE_AMOUNT: _Words(
        column="amount",
        skipped="negative amount",
        remedy='a purchase with a negative amount; set negative_amounts to "return" or "skip" if that is meant',
    ),
    Reason.FUTURE: _Words(column="timestamp", skipped="date in the future", remedy=""),
    Reason.REPEATED_ORDER: _Words(
        column="order_id",
        skipped="order id seen before",
        remedy='an earlier row has this order id and event type; set duplicates to "lines" or "skip" if that is meant',
    ),
    Reason.BAD_DISCOUNT: _Words(
        column="discount",
        skipped="unusable discount",
        remedy="not the money taken off this line: a plain decimal number such as 2.50, at least 0, not absurd, or "
        f"nothing; correct it, {_OR_SKIP}",
    ),
}
BAD_ROWS = {
    Reason.WRONG_NUMBER_OF_CELLS,
    Reason.UNDECODABLE,
    Reason.EMPTY_CUSTOMER,
    Reason.EMPTY_MERCHANT,
    Reason.BAD_TIMESTAMP,
    Reason.UNKNOWN_EVENT,
    Reason.BAD_AMOUNT,
    Reason.ABSURD_AMOUNT,
    Reason.BAD_QUANTITY,
    Reason.BAD_DISCOUNT,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Skip:
    """Rows left out for one reason."""

    count: int
    first_line: int
