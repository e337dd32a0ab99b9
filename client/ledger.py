"""The merchant's privacy ledger: what was charged for which task, on disk before anything is computed for it.

One SQLite file per merchant. Its entries are only ever added, and each carries the SHA-256 of the one before it, so
that a changed, lost or swapped entry is noticed when the file is opened. What no file can notice about itself, that
it is an old copy, is noticed by the head beside it (`client.ledger_head`) and, when both are old, by an anchor: the
last entry's number and hash, which the platform keeps and sends with every task.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from client.ledger_file import (
    DAMAGED,
    NO_HASH,
    VERSION,
    canonical,
    chained,
    check_file,
    connect,
    create,
    ledger_errors,
    plain_event,
    settle,
)
from client.ledger_head import Head, pages_hash, read_head, write_head
from pp_model.accounting import PrivacyEvent, epsilon_spent
from pp_model.errors import BudgetExceededError, LedgerError, PolicyError
from pp_model.protocol import Anchor

KEEP_SEALED = 8

PRICE_SLACK = 0.999  # the accountant's own error: one more event may look this much cheaper, and no more

Cost = Callable[[Sequence[PrivacyEvent]], float]


class SealedReplyGoneError(LedgerError):
    """The task was answered before, and its reply is no longer kept. It must never be computed again."""


class PlanUsedUpError(PolicyError):
    """The plan was charged for as many tasks as it has rounds. Nothing was recorded."""

    def __init__(self, *, plan: str, charged: int, most_tasks: int) -> None:
        self.plan, self.charged, self.most_tasks = plan, charged, most_tasks
        super().__init__(
            f"Plan {plan[:16]} was charged for {charged} tasks, and {most_tasks} were agreed. Nothing was recorded. "
            "Offer another plan for more rounds."
        )


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What a budget belongs to: whose customers, as declared, and in which period.

    No file name and no content is in it, so a renamed, appended or re-exported orders file has the same budget
    (checklist D51, D52). A new period or another population is another ledger.
    """

    merchant: str
    unit: str = "customer"
    population: str
    period: str

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value.strip():
                raise LedgerError(f"lineage.{name} is empty; name what the budget belongs to")


@dataclass(frozen=True, kw_only=True)
class Charge:
    """One task's line in the ledger. `epsilon_after` is what all charges up to this one cost, as priced that day."""

    seq: int
    task: str
    plan: str
    event: PrivacyEvent
    epsilon_after: float


@dataclass(frozen=True, kw_only=True)
class _Seal:
    seq: int
    sha256: str


def open_ledger(path: Path, *, lineage: Lineage, budget: float, delta: float) -> PrivacyLedger:
    """The ledger as the product uses it: priced by the accountant at the ledger's own `delta`."""
    cost = partial(epsilon_spent, delta=delta)
    return PrivacyLedger(path, lineage=lineage, budget=budget, delta=delta, cost=cost)


