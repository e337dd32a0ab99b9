import dataclasses
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from pp_model.errors import CheckpointError
from server.checkpoints import load_checkpoint, load_latest, save_checkpoint, write_atomically
from server.rounds import TrainingState, initial_state
from tests.support.fake_merchants import filled, random_arrays
from tests.support.plans import tiny_plan, tiny_server

PLAN = tiny_plan(
    rounds=10, server=tiny_server(optimizer="adam", learning_rate=0.1, final_learning_rate=0.01, averaging=0.5)
)


def state_after(rounds: int) -> TrainingState:
    state = initial_state(PLAN, {**random_arrays(0), "frozen": np.ones(2, np.float32)})
    for number in range(1, rounds + 1):
        arrays, optimizer = state.optimizer.step(state.arrays, random_arrays(number), round=number)
        state = TrainingState(round=number, arrays=arrays, optimizer=optimizer)
    return state


def same(one: TrainingState, other: TrainingState) -> bool:
    pairs = [(one.arrays, other.arrays), (one.optimizer.to_arrays(), other.optimizer.to_arrays())]
    return one.round == other.round and all(
        a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a) for a, b in pairs
    )


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def flip(path: Path, *, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_checkpoint_comes_back_bit_by_bit(tmp_path):
    save_checkpoint(tmp_path, state_after(3), PLAN)
    assert same(load_latest(tmp_path, PLAN), state_after(3))


def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path):
    assert load_latest(tmp_path, PLAN) is None
    assert load_latest(tmp_path / "missing", PLAN) is None


def test_the_latest_round_is_loaded_also_past_a_change_of_digits(tmp_path):
    for number in (9, 10):
        save_checkpoint(tmp_path, dataclasses.replace(state_after(1), round=number), PLAN)
    assert load_latest(tmp_path, PLAN).round == 10


def test_a_kill_between_write_and_rename_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    class KilledError(BaseException):
        pass

    def killed(*_):
        raise KilledError

    save_checkpoint(tmp_path, state_after(1), PLAN)
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KilledError):
        save_checkpoint(tmp_path, state_after(2), PLAN)
    monkeypatch.undo()
    assert same(load_latest(tmp_path, PLAN), state_after(1))
    save_checkpoint(tmp_path, state_after(2), PLAN)
    assert same(load_latest(tmp_path, PLAN), state_after(2))
    assert names(tmp_path) == ["round-000001.safetensors", "round-000002.safetensors"]


def test_the_file_is_on_the_disk_before_its_name_is_and_the_name_before_the_call_returns(tmp_path, monkeypatch):
    calls = []
    sync, replace = os.fsync, Path.replace

    def seen_sync(descriptor):
        calls.append("sync folder" if Path(f"/proc/self/fd/{descriptor}").readlink() == tmp_path else "sync file")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", seen_sync)
    monkeypatch.setattr(Path, "replace", lambda self, to: calls.append("rename") or replace(self, to))
    write_atomically(tmp_path / "file", b"data")
    assert calls == ["sync file", "rename", "sync folder"]
    assert (tmp_path / "file").read_bytes() == b"data"


@pytest.mark.parametrize("damage", ["empty", "cut", "header", "values"])
def test_a_damaged_checkpoint_is_logged_and_the_one_before_it_is_loaded(tmp_path, caplog, damage):
    save_checkpoint(tmp_path, state_after(1), PLAN)
    path = save_checkpoint(tmp_path, state_after(2), PLAN)
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        flip(path, at=-1 if damage == "values" else path.read_bytes().index(b'"round":"2"') + 9)
    with caplog.at_level(logging.WARNING):
        assert same(load_latest(tmp_path, PLAN), state_after(1))
    assert [(r.message, r.checkpoint) for r in caplog.records] == [("checkpoint damaged", path.name)]


def test_a_folder_of_damaged_checkpoints_stops_the_run_rather_than_begin_again(tmp_path):
    save_checkpoint(tmp_path, state_after(1), PLAN).write_bytes(b"noise")
    with pytest.raises(CheckpointError, match="all 1 checkpoints"):
        load_latest(tmp_path, PLAN)


def test_a_checkpoint_of_another_plan_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, state_after(1), PLAN)
    for load in (lambda plan: load_latest(tmp_path, plan), lambda plan: load_checkpoint(path, plan)):
        with pytest.raises(CheckpointError, match="another plan"):
            load(tiny_plan(rounds=11, server=PLAN.server))


def test_a_named_checkpoint_that_is_missing_or_damaged_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, state_after(1), PLAN)
    assert same(load_checkpoint(path, PLAN), state_after(1))
    flip(path, at=-1)
    for bad in (path, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match="not a readable checkpoint"):
            load_checkpoint(bad, PLAN)


@pytest.mark.parametrize(("keep", "left"), [(3, [3, 4, 5]), (1, [5]), (None, [1, 2, 3, 4, 5])])
def test_the_last_checkpoints_are_kept(tmp_path, keep, left):
    for number in range(1, 6):
        save_checkpoint(tmp_path, dataclasses.replace(state_after(1), round=number), PLAN, keep=keep)
    assert names(tmp_path) == [f"round-{number:06d}.safetensors" for number in left]


def test_an_array_name_with_slashes_survives(tmp_path):
    state = initial_state(PLAN, {"a/b/c": filled(1.0)["head.bias"]})
    save_checkpoint(tmp_path, state, PLAN)
    assert same(load_latest(tmp_path, PLAN), state)
