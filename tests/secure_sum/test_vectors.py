"""Checklist of the format: with fixed secrets, every message of a block has the bytes of vectors.json.

Another program that speaks the protocol can be tested against that file; a change of it is another version.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from secure_sum.messages import VERSION, kind_of, read, written
from tests.support.secure_sums import counted, roster_of, set_up, vectors

PINNED = json.loads(Path(__file__).with_name("vectors.json").read_text())
SIZE = 4


def said(monkeypatch):
    """All that is said in a block of three merchants and two rounds, in the second of which one drops out, by name."""
    monkeypatch.setattr("Crypto.Protocol.SecretSharing.rng", counted("coefficients"))
    block = set_up(3, threshold=2, rounds=2, seed="vectors")
    collector, roll = block.collector, block.collector.roll()
    letters = {"open": collector.opening(), "roll": roll}
    for index, member in block.members.items():
        letters |= {f"keys {index}": member.keys(), f"shares {index}": member.shares(roll)}
        letters[f"delivery {index}"] = collector.delivery(index)
        letters[f"ready {index}"] = member.ready_for(collector.delivery(index))
    values = vectors(3, rng=np.random.default_rng(1), size=SIZE)
    for round, masking in ((1, [0, 1, 2]), (2, [0, 1])):
        summing = collector.round_sum(round, size=SIZE)
        for index in masking:
            masked = block[index].masked(round, values[index])
            letters[f"masked {index} in {round}"] = masked.astype("<u8").tobytes()
            summing.add(index, masked)
        questions = [summing.survivors()]
        for asked in questions:
            letters[f"{kind_of(asked)} in {round}"] = asked
            for index in masking:
                answer = block[index].reveal(asked)
                letters[f"{kind_of(answer)} {index} in {round}"] = answer
                summing.add_answer(index, answer)
            if asked is questions[0] and summing.quorum() is not None:
                questions.append(summing.quorum())
        letters[f"sum in {round}"] = summing.result().values.astype("<u8").tobytes()
    return letters


def test_the_vectors_are_of_this_version_and_these_merchants():
    assert PINNED["version"] == VERSION
    assert PINNED["roster"] == roster_of(3)


def test_every_message_has_its_pinned_bytes(monkeypatch):
    letters = said(monkeypatch)
    assert {name: hashlib.sha256(data).hexdigest() for name, data in letters.items()} == PINNED["sha256"]
    assert {name: base64.b64encode(letters[name]).decode() for name in PINNED["whole"]} == PINNED["whole"]


def test_the_vectors_have_one_message_of_each_kind_whole():
    kinds = {"open", "keys", "roll", "shares", "delivery", "ready", "survivors", "signed", "revealed", "quorum"}
    assert {kind_of(base64.b64decode(text)) for text in PINNED["whole"].values()} == kinds


@pytest.mark.parametrize("name", PINNED["whole"])
def test_a_pinned_message_is_read_and_written_as_it_is(name):
    data = base64.b64decode(PINNED["whole"][name])
    message = read(data, name.split()[0])
    assert written(message.kind, message.fields, message.arrays) == data
