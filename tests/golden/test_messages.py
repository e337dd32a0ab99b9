"""Checklist: D6, D25.

Messages of protocol version 1 as files: they still parse, and come out as the same bytes. A new version adds a
folder of its own; a message that has shipped never changes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pp_model.accounting import PrivacyEvent
from pp_model.plan import TrainingPlan
from pp_model.protocol import RefusalCode, Release, Wire, reply_from_wire, seal, task_from_wire, unseal
from pp_model.serialization import from_safetensors, to_safetensors

FOLDER = Path(__file__).parent / "protocol_v1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
REFUSALS = json.loads((FOLDER / "refusals.json").read_text())


def saved_task() -> Wire:
    """A task is saved as safetensors, its scalars as the metadata."""
    arrays, metadata = from_safetensors((FOLDER / "task.safetensors").read_bytes())
    whole = {key: int(metadata[key]) for key in ("version", "round")}
    return Wire(arrays=arrays, scalars={**metadata, **whole})


def test_the_saved_task_still_parses_and_is_written_as_the_same_bytes():
    task = task_from_wire(saved_task())
    assert task.round == 2
    assert task.fingerprint == EXPECTED["task"]
    wire = task.to_wire()
    again = to_safetensors(wire.arrays, {key: str(value) for key, value in wire.scalars.items()})
    assert again == (FOLDER / "task.safetensors").read_bytes()


def test_the_saved_plan_still_parses_and_is_written_as_the_same_text():
    text = (FOLDER / "plan.json").read_text()
    plan = TrainingPlan.from_json(text)
    assert plan.to_json() == text
    assert plan.fingerprint == EXPECTED["plan"]
    assert plan.events == (PrivacyEvent(sample_rate=0.5, noise_multiplier=1.0, num_steps=3),)


def test_the_saved_release_still_opens_and_is_sealed_as_the_same_bytes():
    data = (FOLDER / "release.safetensors").read_bytes()
    release = unseal(data)
    assert release.task == EXPECTED["task"]
    np.testing.assert_array_equal(release.update["head.weight"], np.array([[0.5, -1], [2, 0]], np.float32))
    assert seal(release) == data
    again = reply_from_wire(release.to_wire())
    assert isinstance(again, Release)
    assert seal(again) == data


@pytest.mark.parametrize("scalars", REFUSALS, ids=lambda scalars: scalars["code"])
def test_every_saved_refusal_still_parses_and_is_written_the_same(scalars):
    assert reply_from_wire(Wire(arrays={}, scalars=scalars)).to_wire().scalars == scalars


def test_a_refusal_of_every_code_is_saved():
    assert {scalars["code"] for scalars in REFUSALS} == {code.value for code in RefusalCode}


def test_all_cases_of_the_folder_are_here():
    """A file that no test reads protects nobody."""
    names = {"expected.json", "plan.json", "refusals.json", "release.safetensors", "task.safetensors"}
    assert {path.name for path in FOLDER.iterdir()} == names
