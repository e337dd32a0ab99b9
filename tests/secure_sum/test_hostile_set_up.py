"""A platform that lies about plans, keys, rolls and shares: it is refused, and nobody becomes ready."""

from __future__ import annotations

import numpy as np
import pytest

from agreement.node_keys import new_node_key, public_text
from pp_model.errors import ProtocolError
from secure_sum.collector import Collector
from secure_sum.errors import SumError
from secure_sum.member import Member
from secure_sum.messages import read, written
from secure_sum.roll import rolled
from secure_sum.signatures import signature_of
from tests.support.secure_sums import (
    PLAN,
    announced,
    changed,
    collector_of,
    counted,
    dealt,
    identity,
    member_of,
    roster_of,
    set_up,
    survivors,
    vectors,
)

N, THRESHOLD = 5, 4
VALUES = vectors(N, rng=np.random.default_rng(11))


@pytest.fixture(scope="module")
def other_block():
    """Another block of the same merchants for the same rounds."""
    return set_up(N, threshold=THRESHOLD, rounds=40, block=2)


def refused(ask, *args, match):
    with pytest.raises(ProtocolError, match=match):
        ask(*args)


def test_a_replayed_roll_of_another_block_is_refused(other_block):
    fresh = announced(N, threshold=THRESHOLD, rounds=40, block=3)
    refused(fresh[0].shares, other_block.collector.roll(), match="another block")


def test_another_merchants_keys_of_an_older_block_are_refused_in_a_roll(other_block):
    fresh = announced(N, threshold=THRESHOLD, rounds=40, block=3)
    entries = [fresh[0].keys(), *(other_block[i].keys() for i in range(1, N))]
    refused(fresh[0].shares, rolled(entries), match="another block")


def test_a_merchants_own_older_keys_under_the_same_number_of_the_block_are_refused():
    """It was restarted and has forgotten the block; the platform sets the same one up again."""
    before, after = (announced(N, threshold=THRESHOLD) for _ in range(2))
    refused(after[0].shares, before.collector.roll(), match="not as it announced itself")


def test_a_delivery_of_an_older_roll_makes_nobody_ready(other_block):
    fresh = dealt(N, threshold=THRESHOLD, rounds=40, block=3)
    refused(fresh[0].ready_for, other_block.collector.delivery(0), match="another roll")
    forged = changed(other_block.collector.delivery(0), "delivery", fields={"context": _roll_of(fresh)})
    accusing = read(fresh[0].ready_for(forged), "ready")
    assert accusing.numbers("accused") == (1, 2, 3, 4)
    assert not fresh[0].ready


def _roll_of(made):
    return read(made.collector.delivery(0), "delivery").fields["context"]


# keys and rolls


def in_the_middle(*, key):
    """A merchant's keys with the platform's own instead, signed as well as the platform can."""
    platform = Member(
        collector_of(N, threshold=THRESHOLD).opening(),
        plan=PLAN,
        roster=roster_of(N),
        threshold=THRESHOLD,
        identity=identity(1),
        entropy=counted("the platform's"),
    )
    theirs = read(platform.keys(), "keys")
    fields = {**theirs.fields, "identity": public_text(key.public_key()).decode()}
    arrays = {name: array for name, array in theirs.arrays.items() if name != "signature"}
    signature = signature_of(key, "keys", written("keys", fields, arrays))
    return written("keys", fields, {**arrays, "signature": signature})


def test_a_platform_in_the_middle_with_its_own_identity_is_refused():
    made = announced(N, threshold=THRESHOLD)
    entries = [made[i].keys() if i != 1 else in_the_middle(key=new_node_key()) for i in range(N)]
    refused(made[0].shares, rolled(entries), match="merchant 1 with another node key than the roster's")


@pytest.mark.parametrize("what", ["channel", "masks", "commitments"])
def test_a_swapped_key_is_refused_for_its_signature(what):
    made, others = announced(N, threshold=THRESHOLD), announced(N, threshold=THRESHOLD)
    swapped = changed(made[1].keys(), "keys", **{what: read(others[1].keys(), "keys").arrays[what]})
    entries = [made[i].keys() if i != 1 else swapped for i in range(N)]
    refused(made[0].shares, rolled(entries), match="merchant 1 that its node key did not sign")


def test_a_roll_without_the_merchant_or_with_another_copy_of_it_is_refused():
    made, twin = announced(N, threshold=THRESHOLD), announced(N, threshold=THRESHOLD)
    without = rolled(made[i].keys() for i in range(1, N))
    other = rolled([twin[0].keys(), *(made[i].keys() for i in range(1, N))])
    for roll in (without, other):
        refused(made[0].shares, roll, match="missing or is not as it announced itself")


@pytest.mark.parametrize("order", [[0, 1, 2, 2, 3], [1, 0, 2, 3], [0, 1, 2], [0, 1, 2, 3, 4, 4]], ids=str)
def test_a_roll_of_anything_but_enough_members_once_each_in_order_is_refused(order):
    made = announced(N, threshold=THRESHOLD)
    refused(made[0].shares, rolled(made[i].keys() for i in order), match="a roll (of|with)")


