"""Checklist: D6, D25.

Messages of protocol version 2 as files: they still parse, and come out as the same bytes. A new version adds a
folder of its own; a message that has shipped never changes. (Version 1 was never released to anybody.)
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pp_model.accounting import PrivacyEvent
from pp_model.plan import TrainingPlan
from pp_model.protocol import (
    MaskedRelease,
    RefusalCode,
    Release,
    Wire,
    question_from_wire,
    reply_from_wire,
    seal,
    task_from_wire,
    unseal,
)
from pp_model.serialization import from_safetensors, to_safetensors

FOLDER = Path(__file__).parent / "protocol_v2"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
REFUSALS = json.loads((FOLDER / "refusals.json").read_text())
SUMS = json.loads((FOLDER / "sums.json").read_text())
WORDS = [0, 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF]


def saved_task(name: str) -> Wire:
    """A task is saved as safetensors, its scalars as the metadata."""
    arrays, metadata = from_safetensors((FOLDER / f"{name}.safetensors").read_bytes())
    whole = {key: int(metadata[key]) for key in ("version", "round", "block")}
    return Wire(arrays=arrays, scalars={**metadata, **whole})


def saved_sum(name: str) -> Wire:
    """A message of the secure sum: its scalars, and its letter in hexadecimal."""
    return Wire(arrays={}, scalars=SUMS[name]["scalars"], letter=bytes.fromhex(SUMS[name]["letter"]))


@pytest.mark.parametrize(("name", "round_", "block"), [("task", 2, 0), ("task_secure_sum", 3, 2)])
def test_the_saved_task_still_parses_and_is_written_as_the_same_bytes(name, round_, block):
    task = task_from_wire(saved_task(name))
    assert (task.round, task.block) == (round_, block)
    assert task.fingerprint == EXPECTED[name]
    wire = task.to_wire()
    again = to_safetensors(wire.arrays, {key: str(value) for key, value in wire.scalars.items()})
    assert again == (FOLDER / f"{name}.safetensors").read_bytes()


@pytest.mark.parametrize(("name", "shared"), [("plan", False), ("plan_secure_sum", True)])
def test_the_saved_plan_still_parses_and_is_written_as_the_same_text(name, shared):
    text = (FOLDER / f"{name}.json").read_text()
    plan = TrainingPlan.from_json(text)
    assert plan.to_json() == text
    assert plan.fingerprint == EXPECTED[name]
    assert plan.events == (PrivacyEvent(sample_rate=0.5, noise_multiplier=1.0, num_steps=3, shared=shared),)


def test_the_saved_roster_still_says_who_adds_up():
    plan = TrainingPlan.from_json((FOLDER / "plan_secure_sum.json").read_text())
    assert plan.secure_sum is not None
    assert [(peer.name, peer.key) for peer in plan.secure_sum.roster] == [
        ("bakery", "SHA256:bakery"), ("butcher", "SHA256:butcher"), ("dairy", "SHA256:dairy")
    ]  # fmt: skip
    assert (plan.secure_sum.dishonest, plan.secure_sum.rounds_per_block, plan.server.min_completions) == (1, 2, 3)


def test_the_saved_release_still_opens_and_is_sealed_as_the_same_bytes():
    data = (FOLDER / "release.safetensors").read_bytes()
    release = unseal(data)
    assert release.task == EXPECTED["task"]
    np.testing.assert_array_equal(release.update["head.weight"], np.array([[0.5, -1], [2, 0]], np.float32))
    assert seal(release) == data
    again = reply_from_wire(release.to_wire())
    assert isinstance(again, Release)
    assert seal(again) == data


def test_the_saved_masked_release_still_opens_and_is_sealed_as_the_same_bytes():
    data = (FOLDER / "masked.sealed").read_bytes()
    for release in (unseal(data), reply_from_wire(saved_sum("masked"))):
        assert isinstance(release, MaskedRelease)
        assert release.task == EXPECTED["task_secure_sum"]
        assert release.values.tolist() == WORDS
        assert seal(release) == data


@pytest.mark.parametrize(
    ("name", "read"), [("masked", reply_from_wire), ("question", question_from_wire), ("answer", reply_from_wire)]
)
def test_every_saved_message_of_a_sum_still_parses_and_is_written_the_same(name, read):
    assert read(saved_sum(name)).to_wire() == saved_sum(name)


@pytest.mark.parametrize("scalars", REFUSALS, ids=lambda scalars: scalars["code"])
def test_every_saved_refusal_still_parses_and_is_written_the_same(scalars):
    assert reply_from_wire(Wire(arrays={}, scalars=scalars)).to_wire().scalars == scalars


def test_a_refusal_of_every_code_is_saved():
    assert {scalars["code"] for scalars in REFUSALS} == {code.value for code in RefusalCode}


def test_all_cases_of_the_folder_are_here():
    """A file that no test reads protects nobody."""
    assert {path.name for path in FOLDER.iterdir()} == {
        "expected.json", "masked.sealed", "plan.json", "plan_secure_sum.json", "refusals.json", "release.safetensors",
        "sums.json", "task.safetensors", "task_secure_sum.safetensors",
    }  # fmt: skip
