"""All orders of a source as one log in memory, or none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from client.sources import DataContract, OrderSource
from client.sources.cells import Cells, Mask, to_numpy
from client.sources.refusals import WORDS, Reason, Skip
from client.sources.rows import OrderChunk, RowExtras
from pp_model.errors import BadOrdersError
from pp_model.schema import COLUMNS, NO_CATEGORY, OrderLog, Window, category_code

# Odd multipliers, so that one order id under another merchant or event type is another key.
_MERCHANT_KEY, _EVENT_KEY = np.int64(0x5851F42D4C957F2D), np.int64(0x14057B7EF767814F)
_CHUNK_COLUMNS = tuple(name for name in COLUMNS if name != "customer")
MOST_SLICE_VALUES = 200  # different ones: a column with more is no slice, and may hold what names a person


@dataclass(frozen=True, kw_only=True)
class ReadReport:
    """What became of the rows of a source; for the merchant's eyes only, since counts are data too.

    Attributes:
        skipped: rows left out, by reason.
        shared_order_ids: order ids that appear under two customers (of one merchant), and where the first does.
            Their rows are used; the ids or the customers are probably wrong in the export.
    """

    place: str
    rows: int
    used: int
    outside_window: int
    skipped: Mapping[Reason, Skip]
    shared_order_ids: Skip

    def lines(self) -> list[str]:
        """The report as sentences."""
        sentences = [f"{self.place}: {_count(self.rows, 'row')} read, {self.used:,} used."]
        if self.outside_window:
            sentences.append(f"{_count(self.outside_window, 'row')} outside the window, left out.")
        for reason, skip in sorted(self.skipped.items()):
            sentences.append(
                f"{_count(skip.count, 'row')} skipped: {WORDS[reason].skipped}; the first is line {skip.first_line}."
            )
        if self.shared_order_ids.count:
            sentences.append(
                f"{_count(self.shared_order_ids.count, 'order id')} of two customers; the first is seen on line "
                f"{self.shared_order_ids.first_line}. Their rows are used; check how the export numbers orders."
            )
        return sentences


@dataclass(frozen=True, kw_only=True)
class OrderExtras:
    """What no feature reads of the orders; for insight alone.

    Attributes:
        category_names: category code -> the merchant's own word, as it was first written.
        discount_cents: per row of the log, at least 0; None where the contract names no such column.
        slices: by label, a code per row of the log, -1 where nothing is said, and the names of the codes.
    """

    category_names: Mapping[int, str]
    discount_cents: NDArray[np.int64] | None
    slices: Mapping[str, tuple[NDArray[np.int16], tuple[str, ...]]]

    def select(self, rows: Mask) -> OrderExtras:
        """The extras of the chosen rows."""
        return OrderExtras(
            category_names=self.category_names,
            discount_cents=None if self.discount_cents is None else self.discount_cents[rows],
            slices={label: (codes[rows], names) for label, (codes, names) in self.slices.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Orders:
    """A merchant's orders in memory.

    Attributes:
        customer_ids: the merchant's own id of each customer code, in order of appearance; never leaves the machine.
        merchant: int32 per row, a position in `merchant_names`; None when the source names no merchants.
        extras: None unless they were asked for.
    """

    log: OrderLog
    customer_ids: tuple[str, ...]
    merchant: NDArray[np.int32] | None
    merchant_names: tuple[str, ...]
    report: ReadReport
    extras: OrderExtras | None = None


def read_orders(source: OrderSource, *, window: Window | None, extras: bool = False) -> Orders:
    """Every usable order of `source` inside `window`, in the source's order.

    Repeated order ids are looked for among the rows inside the window only.

    Args:
        extras: whether what no feature reads is wanted too; training never asks.

    Raises:
        BadOrdersError: a row that the contract does not let pass, or a slice of too many values. Nothing is read then.
    """
    customers, merchants = _Codes(), _Codes()
    parts: dict[str, list[NDArray[np.signedinteger]]] = {name: [] for name in (*COLUMNS, "lines", "merchant")}
    gathered = _Extras(source) if extras else None
    rows, outside, skipped = 0, 0, dict[Reason, Skip]()
    for chunk in source.read(window, extras=True) if extras else source.read(window):
        rows, outside = rows + chunk.rows_read, outside + chunk.outside_window
        skipped = _added(skipped, chunk)
        parts["customer"].append(customers.of(chunk.customer))
        if chunk.merchant is not None:
            parts["merchant"].append(merchants.of(chunk.merchant))
        for name in (*_CHUNK_COLUMNS, "lines"):
            parts[name].append(getattr(chunk, name))
        if gathered is not None:
            gathered.add(chunk.extras or RowExtras(), rows=len(chunk.lines))

    # Each column's parts are let go before the next column is joined: the peak is one copy and one column.
    columns = {name: _joined(parts.pop(name), dtype) for name, dtype in COLUMNS.items()}
    lines = _joined(parts.pop("lines"), np.int64)
    merchant = _joined(parts.pop("merchant"), np.int32) if merchants.names else None
    log = OrderLog(**columns, num_customers=len(customers.names))
    found = gathered.joined() if gathered is not None else None
    keys = log.order if merchant is None else log.order + merchant * _MERCHANT_KEY
    shared = _shared_order_ids(keys, log.customer, lines)
    if source.contract.duplicates != "lines":
        repeated = _repeated(keys + log.event_type * _EVENT_KEY)
        if repeated.any():
            skip = Skip(count=int(repeated.sum()), first_line=int(lines[repeated.argmax()]))
            _raise_if_error(source.contract, skip, place=source.place)
            skipped[Reason.REPEATED_ORDER] = skip
            log, merchant = log.select(~repeated), None if merchant is None else merchant[~repeated]
            found = found.select(~repeated) if found else None
    report = ReadReport(
        place=source.place,
        rows=rows,
        used=len(log),
        outside_window=outside,
        skipped=skipped,
        shared_order_ids=shared,
    )
    return Orders(
        log=log,
        customer_ids=tuple(customers.names),
        merchant=merchant,
        merchant_names=tuple(merchants.names),
        report=report,
        extras=found,
    )


class _Codes:
    """Codes 0, 1, 2, ... for names, in order of appearance."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}

    def of(self, texts: Cells) -> NDArray[np.int32]:
        encoded = texts.dictionary_encode()
        names = self.names
        codes = np.array([names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()], np.int32)
        positions: NDArray[np.int32] = to_numpy(encoded.indices)
        return codes[positions]


