"""Rows as a source hands them over, checked: the one place where a row becomes part of an order or is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from client.sources import cells as c
from client.sources.contract import SLICE, DataContract
from client.sources.refusals import BAD_ROWS, WORDS, Reason, Skip
from pp_model.errors import BadOrdersError
from pp_model.schema import NO_CATEGORY, SECONDS_PER_DAY, EventType, Window, category_code, day_start, fingerprint64

BATCH_ROWS = 100_000

_MONEY_EVENTS = (EventType.PURCHASE, EventType.RETURN)
_NO_EVENT = -1
_NUMBERS = ("timestamp", "amount", "quantity", "discount")
_MAX_QUANTITY = np.iinfo(np.int32).max


@dataclass(frozen=True, kw_only=True, slots=True)
class RawBatch:
    """Rows in the source's own types.

    Attributes:
        cells: our column name -> pyarrow Array, all of one length.
        lines: 1-based line (CSV) or row (Parquet, SQL) of each row.
        wrong_number_of_cells: rows whose cells could not be told apart; their cells mean nothing.
    """

    cells: Mapping[str, c.Cells]
    lines: NDArray[np.int64]
    wrong_number_of_cells: c.Mask | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RowExtras:
    """What no feature reads of some rows; for insight alone, and only where it is asked for.

    Attributes:
        category: pyarrow string Array, the merchant's own words; None where the source has no such column.
        discount_cents: int64, at least 0; None where the contract names no such column.
        slices: by label, pyarrow string Array, "" where nothing is said.
    """

    category: c.Cells | None = None
    discount_cents: NDArray[np.int64] | None = None
    slices: Mapping[str, c.Cells] = field(default_factory=dict)

    def select(self, rows: c.Mask) -> RowExtras:
        """The chosen rows, in their order."""
        chosen = pa.array(rows)
        return RowExtras(
            category=None if self.category is None else self.category.filter(chosen),
            discount_cents=None if self.discount_cents is None else self.discount_cents[rows],
            slices={label: cells.filter(chosen) for label, cells in self.slices.items()},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderChunk:
    """Checked rows inside the window, as columns; dtypes as in `pp_model.schema.COLUMNS`.

    Attributes:
        customer: pyarrow string Array, the merchant's own customer ids.
        merchant: pyarrow string Array, or None when the source names no merchants.
        lines: where each row stands in the source.
        rows_read: rows looked at, those left out included.
        outside_window: good rows left out because of the window.
        skipped: rows left out, by reason.
        extras: None unless they were asked for.
    """

    customer: c.Cells
    merchant: c.Cells | None
    timestamp: NDArray[np.int64]
    order: NDArray[np.int64]
    spend_cents: NDArray[np.int64]
    quantity: NDArray[np.int32]
    category: NDArray[np.int32]
    event_type: NDArray[np.int8]
    lines: NDArray[np.int64]
    rows_read: int
    outside_window: int
    skipped: Mapping[Reason, Skip]
    extras: RowExtras | None = None


def inside(timestamp: NDArray[np.int64], window: Window | None) -> c.Mask:
    """Which times lie in the window; all of them when there is none."""
    if window is None:
        return np.ones(len(timestamp), np.bool_)
    return (timestamp >= day_start(window.start)) & (timestamp < day_start(window.end))


def event_code(name: str) -> int:
    """The `EventType` of a name, blind to case; -1 for an unknown one."""
    return EventType.__members__.get(name.upper(), _NO_EVENT)


class RowChecker:
    """Checks one source's batches in turn; it remembers how many rows came before and in which currency."""

    def __init__(
        self,
        contract: DataContract,
        columns: Mapping[str, str],
        *,
        place: str,
        window: Window | None,
        extras: bool = False,
    ) -> None:
        self._contract, self._columns, self._place, self._window = contract, columns, place, window
        self._with_extras = extras
        self._rows_before = 0
        self._currency = contract.currency.strip().upper() if contract.currency else None

    def check(self, batch: RawBatch) -> OrderChunk:
        """The usable rows of the batch.

        Raises:
            BadOrdersError: the first row that the contract does not let pass, by line and column.
        """
        reason = np.zeros(len(batch.lines), np.int8)
        if batch.wrong_number_of_cells is not None:
            _mark(reason, batch.wrong_number_of_cells, Reason.WRONG_NUMBER_OF_CELLS)
        texts, undecodable = self._texts(batch)
        for mask in undecodable.values():
            _mark(reason, mask, Reason.UNDECODABLE)
        _mark(reason, ~c.is_filled(texts["customer_id"]), Reason.EMPTY_CUSTOMER)
        if "merchant" in texts:
            _mark(reason, ~c.is_filled(texts["merchant"]), Reason.EMPTY_MERCHANT)
        timestamp, is_time = c.seconds(texts["timestamp"], self._contract.timestamp_format)
        _mark(reason, ~is_time, Reason.BAD_TIMESTAMP)
        event_type = self._event_types(texts, reason)
        self._check_currency(texts, event_type, reason)
        spend_cents = self._spend_cents(texts, event_type, reason)
        quantity = _quantities(texts, reason)
        if (last := self._contract.no_later_than) is not None:
            _mark(reason, timestamp >= day_start(last) + SECONDS_PER_DAY, Reason.FUTURE)
        discount = self._discounts(texts, event_type, reason)
        self._raise_first(batch, reason, undecodable)

        good = reason == Reason.NONE
        keep = good & inside(timestamp, self._window)
        chosen = pa.array(keep)
        order, category = self._orders(texts), _categories(texts, len(reason))
        self._rows_before += len(reason)
        return OrderChunk(
            customer=texts["customer_id"].filter(chosen),
            merchant=texts["merchant"].filter(chosen) if "merchant" in texts else None,
            timestamp=timestamp[keep],
            order=order[keep],
            spend_cents=spend_cents[keep],
            quantity=quantity[keep],
            category=category[keep],
            event_type=event_type[keep],
            lines=batch.lines[keep],
            rows_read=len(reason),
            outside_window=int(good.sum() - keep.sum()),
            skipped=_skips(reason, batch.lines),
            extras=_extras(texts, discount).select(keep) if self._with_extras else None,
        )

    def _texts(self, batch: RawBatch) -> tuple[dict[str, c.Cells], dict[str, c.Mask]]:
        """Columns with words as text, columns of numbers and times as they are; undecodable cells by column."""
        texts, undecodable = {}, {}
        for name, column in batch.cells.items():
            cells = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
            if name not in _NUMBERS or c.is_textual(cells):
                try:
                    cells, mask = c.as_text(cells)
                except pa.ArrowException:
                    raise BadOrdersError(
                        f"a column of type {column.type} cannot be read as {name}; store text or whole numbers",
                        place=self._place,
                        column=self._columns[name],
                    ) from None
                if mask.any():
                    undecodable[name] = mask
            texts[name] = cells
        return texts, undecodable

    def _event_types(self, texts: Mapping[str, c.Cells], reason: NDArray[np.int8]) -> NDArray[np.int8]:
        if "event_type" not in texts:
            return np.full(len(reason), EventType.PURCHASE, np.int8)
        codes = c.per_distinct(texts["event_type"], event_code, np.int8)
        _mark(reason, codes == _NO_EVENT, Reason.UNKNOWN_EVENT)
        return codes

    def _check_currency(
        self, texts: Mapping[str, c.Cells], event_type: NDArray[np.int8], reason: NDArray[np.int8]
    ) -> None:
        if "currency" not in texts:
            return
        with_money = np.isin(event_type, _MONEY_EVENTS) & (reason == Reason.NONE)
        first = np.flatnonzero(with_money)[:1]
        if self._currency is None and len(first):
            self._currency = texts["currency"][int(first[0])].as_py().upper()
        same = c.per_distinct(texts["currency"], lambda code: code.upper() == self._currency, np.bool_)
        _mark(
            reason, with_money & ~same, Reason.UNKNOWN_CURRENCY if self._contract.currency else Reason.SECOND_CURRENCY
        )

    def _spend_cents(
        self, texts: Mapping[str, c.Cells], event_type: NDArray[np.int8], reason: NDArray[np.int8]
    ) -> NDArray[np.int64]:
        """Signed cents; where the contract says so, a purchase below zero becomes a return in `event_type`."""
        cents, is_number = c.hundredths(texts["amount"])
        with_money = np.isin(event_type, _MONEY_EVENTS)
        _mark(reason, with_money & ~is_number, Reason.BAD_AMOUNT)
        _mark(reason, with_money & (np.abs(cents) > self._contract.max_order_cents), Reason.ABSURD_AMOUNT)
        negative = (event_type == EventType.PURCHASE) & (cents < 0)
        if self._contract.negative_amounts == "return":
            event_type[negative] = EventType.RETURN
        else:
            _mark(reason, negative, Reason.NEGATIVE_AMOUNT)
        return np.where(event_type == EventType.RETURN, -np.abs(cents), np.where(with_money, cents, 0))

    def _discounts(
        self, texts: Mapping[str, c.Cells], event_type: NDArray[np.int8], reason: NDArray[np.int8]
    ) -> NDArray[np.int64] | None:
        """Cents taken off each line, 0 where nothing is said or no money flows; None without the column."""
        if "discount" not in texts:
            return None
        cells = texts["discount"]
        said = c.is_filled(cells) if c.is_textual(cells) else c.to_numpy(cells.is_valid())
        said &= np.isin(event_type, _MONEY_EVENTS)
        cents, is_number = c.hundredths(cells)
        usable = is_number & (cents >= 0) & (cents <= self._contract.max_order_cents)
        _mark(reason, said & ~usable, Reason.BAD_DISCOUNT)
        return np.where(said & usable, cents, 0)

    def _orders(self, texts: Mapping[str, c.Cells]) -> NDArray[np.int64]:
        """Fingerprints of the order ids; a row without one is an order of its own."""
        count = len(texts["customer_id"])
        alone = -1 - np.arange(self._rows_before, self._rows_before + count, dtype=np.int64)
        if "order_id" not in texts:
            return alone
        return np.where(
            c.is_filled(texts["order_id"]), c.per_distinct(texts["order_id"], fingerprint64, np.int64), alone
        )

    def _raise_first(self, batch: RawBatch, reason: NDArray[np.int8], undecodable: Mapping[str, c.Mask]) -> None:
        fatal = {Reason.SECOND_CURRENCY}
        if self._contract.bad_rows == "error":
            fatal |= BAD_ROWS
        if self._contract.negative_amounts == "error":
            fatal.add(Reason.NEGATIVE_AMOUNT)
        rows = np.flatnonzero(np.isin(reason, list(fatal)))
        if not len(rows):
            return
        row = int(rows[0])
        name = WORDS[Reason(reason[row])].column
        if reason[row] == Reason.UNDECODABLE:
            name = next(column for column, mask in undecodable.items() if mask[row])
        raise BadOrdersError(
            WORDS[Reason(reason[row])].remedy,
            place=self._place,
            line=int(batch.lines[row]),
            column=self._columns[name] if name else "",
        )


