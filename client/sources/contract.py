"""What a merchant's export looks like: which column is which, and what to do with rows that are not orders."""

from __future__ import annotations

import codecs
import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pp_model.errors import BadOrdersError, ConfigError

REQUIRED_COLUMNS = ("customer_id", "timestamp", "amount")
LOADED_COLUMNS = (*REQUIRED_COLUMNS, "order_id", "quantity", "category", "event_type", "merchant", "currency")
# Free text may name anyone, and no feature reads it: the contract may mention the column, no source loads it.
NEVER_LOADED_COLUMNS = ("text",)
SLICE = "slice."  # before a slice's label in the names of loaded columns
MOST_SLICES = 16

# Cents stay exact through a float of 53 bits well beyond this bound.
LARGEST_MAX_ORDER_CENTS = 10**12
_LABEL = re.compile(r"\w[\w -]{0,39}")
_OF_DIGITS = re.compile(r"[\d\s.,:/+\-TZ]*\d[\d\s.,:/+\-TZ]*")


@dataclass(frozen=True, kw_only=True)
class DataContract:
    """How to read a merchant's orders; the same words for CSV, Parquet and SQL.

    Attributes:
        columns: our name -> the source's name. A column not named here is looked for under our own name; a name
            given here must exist.
        currency: the one currency that counts, such as "GBP"; rows of another are skipped and counted. None: the
            source must hold a single currency.
        timestamp_format: as in `datetime.strptime`; None means ISO 8601. A time with an offset becomes UTC.
        negative_amounts: what a purchase with a negative amount is.
        duplicates: what later rows with the order id and event type of an earlier row are: "lines" of one order,
            a mistake to "skip" and count, or an "error".
        bad_rows: "error" stops at the first bad row; "skip" leaves it out and counts it by reason.
        max_order_cents: a line beyond this, in either direction, is absurd.
        no_later_than: last day that may appear; later rows are skipped and counted. None: no check.
        delimiter: of a CSV; None picks comma, semicolon or tab by the header.
        encoding: of a CSV.
        discount: the source's column with the money taken off a line, at least 0; an empty cell is none. Only insight
            reads it.
        slices: our label -> the source's column, of what customers are grouped by in reports, such as a country. Only
            insight reads them.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    currency: str | None = None
    timestamp_format: str | None = None
    negative_amounts: Literal["return", "skip", "error"] = "return"
    duplicates: Literal["lines", "skip", "error"] = "lines"
    bad_rows: Literal["error", "skip"] = "error"
    max_order_cents: int = 100_000_000
    no_later_than: dt.date | None = None
    delimiter: str | None = None
    encoding: str = "utf-8-sig"
    discount: str | None = None
    slices: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = (*LOADED_COLUMNS, *NEVER_LOADED_COLUMNS)
        for name, theirs in self.columns.items():
            if name not in known:
                raise ConfigError(f"unknown key columns.{name}; known keys here: {', '.join(known)}")
            if not theirs:
                raise ConfigError(f"columns.{name} is empty; write the source's column name or leave the key out")
        if not 1 <= self.max_order_cents <= LARGEST_MAX_ORDER_CENTS:
            raise ConfigError(
                f"max_order_cents is {self.max_order_cents}; allowed: 1 to {LARGEST_MAX_ORDER_CENTS:,} (in cents)"
            )
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '\r\n"'):
            raise ConfigError(f"delimiter is {self.delimiter!r}; expected one character, not a quote or a line end")
        if self.currency is not None and not self.currency.strip():
            raise ConfigError('currency is empty; write a code such as "GBP" or leave the key out')
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise ConfigError(f"encoding is {self.encoding!r}; expected one such as utf-8 or cp1252") from None
        self._check_extras()

    def _check_extras(self) -> None:
        if self.discount is not None and not self.discount:
            raise ConfigError("discount is empty; write the source's column name or leave the key out")
        if len(self.slices) > MOST_SLICES:
            raise ConfigError(f"slices names {len(self.slices)} columns; allowed: {MOST_SLICES}")
        if (text := self.theirs("text")) in (self.discount, *self.slices.values()):
            raise ConfigError(
                f"discount or a slice names {text!r}, the free text, which may name anyone; choose another"
            )
        for label, theirs in self.slices.items():
            if not (_LABEL.fullmatch(label) and theirs):
                raise ConfigError(
                    f"slices.{label} is {theirs!r}; expected a label of letters, digits, spaces, - and _ (at most 40), "
                    "and the source's column name"
                )

    def theirs(self, name: str) -> str:
        """The source's name of our column `name`."""
        return self.columns.get(name, name)


def used_columns(contract: DataContract, names: Sequence[str], *, place: str, extras: bool = False) -> dict[str, str]:
    """Our name -> the source's name, for every column that will be loaded.

    Args:
        extras: whether the columns are loaded that no feature reads: "discount", and "slice.LABEL" of each slice.

    Raises:
        BadOrdersError: a required or explicitly named column is missing or there twice.
    """
    required = {*REQUIRED_COLUMNS, *contract.columns} | ({"currency"} if contract.currency else set())
    used = {}
    for name in (*LOADED_COLUMNS, *NEVER_LOADED_COLUMNS):
        theirs = contract.theirs(name)
        if names.count(theirs) > 1:
            raise BadOrdersError("there are two columns of this name; rename one", place=place, column=theirs)
        if theirs in names:
            used[name] = theirs
        elif name in required:
            raise BadOrdersError(_missing(name, theirs, names), place=place, column=theirs)
    used = {name: theirs for name, theirs in used.items() if name not in NEVER_LOADED_COLUMNS}
    return used | _extra_columns(contract, names, place=place) if extras else used


def _extra_columns(contract: DataContract, names: Sequence[str], *, place: str) -> dict[str, str]:
    wanted = {f"{SLICE}{label}": theirs for label, theirs in contract.slices.items()}
    if contract.discount is not None:
        wanted["discount"] = contract.discount
    for name, theirs in wanted.items():
        if (found := names.count(theirs)) != 1:
            key = f"slices.{name.removeprefix(SLICE)}" if name.startswith(SLICE) else name
            what = f"there is no column {theirs!r}" if not found else f"there are {found} columns {theirs!r}"
            raise BadOrdersError(
                f"{what}, needed as {key} of the contract; correct it there", place=place, column=theirs
            )
    return wanted


def _missing(name: str, theirs: str, names: Sequence[str]) -> str:
    what = f"there is no column {theirs!r}, needed as {name}"
    if any(_looks_like_data(cell) for cell in names):  # then the names are cells, and stay out of the message
        return f"{what}; the first line looks like an order, not like a header: add a line with the column names"
    return f"{what}; the columns are: {', '.join(names)}. Say which one it is with --column {name}=TheirName"


def _looks_like_data(name: str) -> bool:
    return bool(_OF_DIGITS.fullmatch(name)) or "@" in name or len(name) > 64
