"""Keys, streams and masks: the same on every machine, different for everything that differs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from secure_sum.masks import (
    RoundSecrets,
    add_mask_,
    commitment,
    derived,
    mask_pair,
    pair_key,
    public_bytes,
    self_key,
    top_up_seed,
    words,
)
from tests.support.secure_sums import counted

SEED = bytes(range(16))
CONTEXT = bytes(32)


def test_words_are_the_same_for_a_seed_however_they_are_asked_for():
    read = words(SEED)
    pieces = np.concatenate([read(3), read(0), read(70_000), read(1)])
    whole = words(SEED)(70_004)
    assert whole.dtype == np.uint64
    assert pieces.tolist() == whole.tolist()
    assert words(bytes(16))(4).tolist() != whole[:4].tolist()


def test_words_are_the_key_stream_of_rfc_8439_in_little_endian():
    """By another way through the library: what an AEAD encrypts zeros to begins at block 1 of the same stream."""
    sealed = ChaCha20Poly1305(derived(SEED, b"words")).encrypt(bytes(12), bytes(64), None)
    assert words(SEED)(16)[8:].astype("<u8").tobytes() == sealed[:64]


def test_two_merchants_make_the_same_key_and_anything_else_another():
    first, second, third = (mask_pair(bytes([number] * 16)) for number in range(3))

    def key(own, own_index, other, other_index, context=CONTEXT, round=1):
        return pair_key(own, own_index, public_bytes(other), other_index, context=context, round=round)

    assert key(first, 4, second, 7) == key(second, 7, first, 4)
    others = [
        key(first, 4, second, 8),
        key(first, 3, second, 7),
        key(first, 4, third, 7),
        key(first, 4, second, 7, round=2),
        key(first, 4, second, 7, context=bytes([1] * 32)),
    ]
    assert len({key(first, 4, second, 7), *others}) == 6


def test_a_merchants_own_mask_has_another_key_for_each_seed_context_merchant_and_round():
    seeds, contexts = (SEED, bytes(16)), (CONTEXT, bytes([1] * 32))
    cases = list(itertools.product(seeds, contexts, (1, 2), (1, 2)))
    assert len({self_key(s, context=c, index=i, round=r) for s, c, i, r in cases}) == len(cases)
    assert len({commitment(seed, index=i, round=r) for seed in seeds for i in (1, 2) for r in (1, 2)}) == 8


@pytest.mark.parametrize("size", [0, 1, 2**15 - 1, 2**15 + 1, 100_003])
def test_a_mask_taken_away_is_gone(size):
    values = np.random.default_rng(size).integers(0, 2**64, size, dtype=np.uint64)
    masked = values.copy()
    add_mask_(masked, SEED * 2)
    changed = np.count_nonzero(masked != values)
    add_mask_(masked, SEED * 2, subtract=True)
    assert masked.tolist() == values.tolist()
    assert changed == size


def test_what_is_dealt_for_a_round_is_three_different_secrets():
    secrets = RoundSecrets.drawn(counted("one"))
    whole, self_mask, pairwise = secrets.in_order()
    assert len({whole, self_mask, pairwise, top_up_seed(whole)}) == 4
    assert [len(secret) for secret in secrets.in_order()] == [16, 16, 16]
    assert not set(secrets.in_order()) & set(RoundSecrets.drawn(counted("two")).in_order())
