"""Checklist: D6, D7, D15, D25, D35.

What goes over the wire: exactly the agreed keys, every version checked, damage noticed, and a fixed list of reasons.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pp_model.errors import ConfigError, ProtocolError
from pp_model.plan import TrainingPlan
from pp_model.protocol import (
    PROTOCOL_VERSION,
    MaskedRelease,
    Refusal,
    RefusalCode,
    Release,
    SumAnswer,
    SumQuestion,
    Task,
    Wire,
    is_question,
    question_from_wire,
    reply_from_wire,
    seal,
    task_from_wire,
    unseal,
)
from pp_model.serialization import fingerprint
from tests.support.plans import tiny_plan
from tests.support.sum_town import sum_plan

ARRAYS = {"head.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.array(0.5, np.float32)}
TASK = Task(plan=tiny_plan(), round=2, arrays=ARRAYS)
RELEASE = Release(task=TASK.fingerprint, update=ARRAYS)
SUM_PLAN = sum_plan(merchants=3, threshold=3)
SUM_TASK = Task(plan=SUM_PLAN, round=2, arrays=ARRAYS, block=1)
MASKED = MaskedRelease(task=SUM_TASK.fingerprint, values=np.array([0, 1, 2**63, 2**64 - 1], np.uint64))
QUESTION = SumQuestion(plan=SUM_PLAN, block=3, letter=b"\x00asked\xff")
ANSWER = SumAnswer(letter=b"\x00said\xff")
REFUSAL = Refusal(task="", code=RefusalCode.POLICY).to_wire()
ALL = [
    pytest.param(TASK.to_wire(), task_from_wire, id="task"),
    pytest.param(SUM_TASK.to_wire(), task_from_wire, id="task-of-a-sum"),
    pytest.param(RELEASE.to_wire(), reply_from_wire, id="release"),
    pytest.param(MASKED.to_wire(), reply_from_wire, id="masked"),
    pytest.param(QUESTION.to_wire(), question_from_wire, id="question"),
    pytest.param(ANSWER.to_wire(), reply_from_wire, id="answer"),
    pytest.param(REFUSAL, reply_from_wire, id="refusal"),
]
WITH_LETTER = [case for case in ALL if case.id in ("masked", "question", "answer")]
WITHOUT_LETTER = [case for case in ALL if case not in WITH_LETTER]
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


@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_task_and_a_question_of_a_secure_sum_come_back_from_the_wire(block):
    task = dataclasses.replace(SUM_TASK, block=block)
    again = task_from_wire(task.to_wire())
    assert (again.plan, again.round, again.block, again.fingerprint) == (SUM_PLAN, 2, block, task.fingerprint)
    question = dataclasses.replace(QUESTION, block=block)
    assert question_from_wire(question.to_wire()) == question
    assert is_question(question.to_wire())
    assert not is_question(task.to_wire())


def test_an_answer_and_a_masked_release_come_back_from_the_wire_and_the_release_from_its_seal():
    assert reply_from_wire(ANSWER.to_wire()) == ANSWER
    for again in (reply_from_wire(MASKED.to_wire()), unseal(seal(MASKED))):
        assert isinstance(again, MaskedRelease)
        assert (again.task, again.values.tolist()) == (MASKED.task, MASKED.values.tolist())
        assert again.values.dtype == np.uint64
    assert seal(unseal(seal(MASKED))) == seal(MASKED)


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


def test_the_same_round_in_another_block_is_another_task():
    """What is masked anew is charged anew."""
    assert dataclasses.replace(SUM_TASK, block=2).fingerprint != SUM_TASK.fingerprint


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
        "no_block",
        "sum",
        "unavailable",
    }
    with pytest.raises(ProtocolError, match="not in the list"):
        reply_from_wire(Wire(arrays={}, scalars={**REFUSAL.scalars, "code": "only 3 customers"}))


# --- versions and shapes


@pytest.mark.parametrize("version", [0, 1, 3, -1, "2", 2.0, True, math.nan])
@pytest.mark.parametrize(("wire", "read"), ALL)
def test_a_message_of_another_version_is_refused(wire, read, version):
    with pytest.raises(ProtocolError, match="version"):
        read(dataclasses.replace(wire, scalars={**wire.scalars, "version": version}))


@pytest.mark.parametrize("round_", [0, 4, -1, 1.0, True, "1", math.nan])
def test_a_round_that_is_not_one_of_the_plans_is_refused(round_):
    wire = TASK.to_wire()
    with pytest.raises(ProtocolError, match="round"):
        task_from_wire(Wire(arrays=wire.arrays, scalars={**wire.scalars, "round": round_}))


@pytest.mark.parametrize(("wire", "read"), ALL)
def test_a_message_with_a_word_too_few_or_too_many_is_refused(wire, read):
    for key in wire.scalars:
        with pytest.raises(ProtocolError):
            read(dataclasses.replace(wire, scalars={k: v for k, v in wire.scalars.items() if k != key}))
    with pytest.raises(ProtocolError):
        read(dataclasses.replace(wire, scalars={**wire.scalars, "customers": 7}))


@pytest.mark.parametrize(("wire", "read"), WITH_LETTER)
def test_a_message_of_a_sum_is_its_letter_and_no_arrays(wire, read):
    assert wire.arrays == {}
    with pytest.raises(ProtocolError, match="without a letter, or with arrays"):
        read(dataclasses.replace(wire, letter=b""))
    with pytest.raises(ProtocolError, match="without a letter, or with arrays"):
        read(dataclasses.replace(wire, arrays=ARRAYS))


@pytest.mark.parametrize(("wire", "read"), WITHOUT_LETTER)
def test_any_other_message_has_no_letter(wire, read):
    with pytest.raises(ProtocolError, match="with a letter"):
        read(dataclasses.replace(wire, letter=b"x"))


@pytest.mark.parametrize(("wire", "read"), ALL)
def test_no_message_is_read_as_one_of_another_kind(wire, read):
    for other in (task_from_wire, question_from_wire, reply_from_wire):
        if other is not read:
            with pytest.raises(ProtocolError):
                other(wire)


# --- blocks of a secure sum


@pytest.mark.parametrize("block", [0, 4, -1, 1.0, True, "1", math.nan, 2**70])
def test_a_block_that_no_round_of_the_plan_could_need_is_refused(block):
    for message, read in ((SUM_TASK, task_from_wire), (QUESTION, question_from_wire)):
        wire = message.to_wire()
        with pytest.raises(ProtocolError, match="block"):
            read(dataclasses.replace(wire, scalars={**wire.scalars, "block": block}))


@pytest.mark.parametrize("block", [1, -1, 0.0, False, "0", math.nan])
def test_a_block_where_the_plan_has_no_secure_sum_is_refused(block):
    wire = TASK.to_wire()
    with pytest.raises(ProtocolError, match="block"):
        task_from_wire(dataclasses.replace(wire, scalars={**wire.scalars, "block": block}))


def test_a_question_under_a_plan_without_a_secure_sum_is_refused():
    wire = SumQuestion(plan=tiny_plan(), block=1, letter=b"x").to_wire()
    with pytest.raises(ProtocolError, match="local trust"):
        question_from_wire(wire)


@pytest.mark.parametrize("size", [1, 7, 9, 4 * 8 - 1])
def test_a_masked_release_is_whole_words(size):
    wire = dataclasses.replace(MASKED.to_wire(), letter=bytes(size))
    with pytest.raises(ProtocolError, match="8 for each parameter"):
        reply_from_wire(wire)


@pytest.mark.parametrize("plan", ["", "{}", "[" * 100_000, 7, "1" * 5_000])
def test_a_task_with_an_unreadable_plan_is_refused(plan):
    wire = TASK.to_wire()
    with pytest.raises(ProtocolError, match="plan"):
        task_from_wire(Wire(arrays=wire.arrays, scalars={**wire.scalars, "plan": plan}))
    with pytest.raises(ProtocolError, match="plan"):
        question_from_wire(
            dataclasses.replace(QUESTION.to_wire(), scalars={**QUESTION.to_wire().scalars, "plan": plan})
        )


@pytest.mark.parametrize("task", [1, 1.5, math.nan])
def test_a_task_name_that_is_not_text_is_refused(task):
    for wire in (RELEASE.to_wire(), MASKED.to_wire(), REFUSAL):
        with pytest.raises(ProtocolError, match="task is not text"):
            reply_from_wire(dataclasses.replace(wire, scalars={**wire.scalars, "task": task}))


@given(
    st.dictionaries(
        st.sampled_from(["version", "kind", "round", "block", "plan", "task", "code"]),
        st.sampled_from([2, "task", "release", "masked", "sum_question", "sum_answer", "refusal", "budget"])
        | st.text(max_size=5)
        | st.floats(),
    ),
    st.sampled_from([b"", b"12345678", b"x"]),
)
@example({"version": 2, "kind": "sum_answer"}, b"x")
@example({"version": 2, "kind": "masked", "task": ""}, b"12345678")
def test_any_scalars_and_letter_give_a_message_or_our_own_error(scalars: dict[str, Any], letter: bytes):
    for read in (task_from_wire, question_from_wire, reply_from_wire):
        try:
            message = read(Wire(arrays={}, scalars=scalars, letter=letter))
        except ProtocolError:
            continue
        assert message.to_wire() == Wire(arrays={}, scalars=scalars, letter=letter)


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


def test_every_flipped_bit_of_a_sealed_masked_release_is_noticed():
    sealed = seal(MASKED)
    for bit in range(8 * len(sealed)):
        with pytest.raises(ProtocolError):
            unseal(flipped(sealed, bit))


def test_cut_or_joined_bytes_of_a_masked_release_are_not_unsealed():
    sealed = seal(MASKED)
    for data in (sealed[:-1], sealed[:-8], sealed + bytes(8), sealed[:9], sealed[:41], sealed + sealed):
        with pytest.raises(ProtocolError):
            unseal(data)


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
