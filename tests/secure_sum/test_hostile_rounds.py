"""A platform that lies about survivors, signatures and rounds: it is refused, and learns nothing."""

from __future__ import annotations

import numpy as np
import pytest

from agreement.node_keys import new_node_key
from pp_model.errors import ProtocolError
from secure_sum.errors import SumError
from secure_sum.messages import kind_of, written
from secure_sum.signatures import signature_of
from tests.support.secure_sums import (
    SIZE,
    identity,
    quorum,
    set_up,
    signatures,
    survivors,
    vectors,
)

N, THRESHOLD = 5, 4
VALUES = vectors(N, rng=np.random.default_rng(11))


@pytest.fixture(scope="module")
def block():
    return set_up(N, threshold=THRESHOLD, rounds=40)


@pytest.fixture(scope="module")
def other_block():
    """Another block of the same merchants for the same rounds."""
    return set_up(N, threshold=THRESHOLD, rounds=40, block=2)


def masked_round(block, *, masking=range(N)):
    """A new round in which those merchants have masked."""
    round = block.next_round()
    for index in masking:
        block[index].masked(round, VALUES[index])
    return round


def refused(ask, *args, match):
    with pytest.raises(ProtocolError, match=match):
        ask(*args)


# lists of survivors


def test_a_second_list_for_a_round_is_refused_whatever_the_first_was(block):
    everybody, lists = list(range(N)), [[0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 2, 3, 4]]
    for first in lists:
        round = masked_round(block)
        answer = block[0].reveal(survivors(block, round, first))
        for second in lists:
            if second != first:
                refused(block[0].reveal, survivors(block, round, second), match="a second list of survivors")
        assert block[0].reveal(survivors(block, round, first)) == answer
        assert kind_of(answer) == ("revealed" if first == everybody else "signed")


def test_two_lists_told_to_different_merchants_get_no_quorum(block):
    round = masked_round(block)
    first, second = [0, 1, 2, 3], [0, 1, 2, 4]
    signed = signatures(block, round, first, [0, 3]) | signatures(block, round, second, [1, 2, 4])
    for members in (first, second):
        among = {i: signed[i] for i in members if i in signed}
        for index in members:
            refused(block[index].reveal, quorum(block, round, members, among), match="merchant|did not sign")


@pytest.mark.parametrize("members", [[], [0], [0, 1, 2]], ids=len)
def test_a_list_below_the_threshold_is_refused(block, members):
    refused(block[0].reveal, survivors(block, masked_round(block), members), match="the threshold is 4")


@pytest.mark.parametrize(
    "members",
    [[0, 1, 2, 2], [0, 0, 1, 2, 3], [3, 2, 1, 0], [0, 1, 2, 5], [0, 1, 2, 2**63]],
    ids=["twice", "itself twice", "disorder", "a stranger", "a number out of range"],
)
def test_a_list_of_anything_but_members_once_each_is_refused(block, members):
    refused(block[0].reveal, survivors(block, masked_round(block), members), match="each once, in ascending order")


def test_a_list_without_the_merchant_itself_is_refused(block):
    refused(block[0].reveal, survivors(block, masked_round(block), [1, 2, 3, 4]), match="without this merchant")


def test_a_list_of_a_round_in_which_the_merchant_masked_nothing_is_refused(block):
    round = masked_round(block, masking=[1, 2, 3])
    for asked in (round, 0, 41):
        refused(block[0].reveal, survivors(block, asked, [0, 1, 2, 3]), match="has masked nothing")


def test_a_round_is_masked_once_and_only_if_it_is_of_the_block(block):
    round = masked_round(block)
    for asked in (round, 0, 41):
        with pytest.raises(SumError, match=f"round {asked} "):
            block[0].masked(asked, VALUES[0])
        with pytest.raises(SumError, match=f"round {asked} "):
            block[0].top_up_seed(asked)


def test_values_that_are_no_vector_of_words_do_not_use_the_round_up(block):
    round = block.next_round()
    for wrong in (VALUES[0].astype(np.int64), VALUES[0].astype(np.float64), VALUES[0].reshape(1, -1)):
        with pytest.raises(SumError, match="expected uint64"):
            block[0].masked(round, wrong)
    assert block[0].masked(round, VALUES[0]).shape == (SIZE,)


# quorums


