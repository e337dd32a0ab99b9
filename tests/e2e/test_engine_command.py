"""`pp-sim run` with each engine: the same guarantee whoever trains the merchants."""

import json
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from pp_model.accounting import PrivacyEvent, epsilon_spent
from tests.support.pp_sim import ROOT, ROUNDS, command, environment, pp_sim, run_arguments, write_orders

pytestmark = pytest.mark.e2e

DEADLINE_SECONDS = 90.0


def result_of(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())


def charged(out: Path) -> list[tuple[PrivacyEvent, int]]:
    """The event of every task, and how many merchants were charged for it, read past the program."""
    with closing(sqlite3.connect(f"file:{out / 'merchants.sqlite'}?mode=ro", uri=True)) as connection:
        tasks = connection.execute("SELECT event, states FROM tasks ORDER BY id").fetchall()
    return [(PrivacyEvent(**json.loads(event)), sum(state > 0 for state in states)) for event, states in tasks]


def mechanism(result: dict) -> PrivacyEvent:
    rate, noise = result["sample_rate"], result["noise_multiplier"]
    return PrivacyEvent(sample_rate=rate, noise_multiplier=noise, num_steps=result["steps_per_round"])


@pytest.mark.parametrize(
    ("engine", "used"), [("in_process", "in_process"), ("vectorised", "vectorised"), ("", "vectorised")]
)
def test_the_result_says_which_engine_was_used_and_costs_the_same(tmp_path, engine, used):
    done = pp_sim(*run_arguments(tmp_path, write_orders(tmp_path), engine=engine))
    assert (done.returncode, done.stderr) == (0, "")
    result = result_of(tmp_path / "out")
    assert result["engine"] == used
    assert result["epsilon"] == epsilon_spent([mechanism(result)] * ROUNDS, delta=1e-3) <= 3.0
    assert (tmp_path / "out" / "merchants.sqlite").exists() == (used == "vectorised")
    if used == "vectorised":
        assert charged(tmp_path / "out") == [(mechanism(result), 3)] * ROUNDS


def test_an_unknown_engine_is_exit_code_2_and_a_sentence(tmp_path):
    done = pp_sim(*run_arguments(tmp_path, write_orders(tmp_path), engine="quick"))
    assert done.returncode == 2
    assert "in_process, vectorised, ray" in done.stderr.replace("'", "")
    assert "Traceback" not in done.stderr


def test_a_vectorised_run_that_is_killed_is_completed_with_one_charge_a_round(tmp_path):
    rounds, out = 40, tmp_path / "out"
    arguments = run_arguments(tmp_path, write_orders(tmp_path), engine="vectorised", rounds=rounds)
    for number in (1, 9, 25):
        process = subprocess.Popen(
            command(*arguments), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(list((out / "platform" / "checkpoints").glob("round-*"))) < number:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    done = pp_sim(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    result = result_of(out)
    assert charged(out) == [(mechanism(result), 3)] * rounds
    assert result["epsilon"] == epsilon_spent([mechanism(result)] * rounds, delta=1e-3) <= 3.0
