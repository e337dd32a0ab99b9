"""What pp-client doctor looks at, part four: the columns that reports alone read, discount and slices.

Counts are shown, and names that the configuration has; of what is in the columns nothing is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from client.checks import Examination, Finding, SkippedError, count, fault, ok, warning
from client.orders import MOST_SLICE_VALUES, Orders
from client.settings import open_orders
from client.sources import DataContract, OrderChunk
from client.sources.cells import Cells
from client.sources.refusals import Reason, Skip
from pp_model.errors import BadOrdersError

CHECK = "reports"
_DISCOUNT = "discount"
_FEW_VALUES = 20  # of a slice, or of a percentage; more, and each of them needs customers
_LEAST_CUSTOMERS = 10  # of each value of a slice, on average
_LEAST_LINES = 20  # with a discount, for its unit to be guessed at
_ELSE = "Name another column, or take the key out."


@dataclass(kw_only=True)
class _Discounts:
    """What the lines with a discount are like, in cents."""

    any_said: bool = False
    lines: int = 0
    paid: int = 0
    off: int = 0
    most: int = 0
    half: int = 0  # lines with as much taken off as was paid, or more
    whole: bool = True  # each of them a whole number, up to 100
    values: set[int] = field(default_factory=set, repr=False)

    def add(self, paid: NDArray[np.int64], off: NDArray[np.int64]) -> None:
        """The next lines."""
        self.any_said = self.any_said or bool(off.any())
        chosen = (off > 0) & (paid > 0)
        paid, off = paid[chosen], off[chosen]
        self.lines += len(off)
        self.paid, self.off = self.paid + int(paid.sum()), self.off + int(off.sum())
        self.most = max(self.most, int(off.max(initial=0)))
        self.half += int((off >= paid).sum())
        self.whole = self.whole and not (off % 100).any() and self.most <= 10_000
        if self.whole:
            self.values.update(np.unique(off).tolist())

    def suspicion(self) -> str:
        """Why this is probably not the money taken off; "" where it may well be."""
        if self.lines < _LEAST_LINES:
            return ""
        if self.most <= 100 and self.off < 0.02 * (self.paid + self.off):
            return "none is above 1.00, and all of them together are hardly anything: is it a share of the price?"
        if self.whole and len(self.values) <= _FEW_VALUES and self.half > 0.05 * self.lines:
            return "they are a few whole numbers up to 100, often more than what was paid: is it a percentage?"
        if self.half > 0.5 * self.lines:
            return "on most lines it is as much as was paid, or more: is it the price before the discount?"
        return ""


@dataclass(kw_only=True)
class _Slice:
    """How many values a slice has, and on how many rows; of more than are allowed it stops counting."""

    rows: int = 0
    values: set[str] = field(default_factory=set, repr=False)

    @property
    def too_many(self) -> bool:
        """Whether reading for reports stops at this column."""
        return len(self.values) > MOST_SLICE_VALUES

    def add(self, cells: Cells) -> None:
        """The next rows."""
        filled = cells.filter(pc.not_equal(cells, ""))
        self.rows += len(filled)
        if not self.too_many:
            self.values.update(filled.unique().to_pylist()[: MOST_SLICE_VALUES + 1])


@dataclass(kw_only=True)
class _Seen:
    """What one reading with the extra columns found.

    Attributes:
        skipped: rows left out, by reason; `Skip.first_line` is the first of them.
    """

    discounts: _Discounts
    slices: Mapping[str, _Slice]
    rows: int = 0
    skipped: dict[Reason, Skip] = field(default_factory=dict)

    def add(self, chunk: OrderChunk) -> None:
        """The next rows."""
        self.rows += len(chunk.lines)
        for reason, skip in chunk.skipped.items():
            before = self.skipped.get(reason, Skip(count=0, first_line=skip.first_line))
            self.skipped[reason] = Skip(count=before.count + skip.count, first_line=before.first_line)
        if chunk.extras is None:
            return
        if chunk.extras.discount_cents is not None:
            self.discounts.add(chunk.spend_cents, chunk.extras.discount_cents)
        for label, cells in chunk.extras.slices.items():
            self.slices[label].add(cells)


def check_extras(examination: Examination) -> Iterator[Finding]:
    """Discount and slices are there, in their unit, filled, and of few values; where none is named there is no line."""
    contract = examination.order_settings.contract
    if contract.discount is None and not contract.slices:
        return
    if examination.quick:
        raise SkippedError("--quick")
    orders = examination.orders
    if orders is None:
        raise SkippedError("the orders have to be read first")
    there = contract
    while there.discount is not None or there.slices:
        try:
            seen = _read(examination, there)
        except BadOrdersError as error:
            found = _without(there, error.column)
            if found == there:  # no column of these
                raise
            there = found
            yield fault(CHECK, f"{error}. Reports and pp-client serve stop there.")
        else:
            yield from _about_rows(there, seen, orders)
            yield from _about_discount(there, seen)
            if there.slices and Reason.BAD_DISCOUNT in seen.skipped:  # the rows left out for it have slices too
                seen = _read(examination, replace(there, discount=None))
            yield from _about_slices(there, seen, customers=len(orders.customer_ids))
            return


def _read(examination: Examination, contract: DataContract) -> _Seen:
    """All rows, with those left out that the contract does not let pass: they are counted, and stop nothing."""
    settings = replace(examination.order_settings, contract=replace(contract, bad_rows="skip"))
    seen = _Seen(discounts=_Discounts(), slices={label: _Slice() for label in contract.slices})
    for chunk in open_orders(settings, home=examination.home).read(None, extras=True):
        seen.add(chunk)
    return seen


def _without(contract: DataContract, column: str) -> DataContract:
    """The contract without what names this column."""
    slices = {label: theirs for label, theirs in contract.slices.items() if theirs != column}
    return replace(contract, discount=None if contract.discount == column else contract.discount, slices=slices)


def _about_rows(contract: DataContract, seen: _Seen, orders: Orders) -> Iterator[Finding]:
    """Rows that are good without the extra columns, and not with them."""
    stops = contract.bad_rows == "error"
    after = "Reports and pp-client serve stop there" if stops else "Reports and pp-client serve leave such rows out"
    tell = fault if stops else warning
    if bad := seen.skipped.get(Reason.BAD_DISCOUNT):
        yield tell(
            CHECK,
            f"discount, column {contract.discount!r}: not usable on {count(bad.count, 'row')}; the first is line "
            f"{bad.first_line}. Needed is the money taken off the line, a plain number such as 2.50, at least 0 and "
            f"not absurd, or nothing. {after}: correct them, or name another column.",
        )
    undecodable = seen.skipped.get(Reason.UNDECODABLE, Skip(count=0, first_line=0))
    known = orders.report.skipped.get(Reason.UNDECODABLE, Skip(count=0, first_line=0))
    if (more := undecodable.count - known.count) > 0:
        yield tell(
            CHECK,
            f"discount or slices: bytes that are not text in the stated encoding, on {count(more, 'row')}. {after}: "
            'set encoding (for example "cp1252"), or name another column.',
        )


def _about_discount(contract: DataContract, seen: _Seen) -> Iterator[Finding]:
    what, found = f"discount, column {contract.discount!r}", seen.discounts
    if contract.discount is None:
        return
    if found.any_said:
        suspicion = found.suspicion()
        if suspicion:
            yield warning(
                CHECK,
                f"{what}: {suspicion} Needed is the money taken off the line. If it is that, all is well; if not, name "
                "another column, or have the export compute it.",
            )
        else:
            yield ok(CHECK, f"{what}: on {count(found.lines, 'line')} that were paid for (shown to you only)")
    elif Reason.BAD_DISCOUNT not in seen.skipped:
        yield warning(CHECK, f"{what}: no line has one. {_ELSE}")


def _about_slices(contract: DataContract, seen: _Seen, *, customers: int) -> Iterator[Finding]:
    for label, theirs in contract.slices.items():
        what, found = f"slices.{label}, column {theirs!r}", seen.slices[label]
        number = len(found.values)
        if found.too_many:
            yield fault(
                CHECK,
                f"{what}: more than {MOST_SLICE_VALUES} different values, so it may name people. Reports and pp-client "
                "serve stop there: name a column with few, such as a country.",
            )
        elif not number:
            yield warning(CHECK, f"{what}: no row says anything, so there is nothing to group by. {_ELSE}")
        elif number > _FEW_VALUES and customers < _LEAST_CUSTOMERS * number:
            yield warning(
                CHECK,
                f"{what}: {number} different values among {count(customers, 'customer')}. Groups so small say nothing, "
                "and such a column may name people: name one with few, such as a country.",
            )
        else:
            yield ok(
                CHECK,
                f"{what}: {count(number, 'value')}, on {found.rows / max(seen.rows, 1):.0%} of the rows (shown to you "
                "only)",
            )
