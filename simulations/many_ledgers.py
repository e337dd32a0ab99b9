"""The ledgers of all merchants of one simulation, in one file. For simulations: a merchant keeps `client.ledger`.

The questions are the same, and so are budget, price and answers. What is missing is what protects one merchant's own
file: no chain of hashes, no head beside it, no anchor, so an old or changed copy is not noticed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from client.ledger import PRICE_SLACK, Cost, Lineage, PlanUsedUpError, SealedReplyGoneError
from client.ledger_file import connect, ledger_errors, plain_event
from pp_model.accounting import PrivacyEvent, epsilon_spent
from pp_model.errors import BudgetExceededError, LedgerError

_NOTHING, _CHARGED, _SEALED = 0, 1, 2
_SCHEMA = """
    CREATE TABLE genesis (body TEXT NOT NULL) STRICT;
    CREATE TABLE tasks (
        id INTEGER PRIMARY KEY, task TEXT NOT NULL, plan TEXT NOT NULL, event TEXT NOT NULL, states BLOB NOT NULL
    ) STRICT;
    CREATE TABLE replies (merchant INTEGER PRIMARY KEY, task TEXT NOT NULL, payload BLOB NOT NULL) STRICT;
"""


@dataclass(kw_only=True)
class _Task:
    """One task at all merchants: `states` has a byte for each, what became of it there."""

    id: int
    task: str
    plan: str
    event: PrivacyEvent
    states: bytearray
    changed: bool = False


@dataclass(frozen=True, kw_only=True)
class _History:
    """Events that some merchants were charged, and their price: merchants with equal histories share one."""

    number: int
    events: tuple[PrivacyEvent, ...]
    price: float


class ManyLedgers:
    """One ledger for each lineage, all of one budget and delta, in one SQLite file.

    What is charged or sealed is on disk when the call returns; within `together`, when that ends. Of each merchant the
    latest reply is kept. One thread of one process uses the file.

    Args:
        path: the file; made where there is none. Its folder must exist.
        lineages: of the merchants, in an order that never changes; must be what the file says, as must the rest.

    Raises:
        LedgerError: from every method: the file is of other merchants, another budget or delta, damaged, not writable,
            or what was to be written together was not.
    """

    def __init__(
        self, path: Path, *, lineages: Sequence[Lineage], budget: float, delta: float, cost: Cost | None = None
    ) -> None:
        self._path, self._budget = path, budget
        self._cost = cost or partial(epsilon_spent, delta=delta)
        self._histories = [_History(number=0, events=(), price=0.0)]
        self._longer: dict[tuple[int, PrivacyEvent], _History] = {}
        self._of = [self._histories[0]] * len(lineages)
        self._tasks: dict[str, _Task] = {}
        self._replies: dict[int, tuple[str, bytes]] = {}  # not yet written
        self._charged: dict[str, list[int]] = {}  # by plan: how many of its tasks, at each merchant
        self._depth, self._closed = 0, False
        genesis = {"lineages": [asdict(one) for one in lineages], "budget": repr(budget), "delta": repr(delta)}
        with ledger_errors(path):
            if not path.exists():
                _create(path, json.dumps(genesis))
            self._connection = connect(path)
            try:
                self._read(json.dumps(genesis))
            except BaseException:
                self._connection.close()
                raise
        self.ledgers = tuple(MerchantLedger(self, number) for number in range(len(lineages)))

    def __enter__(self) -> ManyLedgers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Everything that is charged and sealed inside is on disk when this ends, or nothing of it is.

        After an error that leaves this block no ledger answers any more: open the file anew.
        """
        self._need_open()
        self._depth += 1
        try:
            yield
            if self._depth == 1:
                self._write()
        except BaseException:
            if self._depth == 1:
                self._close()  # what is in memory is not what is on disk
            raise
        finally:
            self._depth -= 1

    def charge(self, merchant: int, task: str, event: PrivacyEvent, *, plan: str, most_tasks: int | None) -> None:
        """See `PrivacyLedger.charge`."""
        self._need_open()
        event = plain_event(task, event)
        known = self._tasks.get(task)
        if known and known.event != event:
            raise LedgerError(
                f"task {task[:16]} was charged before, with another event; a task's mechanism cannot change. "
                "Ask for a new task."
            )
        if known and known.states[merchant] != _NOTHING:
            return
        charged = self._charged_for(plan)[merchant]
        if most_tasks is not None and not charged < most_tasks:
            raise PlanUsedUpError(plan=plan, charged=charged, most_tasks=most_tasks)
        before, after = self._of[merchant], self._with(self._of[merchant], event)
        # Written so that NaN loses. A price that falls when an event is added is no price either.
        if not (before.price * PRICE_SLACK <= after.price <= self._budget):
            raise BudgetExceededError(spent=before.price, needed=after.price, budget=self._budget)
        with self.together():
            if known is None:
                states = bytearray(len(self._of))
                known = _Task(id=len(self._tasks), task=task, plan=plan, event=event, states=states)
                self._tasks[task] = known
            known.states[merchant], known.changed = _CHARGED, True
            self._take(merchant, known)

    def seal(self, merchant: int, task: str, payload: bytes) -> bytes:
        """See `PrivacyLedger.seal`; the latest reply is kept whole."""
        if self._state(merchant, task) == _NOTHING:
            raise LedgerError(f"task {task[:16]} was never charged, so its reply must not leave; charge it first")
        kept = self.sealed(merchant, task)
        if kept is not None:
            return kept
        with self.together():
            self._tasks[task].states[merchant], self._tasks[task].changed = _SEALED, True
            self._replies[merchant] = task, payload
        return payload

    def sealed(self, merchant: int, task: str) -> bytes | None:
        """See `PrivacyLedger.sealed`."""
        if self._state(merchant, task) != _SEALED:
            return None
        kept = self._replies.get(merchant)
        if kept is None:
            with ledger_errors(self._path):
                kept = self._connection.execute(
                    "SELECT task, payload FROM replies WHERE merchant = ?", (merchant,)
                ).fetchone()
        if kept is None or kept[0] != task:
            raise SealedReplyGoneError(
                f"the reply to task {task[:16]} is no longer kept: only each merchant's latest is. Ask for a new task."
            )
        return bytes(kept[1])

    def events(self, merchant: int) -> tuple[PrivacyEvent, ...]:
        """Every event charged, in the order in which the tasks first came."""
        self._need_open()
        return self._of[merchant].events

    def spent(self, merchant: int) -> float:
        """Epsilon of all charges together."""
        self._need_open()
        return self._of[merchant].price

    def _need_open(self) -> None:
        if self._closed:
            raise LedgerError(f"ledgers {self._path} were closed, or could not be written; open them again")

    def _state(self, merchant: int, task: str) -> int:
        self._need_open()
        known = self._tasks.get(task)
        return _NOTHING if known is None else known.states[merchant]

    def _with(self, history: _History, event: PrivacyEvent) -> _History:
        """A history with one event more; priced when it is first asked for, whoever has it."""
        key = history.number, event
        if key not in self._longer:
            events = (*history.events, event)
            longer = _History(number=len(self._histories), events=events, price=float(self._cost(events)))
            self._histories.append(longer)
            self._longer[key] = longer
        return self._longer[key]

    def _take(self, merchant: int, task: _Task) -> None:
        self._of[merchant] = self._with(self._of[merchant], task.event)
        self._charged_for(task.plan)[merchant] += 1

    def _charged_for(self, plan: str) -> list[int]:
        return self._charged.setdefault(plan, [0] * len(self._of))

    def _close(self) -> None:
        self._closed = True
        self._connection.close()

    def _write(self) -> None:
        tasks = [one for one in self._tasks.values() if one.changed]
        if not tasks and not self._replies:
            return
        with ledger_errors(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(
                    "INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?, ?)",
                    ((one.id, one.task, one.plan, json.dumps(asdict(one.event)), bytes(one.states)) for one in tasks),
                )
                self._connection.executemany(
                    "INSERT OR REPLACE INTO replies VALUES (?, ?, ?)",
                    ((merchant, task, payload) for merchant, (task, payload) in self._replies.items()),
                )
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # the first error is the one to tell
                    self._connection.execute("ROLLBACK")
                raise
        for one in tasks:
            one.changed = False
        self._replies.clear()

    def _read(self, genesis: str) -> None:
        (body,) = self._connection.execute("SELECT body FROM genesis").fetchone()
        if body != genesis:
            raise LedgerError(
                f"the ledgers {self._path} are of other merchants, or of another budget or delta. Use what they were "
                "begun with, or another folder."
            )
        for id, task, plan, event, states in self._connection.execute("SELECT * FROM tasks ORDER BY id"):
            one = _Task(id=id, task=task, plan=plan, event=PrivacyEvent(**json.loads(event)), states=bytearray(states))
            self._tasks[task] = one
            for merchant, state in enumerate(states):
                if state != _NOTHING:
                    self._take(merchant, one)


class MerchantLedger:
    """One merchant's ledger of `ManyLedgers`; see `client.task.TaskLedger`."""

    def __init__(self, all_: ManyLedgers, merchant: int) -> None:
        self._all, self._merchant = all_, merchant

    def charge(self, task: str, event: PrivacyEvent, *, plan: str, most_tasks: int | None) -> None:
        """See `PrivacyLedger.charge`."""
        self._all.charge(self._merchant, task, event, plan=plan, most_tasks=most_tasks)

    def seal(self, task: str, payload: bytes) -> bytes:
        """See `PrivacyLedger.seal`."""
        return self._all.seal(self._merchant, task, payload)

    def sealed(self, task: str) -> bytes | None:
        """See `PrivacyLedger.sealed`."""
        return self._all.sealed(self._merchant, task)

    @property
    def events(self) -> tuple[PrivacyEvent, ...]:
        """Every event charged."""
        return self._all.events(self._merchant)

    @property
    def spent(self) -> float:
        """Epsilon of all charges together, at the ledgers' delta."""
        return self._all.spent(self._merchant)


def _create(path: Path, genesis: str) -> None:
    """Whole or not at all: a folder with half a file could never be continued."""
    temporary = path.with_name(f".{path.name}-new")
    temporary.unlink(missing_ok=True)
    with closing(sqlite3.connect(temporary)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_SCHEMA)
        with connection:
            connection.execute("INSERT INTO genesis VALUES (?)", (genesis,))
    temporary.replace(path)