@pytest.mark.parametrize(
    "ends",
    [lambda e: e[:-1], lambda e: [*e, e[-1] + 1], lambda e: [*e, e[-1]], lambda e: [e[1], e[0], *e[2:]], lambda _: []],
    ids=["more behind", "too far", "an empty part", "disorder", "none"],
)
def test_a_roll_whose_parts_do_not_fit_together_is_refused(ends):
    made = announced(N, threshold=THRESHOLD)
    roll = made.collector.roll()
    changed_ends = np.array(ends(read(roll, "roll").arrays["ends"].tolist()), np.uint64)
    refused(made[0].shares, changed(roll, "roll", ends=changed_ends), match="do not fit together")


@pytest.mark.parametrize("public", [bytes(32), bytes([1]) + bytes(31)], ids=["zero", "one"])
@pytest.mark.parametrize("what", ["channel", "masks"])
def test_a_public_key_with_which_everybody_agrees_on_the_same_is_refused(what, public):
    """The merchant itself may be dishonest; the others' masks with it would be no secret of any two."""
    made = announced(N, threshold=THRESHOLD)
    shape = (32,) if what == "channel" else (1, 32)
    weak = changed(made[1].keys(), "keys", signer=1, **{what: np.frombuffer(public, np.uint8).reshape(shape)})
    refused(made[0].shares, rolled([weak if i == 1 else made[i].keys() for i in range(N)]), match="nothing secret")


def test_a_second_roll_is_refused():
    made = announced(N, threshold=THRESHOLD)
    first = rolled(made[i].keys() for i in range(N))
    shares = made[0].shares(first)
    refused(made[0].shares, rolled(made[i].keys() for i in range(N - 1)), match="a second roll")
    assert made[0].shares(first) == shares


def test_with_different_rolls_for_different_merchants_nobody_becomes_ready():
    """The same merchants, but for one of them a member fewer: neither roll has all its members' shares."""
    made = announced(N, threshold=THRESHOLD)
    rolls = {i: rolled(made[j].keys() for j in (range(N) if i < 2 else range(N - 1))) for i in range(N - 1)}
    shares = {i: read(made[i].shares(rolls[i]), "shares") for i in rolls}
    for index in rolls:
        others = [j for j in range(N if index < 2 else N - 1) if j != index]
        boxes = [shares[j].octets("boxes")[index - (j < index)] if j in shares else _noise_box(shares) for j in others]
        hashes = [shares[j].octets("hashes")[index] if j in shares else shares[0].octets("hashes")[0] for j in others]
        fields = {"context": shares[index].fields["context"], "index": index}
        delivery = written("delivery", fields, {"boxes": np.stack(boxes), "hashes": np.stack(hashes)})
        accused = read(made[index].ready_for(delivery), "ready").numbers("accused")
        assert set(accused) == {j for j in others if j not in rolls or rolls[j] != rolls[index]} != set()
        with pytest.raises(SumError, match="not complete"):
            made[index].masked(1, VALUES[index])


def _noise_box(shares):
    return np.zeros_like(shares[0].octets("boxes")[0])


def test_a_delivery_for_another_merchant_or_a_second_one_is_refused():
    made = dealt(N, threshold=THRESHOLD)
    refused(made[0].ready_for, made.collector.delivery(1), match="for another merchant")
    delivery = made.collector.delivery(0)
    ready = made[0].ready_for(delivery)
    damaged = changed(delivery, "delivery", boxes=1 ^ read(delivery, "delivery").octets("boxes"))
    refused(made[0].ready_for, damaged, match="a second delivery")
    assert made[0].ready_for(delivery) == ready


def test_steps_out_of_order_are_refused():
    made, later = announced(N, threshold=THRESHOLD), set_up(N, threshold=THRESHOLD)
    refused(made[0].ready_for, later.collector.delivery(0), match="a message of a later step")
    refused(made[0].reveal, survivors(later, 1, [0, 1, 2, 3]), match="a message of a later step")
    with pytest.raises(SumError, match="the roll of this block has not come yet"):
        made[0].masked(1, VALUES[0])


# openings


@pytest.mark.parametrize(
    ("what", "differently"),
    [
        ("plan", {"plan": "another"}),
        ("roster", {"roster": roster_of(6)}),
        ("roster", {"roster": roster_of(5)[::-1]}),
        ("threshold", {"threshold": 3}),
    ],
    ids=["plan", "one more merchant", "another order", "threshold"],
)
def test_an_opening_of_another_plan_roster_or_threshold_is_refused(what, differently):
    ours = {"plan": PLAN, "roster": roster_of(N), "threshold": THRESHOLD}
    collector = Collector(**ours | differently, block=1, first_round=1, rounds=2)
    with pytest.raises(ProtocolError, match=f"another {what}"):
        Member(collector.opening(), **ours, identity=identity(0))


def test_a_merchant_that_is_not_on_the_roster_does_not_take_part():
    with pytest.raises(ProtocolError, match="not on the plan's roster"):
        Member(
            collector_of(N, threshold=THRESHOLD).opening(),
            plan=PLAN,
            roster=roster_of(N),
            threshold=THRESHOLD,
            identity=identity(N),
        )


@pytest.mark.parametrize("threshold", [0, 1, 2, 6])
def test_a_threshold_that_allows_two_sums_of_one_round_is_refused(threshold):
    with pytest.raises(ProtocolError, match="a threshold of"):
        collector_of(N, threshold=threshold)


def test_a_member_tells_the_block_its_rounds_and_its_place():
    collector = collector_of(N, threshold=THRESHOLD, rounds=3, block=7, first_round=12)
    member = member_of(collector, 2, merchants=N, threshold=THRESHOLD)
    assert (member.block, list(member.rounds), member.index, member.ready) == (7, [12, 13, 14], 2, False)
