"""A merchant that breaks the rules: it is left out and named; the sum stays right, or the round is void."""

from __future__ import annotations

import numpy as np
import pytest

from agreement.node_keys import new_node_key
from pp_model.errors import ProtocolError
from secure_sum.errors import SumError, TooFewError
from secure_sum.messages import read
from secure_sum.sharing import dealt as dealt_secret
from secure_sum.sharing import sealed, share_hashes
from secure_sum.signatures import signature_of
from tests.support.secure_sums import (
    PLAN,
    SIZE,
    announced,
    changed,
    collector_of,
    dealt,
    identity,
    plain_sum,
    roster_of,
    set_up,
    vectors,
)

N, THRESHOLD = 5, 3
VALUES = vectors(N, rng=np.random.default_rng(23))


@pytest.fixture(scope="module")
def block():
    return set_up(N, threshold=THRESHOLD, rounds=30)


def asked_round(block, *, masking=range(N)):
    """A round up to the list of survivors: the sum in the making, and the list."""
    round = block.next_round()
    summing = block.collector.round_sum(round, size=SIZE)
    for index in masking:
        summing.add(index, block[index].masked(round, VALUES[index]))
    return summing, summing.survivors()


def with_quorum(block, asked, *, masking):
    summing, survivors = asked
    for index in masking:
        summing.add_answer(index, block[index].reveal(survivors))
    return summing.quorum()


def refused(add, *args, match):
    with pytest.raises(ProtocolError, match=match):
        add(*args)


# wrong answers in a round


@pytest.mark.parametrize("dealer", range(N))
def test_a_wrong_share_is_left_out_and_its_sender_named_and_the_sum_is_right(block, dealer):
    summing, asked = asked_round(block)
    shares = read(block[2].reveal(asked), "revealed").octets("shares").copy()
    shares[dealer, 7] ^= 1
    wrong = changed(block[2].reveal(asked), "revealed", shares=shares)
    refused(summing.add_answer, 2, wrong, match=f"merchant 2 gave a wrong share of merchant {dealer}'s")
    for index in (0, 1, 3):
        summing.add_answer(index, block[index].reveal(asked))
    result = summing.result()
    assert result.values.tolist() == plain_sum(VALUES, range(N))
    assert result.offenders == {2}


def test_a_wrong_share_of_one_who_dropped_out_is_noticed_too(block):
    rest = [0, 1, 2, 3]
    summing, asked = asked_round(block, masking=rest)
    quorum = with_quorum(block, (summing, asked), masking=rest)
    shares = read(block[1].reveal(quorum), "revealed").octets("shares").copy()
    shares[4, 0] ^= 128
    wrong = changed(block[1].reveal(quorum), "revealed", shares=shares)
    refused(summing.add_answer, 1, wrong, match="merchant 1 gave a wrong share of merchant 4's")
    for index in (0, 2, 3):
        summing.add_answer(index, block[index].reveal(quorum))
    assert summing.result().values.tolist() == plain_sum(VALUES, rest)
    assert summing.result().offenders == {1}


def test_with_too_many_wrong_shares_the_round_is_void(block):
    summing, asked = asked_round(block)
    for index in (0, 1, 2):
        shares = read(block[index].reveal(asked), "revealed").octets("shares") ^ 1
        refused(
            summing.add_answer, index, changed(block[index].reveal(asked), "revealed", shares=shares), match="wrong"
        )
    for index in (3, 4):
        summing.add_answer(index, block[index].reveal(asked))
    with pytest.raises(TooFewError, match="2 survivors gave their shares"):
        summing.result()


def test_a_signature_over_another_list_or_of_another_key_does_not_count(block):
    summing, asked = asked_round(block, masking=[0, 1, 2, 3])
    good = block[0].reveal(asked)
    for signature in (
        signature_of(new_node_key(), "survivors", asked),
        signature_of(identity(0), "survivors", asked + b" "),
        np.zeros(96, np.uint8),
    ):
        refused(summing.add_answer, 0, changed(good, "signed", signature=signature), match="merchant 0 did not make")
    with pytest.raises(TooFewError, match="0 survivors signed"):
        summing.quorum()


