"""The ledger's file: how it is made, opened, checked, and how its troubles are told. What it means is in `ledger`."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pp_model.accounting import PrivacyEvent
from pp_model.errors import LedgerError

VERSION = 1
BUSY_SECONDS = 30.0
NO_HASH = "0" * 64
DAMAGED = (
    "Put back a copy that the last anchor accepts, or begin the ledger of a new period. "
    "Keep this file: deleting it would forget what was spent."
)

_APPLICATION_ID = 0x5050_4C47  # "PPLG", in the file's header
_SCHEMA = """
    CREATE TABLE entries (seq INTEGER PRIMARY KEY, body TEXT NOT NULL, hash TEXT NOT NULL) STRICT;
    CREATE TABLE payloads (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT;
"""
_DISK = "Check the path, the disk and its free space, then try again."
_REMEDIES = {
    sqlite3.SQLITE_FULL: "Free some disk space and try again; nothing was recorded.",
    sqlite3.SQLITE_READONLY: "Let this program write to the file and its folder.",
    sqlite3.SQLITE_CANTOPEN: "Check the path, and let this program write to the file and its folder.",
    sqlite3.SQLITE_IOERR: _DISK,
    sqlite3.SQLITE_BUSY: "Another program holds the ledger; stop it, or try again.",
    sqlite3.SQLITE_MISUSE: "It was closed; open it again.",
}


def canonical(entry: Mapping[str, Any]) -> str:
    """The one text of an entry: JSON with sorted keys and no spaces."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False)


def chained(before: str, body: str) -> str:
    """The hash of an entry: SHA-256 over the hash before it (32 bytes) and its canonical text."""
    return hashlib.sha256(bytes.fromhex(before) + body.encode()).hexdigest()


def plain_event(task: str, event: PrivacyEvent) -> PrivacyEvent:
    """The event in plain finite numbers, which the file gives back exactly.

    Raises:
        LedgerError: it has others, or `task` is empty.
    """
    numbers = asdict(event)
    if task and all(map(math.isfinite, numbers.values())):
        plain = PrivacyEvent(
            sample_rate=float(event.sample_rate),
            noise_multiplier=float(event.noise_multiplier),
            num_steps=int(event.num_steps),
            shared=bool(event.shared),
        )
        if plain == event:
            return plain
    raise LedgerError(
        f"a charge needs a task's fingerprint and an event of finite numbers and whole steps, not {numbers}. "
        "Nothing was recorded; correct the plan."
    )


@contextmanager
def ledger_errors(path: Path) -> Iterator[None]:
    """Troubles of SQLite and of the disk become `LedgerError`, with what to do about them."""
    try:
        yield
    except sqlite3.Error as error:
        code = sqlite3.SQLITE_MISUSE if isinstance(error, sqlite3.ProgrammingError) else sqlite3.SQLITE_CORRUPT
        remedy = _REMEDIES.get(getattr(error, "sqlite_errorcode", code) & 0xFF, DAMAGED)
        raise LedgerError(f"ledger {path} cannot be used ({error}). {remedy}") from error
    except UnicodeDecodeError as error:  # of SQLite's own message, when it quotes damaged bytes
        raise LedgerError(f"ledger {path} is damaged. {DAMAGED}") from error
    except OSError as error:
        raise LedgerError(f"ledger {path} cannot be used ({error.strerror or error}). {_DISK}") from error


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode to a file that exists; a commit is on disk when it returns."""
    # mode=rw never makes a file: an empty ledger must not come out of a wrong path.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA synchronous = FULL")  # of the connection, and does not touch the file
    return connection


def create(path: Path, genesis: Mapping[str, Any]) -> None:
    """Makes the file with its first entry: whole or not at all, also when two programs try at once.

    Raises:
        LedgerError: files beside it show that there was a ledger here.
    """
    for companion in (beside(path, "-wal"), beside(path, "-head")):
        if companion.exists():
            raise LedgerError(f"ledger {path} is gone, but {companion.name} is still there. {DAMAGED}")
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-new-", dir=path.parent)
    os.close(handle)
    try:
        with closing(connect(Path(name))) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            body = canonical({"seq": 0, **genesis})
            connection.execute("INSERT INTO entries VALUES (0, ?, ?)", (body, chained(NO_HASH, body)))
        with suppress(FileExistsError):  # another program was first; its file is opened and checked like any
            os.link(name, path)
    finally:
        Path(name).unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_file(connection: sqlite3.Connection, path: Path) -> None:
    """Returns if the file is a ledger of our version and SQLite finds every page of it in order.

    Raises:
        LedgerError: it is not.
    """
    application, version = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    if application != _APPLICATION_ID:
        raise LedgerError(f"{path} is not a privacy ledger. Name the ledger's file, or restore it. {DAMAGED}")
    if version != VERSION:
        raise LedgerError(f"ledger {path} is of version {version}; this program reads {VERSION}. Update the program.")
    if connection.execute("PRAGMA quick_check").fetchall() != [("ok",)]:
        raise LedgerError(f"ledger {path} is damaged. {DAMAGED}")
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        raise LedgerError(f"ledger {path} is damaged: it was made with a write-ahead log. {DAMAGED}")


def settle(connection: sqlite3.Connection) -> None:
    """Moves the log into the file and empties it, so that the file alone is the ledger; later, if somebody reads now.

    Nothing depends on it but that a damaged bit is noticed wherever it is: what the log holds was on disk before.
    """
    connection.execute("PRAGMA busy_timeout = 0")
    with suppress(sqlite3.Error):  # of a full disk too: what is in the log stays there
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.execute(f"PRAGMA busy_timeout = {int(1000 * BUSY_SECONDS)}")


def beside(path: Path, suffix: str) -> Path:
    """The file of the same name with `suffix` at its end."""
    return path.with_name(path.name + suffix)
