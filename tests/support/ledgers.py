"""Ledgers with a cost that one can add up by hand, and programs that use a ledger and are killed."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from client.ledger import Cost, Lineage, PrivacyLedger
from pp_model.accounting import PrivacyEvent
from pp_model.errors import BudgetExceededError

LINEAGE = Lineage(merchant="bakery", population="customers of the web shop", period="2024")
LIFE = ("a", "b", "c")
PLAN = "f" * 64


def event(num_steps: int, **changes: float) -> PrivacyEvent:
    """`num_steps` steps of one mechanism."""
    fields: dict[str, float] = {"sample_rate": 0.1, "noise_multiplier": 1.0, **changes}
    return PrivacyEvent(**fields, num_steps=num_steps)


def steps(events: Sequence[PrivacyEvent]) -> float:
    """One epsilon a step; infinite without noise."""
    return float(sum(e.num_steps if e.noise_multiplier > 0 else math.inf for e in events))


def ledger_of_steps(
    path: Path, *, budget: float = 100.0, lineage: Lineage = LINEAGE, delta: float = 1e-6
) -> PrivacyLedger:
    """A ledger priced by `steps`."""
    return PrivacyLedger(path, lineage=lineage, budget=budget, delta=delta, cost=steps)


def ledger_with_cost(folder: Path, cost: Cost, *, budget: float = 100.0) -> PrivacyLedger:
    """A ledger in `folder`, priced by `cost`."""
    return PrivacyLedger(folder / "ledger.sqlite", lineage=LINEAGE, budget=budget, delta=1e-6, cost=cost)


def entries(path: Path) -> list[tuple[int, str, str]]:
    """Number, text and hash of every entry, read past the ledger."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT seq, body, hash FROM entries ORDER BY seq").fetchall()


def payload_of(task: str) -> bytes:
    """The reply that every honest computation of `task` gives in these tests."""
    return f"reply to {task} ".encode() * 40


def live(ledger: PrivacyLedger, diary: Path) -> None:
    """Charges and seals every task of `LIFE`, and writes in the diary what each call has promised."""
    for task in LIFE:
        ledger.charge(task, event(10), plan=PLAN, most_tasks=None)
        _write(diary, f"charged {task}")
        ledger.seal(task, payload_of(task))
        _write(diary, f"sealed {task}")


def _write(diary: Path, line: str) -> None:
    handle = os.open(diary, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def _live_until_killed(folder: Path, at_statement: int) -> None:
    ledger = ledger_of_steps(folder / "ledger.sqlite")
    count = 0

    def kill_in_time(_statement: str) -> None:
        nonlocal count
        count += 1
        if count == at_statement:
            os.kill(os.getpid(), signal.SIGKILL)

    ledger._connection.set_trace_callback(kill_in_time)  # called before each statement, COMMIT included
    live(ledger, folder / "diary")


def _kill_everywhere(folder: Path) -> None:
    """Lives once in `folder/1`, killed before its first statement, once in `folder/2`, ... until none is left."""
    at_statement = 0
    while True:
        at_statement += 1
        place = folder / str(at_statement)
        place.mkdir()
        if (child := os.fork()) == 0:
            _live_until_killed(place, at_statement)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))


def _race(path: Path, name: str, budget: float) -> None:
    """Waits for the file `go`, then charges single steps until the budget is gone; prints how many it got."""
    print("ready", flush=True)
    while not (path.parent / "go").exists():
        time.sleep(0.001)
    got = 0
    with ledger_of_steps(path, budget=budget) as ledger, contextlib.suppress(BudgetExceededError):
        while True:
            ledger.charge(f"{name}-{got}", event(1), plan=PLAN, most_tasks=None)
            got += 1
    print(got)


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        _kill_everywhere(Path(sys.argv[2]))
    else:
        _race(Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
