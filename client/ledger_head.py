"""The ledger's head: a small file beside it that says where it ends and what every byte of it is.

Written whenever the ledger has grown, under the ledger's own write lock, so it is never ahead of the ledger. A crash
or a power cut may leave it behind: then the ledger has more entries than the head knows, which is no contradiction.
A ledger that lacks the head's entry, or that ends at it with other bytes, is an old copy or damaged.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from client.ledger_file import DAMAGED, beside
from pp_model.errors import LedgerError

_LINE = re.compile(r"(\d{12}) ([0-9a-f]{64}) ([0-9a-f]{64}) ([0-9a-f]{64})\n")


@dataclass(frozen=True, kw_only=True)
class Head:
    """Number and hash of the last entry, and the SHA-256 of the file's pages when it was the last."""

    seq: int
    hash: str
    pages: str

    def line(self) -> str:
        """As the file holds it, of fixed length, with a SHA-256 of its own at the end."""
        text = f"{self.seq:012d} {self.hash} {self.pages}"
        return f"{text} {hashlib.sha256(text.encode()).hexdigest()}\n"


def pages_hash(connection: sqlite3.Connection) -> str:
    """SHA-256 of every byte of every page, those that hold nothing included, as of the open transaction."""
    return hashlib.sha256(connection.serialize()).hexdigest()


def read_head(path: Path) -> Head | None:
    """The head of the ledger at `path`; `None` where there is none.

    Raises:
        LedgerError: the file is there, and is no head.
    """
    file = beside(path, "-head")
    if not file.exists():
        return None
    match = _LINE.fullmatch(file.read_text(encoding="ascii", errors="replace"))
    if match:
        head = Head(seq=int(match[1]), hash=match[2], pages=match[3])
        if head.line() == match[0]:
            return head
    raise LedgerError(f"{file} is damaged, so an old copy of the ledger would not be noticed. {DAMAGED}")


def write_head(path: Path, head: Head) -> None:
    """Keeps the head beside the ledger. Not synced: a power cut may cost a check, never a charge."""
    file, line = beside(path, "-head"), head.line().encode("ascii")
    if not file.exists():
        _begin(file, line)
        return
    handle = os.open(file, os.O_WRONLY)
    try:
        os.pwrite(handle, line, 0)  # in place: a head is never half there, and needs no space that it does not have
    finally:
        os.close(handle)


def _begin(file: Path, line: bytes) -> None:
    """Makes the file whole or not at all."""
    new = beside(file, "-new")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        whole = os.write(handle, line) == len(line)
        os.fsync(handle)
    finally:
        os.close(handle)
    if not whole:
        raise OSError(f"no room for {file.name}")
    new.replace(file)
