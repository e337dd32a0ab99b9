"""Orders from a database through SQLAlchemy: one SELECT, read-only, streamed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from client.sources.cells import FIRST_DAY, LAST_DAY, Cells
from client.sources.contract import DataContract, used_columns
from client.sources.rows import BATCH_ROWS, OrderChunk, RawBatch, RowChecker
from pp_model.errors import BadOrdersError, ConfigError
from pp_model.schema import Window

_READ_ONLY = {
    "sqlite": "PRAGMA query_only = ON",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
    "mariadb": "SET SESSION TRANSACTION READ ONLY",
}
_QUOTED_OR_COMMENT = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|`[^`]*`|--[^\n]*|/\*.*?\*/", re.DOTALL)
_WRITES = re.compile(r"\b(insert|update|delete|merge|into)\b", re.IGNORECASE)
_PARAMETERS = ("start", "end")


@dataclass(frozen=True, kw_only=True)
class SqlSource:
    """The rows of one query.

    Attributes:
        url: an SQLAlchemy database URL; whatever is secret in it stays out of every message.
        query: a single SELECT (or WITH ... SELECT). `:start` and `:end`, if it has them, are bound to the window's
            days, so that the database need not send what is not wanted.
    """

    url: str
    query: str
    contract: DataContract

    def __post_init__(self) -> None:
        _check_query(self.query)
        try:
            sa.make_url(self.url)
        except ArgumentError:  # its text quotes the URL
            raise ConfigError("url is not a database URL; expected one like postgresql+psycopg://host/name") from None

    def __repr__(self) -> str:
        return f"SqlSource({self.place})"

    @property
    def place(self) -> str:
        """The kind and name of the database; neither user, host nor password."""
        url = sa.make_url(self.url)
        return f"{url.get_backend_name()} database {(url.database or '').split('?')[0]!r}"

    def read(self, window: Window | None) -> Iterator[OrderChunk]:
        """The orders inside the window, in the order of the database.

        Raises:
            BadOrdersError: by the first row the contract does not let pass, or when the database refuses.
        """
        with self._connection() as connection:
            statement, bound = self._statement(window)
            result = connection.execute(statement)
            columns = used_columns(self.contract, list(result.keys()), place=self.place)
            checker = RowChecker(self.contract, columns, place=self.place, window=window)
            positions = {name: list(result.keys()).index(theirs) for name, theirs in columns.items()}
            rows_before = 0
            for rows in result.partitions(BATCH_ROWS):
                cells = {name: _array([row[at] for row in rows]) for name, at in positions.items()}
                lines = np.arange(rows_before + 1, rows_before + len(rows) + 1, dtype=np.int64)
                rows_before += len(rows)
                yield checker.check(RawBatch(cells=cells, lines=lines))
            if rows_before == 0 and not bound:
                raise BadOrdersError("the query gives no row; check its table and its conditions", place=self.place)

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        """A read-only, streaming connection; what the database says may quote a row, so it is not repeated."""
        url = sa.make_url(self.url)
        kind = url.get_backend_name()
        in_file = kind == "sqlite" and url.database and not url.database.startswith("file:")
        if in_file and not Path(url.database or "").is_file():  # connecting would make an empty one
            raise BadOrdersError("there is no such file; check the url", place=self.place)
        try:
            engine = sa.create_engine(url, poolclass=NullPool, hide_parameters=True)
            with engine.connect() as connection:
                if kind == "postgresql":
                    connection = connection.execution_options(postgresql_readonly=True)
                elif kind in _READ_ONLY:
                    connection.exec_driver_sql(_READ_ONLY[kind])
                yield connection.execution_options(stream_results=True, yield_per=BATCH_ROWS)
        except (ImportError, NoSuchModuleError):
            raise BadOrdersError(
                f"no driver for {url.drivername} is installed; install the one that its SQLAlchemy page names",
                place=self.place,
            ) from None
        except SQLAlchemyError as error:
            raise BadOrdersError(
                f"the database refused ({type(error).__name__}); run the query in its own console to see why",
                place=self.place,
            ) from None

    def _statement(self, window: Window | None) -> tuple[sa.TextClause, bool]:
        """The query with its parameters bound, and whether it has any."""
        days = dict(zip(_PARAMETERS, (window.start, window.end) if window else (FIRST_DAY, LAST_DAY), strict=True))
        statement = sa.text(self.query)
        names = statement.compile().params
        # As dates, not times: a text "2025-01-01" of that day must not sort before the bound.
        bound = [sa.bindparam(name, days[name], type_=sa.Date()) for name in names]
        return statement.bindparams(*bound), bool(names)


def _check_query(query: str) -> None:
    """Raises `ConfigError` unless `query` is one statement that only reads, with no parameter but ours."""
    bare = _QUOTED_OR_COMMENT.sub(" ", query).strip().rstrip(";").strip()
    if not re.match(r"(select|with)\b", bare, re.IGNORECASE) or ";" in bare:
        raise ConfigError("query is not a single SELECT (or WITH ... SELECT) statement; write one that is")
    if word := _WRITES.search(bare):
        raise ConfigError(f"query contains {word[0].upper()}; only reading is allowed: leave it out, or quote a name")
    if unknown := sorted(set(sa.text(query).compile().params) - set(_PARAMETERS)):
        raise ConfigError(f"query has the parameter :{unknown[0]}; allowed: :start and :end (write \\: for a colon)")


def _array(values: Sequence[Any]) -> Cells:
    """A column of driver values; of mixed types, as their text."""
    try:
        return pa.array(values)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        return pa.array([_raw_text(value) for value in values], pa.binary())


def _raw_text(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    return str(value).encode("utf-8", "surrogateescape")
