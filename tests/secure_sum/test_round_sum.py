"""The platform's side of a round: what comes out is the sum over the survivors to the last bit, or nothing."""

from __future__ import annotations

import numpy as np
import pytest

from pp_model.errors import ProtocolError
from secure_sum.errors import SumError, TooFewError
from secure_sum.masks import add_mask_
from tests.support.secure_sums import SIZE, plain_sum, play, set_up, vectors


@pytest.fixture(scope="module")
def block():
    return set_up(5, threshold=4, rounds=40)


def values_of(merchants=5):
    return vectors(merchants, rng=np.random.default_rng(5))


def masked_by(block, round, indices, values=None):
    """The round's sum, with the masked vectors of those merchants in it."""
    values = values or values_of()
    summing = block.collector.round_sum(round, size=SIZE)
    for index in indices:
        summing.add(index, block[index].masked(round, values[index]))
    return summing


def test_when_nobody_drops_out_two_exchanges_give_the_sum_and_the_seeds_of_the_top_ups(block):
    round, values = block.next_round(), values_of()
    seeds = {index: block[index].top_up_seed(round) for index in range(5)}
    summing = masked_by(block, round, range(5), values)
    asked = summing.survivors()
    for index in range(5):
        summing.add_answer(index, block[index].reveal(asked))
    assert summing.quorum() is None
    result = summing.result()
    assert result.values.tolist() == plain_sum(values, range(5))
    assert (result.survivors, result.top_up_seeds, result.offenders) == ((0, 1, 2, 3, 4), seeds, frozenset())


@pytest.mark.parametrize("gone", range(5))
def test_with_a_drop_out_the_sum_is_over_the_others_and_no_top_up_is_given_away(block, gone):
    round, values = block.next_round(), values_of()
    result = play(block, round, values, {gone: "mask"})
    rest = tuple(index for index in range(5) if index != gone)
    assert result.survivors == rest
    assert result.values.tolist() == plain_sum(values, rest)
    assert result.top_up_seeds == {}


def test_a_merchant_that_falls_silent_after_masking_is_in_the_sum(block):
    round, values = block.next_round(), values_of()
    result = play(block, round, values, {3: "answer"})
    assert result.values.tolist() == plain_sum(values, range(5))


def test_below_the_threshold_there_is_no_list_and_nothing_is_unmasked(block):
    summing = masked_by(block, block.next_round(), [0, 1, 2])
    for step in (summing.survivors, summing.quorum, summing.result):
        with pytest.raises(SumError):
            step()
    with pytest.raises(TooFewError, match=r"3 members sent a masked vector in round .*threshold is 4"):
        summing.survivors()


def test_with_too_few_signatures_there_is_no_quorum_and_with_too_few_shares_no_sum(block):
    summing = masked_by(block, block.next_round(), [0, 1, 2, 3])
    asked = summing.survivors()
    for index in (0, 1, 2):
        summing.add_answer(index, block[index].reveal(asked))
    with pytest.raises(TooFewError, match="3 survivors signed"):
        summing.quorum()
    summing.add_answer(3, block[3].reveal(asked))
    quorum = summing.quorum()
    for index in (0, 1, 2):
        summing.add_answer(index, block[index].reveal(quorum))
    with pytest.raises(TooFewError, match="3 survivors gave their shares"):
        summing.result()
    summing.add_answer(3, block[3].reveal(quorum))
    assert summing.result().values.tolist() == plain_sum(values_of(), range(4))


def test_a_vector_is_added_once_by_a_member_with_the_right_length_and_before_the_list(block):
    round, values = block.next_round(), values_of()
    summing = masked_by(block, round, [0, 1, 2, 3], values)
    with pytest.raises(ProtocolError, match="sent one before"):
        summing.add(0, values[0])
    with pytest.raises(ProtocolError, match="no member"):
        summing.add(9, values[0])
    for wrong in (values[4][:-1], values[4].astype(np.int64), values[4].reshape(1, -1)):
        with pytest.raises(ProtocolError, match="merchant 4 sent"):
            summing.add(4, wrong)
    summing.survivors()
    with pytest.raises(SumError, match="after the list"):
        summing.add(4, block[4].masked(round, values[4]))


def test_an_answer_before_the_list_is_refused(block):
    with pytest.raises(SumError, match="before anything was asked"):
        masked_by(block, block.next_round(), [0]).add_answer(0, b"")


def test_the_result_is_the_same_when_asked_for_again(block):
    round, values = block.next_round(), values_of()
    summing = masked_by(block, round, range(5), values)
    asked = summing.survivors()
    for index in range(5):
        summing.add_answer(index, block[index].reveal(asked))
    assert summing.result() is summing.result()
    assert summing.result().values.tolist() == plain_sum(values, range(5))


def test_a_result_that_was_interrupted_half_way_is_right_when_it_is_asked_for_again(block, monkeypatch):
    round, values = block.next_round(), values_of()
    summing = masked_by(block, round, range(5), values)
    asked = summing.survivors()
    for index in range(5):
        summing.add_answer(index, block[index].reveal(asked))

    def interrupted(total, key, *, subtract):
        add_mask_(total, key, subtract=subtract)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("secure_sum.round_sum.add_mask_", interrupted)
        with pytest.raises(KeyboardInterrupt):
            summing.result()
    assert summing.result().values.tolist() == plain_sum(values, range(5))


def test_a_round_is_summed_once_and_only_if_it_is_of_the_block(block):
    round = block.next_round()
    block.collector.round_sum(round, size=SIZE)
    for wrong in (round, 0, 41):
        with pytest.raises(SumError, match="not of this block, or was summed before"):
            block.collector.round_sum(wrong, size=SIZE)