def test_answers_of_another_merchant_round_or_block_are_refused(block):
    other = set_up(N, threshold=THRESHOLD, rounds=30, block=2)
    _, elder_list = asked_round(block)
    stale = block[0].reveal(elder_list)
    summing, asked = asked_round(block)
    _, elsewhere_list = asked_round(other)
    refused(summing.add_answer, 0, block[1].reveal(asked), match="of another round or merchant")
    refused(summing.add_answer, 0, stale, match="of another round or merchant")
    refused(summing.add_answer, 0, other[0].reveal(elsewhere_list), match="of another roll")
    refused(summing.add_answer, 9, stale, match="not on the list")


def test_shares_before_there_is_a_quorum_are_refused(block):
    summing, asked = asked_round(block, masking=[0, 1, 2, 3])
    _, list_of_all = asked_round(block)
    early = changed(block[0].reveal(list_of_all), "revealed", fields=read(asked, "survivors").fields)
    refused(summing.add_answer, 0, early, match="before there was a quorum")


# wrong set-up


def dealing(made, dealer, *, tamper):
    """The shares of a dealer that changes what it deals, and seals and hashes and signs it as if nothing was."""
    member, roll = made[dealer], made.collector.roll()
    honest = member.shares(roll)
    known = member._roll
    dealt_shares = {holder: np.empty((1, 3, 16), np.uint8) for holder in known.members}
    for which, secret in enumerate(member._secrets[1].in_order()):
        for holder, share in zip(
            known.members, dealt_secret(secret, threshold=THRESHOLD, holders=range(N)), strict=True
        ):
            dealt_shares[holder][0, which] = share
    tamper(dealt_shares)
    about = {"context": known.context, "dealer": dealer}
    boxes = [
        sealed(shares, own=member._channel, other=known.members[holder].channel, holder=holder, **about)
        for holder, shares in dealt_shares.items()
        if holder != dealer
    ]
    hashes = [share_hashes(s, holder=holder, span=member.rounds, **about) for holder, s in dealt_shares.items()]
    member._held[dealer] = dealt_shares[dealer]
    arrays = {"boxes": np.array([list(box) for box in boxes], np.uint8), "hashes": np.stack(hashes)}
    return changed(honest, "shares", signer=dealer, **arrays)


def set_up_with(made, dealer, shares):
    """Goes on with those shares of one dealer; whom each member accuses."""
    for index, member in made.members.items():
        made.collector.add_shares(index, shares if index == dealer else member.shares(made.collector.roll()))
    deliveries = {index: made.collector.delivery(index) for index in made.members}
    return {i: made.collector.add_ready(i, made[i].ready_for(deliveries[i])) for i in made.members}


@pytest.mark.parametrize(("which", "masking"), [(0, range(N)), (1, range(4)), (2, range(1, N))])
def test_shares_of_no_one_secret_void_the_round_and_their_dealer_is_named(which, masking):
    dealer = 0

    def tamper(shares):
        shares[1][0, which, 3] ^= 1

    made = announced(N, threshold=THRESHOLD)
    shares = dealing(made, dealer, tamper=tamper)
    assert set(set_up_with(made, dealer, shares).values()) == {frozenset()}
    summing, asked = asked_round(made, masking=masking)
    quorum = None
    if len(masking) < N:
        quorum = with_quorum(made, (summing, asked), masking=masking)
    for index in masking:
        summing.add_answer(index, made[index].reveal(quorum or asked))
    for _ in range(2):
        with pytest.raises(SumError, match="merchant 0 dealt shares of another secret") as void:
            summing.result()
        assert void.value.offenders == {dealer}


def test_a_dealer_that_does_as_it_should_is_not_named():
    """The twin of the test above, with nothing changed."""
    made = announced(N, threshold=THRESHOLD)
    shares = dealing(made, 0, tamper=len)
    assert set(set_up_with(made, 0, shares).values()) == {frozenset()}
    summing, asked = asked_round(made)
    for index in range(N):
        summing.add_answer(index, made[index].reveal(asked))
    assert summing.result().values.tolist() == plain_sum(VALUES, range(N))


@pytest.mark.parametrize("what", ["boxes", "hashes"])
def test_shares_that_do_not_open_or_fit_their_hashes_are_noticed_at_the_set_up_and_accused(what):
    made = announced(N, threshold=THRESHOLD)
    honest = read(made[1].shares(made.collector.roll()), "shares")
    wrong = honest.octets(what).copy()
    wrong[2].flat[5] ^= 1  # of merchant 3 in the boxes, where the dealer is left out; of merchant 2 in the hashes
    shares = changed(made[1].shares(made.collector.roll()), "shares", signer=1, **{what: wrong})
    accused = set_up_with(made, 1, shares)
    victim = 3 if what == "boxes" else 2
    assert accused == {i: frozenset({1} if i == victim else ()) for i in range(N)}
    assert not made.collector.complete()
    assert not made[victim].ready