class _Extras:
    """The extras of the chunks so far; words as codes, so that ten million rows stay small."""

    def __init__(self, source: OrderSource) -> None:
        self._source = source
        self._category_names: dict[int, str] = {}
        self._discounts: list[NDArray[np.int64]] = []
        self._slices = {label: _Codes() for label in source.contract.slices}
        self._codes: dict[str, list[NDArray[np.int16]]] = {label: [] for label in self._slices}

    def add(self, chunk: RowExtras, *, rows: int) -> None:
        """The extras of the next rows.

        Raises:
            BadOrdersError: a slice has too many values.
        """
        for name in chunk.category.unique().to_pylist() if chunk.category is not None else ():
            if (code := category_code(name)) != NO_CATEGORY:
                self._category_names.setdefault(code, name.strip())
        if chunk.discount_cents is not None:
            self._discounts.append(chunk.discount_cents)
        for label, known in self._slices.items():
            cells = chunk.slices.get(label)
            codes = np.full(rows, -1, np.int16) if cells is None else _slice_codes(known, cells)
            if len(known.names) > MOST_SLICE_VALUES:
                raise BadOrdersError(
                    f"more than {MOST_SLICE_VALUES} different values, too many for slices.{label} of the contract; "
                    "choose a column with few, such as a country",
                    place=self._source.place,
                    column=self._source.contract.slices[label],
                )
            self._codes[label].append(codes)

    def joined(self) -> OrderExtras:
        """Those of all rows."""
        return OrderExtras(
            category_names=self._category_names,
            discount_cents=_joined(self._discounts, np.int64) if self._discounts else None,
            slices={
                label: (_joined(self._codes.pop(label), np.int16), tuple(known.names))
                for label, known in self._slices.items()
            },
        )


def _slice_codes(known: _Codes, cells: Cells) -> NDArray[np.int16]:
    """A code for each cell, -1 for an empty one."""
    filled = pc.not_equal(cells, "")
    codes = np.full(len(cells), -1, np.int16)
    codes[to_numpy(filled)] = known.of(cells.filter(filled))
    return codes


def _joined(parts: list[NDArray[np.signedinteger]], dtype: type[np.signedinteger]) -> NDArray[np.signedinteger]:
    return np.concatenate([np.empty(0, dtype), *parts])


def _added(skipped: Mapping[Reason, Skip], chunk: OrderChunk) -> dict[Reason, Skip]:
    total = dict(skipped)
    for reason, skip in chunk.skipped.items():
        before = total.get(reason)
        total[reason] = Skip(count=before.count + skip.count, first_line=before.first_line) if before else skip
    return total


def _shared_order_ids(keys: NDArray[np.int64], customer: NDArray[np.int32], lines: NDArray[np.int64]) -> Skip:
    """How many keys appear under more than one customer, and the first line on which a second customer is seen."""
    by_key = np.argsort(keys, kind="stable")
    same = keys[by_key[1:]] == keys[by_key[:-1]]
    second = by_key[1:][same & (customer[by_key[1:]] != customer[by_key[:-1]])]
    if not len(second):
        return Skip(count=0, first_line=0)
    return Skip(count=len(np.unique(keys[second])), first_line=int(lines[second].min()))


def _repeated(keys: NDArray[np.int64]) -> Mask:
    """Which rows have the key of an earlier row."""
    by_key = np.argsort(keys, kind="stable")
    repeated = np.zeros(len(keys), np.bool_)
    repeated[by_key[1:]] = keys[by_key[1:]] == keys[by_key[:-1]]
    return repeated


def _raise_if_error(contract: DataContract, skip: Skip, *, place: str) -> None:
    if contract.duplicates == "error":
        words = WORDS[Reason.REPEATED_ORDER]
        raise BadOrdersError(words.remedy, place=place, line=skip.first_line, column=contract.theirs(words.column))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
