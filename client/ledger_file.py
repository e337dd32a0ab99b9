"""The ledger's file: how it is made, opened, checked, and how its troubles are told. What it means is in `ledger`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

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
_REMEDIES = {
    sqlite3.SQLITE_FULL: "Free some disk space and try again; nothing was recorded.",
    sqlite3.SQLITE_READONLY: "Let this program write to the file and its folder.",
    sqlite3.SQLITE_CANTOPEN: "Check the path, and let this program write to the file and its folder.",
    sqlite3.SQLITE_IOERR: "Check the disk and its free space, then try again.",
    sqlite3.SQLITE_BUSY: "Another program holds the ledger; stop it, or try again.",
    sqlite3.SQLITE_MISUSE: "It was closed; open it again.",
}


def canonical(entry: Mapping[str, Any]) -> str:
    """The one text of an entry: JSON with sorted keys and no spaces."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False)


def chained(before: str, body: str) -> str:
    """The hash of an entry: SHA-256 over the hash before it (32 bytes) and its canonical text."""
    return hashlib.sha256(bytes.fromhex(before) + body.encode()).hexdigest()


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
        raise LedgerError(f"ledger {path} cannot be used ({error.strerror}). Check the path and the disk.") from error


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
    connection.execute("PRAGMA journal_mode = WAL")  # of the file, so only once it is known to be ours


def write_head(path: Path, seq: int, entry_hash: str) -> None:
    """Keeps the local anchor beside the ledger. Not synced: a power cut may cost a check, never a charge."""
    text = f"{seq:012d} {entry_hash}\n"  # of fixed length: overwritten in place
    handle = os.open(beside(path, "-head"), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(handle, text.encode("ascii"))
    finally:
        os.close(handle)


def read_head(path: Path) -> tuple[int, str] | None:
    """The local anchor; `None` where there is none.

    Raises:
        LedgerError: the file is there, and is no anchor.
    """
    head = beside(path, "-head")
    text = head.read_text(encoding="ascii", errors="replace") if head.exists() else ""
    if not text:
        return None
    match = re.fullmatch(r"(\d{12}) ([0-9a-f]{64})\n", text)
    if not match:
        raise LedgerError(f"{head} is damaged, so an old copy of the ledger would not be noticed. {DAMAGED}")
    return int(match[1]), match[2]


def beside(path: Path, suffix: str) -> Path:
    """The file of the same name with `suffix` at its end."""
    return path.with_name(path.name + suffix)
