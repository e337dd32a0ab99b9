"""Orders from a CSV, plain or gzipped, read row by row so that every line keeps its number."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from client.sources.cells import Cells, Mask
from client.sources.contract import DataContract, used_columns
from client.sources.rows import BATCH_ROWS, OrderChunk, RawBatch, RowChecker
from pp_model.errors import BadOrdersError
from pp_model.schema import Window

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

DELIMITERS = ",;\t"

_GZIP_MAGIC = b"\x1f\x8b"
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, kw_only=True)
class CsvSource:
    """A CSV with a header line; gzipped if its name or its first bytes say so."""

    path: str
    contract: DataContract

    @property
    def place(self) -> str:
        """The file, as the merchant wrote it."""
        return self.path

    def read(self, window: Window | None, *, extras: bool = False) -> Iterator[OrderChunk]:
        """The orders inside the window, in the order of the file.

        Raises:
            BadOrdersError: by the first line the contract does not let pass, or for a file that is not a CSV.
        """
        with self._opened() as stream:
            first_line = stream.readline()
            if not first_line:
                raise self._bad("the file is empty; export the orders again")
            delimiter = self.contract.delimiter or self._delimiter(first_line)
            reader = csv.reader(itertools.chain([first_line], stream), delimiter=delimiter, strict=True)
            try:
                yield from self._chunks(reader, window, extras=extras)
            except csv.Error:
                raise self._bad(
                    f"the quotes are broken, or a cell is longer than {csv.field_size_limit():,} characters; "
                    "export the orders again with every quote inside a cell doubled",
                    line=reader.line_num,
                ) from None

    def _chunks(self, reader: CsvReader, window: Window | None, *, extras: bool) -> Iterator[OrderChunk]:
        header = [name.strip() for name in next(reader)]
        if any(_is_escaped(name) for name in header):
            raise self._bad(
                f'the header is not {self.contract.encoding} text; set encoding (for example "cp1252" or "utf-16"), '
                "or export the orders as CSV",
                line=1,
            )
        columns = used_columns(self.contract, header, place=self.place, extras=extras)
        checker = RowChecker(self.contract, columns, place=self.place, window=window, extras=extras)
        positions = {name: header.index(theirs) for name, theirs in columns.items()}
        any_rows = False
        while True:
            last_line = reader.line_num
            rows = list(itertools.islice(reader, BATCH_ROWS))
            if not rows:
                break
            lines = _line_numbers(rows, last_line, reader.line_num)
            if batch := _batch(rows, lines, positions, width=len(header)):
                any_rows = True
                yield checker.check(batch)
        if not any_rows:
            raise self._bad("there is a header but no order; export the orders again")

    @contextmanager
    def _opened(self) -> Iterator[IO[str]]:
        """The file as text in which undecodable bytes are escaped; whatever is wrong with it is our error."""
        try:
            with Path(self.path).open("rb") as file:
                zipped = file.read(2) == _GZIP_MAGIC or self.path.lower().endswith(".gz")
                file.seek(0)
                raw = gzip.GzipFile(fileobj=file) if zipped else file
                text = io.TextIOWrapper(raw, encoding=self.contract.encoding, errors="surrogateescape", newline="")
                with text as stream:
                    yield stream
        except FileNotFoundError:
            raise self._bad("there is no such file; check the path") from None
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise self._bad("the file is not gzip, or is cut off; copy or export it again") from None
        except UnicodeError:
            raise self._bad(
                f"the file is not {self.contract.encoding} text; set encoding, or export it again"
            ) from None
        except OSError as error:
            raise self._bad(f"the file cannot be read ({error.strerror or 'input error'}); check it") from None

    def _delimiter(self, first_line: str) -> str:
        """The first delimiter under which the required columns appear; else the one that makes most columns."""
        headers = {d: [name.strip() for name in next(csv.reader([first_line], delimiter=d))] for d in DELIMITERS}
        for delimiter, header in headers.items():
            try:
                used_columns(self.contract, header, place=self.place)
            except BadOrdersError:
                continue
            return delimiter
        return max(headers, key=lambda delimiter: len(headers[delimiter]))

    def _bad(self, what: str, *, line: int = 0) -> BadOrdersError:
        return BadOrdersError(what, place=self.place, line=line)


def _batch(
    rows: Sequence[list[str]], lines: NDArray[np.int64], positions: dict[str, int], *, width: int
) -> RawBatch | None:
    """The rows as columns; blank lines are no rows, and rows of another width are marked."""
    wrong: Mask | None = None
    if set(map(len, rows)) != {width}:
        filled = np.array([bool(row) for row in rows])
        rows, lines = [row for row in rows if row], lines[filled]
        if not rows:
            return None
        wrong = np.array([len(row) != width for row in rows])
        rows = [row if len(row) == width else [""] * width for row in rows]
    cells = {name: _text_array(list(map(itemgetter(at), rows))) for name, at in positions.items()}
    return RawBatch(cells=cells, lines=lines, wrong_number_of_cells=wrong)


def _text_array(cells: list[str]) -> Cells:
    """The cells as text; as bytes when some were not decodable, for the checker to find which."""
    try:
        return pa.array(cells, pa.string())
    except UnicodeEncodeError:
        return pa.array([cell.encode("utf-8", "surrogateescape") for cell in cells], pa.binary())


def _line_numbers(rows: Sequence[list[str]], before: int, after: int) -> NDArray[np.int64]:
    """The line on which each row begins, cells with line ends in them included."""
    if after - before == len(rows):
        return np.arange(before + 1, after + 1, dtype=np.int64)
    heights = [1 + sum(len(_LINE_END.findall(cell)) for cell in row) for row in rows]
    return before + 1 + np.concatenate([[0], np.cumsum(heights[:-1])]).astype(np.int64)


def _is_escaped(name: str) -> bool:
    return any("\udc80" <= letter <= "\udcff" or letter == "\0" for letter in name)
