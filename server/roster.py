"""Who takes part, what is offered to them, what they decided, and how far their ledgers were when last seen.

The same SQLite file as the registry's. It holds nothing about merchants' customers.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from agreement.node_keys import fingerprint_of, load_public, public_text
from agreement.offer import EVERYBODY, DecisionState, Offer, OfferCode
from pp_model.errors import PurchasePowerError
from pp_model.protocol import Anchor
from server.registry_file import open_file, transaction

_SCHEMA = """
CREATE TABLE IF NOT EXISTS merchants (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    public_key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    node_id TEXT,
    added TEXT NOT NULL,
    removed TEXT,
    last_seen TEXT,
    version TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX IF NOT EXISTS active_name ON merchants (name) WHERE removed IS NULL;
CREATE UNIQUE INDEX IF NOT EXISTS active_key ON merchants (fingerprint) WHERE removed IS NULL;
CREATE TABLE IF NOT EXISTS serials (serial INTEGER PRIMARY KEY AUTOINCREMENT, given TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS offers (
    id TEXT PRIMARY KEY,
    serial INTEGER NOT NULL,
    plan_id TEXT NOT NULL,
    data BLOB NOT NULL,
    opened TEXT NOT NULL,
    closed TEXT
);
CREATE TABLE IF NOT EXISTS audiences (
    offer TEXT NOT NULL REFERENCES offers (id),
    fingerprint TEXT NOT NULL,
    PRIMARY KEY (offer, fingerprint)
);
CREATE TABLE IF NOT EXISTS decisions (
    offer TEXT NOT NULL REFERENCES offers (id),
    merchant TEXT NOT NULL,
    state TEXT NOT NULL,
    code TEXT,
    time TEXT NOT NULL,
    PRIMARY KEY (offer, merchant)
);
CREATE TABLE IF NOT EXISTS anchors (
    merchant TEXT NOT NULL,
    ledger TEXT NOT NULL,
    seq INTEGER NOT NULL,
    hash TEXT NOT NULL,
    time TEXT NOT NULL,
    PRIMARY KEY (merchant, ledger)
);
"""
_ADDED = (("merchants", "last_seen", "TEXT"), ("merchants", "version", "TEXT NOT NULL DEFAULT ''"))
_MAX_NAME = 60
SEEN_SECONDS = 60  # the least between two signs of life of a merchant that are written down


class RosterError(PurchasePowerError):
    """A merchant, key or offer that is not, or already, known."""


@dataclass(frozen=True, kw_only=True)
class Merchant:
    """One merchant of the platform.

    Attributes:
        public_key: the node key, in OpenSSH's one-line form.
        fingerprint: of that key.
        node_id: its number at the SuperLink; None until it is registered there.
        added, removed: times in UTC.
        last_seen: when it last asked the platform for anything, in UTC, to the minute; None: never.
        version: of its program, as it says; "" where it has not said.
    """

    name: str
    public_key: str
    fingerprint: str
    node_id: int | None
    added: str
    removed: str | None
    last_seen: str | None
    version: str


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a merchant last said about an offer. `code` is given where the state is REFUSED."""

    merchant: str
    state: DecisionState
    code: OfferCode | None
    time: str


class Roster:
    """The roster in the file `path`, made where it is missing. Every method is one transaction, on the disk when it
    returns. Close it, or use it in a `with`.

    Args:
        read_only: the file must be there, and nothing of it is changed; see `open_file`.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._db = open_file(path, schema=_SCHEMA, added=_ADDED, read_only=read_only)

    def __enter__(self) -> Roster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def add(self, name: str, public_key: bytes) -> Merchant:
        """A new merchant with its public key.

        Raises:
            RosterError: the name or the key is there already, or the name is not one.
            ConfigError: not a public key.
        """
        key = load_public(public_key)
        if not (name.strip() == name and name.isprintable() and 1 <= len(name) <= _MAX_NAME):
            raise RosterError(f"{name!r} is not a name for a merchant; use 1 to {_MAX_NAME} printable characters")
        fingerprint = fingerprint_of(key)
        with transaction(self._db):
            for merchant in self.merchants():
                if name == merchant.name:
                    raise RosterError(f"merchant {name!r} is there already; choose another name, or remove it first")
                if fingerprint == merchant.fingerprint:
                    raise RosterError(f"this key is merchant {merchant.name!r}'s; each merchant needs a key of its own")
            self._db.execute(
                "INSERT INTO merchants (name, public_key, fingerprint, added) VALUES (?, ?, ?, ?)",
                (name, public_text(key).decode(), fingerprint, _now()),
            )
        return self._active(name)

    def remove(self, name: str) -> Merchant:
        """The merchant, which is out from now on. What it released and decided stays on record.

        Raises:
            RosterError: no such merchant.
        """
        merchant = self._active(name)
        self._db.execute("UPDATE merchants SET removed = ? WHERE name = ? AND removed IS NULL", (_now(), name))
        return merchant

    def set_node(self, name: str, node_id: int | None) -> None:
        """Keeps the merchant's number at the SuperLink."""
        # A node id is an unsigned 64-bit number, which SQLite has not: kept as text.
        text = None if node_id is None else str(node_id)
        self._db.execute("UPDATE merchants SET node_id = ? WHERE name = ? AND removed IS NULL", (text, name))

    def merchants(self, *, removed: bool = False) -> list[Merchant]:
        """The merchants by name; with `removed` also those that were."""
        where = "" if removed else "WHERE removed IS NULL"
        return [_merchant(row) for row in self._db.execute(f"SELECT * FROM merchants {where} ORDER BY name, id")]

    def by_fingerprint(self, fingerprint: str) -> Merchant | None:
        """The merchant whose key has this fingerprint, unless it was removed."""
        row = self._db.execute(
            "SELECT * FROM merchants WHERE fingerprint = ? AND removed IS NULL", (fingerprint,)
        ).fetchone()
        return _merchant(row) if row else None

    def seen(self, merchant: Merchant, *, now: dt.datetime, version: str) -> None:
        """The merchant has just asked for something. However often it asks, one write in `SEEN_SECONDS`.

        Args:
            merchant: as it was read for this request.
            now: in UTC.
            version: as its program says.
        """
        last = merchant.last_seen
        if last is not None and abs((now - dt.datetime.fromisoformat(last)).total_seconds()) < SEEN_SECONDS:
            return
        self._db.execute(
            "UPDATE merchants SET last_seen = ?, version = ? WHERE fingerprint = ? AND removed IS NULL "
            "AND last_seen IS ?",  # of several requests at once, one
            (now.isoformat(timespec="seconds"), version, merchant.fingerprint, last),
        )

    def name_of(self, node_id: int) -> str:
        """The name of the merchant that is or was this node; the number itself where it never was one."""
        row = self._db.execute(
            "SELECT name FROM merchants WHERE node_id = ? ORDER BY id DESC LIMIT 1", (str(node_id),)
        ).fetchone()
        return str(row["name"]) if row else str(node_id)

    def next_serial(self) -> int:
        """A number that was never given before."""
        serial = self._db.execute("INSERT INTO serials (given) VALUES (?)", (_now(),)).lastrowid
        assert serial is not None
        return serial

    def open_offer(self, data: bytes, offer: Offer) -> None:
        """Puts a signed offer out; again where it was closed."""
        with transaction(self._db):
            self._db.execute(
                "INSERT INTO offers (id, serial, plan_id, data, opened) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET closed = NULL",
                (offer.id, offer.serial, offer.plan.plan_id, data, _now()),
            )
            self._db.executemany(
                "INSERT OR IGNORE INTO audiences VALUES (?, ?)",
                [(offer.id, fingerprint) for fingerprint in offer.audience],
            )

    def close_offer(self, offer_id: str) -> None:
        """Takes an offer back; merchants that approved it keep their record."""
        self._db.execute("UPDATE offers SET closed = ? WHERE id = ? AND closed IS NULL", (_now(), offer_id))

    def offers_for(self, fingerprint: str) -> list[bytes]:
        """The open signed offers to the merchant with this key, oldest serial first."""
        rows = self._db.execute(
            "SELECT DISTINCT serial, data FROM offers JOIN audiences ON audiences.offer = offers.id "
            "WHERE closed IS NULL AND fingerprint IN (?, ?) ORDER BY serial",
            (fingerprint, *EVERYBODY),
        )
        return [bytes(row["data"]) for row in rows]

    def decide(self, offer_id: str, merchant: str, state: DecisionState, code: OfferCode | None) -> None:
        """Keeps what a merchant says about an offer; the latest word counts.

        Raises:
            RosterError: no such offer.
        """
        if not self._db.execute("SELECT 1 FROM offers WHERE id = ?", (offer_id,)).fetchone():
            raise RosterError(f"offer {offer_id[:16]!r} is not one of this platform's")
        self._db.execute(
            "INSERT INTO decisions VALUES (?, ?, ?, ?, ?) ON CONFLICT (offer, merchant) "
            "DO UPDATE SET state = excluded.state, code = excluded.code, time = excluded.time",
            (offer_id, merchant, state.value, None if code is None else code.value, _now()),
        )

    def decisions(self, offer_id: str) -> list[Decision]:
        """What merchants said about an offer, by name."""
        rows = self._db.execute("SELECT * FROM decisions WHERE offer = ? ORDER BY merchant", (offer_id,))
        return [
            Decision(
                merchant=row["merchant"],
                state=DecisionState(row["state"]),
                code=None if row["code"] is None else OfferCode(row["code"]),
                time=row["time"],
            )
            for row in rows
        ]

    def approved_nodes(self, offer_id: str) -> dict[int, str]:
        """Node and name of every merchant that approved the offer and is still one."""
        approved = {d.merchant for d in self.decisions(offer_id) if d.state is DecisionState.APPROVED}
        return {m.node_id: m.name for m in self.merchants() if m.node_id is not None and m.name in approved}

    def known_anchor(self, merchant: str) -> Anchor | None:
        """The furthest entry seen of the ledger that the merchant used last."""
        row = self._db.execute(
            "SELECT ledger, seq, hash FROM anchors WHERE merchant = ? ORDER BY time DESC, rowid DESC LIMIT 1",
            (merchant,),
        ).fetchone()
        return Anchor(ledger=row["ledger"], seq=row["seq"], hash=row["hash"]) if row else None

    def seen_anchor(self, merchant: str, anchor: Anchor) -> None:
        """Keeps how far a merchant's ledger is. An older entry of the same ledger never replaces a newer one."""
        self._db.execute(
            "INSERT INTO anchors VALUES (?, ?, ?, ?, ?) ON CONFLICT (merchant, ledger) DO UPDATE SET "
            "seq = excluded.seq, hash = excluded.hash, time = excluded.time WHERE excluded.seq > anchors.seq",
            (merchant, anchor.ledger, anchor.seq, anchor.hash, _now()),
        )

    def _active(self, name: str) -> Merchant:
        for merchant in self.merchants():
            if merchant.name == name:
                return merchant
        known = ", ".join(merchant.name for merchant in self.merchants()) or "none yet"
        raise RosterError(f"no merchant {name!r}; there are: {known}")


def _merchant(row: sqlite3.Row) -> Merchant:
    return Merchant(
        name=row["name"],
        public_key=row["public_key"],
        fingerprint=row["fingerprint"],
        node_id=None if row["node_id"] is None else int(row["node_id"]),
        added=row["added"],
        removed=row["removed"],
        last_seen=row["last_seen"],
        version=row["version"],
    )


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="microseconds")