def _mark(reason: NDArray[np.int8], rows: c.Mask, why: Reason) -> None:
    """Gives the rows that have no reason yet this one, in place."""
    reason[rows & (reason == Reason.NONE)] = why


def _quantities(texts: Mapping[str, c.Cells], reason: NDArray[np.int8]) -> NDArray[np.int32]:
    """Whole pieces, fractions rounded; 1 where nothing is said."""
    if "quantity" not in texts:
        return np.ones(len(reason), np.int32)
    cells = texts["quantity"]
    said = c.is_filled(cells) if c.is_textual(cells) else c.to_numpy(cells.is_valid())
    values, is_number = c.hundredths(cells)
    pieces = np.where(said, np.rint(values / 100).astype(np.int64), 1)
    usable = (is_number | ~said) & (np.abs(pieces) <= _MAX_QUANTITY)
    _mark(reason, ~usable, Reason.BAD_QUANTITY)
    return np.where(usable, pieces, 1).astype(np.int32)


def _categories(texts: Mapping[str, c.Cells], count: int) -> NDArray[np.int32]:
    if "category" not in texts:
        return np.full(count, NO_CATEGORY, np.int32)
    return c.per_distinct(texts["category"], category_code, np.int32)


def _extras(texts: Mapping[str, c.Cells], discount: NDArray[np.int64] | None) -> RowExtras:
    return RowExtras(
        category=texts.get("category"),
        discount_cents=discount,
        slices={name.removeprefix(SLICE): cells for name, cells in texts.items() if name.startswith(SLICE)},
    )


def _skips(reason: NDArray[np.int8], lines: NDArray[np.int64]) -> dict[Reason, Skip]:
    codes, first, counts = np.unique(reason, return_index=True, return_counts=True)
    return {
        Reason(code): Skip(count=int(count), first_line=int(lines[at]))
        for code, at, count in zip(codes, first, counts, strict=True)
        if code != Reason.NONE
    }
