"""Who did what in the dashboard, as a chain of hashes: each entry covers the one before it.

A changed, missing or moved entry breaks the chain. A chain whose end was cut off, or that was written anew from some
entry on, is whole again: to notice that, an anchor (number and hash of an entry) has to be kept elsewhere.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import re
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from agreement.signing import canonical_json
from pp_model.errors import ConfigError
from server.dashboard.files import opened
from server.home import PlatformHome
from server.registry_file import transaction

TERMINAL = "terminal"  # who works with pp-server on the platform's machine
_ANCHOR = re.compile(r"([1-9][0-9]{0,17}):([0-9a-f]{64})")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (seq INTEGER PRIMARY KEY, body TEXT NOT NULL, hash TEXT NOT NULL);
"""

log = logging.getLogger(__name__)


class Action(StrEnum):
    """What is written down. Each has its words on the page."""

    LOGIN = "login"
    LOGIN_FAILED = "login_failed"
    LOGOUT = "logout"
    DENIED = "denied"
    PASSWORD_CHANGED = "password_changed"
    PASSWORD_REFUSED = "password_refused"
    ACCOUNT_ADDED = "account_added"
    ACCOUNT_REMOVED = "account_removed"
    ROLLBACK_ASKED = "rollback_asked"
    ROLLBACK_DONE = "rollback_done"
    ROLLBACK_FAILED = "rollback_failed"
    MARKET_PUBLISHED = "market_published"
    MARKET_WITHDRAWN = "market_withdrawn"
    DOWNLOAD = "download"
    STARTED = "started"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that was done.

    Attributes:
        time: in UTC.
        who: an account, `TERMINAL`, or "" for somebody who is not logged in.
        subject: what it was done to.
        address: where the request came from.
        before: hash of the entry before; "" of the first.
    """

    seq: int
    time: str
    who: str
    action: str
    subject: str
    address: str
    before: str
    hash: str


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Where a chain is broken first: the entry `seq` was changed, is missing, or is not the anchor's."""

    kind: Literal["changed", "missing", "anchor"]
    seq: int


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a walk along the whole chain found; `anchor` is of its last entry, "" where there is none."""

    entries: int
    anchor: str
    fault: Fault | None


def audit_file(home: PlatformHome) -> Path:
    """Where the audit log of a platform is."""
    return home.root / "state" / "audit.sqlite"


class AuditLog:
    """The audit log in the file `path`, made where it is missing. Entries are added, and nothing else."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, action: Action, *, who: str, subject: str = "", address: str = "") -> Entry:
        """The new entry, which is on the disk."""
        with opened(self._path, schema=_SCHEMA) as db, transaction(db):
            last = db.execute("SELECT seq, hash FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
            stated: dict[str, Any] = {
                "seq": last["seq"] + 1 if last else 1,
                "time": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
                "who": who,
                "action": action.value,
                "subject": subject,
                "address": address,
                "before": last["hash"] if last else "",
            }
            body = canonical_json(stated)
            entry = Entry(**stated, hash=_hash(body))
            db.execute("INSERT INTO entries VALUES (?, ?, ?)", (entry.seq, body, entry.hash))
        log.info("audited", extra={"seq": entry.seq, "action": action.value, "hash": entry.hash})  # an anchor elsewhere
        return entry

    def entries(self, *, before: int | None = None, most: int = 100) -> list[Entry]:
        """The newest entries, newest first; those before the one with a number, where that is given.

        What cannot be read is left out: `verify` says where.
        """
        with opened(self._path, schema=_SCHEMA) as db:
            rows = db.execute(
                "SELECT * FROM entries WHERE seq < ? ORDER BY seq DESC LIMIT ?", (before or 2**62, most)
            ).fetchall()
        return [entry for row in rows if (entry := _entry(row)) is not None]

    def lines(self) -> str:
        """All of it as JSON lines, oldest first, each with its hash."""
        with opened(self._path, schema=_SCHEMA) as db:
            rows = db.execute("SELECT * FROM entries ORDER BY seq").fetchall()
        return "".join(f'{{"entry":{row["body"]},"hash":"{row["hash"]}"}}\n' for row in rows)

    def verify(self, *, anchor: str = "") -> Verified:
        """Walks along the chain from its first entry to its last.

        Args:
            anchor: one that was noted earlier: the entry of that number must be there with that hash.

        Raises:
            ConfigError: `anchor` is none.
        """
        if anchor and not _ANCHOR.fullmatch(anchor):
            raise ConfigError(f"{anchor!r:.90} is no anchor; expected NUMBER:HASH, as pp-server audit verify prints it")
        with opened(self._path, schema=_SCHEMA) as db:
            return _walked(db.execute("SELECT * FROM entries ORDER BY seq"), anchor)


def _walked(rows: Iterable[sqlite3.Row], anchor: str) -> Verified:
    count, before, fault, known = 0, "", None, not anchor
    for count, row in enumerate(rows, 1):
        entry = _entry(row)
        if row["seq"] != count:
            fault = Fault(kind="missing", seq=count)
        elif entry is None or _hash(row["body"]) != entry.hash or entry.before != before:
            fault = Fault(kind="changed", seq=count)
        if fault:
            return Verified(entries=count, anchor="", fault=fault)
        assert entry is not None
        before = entry.hash
        known = known or anchor == f"{count}:{before}"
    if not known:
        fault = Fault(kind="anchor", seq=int(anchor.partition(":")[0]))
    return Verified(entries=count, anchor=f"{count}:{before}" if count else "", fault=fault)


def _entry(row: sqlite3.Row) -> Entry | None:
    """The entry of a row; None where it is not one, or is under another number than its own."""
    try:
        stated: dict[str, Any] = json.loads(row["body"])
        entry = Entry(**stated, hash=row["hash"])
        texts = [
            row["body"],
            *(getattr(entry, name) for name in ("time", "who", "action", "subject", "address", "before", "hash")),
        ]
        return entry if entry.seq == row["seq"] and all(isinstance(text, str) for text in texts) else None
    except (ValueError, TypeError, RecursionError):
        return None


def _hash(body: str) -> str:
    return hashlib.sha256(body.encode("utf-8", "replace")).hexdigest()
