"""Who may log in to the dashboard, with which role. Of a password only an Argon2id hash is kept."""

from __future__ import annotations

import datetime as dt
import re
import secrets
import sqlite3
import threading
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from pp_model.errors import PurchasePowerError
from server.dashboard.files import opened
from server.home import PlatformHome

Role = Literal["viewer", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)
SHORTEST_PASSWORD, LONGEST_PASSWORD = 12, 256  # characters

# OWASP's least for Argon2id (Password Storage Cheat Sheet): 19 MiB, two passes, one lane.
MEMORY_KIB, PASSES, LANES, HASH_BYTES, SALT_BYTES = 19_456, 2, 1, 32, 16
# What the password of somebody who is not there is checked against: the same work, and nothing fits it.
_NOBODYS = f"$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${'A' * 22}${'A' * 43}"
_AT_ONCE = threading.BoundedSemaphore(2)  # hashes under way: each takes its memory

_NAME = re.compile(r"[a-z][a-z0-9._-]{0,39}")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY,
    role TEXT NOT NULL CHECK (role IN ('viewer', 'operator')),
    password TEXT NOT NULL,
    since TEXT NOT NULL,
    stamp TEXT NOT NULL
);
"""


class AccountError(PurchasePowerError):
    """An account or a password that cannot be."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """One person who may log in.

    Attributes:
        since: in UTC.
        stamp: another one after every change of the password, and of an account that was removed and made again.
    """

    name: str
    role: Role
    since: str
    stamp: str


def accounts_file(home: PlatformHome) -> Path:
    """Where the accounts of a platform are."""
    return home.root / "state" / "accounts.sqlite"


class Accounts:
    """The accounts in the file `path`, made where it is missing. Every method is one transaction."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> list[Account]:
        """Every account, by name."""
        with opened(self._path, schema=_SCHEMA) as db:
            return [_account(row) for row in db.execute("SELECT * FROM accounts ORDER BY name")]

    def find(self, name: str) -> Account | None:
        """The account of this name."""
        row = self._row(name)
        return None if row is None else _account(row)

    def add(self, name: str, password: str, role: Role) -> Account:
        """A new account.

        Raises:
            AccountError: the name is taken or is none, or the password is too short, too long or the name.
        """
        if not _NAME.fullmatch(name):
            raise AccountError(f"{name!r:.60} is not a name; use up to 40 of a-z, 0-9, '.', '_' and '-'")
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        row = (name, role, _hashed(checked_password(password, name=name)), now, secrets.token_hex(8))
        try:
            with opened(self._path, schema=_SCHEMA) as db:
                db.execute("INSERT INTO accounts VALUES (?, ?, ?, ?, ?)", row)
        except sqlite3.IntegrityError:
            raise AccountError(f"{name!r} has an account already; remove it first, or set a new password") from None
        return Account(name=name, role=role, since=now, stamp=row[4])

    def set_password(self, name: str, password: str) -> Account:
        """The account with its new password and a new stamp.

        Raises:
            AccountError: no such account, or a password that cannot be.
        """
        hashed, stamp = _hashed(checked_password(password, name=name)), secrets.token_hex(8)
        with opened(self._path, schema=_SCHEMA) as db:
            changed = db.execute("UPDATE accounts SET password = ?, stamp = ? WHERE name = ?", (hashed, stamp, name))
        account = self.find(name) if changed.rowcount else None
        if account is None:
            raise AccountError(f"nobody is called {name!r:.60}; see who is: pp-server operators list")
        return account

    def remove(self, name: str) -> None:
        """Nobody logs in under this name any more, and who is logged in is so no longer.

        Raises:
            AccountError: no such account.
        """
        with opened(self._path, schema=_SCHEMA) as db:
            if not db.execute("DELETE FROM accounts WHERE name = ?", (name,)).rowcount:
                raise AccountError(f"nobody is called {name!r:.60}; see who is: pp-server operators list")

    def verify(self, name: str, password: str) -> Account | None:
        """The account if the password is its own. Takes as long for a name that is not there."""
        row = self._row(name)
        known = _fits(password, _NOBODYS if row is None else row["password"])
        return _account(row) if row is not None and known else None

    def _row(self, name: str) -> sqlite3.Row | None:
        with opened(self._path, schema=_SCHEMA) as db:
            row: sqlite3.Row | None = db.execute("SELECT * FROM accounts WHERE name = ?", (name,)).fetchone()
            return row


def checked_password(password: str, *, name: str) -> str:
    """`password`, if it may be one.

    Raises:
        AccountError: it is too short or too long, or it is the name.
    """
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise AccountError(
            f"the password has {len(password)} characters; allowed: {SHORTEST_PASSWORD} to {LONGEST_PASSWORD}. Four or "
            "more words that have nothing to do with each other are easy to keep"
        )
    if len(password.casefold().replace(name, "", 1)) < SHORTEST_PASSWORD - 4:
        raise AccountError("the password is little more than the name; choose another")
    if len(set(password)) < SHORTEST_PASSWORD // 2:
        raise AccountError("the password repeats a few characters; choose another")
    return password


def _hashed(password: str) -> str:
    with _AT_ONCE:
        kdf = Argon2id(
            salt=secrets.token_bytes(SALT_BYTES),
            length=HASH_BYTES,
            iterations=PASSES,
            lanes=LANES,
            memory_cost=MEMORY_KIB,
        )
        return kdf.derive_phc_encoded(_bytes(password))


def _fits(password: str, hashed: str) -> bool:
    if len(password) > LONGEST_PASSWORD:
        return False  # no password is so long, whoever asks
    try:
        with _AT_ONCE:
            Argon2id.verify_phc_encoded(_bytes(password), hashed)
    except InvalidKey:
        return False
    return True


def _bytes(password: str) -> bytes:
    """The same for the same characters, however a keyboard composes them."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "replace")


def _account(row: sqlite3.Row) -> Account:
    return Account(name=row["name"], role=row["role"], since=row["since"], stamp=row["stamp"])
