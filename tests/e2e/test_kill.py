"""A run is killed again and again, wherever it happens to be; the same command goes on and nothing is paid twice."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pp_model.accounting import PrivacyEvent, epsilon_spent
from tests.support.pp_sim import ROOT, charges, command, environment, run_arguments, write_orders

pytestmark = pytest.mark.e2e

ROUNDS = 40
KILLED_AT = (1, 6, 7, 15, 28, 39)  # checkpoints on the disk when the process is killed
DEADLINE_SECONDS = 90.0


def checkpoints(out: Path) -> int:
    return len(list((out / "platform" / "checkpoints").glob("round-*.safetensors")))


def ledgers(out: Path) -> int:
    return len(list((out / "merchants").glob("*.ledger")))


def kill_when(moment: Callable[[], bool], arguments: list[str], log: Path) -> None:
    """Starts the command, and kills it with SIGKILL as soon as `moment` has come, which must be before its end."""
    with log.open("ab") as output:
        process = subprocess.Popen(command(*arguments), cwd=ROOT, env=environment(), stdout=output, stderr=output)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not moment():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def charged_tasks(out: Path, copy: Path) -> list[list[str]]:
    """Read from a copy: looking into a ledger would clean up what the kill left behind."""
    shutil.copytree(out / "merchants", copy / "merchants")
    return [[charge["task"] for charge in ledger] for ledger in charges(copy)]


def test_a_run_killed_at_many_points_completes_with_exactly_one_charge_a_round(tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    arguments = run_arguments(tmp_path, write_orders(tmp_path), rounds=ROUNDS)
    kill_when(lambda: ledgers(out) == 1, arguments, log)
    for number in KILLED_AT:
        kill_when(lambda number=number: checkpoints(out) >= number, arguments, log)
        done = checkpoints(out)
        for tasks in charged_tasks(out, tmp_path / f"after-{number}"):
            assert len(tasks) == len(set(tasks))
            assert done <= len(tasks) <= done + 1  # every round the platform has was paid; at most the next one too

    finished = subprocess.run(
        command(*arguments), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=180, check=False
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    result = json.loads((out / "result.json").read_text())
    for ledger in charges(out):
        assert len({charge["task"] for charge in ledger}) == len(ledger) == ROUNDS
        assert len({charge["plan"] for charge in ledger}) == 1
        events = [PrivacyEvent(**charge["event"]) for charge in ledger]
        assert epsilon_spent(events, delta=result["delta"]) == result["epsilon"] <= 3.0


def test_a_run_killed_before_its_first_checkpoint_begins_again_under_the_same_charges(tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    arguments = run_arguments(tmp_path, write_orders(tmp_path))
    kill_when(lambda: any(charges_of(out)), arguments, log)
    first = charged_tasks(out, tmp_path / "after")
    assert max(map(len, first)) >= 1
    finished = subprocess.run(
        command(*arguments), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=180, check=False
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    for before, ledger in zip(first, charges(out), strict=False):
        after = [charge["task"] for charge in ledger]
        assert after[: len(before)] == before
        assert len(set(after)) == len(after) == 4


def charges_of(out: Path) -> list[int]:
    """The anchor beside a ledger names its last entry, and can be looked at without opening the ledger."""
    heads = [path.read_text() for path in (out / "merchants").glob("*.ledger-head")]
    return [int(head.split()[0]) for head in heads if head]
