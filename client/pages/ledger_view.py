"""What was charged, by a reader that cannot write: a page begins no ledger, mends none, and leaves its bytes alone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from client.ledger import Charge
from client.ledger_file import DAMAGED, NO_HASH, beside, chained, ledger_errors
from client.settings import MerchantSettings
from client.spending import Spending
from pp_model.accounting import PrivacyEvent
from pp_model.errors import LedgerError

_BUSY_SECONDS = 2.0
_MOST_TRIES = 5  # while somebody begins to write


def look_at_ledger(settings: MerchantSettings) -> Spending:
    """The charges of the period; the chain of entries is followed, and must be this merchant's. None is begun.

    Whether every page of the file is whole, and no old copy, is for who charges it: `client.ledger` looks then.

    Raises:
        LedgerError: the entries do not follow each other, or are of another lineage, budget or delta.
    """
    path, policy = settings.paths.ledger, settings.policy
    charges: tuple[Charge, ...] = ()
    if path.exists():
        with ledger_errors(path):
            rows = _rows(path)
        begun = {
            "lineage": asdict(settings.lineage),
            "budget": repr(float(policy.epsilon_budget)),
            "delta": repr(float(policy.delta)),
        }
        charges = _charges(rows, path, begun=begun)
    elif beside(path, "-head").exists():
        raise LedgerError(f"ledger {path} is gone, but its head is still there. {DAMAGED}")
    return Spending(charges=charges, budget=policy.epsilon_budget, delta=policy.delta)


def _rows(path: Path) -> list[tuple[int, str, str]]:
    """The entries. Where no other program has the file open, not even a file of SQLite's own is left beside it."""
    for _ in range(_MOST_TRIES):
        alone, before = not beside(path, "-wal").exists(), path.stat().st_mtime_ns
        uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)) as connection:
            rows = connection.execute("SELECT seq, body, hash FROM entries ORDER BY seq").fetchall()
        if not alone or (path.stat().st_mtime_ns == before and not beside(path, "-wal").exists()):
            return rows
    raise LedgerError(f"ledger {path} is being written to without end; try again")


def _charges(rows: Sequence[tuple[int, str, str]], path: Path, *, begun: dict[str, Any]) -> tuple[Charge, ...]:
    before, charges = NO_HASH, []
    for at, (seq, body, entry_hash) in enumerate(rows):
        if seq != at or entry_hash != chained(before, body):
            raise LedgerError(f"ledger {path} is damaged at entry {at}. {DAMAGED}")
        before, entry = entry_hash, json.loads(body)
        if entry["kind"] == "genesis":
            for key, value in begun.items():
                if entry[key] != value:
                    raise LedgerError(
                        f"ledger {path} was begun with {key} {entry[key]}, and merchant.toml says {value}. Use what it "
                        "was begun with; another population or period is another ledger, in a file of its own."
                    )
        elif entry["kind"] == "charge":
            charges.append(
                Charge(
                    seq=seq,
                    task=entry["task"],
                    plan=entry["plan"],
                    event=PrivacyEvent(**entry["event"]),
                    epsilon_after=float(entry["epsilon_after"]),
                )
            )
    if not rows:
        raise LedgerError(f"ledger {path} has lost entries. {DAMAGED}")
    return tuple(charges)
