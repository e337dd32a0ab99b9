"""The file of agreements: entries that are only ever added, each with the hash of the one before it."""

from __future__ import annotations

import datetime as dt
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from agreement.offer import DecisionState, OfferCode
from client.ledger_file import NO_HASH, canonical, chained
from pp_model.errors import ConfigError, NotApprovedError

DAMAGED = (
    "Nothing is approved until that is settled: move the file away (what was approved must be approved again; the "
    "budget is kept elsewhere and is not touched)."
)

_APPLICATION_ID = 0x5050_4147  # "PPAG", in the file's header
_BUSY_SECONDS = 30.0
_KEYS = {"offer", "state", "code", "reason", "by", "time"}
_SCHEMA = "CREATE TABLE entries (seq INTEGER PRIMARY KEY, body TEXT NOT NULL, hash TEXT NOT NULL) STRICT"


class AgreementsError(NotApprovedError):
    """The store cannot vouch for what was approved, so nothing is."""


class Entries:
    """The entries as one transaction sees them.

    Attributes:
        bodies: oldest first.
        offers: the signed text of each offer, by its id, in the order in which they came.
        latest: the last entry about each offer.
    """

    def __init__(self, connection: sqlite3.Connection | None, rows: list[tuple[str, str]]) -> None:
        self._connection = connection
        self._last = rows[-1][1] if rows else NO_HASH
        self.bodies: list[dict[str, Any]] = []
        self.offers: dict[str, str] = {}
        self.latest: dict[str, dict[str, Any]] = {}
        for body, _ in rows:
            self._take(json.loads(body))

    def add(
        self,
        offer_id: str,
        state: DecisionState,
        code: OfferCode | None,
        reason: str,
        *,
        by: str,
        now: dt.datetime,
        data: str | None = None,
    ) -> None:
        """One more entry, with the offer's signed text in its first. Only within `changing`."""
        assert self._connection is not None
        entry = {
            "offer": offer_id,
            "state": state.value,
            "code": code.value if code else "",
            "reason": reason,
            "by": by,
            "time": now.isoformat(timespec="seconds"),
            **({} if data is None else {"data": data}),
        }
        body = canonical(entry)
        self._last, seq = chained(self._last, body), len(self.bodies)
        self._connection.execute("INSERT INTO entries VALUES (?, ?, ?)", (seq, body, self._last))
        self._take(entry)

    def find(self, beginning: str) -> str:
        """The id that begins so.

        Raises:
            ConfigError: none, or several.
        """
        found = [offer_id for offer_id in self.latest if beginning and offer_id.startswith(beginning.lower())]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(f"{len(found)} offers begin with {beginning!r}; write more of the id")
        raise ConfigError(f"no offer begins with {beginning[:20]!r}; see the ids with pp-client plans")

    def _take(self, entry: dict[str, Any]) -> None:
        self.bodies.append(entry)
        if "data" in entry:
            self.offers[entry["offer"]] = entry["data"]
        self.latest[entry["offer"]] = entry


def read(path: Path) -> Entries:
    """All entries, verified; none where there is no file.

    Raises:
        AgreementsError: the file is damaged, changed, not ours or not readable.
    """
    with _errors(path):
        if not path.exists():
            return Entries(None, [])
        with closing(_connect(path)) as connection:
            begun = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            return _load(connection, path) if begun else Entries(None, [])  # else another process makes it right now


@contextmanager
def changing(path: Path) -> Iterator[Entries]:
    """The entries, verified, as their only writer; what is added is on disk when the block ends without an error.

    The file is made, readable by its owner alone, where there is none.

    Raises:
        AgreementsError: see `read`; or the file cannot be written.
    """
    with _errors(path):
        if not path.exists():
            with suppress(FileExistsError):  # another process was first
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with closing(_connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            try:
                if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                    connection.execute(_SCHEMA)
                    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                yield _load(connection, path)
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # the first error is the one to tell
                    connection.execute("ROLLBACK")
                raise


def _connect(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=rw"  # never makes a file out of a wrong path
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)


def _load(connection: sqlite3.Connection, path: Path) -> Entries:
    if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise AgreementsError(f"{path} is not a store of agreements. {DAMAGED}")
    if connection.execute("PRAGMA quick_check").fetchall() != [("ok",)]:
        raise AgreementsError(f"{path} is damaged. {DAMAGED}")
    rows = connection.execute("SELECT seq, body, hash FROM entries ORDER BY seq").fetchall()
    before = NO_HASH
    for at, (seq, body, entry_hash) in enumerate(rows):
        if seq != at or not isinstance(body, str) or entry_hash != chained(before, body):
            raise AgreementsError(f"{path} is damaged at entry {at}. {DAMAGED}")
        before = entry_hash
    try:
        entries = Entries(connection, [(body, entry_hash) for _, body, entry_hash in rows])
        well_formed = all(map(_well_formed, entries.bodies)) and set(entries.latest) == set(entries.offers)
    except (ValueError, KeyError, TypeError, RecursionError):
        well_formed = False
    if not well_formed:
        raise AgreementsError(f"{path} has an entry that this program does not write. {DAMAGED}")
    return entries


def _well_formed(body: dict[str, Any]) -> bool:
    """Whether it is an entry as `Entries.add` makes them; a `ValueError` says no too."""
    texts = all(isinstance(text, str) for text in body.values())
    if not texts or set(body) - {"data"} != _KEYS:
        return False
    DecisionState(body["state"])
    OfferCode(body["code"] or OfferCode.REJECTED)
    return dt.datetime.fromisoformat(body["time"]).tzinfo is not None


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise AgreementsError(f"{path} cannot be used ({why}). {DAMAGED}") from None
