"""Shares of a secret, and the boxes that they travel in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from secure_sum.masks import public_bytes
from secure_sum.sharing import box_bytes, combined, dealt, sealed, share_hash, share_hashes, unsealed

SECRET = bytes(range(100, 116))
CONTEXT = bytes(range(32))
DEALER, HOLDER = X25519PrivateKey.generate(), X25519PrivateKey.generate()
SHARES = np.arange(2 * 3 * 16, dtype=np.uint8).reshape(2, 3, 16)


def shares_of(holders, threshold):
    return dict(
        zip(holders, (row.tobytes() for row in dealt(SECRET, threshold=threshold, holders=holders)), strict=True)
    )


def test_any_shares_of_the_thresholds_number_give_the_secret_and_fewer_another_number():
    holders = [0, 2, 3, 6]
    shares = shares_of(holders, threshold=3)
    for some in itertools.combinations(holders, 3):
        assert combined({holder: shares[holder] for holder in some}) == SECRET
    for some in itertools.combinations(holders, 2):
        assert combined({holder: shares[holder] for holder in some}) != SECRET


def test_shares_are_drawn_afresh_each_time():
    assert not set(shares_of([0, 1, 2], threshold=2).values()) & set(shares_of([0, 1, 2], threshold=2).values())


def box():
    names = {"own": DEALER, "other": public_bytes(HOLDER), "context": CONTEXT, "dealer": 1, "holder": 2}
    return np.frombuffer(sealed(SHARES, **names), np.uint8)


def opened(data, **change):
    names = {"own": HOLDER, "other": public_bytes(DEALER), "context": CONTEXT, "dealer": 1, "holder": 2}
    return unsealed(data, **{**names, **change})


def test_a_box_is_opened_by_whom_it_is_for():
    assert box().size == box_bytes(2)
    assert opened(box()).tolist() == SHARES.tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"own": X25519PrivateKey.generate()},
        {"other": public_bytes(X25519PrivateKey.generate())},
        {"context": bytes(32)},
        {"dealer": 2},
        {"holder": 1},
        {"dealer": 2, "holder": 1},
    ],
    ids=["another holder", "another dealer", "another roll", "from another place", "to another place", "turned round"],
)
def test_a_box_is_opened_by_nobody_else_and_under_no_other_name(change):
    assert opened(box(), **change) is None


@pytest.mark.parametrize("bit", [0, 500, 8 * box_bytes(2) - 1])
def test_a_box_with_a_bit_changed_is_not_opened(bit):
    damaged = box().copy()
    damaged[bit // 8] ^= 1 << bit % 8
    assert opened(damaged) is None


def test_a_hash_is_of_one_share_in_one_place():
    about = {"context": CONTEXT, "dealer": 1, "holder": 2, "round": 3, "which": 0}
    share = SHARES[0, 0].tobytes()
    others = [{"context": bytes(32)}, {"dealer": 2}, {"holder": 1}, {"round": 4}, {"which": 1}]
    hashes = {share_hash(share, **about), share_hash(SHARES[0, 1].tobytes(), **about)}
    hashes |= {share_hash(share, **{**about, **other}) for other in others}
    assert len(hashes) == 7


def test_hashes_of_many_shares_are_those_of_each():
    many = share_hashes(SHARES, context=CONTEXT, dealer=1, holder=2, span=range(5, 7))
    for row, round in enumerate(range(5, 7)):
        for which in range(3):
            one = share_hash(
                SHARES[row, which].tobytes(), context=CONTEXT, dealer=1, holder=2, round=round, which=which
            )
            assert many[row, which].tobytes() == one
