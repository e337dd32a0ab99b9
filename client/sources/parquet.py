"""Orders from a Parquet file; only the columns that are used are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from client.sources.contract import DataContract, used_columns
from client.sources.rows import BATCH_ROWS, OrderChunk, RawBatch, RowChecker
from pp_model.errors import BadOrdersError
from pp_model.schema import Window


@dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """One Parquet file with flat columns of any usual type, dictionaries included."""

    path: str
    contract: DataContract

    @property
    def place(self) -> str:
        """The file, as the merchant wrote it."""
        return self.path

    def read(self, window: Window | None, *, extras: bool = False) -> Iterator[OrderChunk]:
        """The orders inside the window, in the order of the file.

        Raises:
            BadOrdersError: by the first row the contract does not let pass, or for a file that is not Parquet.
        """
        if not Path(self.path).is_file():
            raise BadOrdersError("there is no such file; check the path", place=self.place)
        try:
            with pq.ParquetFile(self.path) as file:
                yield from self._chunks(file, window, extras=extras)
        except (pa.ArrowException, OSError):  # its text may quote the file
            raise BadOrdersError(
                "the file is not Parquet, or is damaged; copy or export it again", place=self.place
            ) from None

    def _chunks(self, file: pq.ParquetFile, window: Window | None, *, extras: bool) -> Iterator[OrderChunk]:
        columns = used_columns(self.contract, file.schema_arrow.names, place=self.place, extras=extras)
        if file.metadata.num_rows == 0:
            raise BadOrdersError("there are columns but no order; export the orders again", place=self.place)
        checker = RowChecker(self.contract, columns, place=self.place, window=window, extras=extras)
        rows_before = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(dict.fromkeys(columns.values()))):
            cells = {name: batch.column(theirs) for name, theirs in columns.items()}
            lines = np.arange(rows_before + 1, rows_before + batch.num_rows + 1, dtype=np.int64)
            rows_before += batch.num_rows
            yield checker.check(RawBatch(cells=cells, lines=lines))
