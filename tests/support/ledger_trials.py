"""What is done to a ledger in a process of its own: many writers, full and read-only disks, wrong clocks, kills.

As a program: `python -m tests.support.ledger_trials NAME FOLDER ...` prints what happened as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from client.ledger import PrivacyLedger
from pp_model.errors import BudgetExceededError, LedgerError
from tests.support.kill_points import install
from tests.support.ledgers import LIFE, PLAN, event, ledger_of_steps, live, payload_of

PAGE = 4096
YEAR_SECONDS = 365 * 86_400.0


def writers(folder: Path, count: str, budget: str, killed: str) -> dict[str, Any]:
    """`count` processes charge and seal until the budget is gone; the first `killed` of them die on the way.

    What each was told it had charged is in `folder`/acknowledged, a line for each.
    """
    path, number, limit = folder / "ledger.sqlite", int(count), float(budget)
    diary = os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    children = []
    for writer in range(number):
        if (child := os.fork()) == 0:
            os._exit(_write_until_refused(path, writer, limit, diary))
        children.append(child)
    (folder / "go").touch()
    for victim in children[: int(killed)]:
        before, deadline = _lines(folder), time.monotonic() + 60
        while _lines(folder) < before + 3:
            assert time.monotonic() < deadline, "nobody charges any more"
            time.sleep(0.0005)
        os.kill(victim, signal.SIGKILL)
    return {"ends": [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]}


def _lines(folder: Path) -> int:
    return (folder / "acknowledged").read_bytes().count(b"\n")


def _write_until_refused(path: Path, writer: int, budget: float, diary: int) -> int:
    while not (path.parent / "go").exists():
        time.sleep(0.001)
    try:
        with ledger_of_steps(path, budget=budget) as ledger, suppress(BudgetExceededError):
            for number in range(int(budget) + 1):
                task = f"{writer} {number}"
                ledger.charge(task, event(1), plan=PLAN, most_tasks=None)
                os.write(diary, f"{task}\n".encode())
                ledger.seal(task, payload_of(task))
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        return 1
    return 0


def full_disk(folder: Path) -> list[dict[str, Any]]:
    """Charges and seals with less and less in the way of a disk, here one of a few hundred kilobytes, being full."""

    @contextmanager
    def ballast(free: int) -> Iterator[None]:
        file = folder / "ballast"
        handle = os.open(file, os.O_WRONLY | os.O_CREAT)
        with suppress(OSError):
            while True:
                os.write(handle, bytes(PAGE))
        os.close(handle)
        os.truncate(file, max(0, file.stat().st_size - free))
        try:
            yield
        finally:
            file.unlink()

    return _squeezed(folder, ballast)


def limited_files(folder: Path) -> list[dict[str, Any]]:
    """The same where no file may grow beyond a size: for machines on which nobody may mount a small disk."""

    @contextmanager
    def limit(free: int) -> Iterator[None]:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    return _squeezed(folder, limit)


def _squeezed(folder: Path, squeeze: Callable[[int], AbstractContextManager[None]]) -> list[dict[str, Any]]:
    path, results = folder / "ledger.sqlite", []
    for pages in range(40):
        for opened in ("before", "then"):
            task, told = f"{opened} {pages}", []
            ledger = _ledger(path)
            error = ""
            if opened == "then":
                ledger.close()
            try:
                with squeeze(PAGE * pages):
                    if opened == "then":
                        ledger = _ledger(path)
                    ledger.charge(task, event(1), plan=PLAN, most_tasks=None)
                    told.append("charged")
                    ledger.seal(task, payload_of(task))
                    told.append("sealed")
            except LedgerError as failure:
                error = str(failure)
            ledger.close()
            results.append({"pages": pages, "told": told, "error": error, **_found(path, task)})
    return results


def _ledger(path: Path) -> PrivacyLedger:
    return ledger_of_steps(path, budget=1e6)


def _found(path: Path, task: str) -> dict[str, Any]:
    """What the ledger has of a task once there is room again, and how often it is charged when it is done again."""
    with _ledger(path) as ledger:
        charged = sum(charge.task == task for charge in ledger.charges())
        sealed = ledger.sealed(task) is not None if charged else False
        ledger.charge(task, event(1), plan=PLAN, most_tasks=None)
        same = ledger.seal(task, payload_of(task)) == payload_of(task)
        again = sum(charge.task == task for charge in ledger.charges())
    return {"charged": charged, "sealed": sealed, "charged_again": again, "same": same}


def read_only_disk(folder: Path) -> dict[str, str]:
    """Opens a ledger on a disk, here one that was mounted for it, that has become read-only; and once more after."""
    path = folder / "ledger.sqlite"
    with ledger_of_steps(path) as ledger:
        ledger.charge("a", event(1), plan=PLAN, most_tasks=None)
    said = {}
    for mode in ("ro", "rw"):
        subprocess.run(["mount", "-o", f"remount,{mode}", folder], check=True)
        try:
            with ledger_of_steps(path) as ledger:
                ledger.charge("b", event(1), plan=PLAN, most_tasks=None)
                said[mode] = f"charged {ledger.spent:g}"
        except LedgerError as error:
            said[mode] = str(error)
    return said


def wrong_clock(folder: Path, years: str) -> None:
    """A life in a process whose clocks are wrong by years, and whose files are as old."""
    offset = float(years) * YEAR_SECONDS
    for name in ("time", "monotonic"):
        real = getattr(time, name)
        setattr(time, name, lambda real=real: real() + offset)
    with ledger_of_steps(folder / "ledger.sqlite") as ledger:
        live(ledger, folder / "diary")
    for file in folder.iterdir():
        os.utime(file, (time.time(), time.time()))


def killed(folder: Path, point: str) -> None:
    """A life that ends at the named point of its last task."""
    install(point, nth=len(LIFE))
    with ledger_of_steps(folder / "ledger.sqlite") as ledger:
        live(ledger, folder / "diary")


TRIALS: dict[str, Callable[..., Any]] = {
    trial.__name__: trial for trial in (writers, full_disk, limited_files, read_only_disk, wrong_clock, killed)
}

if __name__ == "__main__":
    json.dump(TRIALS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:]), sys.stdout)
