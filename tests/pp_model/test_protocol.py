"""Checklist: D6, D7, D15, D25, D35.

What goes over the wire: exactly the agreed keys, every version checked, damage noticed, and a fixed list of reasons.
"""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pp_model.errors import ConfigError, ProtocolError
from pp_model.plan import TrainingPlan
from pp_model.protocol import (
    PROTOCOL_VERSION,
    Refusal,
    RefusalCode,
    Release,
    Task,
    Wire,
    reply_from_wire,
    seal,
    task_from_wire,
    unseal,
)
from pp_model.serialization import fingerprint
from tests.support.plans import tiny_plan

ARRAYS = {"head.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.array(0.5, np.float32)}
TASK = Task(plan=tiny_plan(), round=2, arrays=ARRAYS)
RELEASE = Release(task=TASK.fingerprint, update=ARRAYS)
FLIPS = 1_000


def same(first: Release, second: Release) -> bool:
    return first.task == second.task and fingerprint(first.update) == fingerprint(second.update)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def some_bits(data: bytes) -> list[int]:
    return random.Random(17).sample(range(8 * len(data)), min(FLIPS, 8 * len(data)))


# --- round trips


@pytest.mark.parametrize("round_", [1, 2, 3])
def test_a_task_comes_back_from_the_wire(round_):
    task = Task(plan=tiny_plan(), round=round_, arrays=ARRAYS)
    again = task_from_wire(task.to_wire())
    assert (again.plan, again.round, again.fingerprint) == (task.plan, task.round, task.fingerprint)


def test_a_release_comes_back_from_the_wire_and_from_its_seal():
    for again in (reply_from_wire(RELEASE.to_wire()), unseal(seal(RELEASE))):
        assert isinstance(again, Release)
        assert same(again, RELEASE)
    assert seal(unseal(seal(RELEASE))) == seal(RELEASE)


@pytest.mark.parametrize("code", RefusalCode)
@pytest.mark.parametrize("task", ["", "f" * 64])
def test_a_refusal_comes_back_from_the_wire(task, code):
    assert reply_from_wire(Refusal(task=task, code=code).to_wire()) == Refusal(task=task, code=code)


@pytest.mark.parametrize(
    "other",
    [
        Task(plan=tiny_plan(plan_id="other"), round=2, arrays=ARRAYS),
        Task(plan=tiny_plan(), round=3, arrays=ARRAYS),
        Task(plan=tiny_plan(), round=2, arrays={**ARRAYS, "bias": np.array(0.25, np.float32)}),
        Task(plan=tiny_plan(), round=2, arrays={"bias": ARRAYS["bias"]}),
    ],
    ids=["plan", "round", "value", "names"],
)
def test_another_plan_round_or_array_is_another_task(other):
    assert other.fingerprint != TASK.fingerprint


# --- nothing else on the wire (D6, D7)


def test_a_release_carries_the_update_its_task_and_nothing_else():
    wire = RELEASE.to_wire()
    assert wire.scalars == {"version": PROTOCOL_VERSION, "kind": "release", "task": TASK.fingerprint}
    assert wire.arrays is RELEASE.update


@pytest.mark.parametrize("key", ["num_examples", "train_loss", "loss", "batch_size", "seconds", "merchant"])
def test_a_reply_with_a_word_too_many_is_refused(key):
    for reply in (RELEASE.to_wire(), Refusal(task="", code=RefusalCode.BUDGET).to_wire()):
        with pytest.raises(ProtocolError):
            reply_from_wire(Wire(arrays=reply.arrays, scalars={**reply.scalars, key: 7}))


def test_a_refusal_carries_no_arrays_and_none_are_accepted():
    wire = Refusal(task="f" * 64, code=RefusalCode.LEDGER).to_wire()
    assert wire.arrays == {}
    assert set(wire.scalars) == {"version", "kind", "task", "code"}
    with pytest.raises(ProtocolError, match="carries arrays"):
        reply_from_wire(Wire(arrays=ARRAYS, scalars=wire.scalars))


def test_the_reasons_of_a_refusal_are_a_fixed_list():
    assert {code.value for code in RefusalCode} == {
        "bad_task",
        "policy",
        "not_approved",
        "expired",
        "budget",
        "ledger",
        "already_answered",
        "unavailable",
    }
    with pytest.raises(ProtocolError, match="not in the list"):
        reply_from_wire(
            Wire(arrays={}, scalars={"version": 1, "kind": "refusal", "task": "", "code": "only 3 customers"})
        )


# --- versions and shapes


@pytest.mark.parametrize("version", [0, 2, -1, "1", 1.0, True, math.nan])
def test_a_message_of_another_version_is_refused(version):
    for wire, read in (
        (TASK.to_wire(), task_from_wire),
        (RELEASE.to_wire(), reply_from_wire),
        (Refusal(task="", code=RefusalCode.POLICY).to_wire(), reply_from_wire),
    ):
        with pytest.raises(ProtocolError, match="version"):
            read(Wire(arrays=wire.arrays, scalars={**wire.scalars, "version": version}))


@pytest.mark.parametrize("round_", [0, 4, -1, 1.0, True, "1", math.nan])
def test_a_round_that_is_not_one_of_the_plans_is_refused(round_):
    wire = TASK.to_wire()
    with pytest.raises(ProtocolError, match="round"):
        task_from_wire(Wire(arrays=wire.arrays, scalars={**wire.scalars, "round": round_}))


def test_a_message_without_one_of_its_words_is_refused():
    for wire, read in (
        (TASK.to_wire(), task_from_wire),
        (RELEASE.to_wire(), reply_from_wire),
        (Refusal(task="", code=RefusalCode.POLICY).to_wire(), reply_from_wire),
    ):
        for key in wire.scalars:
            with pytest.raises(ProtocolError):
                read(Wire(arrays=wire.arrays, scalars={k: v for k, v in wire.scalars.items() if k != key}))


@pytest.mark.parametrize("plan", ["", "{}", "[" * 100_000, 7, "1" * 5_000])
def test_a_task_with_an_unreadable_plan_is_refused(plan):
    wire = TASK.to_wire()
    with pytest.raises(ProtocolError, match="plan"):
        task_from_wire(Wire(arrays=wire.arrays, scalars={**wire.scalars, "plan": plan}))


@pytest.mark.parametrize("task", [1, 1.5, math.nan])
def test_a_task_name_that_is_not_text_is_refused(task):
    for wire in (RELEASE.to_wire(), Refusal(task="", code=RefusalCode.POLICY).to_wire()):
        with pytest.raises(ProtocolError, match="task is not text"):
            reply_from_wire(Wire(arrays=wire.arrays, scalars={**wire.scalars, "task": task}))


@given(
    st.dictionaries(
        st.sampled_from(["version", "kind", "round", "plan", "task", "code"]),
        st.sampled_from([1, "task", "release", "refusal", "budget"]) | st.text(max_size=5) | st.floats(),
    )
)
def test_any_scalars_give_a_message_or_our_own_error(scalars: dict[str, Any]):
    for read in (task_from_wire, reply_from_wire):
        try:
            message = read(Wire(arrays={}, scalars=scalars))
        except ProtocolError:
            continue
        assert message.to_wire().scalars == scalars


# --- damage


def test_a_flipped_bit_of_sealed_bytes_is_noticed_or_changes_nothing():
    sealed = seal(RELEASE)
    noticed = 0
    for bit in some_bits(sealed):
        try:
            again = unseal(flipped(sealed, bit))
        except ProtocolError:
            noticed += 1
            continue
        assert same(again, RELEASE)
    assert noticed > 0.9 * FLIPS


def test_a_flipped_bit_of_a_plan_is_refused_or_gives_another_fingerprint():
    plan = tiny_plan()
    data = plan.to_json().encode()
    others = 0
    for bit in some_bits(data):
        try:
            again = TrainingPlan.from_json(flipped(data, bit).decode())
        except (ConfigError, UnicodeDecodeError):
            continue
        assert (again == plan) == (again.fingerprint == plan.fingerprint)
        others += again != plan
    assert others > 10  # a digit of a number, a letter of the name: other plans, with other fingerprints


def test_cut_or_foreign_bytes_are_not_unsealed():
    sealed = seal(RELEASE)
    for data in (b"", sealed[:-1], sealed + b"\0", sealed[8:], json.dumps({"kind": "release"}).encode()):
        with pytest.raises(ProtocolError):
            unseal(data)