def test_a_quorum_of_fewer_signatures_than_the_threshold_is_refused(block):
    round, members = masked_round(block), [0, 1, 2, 3]
    signed = signatures(block, round, members, members)
    block[0].reveal(quorum(block, round, members, signed))
    del signed[3]
    refused(block[0].reveal, quorum(block, round, members, signed), match="a quorum of 3 signatures")


def test_a_quorum_with_one_signature_counted_twice_is_refused(block):
    round, members = masked_round(block), [0, 1, 2, 3]
    signed = signatures(block, round, members, [0, 1, 2])
    refused(block[0].reveal, quorum(block, round, members, {**signed, 3: signed[2]}), match="merchant 3 did not make")
    arrays = {
        "members": np.array(members, np.uint64),
        "signers": np.array([0, 1, 2, 2], np.uint64),
        "signatures": np.stack([signed[0], signed[1], signed[2], signed[2]]),
    }
    twice = written("quorum", block.roll.fields(round=round), arrays)
    refused(block[0].reveal, twice, match="each once")


def test_a_quorum_with_a_forged_signature_is_refused(block):
    round, members = masked_round(block), [0, 1, 2, 3]
    signed = signatures(block, round, members, [0, 1, 2])
    forgeries = {
        "of another key": signature_of(new_node_key(), "survivors", survivors(block, round, members)),
        "of another list": signature_of(identity(3), "survivors", survivors(block, round, [0, 2, 3, 4])),
        "of another round": signature_of(identity(3), "survivors", survivors(block, round + 1, members)),
        "of another kind": signature_of(identity(3), "quorum", survivors(block, round, members)),
        "nothing": np.zeros(96, np.uint8),
        "numbers too large": np.full(96, 255, np.uint8),
    }
    for forged in forgeries.values():
        refused(block[0].reveal, quorum(block, round, members, {**signed, 3: forged}), match="merchant 3 did not make")


def test_a_quorum_signed_by_one_who_is_not_a_survivor_is_refused(block):
    round, members = masked_round(block), [0, 1, 2, 3]
    signed = signatures(block, round, members, [0, 1, 2])
    outsider = signature_of(identity(4), "survivors", survivors(block, round, members))
    refused(block[0].reveal, quorum(block, round, members, {**signed, 4: outsider}), match="not survivors")


def test_a_quorum_for_a_list_that_the_merchant_did_not_sign_is_refused(block):
    round, members = masked_round(block), [0, 1, 2, 3]
    signed = signatures(block, round, members, [1, 2, 3])
    signed[0] = signature_of(identity(0), "survivors", survivors(block, round, members))  # somebody has its key
    refused(block[0].reveal, quorum(block, round, members, signed), match="did not sign")


def test_a_quorum_of_another_round_is_refused(block):
    members = [0, 1, 2, 3]
    old = masked_round(block)
    signed = signatures(block, old, members, members)
    round = masked_round(block)
    block[0].reveal(survivors(block, round, members))
    refused(block[0].reveal, quorum(block, round, members, signed), match="merchant 0 did not make")


def test_nobody_gives_both_shares_of_one_merchant(block):
    """Those told that all survived have given the share of its mask; those told that it is gone give its key's."""
    round, everybody, rest = masked_round(block), list(range(N)), [0, 1, 2, 3]
    block[0].reveal(survivors(block, round, everybody))
    signed = {i: signature_of(identity(i), "survivors", survivors(block, round, rest)) for i in rest}
    refused(block[0].reveal, quorum(block, round, rest, signed), match="did not sign")
    signed_by_all = {i: signature_of(identity(i), "survivors", survivors(block, round, everybody)) for i in everybody}
    refused(block[0].reveal, quorum(block, round, everybody, signed_by_all), match="did not sign")


# replays


def test_lists_and_quorums_of_another_block_are_refused(block, other_block):
    members = [0, 1, 2, 3]
    old = masked_round(other_block)
    signed = signatures(other_block, old, members, members)
    round = masked_round(block)
    refused(block[0].reveal, survivors(other_block, round, members), match="another roll")
    block[0].reveal(survivors(block, round, members))
    refused(block[0].reveal, quorum(other_block, round, members, signed), match="another roll")
    refused(block[0].reveal, quorum(block, round, members, signed), match="merchant 0 did not make")
