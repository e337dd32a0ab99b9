"""Where a merchant's orders come from. Every source gives the same checked chunks; see `rows.RowChecker`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from client.sources.contract import DataContract
from client.sources.csv import CsvSource
from client.sources.memory import MemorySource
from client.sources.parquet import ParquetSource
from client.sources.rows import OrderChunk, RowExtras
from client.sources.sql import SqlSource
from pp_model.errors import BadOrdersError
from pp_model.schema import Window

__all__ = [
    "CsvSource", "DataContract", "MemorySource", "OrderChunk", "OrderSource", "ParquetSource", "RowExtras",
    "SqlSource", "open_source",
]  # fmt: skip

CSV_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz")
PARQUET_SUFFIXES = (".parquet",)


class OrderSource(Protocol):
    """Orders that can be read again and again, each time the same."""

    @property
    def place(self) -> str:
        """Where the orders are, in the merchant's words and without a secret."""

    @property
    def contract(self) -> DataContract:
        """What the merchant said about the orders."""

    def read(self, window: Window | None, *, extras: bool = False) -> Iterator[OrderChunk]:
        """The orders inside the window, checked, in chunks of at most about 100,000 rows.

        A caller keeps nothing of a read that raised.

        Args:
            extras: whether `OrderChunk.extras` is wanted; without it none of those columns is looked at.

        Raises:
            BadOrdersError: by the first row that the contract does not let pass.
        """


def open_source(place: str, contract: DataContract) -> OrderSource:
    """The source for a file, by its name.

    Raises:
        BadOrdersError: a name of no kind that is understood. Databases are opened with `SqlSource`.
    """
    name = place.lower()
    if name.endswith(CSV_SUFFIXES):
        return CsvSource(path=place, contract=contract)
    if name.endswith(PARQUET_SUFFIXES):
        return ParquetSource(path=place, contract=contract)
    understood = ", ".join((*CSV_SUFFIXES, *PARQUET_SUFFIXES))
    raise BadOrdersError(f"not a kind of file that is understood; expected a name ending in {understood}", place=place)
