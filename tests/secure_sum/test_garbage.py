"""Damaged messages, to whoever reads them: an error of ours, or an answer as if nothing was; never anything else."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from pp_model.errors import ProtocolError
from secure_sum.errors import SumError
from tests.support.secure_sums import SIZE, announced, collector_of, dealt, member_of, set_up, vectors

N, THRESHOLD = 4, 3
VALUES = vectors(N, rng=np.random.default_rng(2))


def damaged(data, *, rng, flips=120, cuts=12):
    """Copies with one bit changed, cut short, or of noise alone."""
    for bit in rng.integers(0, 8 * len(data), flips):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)
    for end in rng.integers(0, len(data), cuts):
        yield data[:end]
    for size in rng.integers(0, 2000, cuts):
        yield rng.bytes(size)


def refusals(read, data, *, seed):
    """How many damaged copies are refused with an error of ours; any other error comes out of here."""
    count = 0
    for copy in damaged(data, rng=np.random.default_rng(seed)):
        try:
            read(copy)
        except ProtocolError:
            count += 1
    return count


COPIES = sum(1 for _ in damaged(bytes(100), rng=np.random.default_rng(0)))


def masked_round(block, masking):
    summing = block.collector.round_sum(1, size=SIZE)
    for index in masking:
        summing.add(index, block[index].masked(1, VALUES[index]))
    return summing


def test_a_merchant_that_reads_a_damaged_opening_or_roll_refuses_it():
    made = announced(N, threshold=THRESHOLD)
    opening = collector_of(N, threshold=THRESHOLD)

    class Copy:
        def __init__(self, data):
            self.opening = lambda: data

    tried = refusals(lambda data: member_of(Copy(data), 0, merchants=N, threshold=THRESHOLD), opening.opening(), seed=1)
    assert tried >= COPIES - 20  # a bit of the block's number or rounds makes another opening
    assert refusals(made[0].shares, made.collector.roll(), seed=2) == COPIES
    made[0].shares(made.collector.roll())


def test_a_merchant_that_reads_a_damaged_delivery_refuses_it_or_accuses_and_is_not_ready():
    made = dealt(N, threshold=THRESHOLD)
    delivery = made.collector.delivery(0)
    for copy in damaged(delivery, rng=np.random.default_rng(3)):
        with contextlib.suppress(ProtocolError):
            made[0].ready_for(copy)
        assert not made[0].ready
    made[0].ready_for(delivery)
    assert made[0].ready


@pytest.mark.parametrize("masking", [range(N), range(N - 1)], ids=["all", "one gone"])
def test_a_merchant_that_reads_a_damaged_list_or_quorum_refuses_it(masking):
    block = set_up(N, threshold=THRESHOLD)
    summing = masked_round(block, masking)
    asked = summing.survivors()
    for index in masking:
        summing.add_answer(index, block[index].reveal(asked))
    assert refusals(block[0].reveal, asked, seed=4) == COPIES
    if len(masking) < N:
        assert refusals(block[0].reveal, summing.quorum(), seed=5) == COPIES


def test_a_platform_that_reads_damaged_keys_shares_or_readiness_refuses_them():
    made = announced(N, threshold=THRESHOLD)
    assert refusals(lambda data: made.collector.add_keys(0, data), made[0].keys(), seed=6) == COPIES
    roll = made.collector.roll()
    for index, member in made.members.items():
        shares = member.shares(roll)
        if index == 0:
            assert refusals(lambda data: made.collector.add_shares(0, data), shares, seed=7) == COPIES
        made.collector.add_shares(index, shares)
    ready = made[0].ready_for(made.collector.delivery(0))
    assert refusals(lambda data: made.collector.add_ready(0, data), ready, seed=8) == COPIES
    assert not made.collector.complete()


@pytest.mark.parametrize("masking", [range(N), range(N - 1)], ids=["all", "one gone"])
def test_a_platform_that_reads_damaged_answers_refuses_them_and_sums_what_the_others_say(masking):
    block = set_up(N, threshold=THRESHOLD)
    summing = masked_round(block, masking)
    asked = summing.survivors()
    answer = block[0].reveal(asked)
    assert refusals(lambda data: summing.add_answer(0, data), answer, seed=9) == COPIES
    with pytest.raises(SumError):
        summing.result()
    for index in masking:
        summing.add_answer(index, block[index].reveal(asked))
    quorum = summing.quorum()
    if quorum is not None:
        shares = block[0].reveal(quorum)
        assert refusals(lambda data: summing.add_answer(0, data), shares, seed=10) == COPIES
        for index in masking:
            summing.add_answer(index, block[index].reveal(quorum))
    assert summing.result().survivors == tuple(masking)
