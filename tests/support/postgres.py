"""A real PostgreSQL server of one test session, reached through a socket in a folder of its own.

A test module takes the fixture with `pytest_plugins = ("tests.support.postgres",)`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from client.sources import DataContract, SqlSource

STARTED_WITHIN_SECONDS = 60
# The server is set as unlike ours as it may be: what is read must not depend on it.
_SETTINGS = {
    "listen_addresses": "", "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
    "shared_buffers": "16MB", "max_connections": "20", "timezone": "America/New_York", "datestyle": "German",
}  # fmt: skip
_NATIVE_TYPES = {
    "timestamp": "timestamp", "amount": "numeric(12, 4)", "quantity": "integer", "merchant": "varchar(40)",
    "event_type": "event",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PostgresServer:
    """The server, and tables in it.

    The role "shop" owns the database "orders" (UTF-8) and "bytes", whose texts are any bytes: whatever a source cannot
    change there, it was kept from changing.
    """

    folder: Path
    password: str = "hunter2-s3cret"
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def password_file(self) -> Path:
        return self.folder / "password"

    def url(self, database: str = "orders", *, user: str = "shop") -> str:
        return f"postgresql+psycopg://{user}@/{database}?host={self.folder}"

    def connect(self, database: str = "orders", *, user: str = "shop") -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            host=str(self.folder),
            dbname=database,
            user=user,
            password=self.password,
            autocommit=True,
            connect_timeout=10,
        )

    def execute(self, statement: str, *, database: str = "orders", user: str = "shop") -> list[tuple[Any, ...]]:
        """The rows of any statement, written for good."""
        with contextlib.closing(self.connect(database, user=user)) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def source(self, query: str, *, contract: DataContract | None = None, **settings: Any) -> SqlSource:
        chosen = {"url": self.url(), "password_file": self.password_file, **settings}
        return SqlSource(query=query, contract=contract or DataContract(), **chosen)

    def source_of(
        self, rows: Sequence[Mapping[str, str]], contract: DataContract | None = None, *, native: bool = False
    ) -> SqlSource:
        """The rows in a table of their own, in columns of text or of the type that fits them best."""
        table, names = sql.Identifier(f"orders_{next(self.numbers)}"), [sql.Identifier(name) for name in rows[0]]
        kinds = [sql.SQL(_NATIVE_TYPES.get(name, "text") if native else "text") for name in rows[0]]
        columns = [sql.SQL("{} {}").format(name, kind) for name, kind in zip(names, kinds, strict=True)]
        values = [sql.SQL("CAST(%s::text AS {})").format(kind) for kind in kinds]
        comma = sql.SQL(", ")
        with contextlib.closing(self.connect()) as connection:
            connection.execute(sql.SQL("CREATE TABLE {} (line serial, {})").format(table, comma.join(columns)))
            insert = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(table, comma.join(names), comma.join(values))
            connection.cursor().executemany(insert, [list(row.values()) for row in rows])
            query = sql.SQL("SELECT {} FROM {} ORDER BY line").format(comma.join(names), table).as_string(connection)
        return self.source(query, contract=contract)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for this process, stopped at the end; the tests that need it are skipped where it is not installed."""
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL server found in PATH and /usr/lib/postgresql; install Debian's postgresql")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # a short path: that of a socket has at most 107 bytes
    try:
        with _running(programs, folder) as server:
            yield server
    finally:
        shutil.rmtree(folder)


def _programs() -> Path | None:
    """The folder of the newest server's programs."""
    if (found := shutil.which("initdb")) and shutil.which("postgres"):
        return Path(found).resolve().parent
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(folders, key=lambda folder: int(folder.parent.name), default=None)


@contextlib.contextmanager
def _running(programs: Path, folder: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(folder=folder)
    server.password_file.write_text(f"{server.password}\n")
    server.password_file.chmod(0o600)
    who: dict[str, Any] = {"cwd": folder, "env": {"LC_ALL": "C", "PATH": os.defpath}}
    if (account := _account()) is not None:
        # The server refuses to run as root. Popen itself becomes the other user, so the handle is that of the server.
        who |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        for path in (folder, server.password_file):
            os.chown(path, account.pw_uid, account.pw_gid)
    data, log = str(folder / "data"), folder / "log"
    initdb = f"-U admin --auth=scram-sha-256 --encoding=UTF8 --locale=C --no-sync --pwfile={server.password_file}"
    command = [str(programs / "initdb"), "-D", data, *initdb.split()]
    subprocess.run(command, check=True, capture_output=True, timeout=120, **who)
    settings = [f"--{name}={value}" for name, value in {**_SETTINGS, "unix_socket_directories": folder}.items()]
    with log.open("wb") as lines:
        process = subprocess.Popen([programs / "postgres", "-D", data, *settings], stdout=lines, stderr=lines, **who)
    try:
        _wait_until_it_answers(server, process, log)
        _set_up(server)
        yield server
    finally:
        process.send_signal(signal.SIGINT)  # without waiting for those who are still connected
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _account() -> pwd.struct_passwd | None:
    """The user that the server runs as; None: the one that runs the tests."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def _wait_until_it_answers(server: PostgresServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTED_WITHIN_SECONDS
    while True:
        try:
            return server.connect("postgres", user="admin").close()
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the PostgreSQL server did not start: {log.read_text()[-2000:]}") from None
        time.sleep(0.02)


def _set_up(server: PostgresServer) -> None:
    def as_admin(statement: str) -> None:
        server.execute(statement, database="postgres", user="admin")

    as_admin(f"CREATE ROLE shop LOGIN PASSWORD '{server.password}'")
    as_admin("CREATE DATABASE orders OWNER shop")
    as_admin("CREATE DATABASE bytes OWNER shop ENCODING 'SQL_ASCII' TEMPLATE template0")
    for database in ("orders", "bytes"):
        server.execute("ALTER SCHEMA public OWNER TO shop", database=database, user="admin")
    server.execute("CREATE TYPE event AS ENUM ('purchase', 'return', 'view', 'cart', 'search')")
