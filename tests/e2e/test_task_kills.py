"""Checklist: D24, D25. A merchant's process is killed at every named place of a task, and the task comes again.

Whatever was looked at or has left is charged; at most one round is charged that nobody got; and what was sealed is
what is sent, byte by byte.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.kill_points import POINTS
from tests.support.pp_sim import ROOT, environment

pytestmark = pytest.mark.e2e

KILLS_A_POINT = 10
ROUNDS = 3


def lived(folder: Path, lives: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lives, with what was wrong with each."""
    program = subprocess.run(
        [sys.executable, "-m", "tests.support.task_lives", str(folder)],
        input=json.dumps(lives),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    results: list[dict[str, Any]] = json.loads(program.stdout)
    assert len(results) == len(lives)
    return results


@pytest.fixture
def fast_folder() -> Iterator[Path]:
    """In memory where the machine has that: a killed process loses nothing that it wrote, to whatever file system."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def test_two_hundred_kills_at_twenty_points_lose_no_charge_and_send_nothing_twice(fast_folder):
    lives = [
        {"point": point, "nth": 1 + number % ROUNDS, "order": "as it is"}
        for point in POINTS
        for number in range(KILLS_A_POINT)
    ]
    assert (len(POINTS), len(lives)) == (20, 200)
    assert [life for life in lived(fast_folder, lives) if life["faults"]] == []


BROKEN = {  # an order that is wrong: where it is killed, and what must be noticed
    "trains before it charges": ("trained", ["under-charged"]),
    "sends what it never sealed": ("task read", ["sent and not sealed", "sent twice, and not the same"]),
    "charges for every attempt": ("trained", ["over-charged", "charges for 3 tasks"]),
}


def test_the_judge_would_notice_every_other_order(fast_folder):
    lives = [{"point": point, "nth": 2, "order": order} for order, (point, _) in BROKEN.items()]
    for life in lived(fast_folder, lives):
        for noticed in BROKEN[life["order"]][1]:
            assert any(noticed in fault for fault in life["faults"]), life
