"""Which column of an export is which: names read from its header, and a proposal that the merchant has to confirm."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from client.sources import CSV_SUFFIXES, PARQUET_SUFFIXES
from client.sources.csv import DELIMITERS
from pp_model.errors import BadOrdersError

_LONGEST_HEADER = 65_536

# Our name -> names that exports give it, most telling first, without case, spaces and signs. A price of one piece is
# not an amount, and a shop's own number is not proposed as a merchant.
_ALIASES: Mapping[str, Sequence[str]] = {
    "customer_id": (
        "customerid", "customer", "customerno", "customernumber", "custid", "clientid", "client", "buyerid", "buyer",
        "memberid", "accountid", "userid", "user", "kundennummer", "kundenid", "clientenumero",
    ),
    "timestamp": (
        "timestamp", "orderdate", "ordertime", "invoicedate", "purchasedate", "transactiondate", "createdat",
        "placedat", "orderedat", "purchasedat", "datetime", "date", "time", "bestelldatum",
    ),
    "amount": (
        "amount", "orderamount", "lineamount", "linetotal", "ordertotal", "grandtotal", "totalprice", "totalamount",
        "total", "revenue", "spend", "sales", "value", "betrag", "summe",
    ),
    "order_id": (
        "orderid", "orderno", "ordernumber", "invoiceid", "invoiceno", "invoicenumber", "invoice", "transactionid",
        "basketid", "receiptid", "order", "bestellnummer",
    ),
    "quantity": ("quantity", "qty", "pieces", "menge", "anzahl"),
    "category": ("category", "productcategory", "department", "producttype", "kategorie"),
    "event_type": ("eventtype", "event"),
    "currency": ("currency", "currencycode", "waehrung"),
}  # fmt: skip


def column_names(path: Path) -> list[str]:
    """The names in the header of an orders file; of its orders nothing is read.

    Raises:
        BadOrdersError: no such file, not one that is understood, or a first line that looks like an order.
    """
    place, names = str(path), []
    try:
        if kind_of(path) == "parquet":
            with pq.ParquetFile(path) as file:
                names = list(file.schema_arrow.names)
        else:
            names = _csv_header(path)
    except FileNotFoundError:
        raise BadOrdersError("there is no such file; check the path", place=place) from None
    except (OSError, EOFError, zlib.error, UnicodeError, csv.Error, pa.ArrowException):  # a text of theirs may quote it
        raise BadOrdersError(
            "the header cannot be read; save the file as CSV in UTF-8 or as Parquet, or leave --orders out and fill "
            "in file, encoding and columns in merchant.toml",
            place=place,
        ) from None
    names = [name for name in names if name]  # of an index that was exported too
    if not names:
        raise BadOrdersError("the file is empty; export the orders again", place=place)
    if not all(map(_is_a_name, names)):
        raise BadOrdersError(
            "the first line looks like an order, not like a header; add a line with the column names", place=place
        )
    return names


def kind_of(path: Path) -> Literal["csv", "parquet"]:
    """What the file's name says that it is.

    Raises:
        BadOrdersError: neither.
    """
    name = path.name.lower()
    if name.endswith(PARQUET_SUFFIXES):
        return "parquet"
    if name.endswith(CSV_SUFFIXES):
        return "csv"
    understood = ", ".join((*CSV_SUFFIXES, *PARQUET_SUFFIXES))
    raise BadOrdersError(
        f"not a kind of file that is understood; expected a name ending in {understood}", place=str(path)
    )


def propose_columns(names: Sequence[str]) -> dict[str, str]:
    """Our name -> the export's, for each of our columns that is recognised. A column of the export is used once."""
    plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(names)}
    proposed: dict[str, str] = {}
    for ours, aliases in _ALIASES.items():
        for alias in aliases:
            if alias in plain and plain[alias] not in proposed.values():
                proposed[ours] = plain[alias]
                break
    return proposed


def _csv_header(path: Path) -> list[str]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        raw = gzip.GzipFile(fileobj=file) if zipped else file
        first_line = raw.readline(_LONGEST_HEADER).decode("utf-8-sig")
    headers = [next(csv.reader([first_line], delimiter=delimiter), []) for delimiter in DELIMITERS]
    return [name.strip() for name in max(headers, key=len)]


def _is_a_name(text: str) -> bool:
    """Not a number, a date, an e-mail address or a sentence."""
    return len(text) <= 64 and text.isprintable() and "@" not in text and any(map(str.isalpha, text))
