"""Merchants fall silent at every step: the sum over those whose vectors came is right to the last bit, or void."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from secure_sum.errors import SumError, TooFewError
from tests.support.secure_sums import announced, dealt, plain_sum, play, set_up, vectors

ROUND_STEPS = ("mask", "answer", "quorum")


def values_of(merchants):
    return vectors(merchants, rng=np.random.default_rng(3))


def expected_survivors(merchants, drops, threshold):
    """Who is in the sum, by the rules alone; None where the round is void."""
    masked = [index for index in range(merchants) if drops.get(index) != "mask"]
    steps = ["mask", "answer"] if len(masked) == merchants else ["mask", "answer", "quorum"]
    left = [index for index in range(merchants) if drops.get(index) not in steps]
    return tuple(masked) if len(left) >= threshold else None


def test_before_keys_the_block_is_of_the_others():
    block = announced(5, threshold=3, absent={1})
    roll = block.collector.roll()
    for index, member in block.members.items():
        block.collector.add_shares(index, member.shares(roll))
    for index, member in block.members.items():
        block.collector.add_ready(index, member.ready_for(block.collector.delivery(index)))
    values = values_of(5)
    result = play(block, 1, values, {})
    assert result.survivors == block.collector.members == (0, 2, 3, 4)
    assert result.values.tolist() == plain_sum(values, result.survivors)
    assert len(result.top_up_seeds) == block[0].members == 4


def test_with_fewer_keys_than_the_threshold_there_is_no_roll():
    with pytest.raises(TooFewError, match="2 merchants sent keys"):
        announced(4, threshold=3, absent={0, 1}).collector.roll()


def test_after_keys_nothing_is_delivered_and_the_silent_one_is_named():
    block = announced(4, threshold=3)
    roll = block.collector.roll()
    for index in (0, 1, 3):
        block.collector.add_shares(index, block[index].shares(roll))
    with pytest.raises(SumError, match="set up anew without them") as stopped:
        block.collector.delivery(0)
    assert stopped.value.offenders == {2}


@pytest.mark.parametrize("silent", ["after shares", "after delivery"])
def test_before_everybody_is_ready_no_round_is_summed(silent):
    block = dealt(4, threshold=3)
    for index in (0, 1, 3):
        block.collector.add_ready(index, block[index].ready_for(block.collector.delivery(index)))
    if silent == "after delivery":
        block[2].ready_for(block.collector.delivery(2))  # and its answer is lost
    assert not block.collector.complete()
    with pytest.raises(SumError, match="not complete"):
        block.collector.round_sum(1, size=5)


def test_after_a_failed_set_up_another_block_of_the_others_sums_the_same_rounds():
    block = dealt(4, threshold=3)
    assert not block.collector.complete()
    again = announced(4, threshold=3, block=2, absent={2})
    roll = again.collector.roll()
    for index, member in again.members.items():
        again.collector.add_shares(index, member.shares(roll))
    for index, member in again.members.items():
        again.collector.add_ready(index, member.ready_for(again.collector.delivery(index)))
    values = values_of(4)
    assert play(again, 1, values, {}).values.tolist() == plain_sum(values, (0, 1, 3))


def test_at_every_step_of_a_round_by_up_to_three_of_five_merchants():
    merchants, threshold = 5, 3
    cases = [
        dict(zip(gone, steps, strict=True))
        for count in range(4)
        for gone in itertools.combinations(range(merchants), count)
        for steps in itertools.product(ROUND_STEPS, repeat=count)
    ]
    chosen = cases[:: 1 + len(cases) // 96]
    block = set_up(merchants, threshold=threshold, rounds=len(chosen))
    values, right, void = values_of(merchants), 0, 0
    for drops in chosen:
        result = play(block, block.next_round(), values, drops)
        survivors = expected_survivors(merchants, drops, threshold)
        assert (result and result.survivors) == survivors, drops
        if result is None:
            void += 1
        else:
            right += 1
            assert result.values.tolist() == plain_sum(values, survivors), drops
    assert right >= 20
    assert void >= 10


@pytest.mark.parametrize("survivors", range(3, 9))
def test_from_all_merchants_down_to_the_threshold_the_sum_is_right_and_below_it_there_is_none(survivors):
    block, values = set_up(8, threshold=5), values_of(8)
    rng = np.random.default_rng(survivors)
    gone = rng.permutation(8)[survivors:].tolist()
    result = play(block, 1, values, dict.fromkeys(gone, "mask"))
    if survivors < 5:
        assert result is None
    else:
        assert result.survivors == tuple(sorted(set(range(8)) - set(gone)))
        assert result.values.tolist() == plain_sum(values, result.survivors)
