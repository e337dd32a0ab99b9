"""Orders from a database through SQLAlchemy: one SELECT, read-only, streamed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
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
_POSTGRESQL = "postgresql"
_POSTGRESQL_PARAMETERS = {  # what the url says goes first
    "client_encoding": "utf8",
    # A server that never answers, or that a cable no longer reaches, ends the read in a minute instead of never.
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}
_POSTGRESQL_TRANSACTION = (
    "SET LOCAL TIME ZONE 'UTC'",  # else a window of days would be compared in the server's zone, and lose rows
    "SET LOCAL DateStyle = 'ISO'",  # the one that the driver can read
    "SET LOCAL client_min_messages = 'error'",  # a notice may quote a row, and the driver logs notices
)
# Everything else is no single value (arrays, json), or its text depends on the server's language (money).
_POSTGRESQL_UNREADABLE = sa.text("""
    SELECT oid::bigint, pg_catalog.format_type(oid, NULL) FROM pg_catalog.pg_type
    WHERE oid = ANY (CAST(:oids AS oid[])) AND typcategory NOT IN ('S', 'E', 'B') AND typname NOT IN (
        'int2', 'int4', 'int8', 'float4', 'float8', 'numeric', 'date', 'timestamp', 'timestamptz', 'uuid')
""")
_NO_TEXT = (
    "a cell is no text in the encoding that is asked for; name the right one in the url, for example with "
    "?client_encoding=latin1, or convert the column in the query"
)
_ADVICE = {  # by SQLSTATE; what the database itself says may quote a row
    "22021": _NO_TEXT,
    "22P05": _NO_TEXT,
    "25006": "the query writes, and only reading is allowed; leave out what writes",
    "42501": "the database user may not read this; GRANT SELECT on what the query names",
    "57014": "the database cancelled the query, which took longer than statement_timeout_seconds allows or was stopped "
    "by hand; ask for less with :start and :end, add an index, or allow more",
}

_PASSWORD_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_WRITABLE_OR_PUBLIC = 0o027
_QUOTED_OR_COMMENT = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|`[^`]*`|--[^\n]*|/\*.*?\*/", re.DOTALL)
_WRITES = re.compile(r"\b(insert|update|delete|merge|into)\b", re.IGNORECASE)
_PARAMETERS = ("start", "end")
_MOST_DIGITS = 76


def database_url(url: str, *, password_file: Path | None) -> sa.URL:
    """The database that `url` names, with the password it may need; printed, the password is ***.

    The password is the first line of `password_file`, or, where the URL says `user:${NAME}@`, the value of that
    environment variable. With neither, the driver looks where it always does: PostgreSQL's in PGPASSFILE, ~/.pgpass
    and PGPASSWORD.

    Raises:
        ConfigError: not a database URL, a password written out in it, or one that cannot be had.
    """
    parsed = _parsed(url)
    if password_file is not None:
        return parsed.set(password=_password_in(password_file))
    if parsed.password is None:
        return parsed
    name = str(parsed.password)[2:-1]
    if not (password := os.environ.get(name)):
        raise ConfigError(f"url takes its password from the environment variable {name}, which is not set; set it")
    return parsed.set(password=password)


@dataclass(frozen=True, kw_only=True)
class SqlSource:
    """The rows of one query.

    PostgreSQL reads them in a read-only transaction of one snapshot (REPEATABLE READ), and takes a time with time zone
    to UTC; to count days by the shop's own clock, write `placed_at AT TIME ZONE 'Europe/London'` in the query.

    Attributes:
        url: an SQLAlchemy database URL, without a password; nothing of it but the database's name is in any message.
        query: a single SELECT (or WITH ... SELECT). `:start` and `:end`, if it has them, are bound to the window's
            days, so that the database need not send what is not wanted.
        password_file: read at each connection; see `database_url`.
        statement_timeout_seconds: longest that PostgreSQL may work on one chunk; the first one includes all sorting.
    """

    url: str
    query: str
    contract: DataContract
    password_file: Path | None = None
    statement_timeout_seconds: float = 600.0

    def __post_init__(self) -> None:
        _check_query(self.query)
        url = _parsed(self.url)
        if url.password is not None and self.password_file is not None:
            raise ConfigError("both url and password_file give a password; leave it out of url")
        if not 0.001 <= self.statement_timeout_seconds <= 86_400:
            raise ConfigError(
                f"statement_timeout_seconds is {self.statement_timeout_seconds}; allowed: 0.001 to 86400 (a day)"
            )

    def __repr__(self) -> str:
        return f"SqlSource({self.place})"

    @property
    def place(self) -> str:
        """The kind and name of the database; neither user, host nor password."""
        url = _parsed(self.url)
        return f"{url.get_backend_name()} database {(url.database or '').split('?')[0]!r}"

    def read(self, window: Window | None, *, extras: bool = False) -> Iterator[OrderChunk]:
        """The orders inside the window, in the order of the database.

        Raises:
            BadOrdersError: by the first row the contract does not let pass, or when the database refuses.
            ConfigError: the password cannot be had.
        """
        statement, bound = self._statement(window)
        with self._connection() as connection, connection.execute(statement) as result:
            names = list(result.keys())
            columns = used_columns(self.contract, names, place=self.place, extras=extras)
            checker = RowChecker(self.contract, columns, place=self.place, window=window, extras=extras)
            positions = {name: names.index(theirs) for name, theirs in columns.items()}
            if connection.dialect.name == _POSTGRESQL:
                self._check_types(connection, result, positions)
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
        try:
            with self._open() as connection:
                if connection.dialect.name == _POSTGRESQL:
                    self._begin_postgresql(connection)
                elif statement := _READ_ONLY.get(connection.dialect.name):
                    connection.exec_driver_sql(statement)
                yield connection.execution_options(stream_results=True, yield_per=BATCH_ROWS)
        except SQLAlchemyError as error:
            raise BadOrdersError(_advice(error), place=self.place) from None
        except UnicodeDecodeError:  # it holds the cell
            raise BadOrdersError(_NO_TEXT, place=self.place) from None

    def _open(self) -> sa.Connection:
        url = database_url(self.url, password_file=self.password_file)
        kind = url.get_backend_name()
        in_file = kind == "sqlite" and url.database and not url.database.startswith("file:")
        if in_file and not Path(url.database or "").is_file():  # connecting would make an empty one
            raise BadOrdersError("there is no such file; check the url", place=self.place)
        if kind == _POSTGRESQL:
            url = url.update_query_dict({**_POSTGRESQL_PARAMETERS, **url.query})
        try:
            return sa.create_engine(url, poolclass=NullPool, hide_parameters=True).connect()
        except (ImportError, NoSuchModuleError):
            remedy = (
                "run pip install 'purchase-power[postgres]'"
                if kind == _POSTGRESQL
                else "install the one that its SQLAlchemy page names"
            )
            raise BadOrdersError(f"no driver for {url.drivername} is installed; {remedy}", place=self.place) from None
        except DBAPIError as error:
            raise BadOrdersError(
                f"cannot connect ({_name(error)}); check that the database runs, the url's host, port, user and "
                "database name, and the password",
                place=self.place,
            ) from None

    def _begin_postgresql(self, connection: sa.Connection) -> None:
        """Nothing that follows on this connection can write, and all of it sees one moment."""
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        _read_impossible_times_as_empty(connection.connection.driver_connection)
        milliseconds = round(self.statement_timeout_seconds * 1000)
        for statement in (f"SET LOCAL statement_timeout = {milliseconds}", *_POSTGRESQL_TRANSACTION):
            connection.exec_driver_sql(statement)

    def _check_types(self, connection: sa.Connection, result: sa.CursorResult[Any], used: Mapping[str, int]) -> None:
        """Raises `BadOrdersError` for the first used column that is no text, number or time."""
        cursor: Any = result.cursor  # open, since no row is fetched yet
        types = {at: cursor.description[at].type_code for at in used.values()}
        rows = connection.execute(_POSTGRESQL_UNREADABLE, {"oids": list(set(types.values()))})
        unreadable = {row[0]: row[1] for row in rows}
        for name, at in used.items():
            if (words := unreadable.get(types[at])) is not None:
                instead = "numeric" if words == "money" else "text"
                raise BadOrdersError(
                    f"a column of type {words} cannot be read as {name}; select a single text, number or time, "
                    f"for example with ::{instead}",
                    place=self.place,
                    column=list(result.keys())[at],
                )

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


def _parsed(url: str) -> sa.URL:
    """The URL; raises `ConfigError`, which does not quote it, unless it is one that may stand in a configuration."""
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):  # their texts quote the URL, or a piece of it
        raise ConfigError(
            "url is not a database URL; expected one like postgresql+psycopg://user@host:5432/name"
        ) from None
    written_out = parsed.password is not None and not _PASSWORD_VARIABLE.fullmatch(str(parsed.password))
    if written_out or any("passw" in key for key in parsed.query):
        raise ConfigError(
            "url contains a password; put it into a file that password_file names, or into an environment variable: "
            "user:${NAME}@host"
        )
    if parsed.get_backend_name() != _POSTGRESQL:
        return parsed
    if parsed.drivername not in (_POSTGRESQL, f"{_POSTGRESQL}+psycopg"):
        raise ConfigError(f"url names the driver {parsed.drivername}; the one that is supported is postgresql+psycopg")
    return parsed.set(drivername=f"{_POSTGRESQL}+psycopg")


def _password_in(path: Path) -> str:
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"password_file {path} cannot be read ({type(error).__name__}); check it") from None
    if mode & _WRITABLE_OR_PUBLIC:
        raise ConfigError(f"password_file {path} is open to other users; run chmod 600 on it")
    if not (password := text.partition("\n")[0].rstrip("\r")):
        raise ConfigError(f"the first line of password_file {path} is empty; write the password there")
    return password


def _advice(error: SQLAlchemyError) -> str:
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return "the connection was lost while reading, and nothing that was read is used; try again"
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    return _ADVICE.get(state or "") or (
        f"the database refused ({_name(error)}); run the query in its own console to see why"
    )


def _name(error: SQLAlchemyError) -> str:
    """What kind of error the database or its driver reports, such as UndefinedTable."""
    return type(getattr(error, "orig", None) or error).__name__


def _read_impossible_times_as_empty(driver: Any) -> None:
    """Lets a psycopg connection read infinity and the years that Python has not as NULL, which the contract judges.

    As it is, psycopg would give up on the whole chunk.
    """
    from psycopg import DataError
    from psycopg.adapt import Loader
    from psycopg.pq import Format

    for name in ("date", "timestamp", "timestamptz"):
        oid = driver.adapters.types[name].oid
        usual = driver.adapters.get_loader(oid, Format.TEXT)

        class OrNothing(Loader):
            def __init__(self, oid: int, context: Any = None, usual: Any = usual) -> None:
                super().__init__(oid, context)
                self._usual = usual(oid, context).load

            def load(self, data: Any) -> Any:
                try:
                    return self._usual(data)
                except DataError:
                    return None

        driver.adapters.register_loader(oid, OrNothing)


def _array(values: Sequence[Any]) -> Cells:
    """A column of driver values; of mixed or unusual types, as their text."""
    try:
        array = pa.array(values)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError):
        return _raw_texts(values)
    if isinstance(array.type, pa.BaseExtensionType):  # UUIDs, which have no text as bytes
        return _raw_texts(values)
    if not pa.types.is_decimal(array.type):
        return array
    # A digit to spare: 9.999 in cents is 10.00.
    if array.type.precision == _MOST_DIGITS:
        return _raw_texts(values)
    return array.cast(pa.decimal256(_MOST_DIGITS, array.type.scale))


def _raw_texts(values: Sequence[Any]) -> Cells:
    return pa.array([_raw_text(value) for value in values], pa.binary())


def _raw_text(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    text = format(value, "f") if isinstance(value, Decimal) else str(value)  # never 1E-7
    return text.encode("utf-8", "surrogateescape")