class PrivacyLedger:
    """Charges of one lineage against one budget, durable and append-only.

    Reserve, compute, seal, release: `charge` is on disk before it returns, and `seal` keeps the reply's bytes before
    they are sent, so that a repeated task gets the same bytes. A task that was charged and not sealed has left
    nothing, and may be computed again under its charge. Nothing is ever refunded.

    Several threads and several processes may use one file; no two of them can pass the budget together.

    Args:
        path: the file; made, with its first entry, where there is none. Its folder must exist.
        lineage: what the budget belongs to; must be what the file says.
        budget: epsilon; infinite where nothing is private (simulation). Must be what the file says.
        delta: the one delta of all charges; must be what the file says.
        cost: all events to the epsilon they cost together at `delta`.

    Raises:
        LedgerError: from every method: the file is damaged, of another lineage, budget, delta or version, an old
            copy, not writable, or held by another program. Nothing may be spent until that is settled.
    """

    def __init__(self, path: Path, *, lineage: Lineage, budget: float, delta: float, cost: Cost) -> None:
        if not (budget >= 0 and 0 < delta < 1):
            raise LedgerError(f"budget is {budget!r} and delta {delta!r}; allowed: at least 0, and between 0 and 1")
        self._path, self._budget, self._cost = Path(path), float(budget), cost
        self._genesis = {
            "kind": "genesis",
            "version": VERSION,
            "lineage": asdict(lineage),
            "budget": repr(self._budget),
            "delta": repr(float(delta)),
        }
        self._lineage_hash = hashlib.sha256(canonical(asdict(lineage)).encode()).hexdigest()
        self._lock = threading.RLock()
        self._hashes: list[str] = []
        self._charges: dict[str, Charge] = {}
        self._seals: dict[str, _Seal] = {}
        self._priced: tuple[tuple[PrivacyEvent, ...], float] = ((), 0.0)
        with ledger_errors(self._path):
            if not self._path.exists():
                create(self._path, self._genesis)
            self._connection = connect(self._path)
            try:
                self._verify()
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> PrivacyLedger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; every later call raises `LedgerError`."""
        with self._lock:
            self._connection.close()

    def charge(self, task: str, event: PrivacyEvent, *, plan: str, most_tasks: int | None) -> None:
        """Reserves `event` for `task`; durable when this returns.

        The same task with the same event is charged once, however often it is asked for. A refusal adds no entry.

        Args:
            task: the task's fingerprint.
            plan: the plan's fingerprint.
            most_tasks: how many different tasks may ever be charged for this plan: new arrays under an old round are
                a new task, and a plan that was agreed for so many rounds must not become more of them. None: any.

        Raises:
            PlanUsedUpError: `most_tasks` were charged for this plan.
            BudgetExceededError: the charge would pass the budget, or its price cannot be trusted.
            LedgerError: the task was charged with another event, or see the class.
        """
        event = plain_event(task, event)
        with self._transaction("IMMEDIATE"):
            if known := self._charges.get(task):
                if known.event != event:
                    raise LedgerError(
                        f"task {task[:16]} was charged before, with another event; a task's mechanism cannot change. "
                        "Ask for a new task."
                    )
                return
            charged = sum(charge.plan == plan for charge in self._charges.values())
            if most_tasks is not None and not charged < most_tasks:
                raise PlanUsedUpError(plan=plan, charged=charged, most_tasks=most_tasks)
            events = self._events()
            spent, needed = self._spent(), self._price((*events, event))
            # Written so that NaN loses. A price that falls when an event is added is no price either.
            if not (spent * PRICE_SLACK <= needed <= self._budget):
                raise BudgetExceededError(spent=spent, needed=needed, budget=self._budget)
            self._append(
                {"kind": "charge", "task": task, "plan": plan, "event": asdict(event), "epsilon_after": repr(needed)}
            )

    def seal(self, task: str, payload: bytes) -> bytes:
        """Keeps the reply of a charged task, durably, and returns what is kept: the first bytes ever sealed for it.

        The latest `KEEP_SEALED` replies are kept whole; of older ones the hash.

        Raises:
            SealedReplyGoneError: sealed before, and the bytes are no longer kept.
            LedgerError: the task was never charged, or see the class.
        """
        with self._transaction("IMMEDIATE"):
            if task not in self._charges:
                raise LedgerError(f"task {task[:16]} was never charged, so its reply must not leave; charge it first")
            if known := self._seals.get(task):
                return self._kept(known)
            seq = self._append({"kind": "seal", "task": task, "sha256": hashlib.sha256(payload).hexdigest()})
            self._connection.execute("INSERT INTO payloads VALUES (?, ?)", (seq, payload))
            self._connection.execute(
                "DELETE FROM payloads WHERE seq NOT IN (SELECT seq FROM payloads ORDER BY seq DESC LIMIT ?)",
                (KEEP_SEALED,),
            )
        return payload

    def sealed(self, task: str) -> bytes | None:
        """The reply kept for `task`, whose hash is what the chain says; `None` where none was ever sealed.

        Raises:
            SealedReplyGoneError: sealed before, and the bytes are no longer kept.
        """
        with self._transaction("DEFERRED"):
            seal = self._seals.get(task)
            return None if seal is None else self._kept(seal)

    @property
    def spent(self) -> float:
        """Epsilon of all charges together, at the ledger's delta."""
        with self._transaction("DEFERRED"):
            return self._spent()

    @property
    def remaining(self) -> float:
        """Epsilon between `spent` and the budget. Epsilons do not add up: a charge may cost less than it seems."""
        spent = self.spent
        return math.inf if self._budget == math.inf else max(0.0, self._budget - spent)

    @property
    def events(self) -> tuple[PrivacyEvent, ...]:
        """Every event charged, in order."""
        with self._transaction("DEFERRED"):
            return self._events()

    def charges(self) -> list[Charge]:
        """Every charge, in order."""
        with self._transaction("DEFERRED"):
            return list(self._charges.values())

    @property
    def anchor(self) -> Anchor:
        """The last entry: what to keep elsewhere, so that an old copy of this file is noticed, or one begun anew."""
        with self._transaction("DEFERRED"):
            return Anchor(ledger=self._lineage_hash, seq=len(self._hashes) - 1, hash=self._hashes[-1])

    def check_anchor(self, anchor: Anchor) -> None:
        """Returns if this ledger contains the anchored entry, or if the anchor is of another lineage's ledger.

        Raises:
            LedgerError: the ledger is older than the anchor, was begun anew, or another history led to it.
        """
        if anchor.ledger == self._lineage_hash:
            with self._transaction("DEFERRED"):
                self._check_entry(anchor.seq, anchor.hash)

    def _check_entry(self, seq: int, entry_hash: str) -> None:
        last = len(self._hashes) - 1
        if not 0 <= seq <= last:
            raise LedgerError(
                f"ledger {self._path} ends at entry {last}, and entry {seq} is known to exist: this is an old copy, or "
                "was begun anew. Put the latest copy back, with the files beside it; what it had spent is spent."
            )
        if self._hashes[seq] != entry_hash:
            raise LedgerError(
                f"entry {seq} of ledger {self._path} is not the anchored one: this is another ledger. {DAMAGED}"
            )

    @contextmanager
    def _transaction(self, mode: Literal["DEFERRED", "IMMEDIATE"]) -> Iterator[None]:
        """One consistent view of the file, read and verified up to its end; IMMEDIATE: as its only writer."""
        with self._lock, ledger_errors(self._path):
            with self._view(mode):
                yield
            if mode == "IMMEDIATE":
                with self._view("IMMEDIATE"):  # again: the file has its final bytes only once they are committed
                    write_head(self._path, self._head())
                settle(self._connection)

    @contextmanager
    def _view(self, mode: str) -> Iterator[None]:
        self._connection.execute(f"BEGIN {mode}")
        try:
            self._read_on()
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # the first error is the one to tell
                self._connection.execute("ROLLBACK")
            raise

    def _verify(self) -> None:
        """Every page, every entry, every kept reply, the price of all, and the head beside the file."""
        check_file(self._connection, self._path)
        with self._transaction("IMMEDIATE"):
            self._spent()
            for seal in self._seals.values():
                with suppress(SealedReplyGoneError):
                    self._kept(seal)
            if known := read_head(self._path):
                self._check_entry(known.seq, known.hash)
                here = self._head()
                if known.seq == here.seq and known != here:
                    raise LedgerError(f"ledger {self._path} has other bytes than when it was last used. {DAMAGED}")

    def _head(self) -> Head:
        return Head(seq=len(self._hashes) - 1, hash=self._hashes[-1], pages=pages_hash(self._connection))

    def _read_on(self) -> None:
        """Takes in the entries that this object has not seen, each verified against the one before it."""
        seen = len(self._hashes)
        query = "SELECT seq, body, hash FROM entries WHERE seq >= ? ORDER BY seq"
        rows = self._connection.execute(query, (max(0, seen - 1),)).fetchall()
        if not rows or (seen and rows[0][2] != self._hashes[-1]):
            raise LedgerError(f"ledger {self._path} has lost entries. {DAMAGED}")
        for seq, body, entry_hash in rows[1:] if seen else rows:
            before = self._hashes[-1] if self._hashes else NO_HASH
            if seq != len(self._hashes) or entry_hash != chained(before, body):
                raise LedgerError(f"ledger {self._path} is damaged at entry {len(self._hashes)}. {DAMAGED}")
            self._take(json.loads(body))
            self._hashes.append(entry_hash)

    def _take(self, entry: dict[str, Any]) -> None:
        seq, kind = entry.pop("seq"), entry["kind"]
        if (seq == 0) != (kind == "genesis") or seq != len(self._hashes):
            raise LedgerError(f"ledger {self._path} has an entry out of place at {len(self._hashes)}. {DAMAGED}")
        if kind == "genesis":
            self._check_genesis(entry)
        elif kind == "charge":
            self._charges[entry["task"]] = Charge(
                seq=seq,
                task=entry["task"],
                plan=entry["plan"],
                event=PrivacyEvent(**entry["event"]),
                epsilon_after=float(entry["epsilon_after"]),
            )
        else:
            self._seals[entry["task"]] = _Seal(seq=seq, sha256=entry["sha256"])

    def _check_genesis(self, entry: Mapping[str, Any]) -> None:
        for key in ("lineage", "budget", "delta", "version"):
            if entry[key] != self._genesis[key]:
                raise LedgerError(
                    f"ledger {self._path} was begun with {key} {entry[key]}, and is opened with {self._genesis[key]}. "
                    "Use what it was begun with; another population or period is another ledger, in a file of its own."
                )

    def _append(self, entry: Mapping[str, Any]) -> int:
        seq = len(self._hashes)
        body = canonical({"seq": seq, **entry})
        self._connection.execute("INSERT INTO entries VALUES (?, ?, ?)", (seq, body, chained(self._hashes[-1], body)))
        return seq

    def _kept(self, seal: _Seal) -> bytes:
        row = self._connection.execute("SELECT payload FROM payloads WHERE seq = ?", (seal.seq,)).fetchone()
        if row is None:
            raise SealedReplyGoneError(
                f"the reply sealed in entry {seal.seq} is no longer kept: only the latest {KEEP_SEALED} are. "
                "Ask for a new task."
            )
        if hashlib.sha256(row[0]).hexdigest() != seal.sha256:
            raise LedgerError(f"ledger {self._path}: the reply sealed in entry {seal.seq} is damaged. {DAMAGED}")
        return bytes(row[0])

    def _events(self) -> tuple[PrivacyEvent, ...]:
        return tuple(charge.event for charge in self._charges.values())

    def _spent(self) -> float:
        spent = self._price(self._events())
        if not (0 <= spent <= math.inf) or (spent == math.inf and self._budget < math.inf):
            raise LedgerError(f"ledger {self._path}: its charges have no price (epsilon {spent!r}). {DAMAGED}")
        return spent

    def _price(self, events: tuple[PrivacyEvent, ...]) -> float:
        if events != self._priced[0]:
            self._priced = (events, float(self._cost(events)) if events else 0.0)
        return self._priced[1]