@pytest.mark.parametrize("accused", [[3], [9], [0, 0], [2, 1]], ids=["itself", "a stranger", "twice", "disorder"])
def test_an_accusation_of_anyone_but_fellow_members_is_refused(accused):
    made = dealt(N, threshold=THRESHOLD)
    good = made[3].ready_for(made.collector.delivery(3))
    odd = changed(good, "ready", signer=3, accused=np.array(accused, np.uint64))
    refused(made.collector.add_ready, 3, odd, match="merchant 3 accuses")


def test_keys_of_another_block_merchant_or_signature_are_refused():
    made, later = announced(N, threshold=THRESHOLD, absent={4}), announced(N, threshold=THRESHOLD, block=2)
    again = announced(N, threshold=THRESHOLD)
    add = made.collector.add_keys
    refused(add, 4, later[4].keys(), match="another block")
    refused(add, 4, made[3].keys(), match="merchant 4 sent keys of merchant 3")
    refused(add, 4, changed(again[4].keys(), "keys", fields={"index": "5"}), match="the roster has 5")
    refused(add, 4, changed(again[4].keys(), "keys", fields={"index": "3"}), match="another node key")
    refused(add, 4, changed(again[4].keys(), "keys", fields={"identity": "ssh-rsa AAAA"}), match="not a node key")
    refused(add, 4, changed(again[4].keys(), "keys", signature=np.zeros(96, np.uint8)), match="did not sign")
    refused(add, 3, again[3].keys(), match="sent other keys before")
    assert made.collector.members == (0, 1, 2, 3)


def test_keys_that_come_late_do_not_change_the_roll():
    made, again = announced(N, threshold=THRESHOLD, absent={4}), announced(N, threshold=THRESHOLD)
    roll = made.collector.roll()
    with pytest.raises(SumError, match="after the roll was made"):
        made.collector.add_keys(4, again[4].keys())
    assert made.collector.roll() == roll


def test_shares_and_readiness_of_another_merchant_or_roll_are_refused():
    made, other = dealt(N, threshold=THRESHOLD), dealt(N, threshold=THRESHOLD)
    roll = made.collector.roll()
    refused(made.collector.add_shares, 3, made[2].shares(roll), match="not merchant 3's")
    refused(made.collector.add_shares, 3, other[3].shares(other.collector.roll()), match="another roll")
    hashes = 1 ^ read(made[3].shares(roll), "shares").octets("hashes")
    refused(made.collector.add_shares, 3, changed(made[3].shares(roll), "shares", hashes=hashes), match="did not sign")
    resigned = changed(made[3].shares(roll), "shares", signer=3, hashes=hashes)
    refused(made.collector.add_shares, 3, resigned, match="sent other shares before")
    ready = made[2].ready_for(made.collector.delivery(2))
    refused(made.collector.add_ready, 3, ready, match="not merchant 3's")
    refused(made.collector.add_ready, 9, ready, match="no member")
    elsewhere = other[3].ready_for(other.collector.delivery(3))
    refused(made.collector.add_ready, 3, elsewhere, match="another roll")
    forged = changed(ready, "ready", signer=2, fields={"index": "3"})
    refused(made.collector.add_ready, 3, forged, match="merchant 3 did not sign")


def test_nothing_is_taken_before_the_roll():
    made = announced(N, threshold=THRESHOLD)
    other = dealt(N, threshold=THRESHOLD)
    with pytest.raises(SumError, match="not made yet"):
        made.collector.add_shares(0, other[0].shares(other.collector.roll()))
    with pytest.raises(SumError, match="not made yet"):
        made.collector.delivery(0)


def test_terms_that_cannot_be_are_refused():
    for rounds in (0, 257):
        with pytest.raises(ProtocolError, match="1 to 256"):
            collector_of(N, threshold=THRESHOLD, rounds=rounds)
    with pytest.raises(ProtocolError, match="a key twice"):
        type(collector_of(N, threshold=3))(
            plan=PLAN, roster=[*roster_of(3), roster_of(1)[0]], block=1, first_round=1, rounds=1, threshold=3
        )
