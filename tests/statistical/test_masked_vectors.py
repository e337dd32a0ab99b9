"""What the platform stores of one merchant's vector looks like any words at all, to everyone who misses one mask."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from secure_sum.masks import add_mask_, mask_pair, pair_key, self_key, self_mask_seed
from tests.support.secure_sums import set_up

FALSE_ALARM = 1e-9  # per statistic; the secrets are the operating system's: every run draws afresh
SIZE = 100_000  # words
N, THRESHOLD = 5, 4
CONSTANT = np.full(SIZE, 12_345, np.uint64)


def looks_uniform(words):
    """Chi-square of the bytes and of pairs of neighbouring bytes; ones, and changes between neighbouring bits."""
    octets = words.view(np.uint8)
    pairs = octets[0::2].astype(int) * 256 + octets[1::2]
    bits = np.unpackbits(octets)
    changes = int(np.count_nonzero(bits[1:] != bits[:-1]))
    return (
        chi_square_fits(np.bincount(octets, minlength=2**8))
        and chi_square_fits(np.bincount(pairs, minlength=2**16))
        and half_of(int(bits.sum()), of=bits.size)
        and half_of(changes, of=bits.size - 1)
    )


def chi_square_fits(counts):
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], df=counts.size - 1)
    return low < stats.chisquare(counts).statistic < high


def half_of(count, *, of):
    low, high = stats.binom.interval(1 - FALSE_ALARM, of, 0.5)
    return low <= count <= high


def masked_and_keys(values=CONSTANT):
    """Merchant 2's masked vector, and the keys of its masks by whom they are shared with, its own under 2."""
    block = set_up(N, threshold=THRESHOLD)
    member, secrets = block[2], block[2]._secrets[1]
    own, context = mask_pair(secrets.pairwise), block.roll.context
    keys = {
        index: pair_key(own, 2, keys.masks[1], index, context=context, round=1)
        for index, keys in block.roll.members.items()
        if index != 2
    }
    keys[2] = self_key(self_mask_seed(secrets.whole), context=context, index=2, round=1)
    return member.masked(1, values), keys


def without(masked, keys, known):
    """What is left when masks are taken away."""
    left = masked.copy()
    for index in known:
        add_mask_(left, keys[index], subtract=index >= 2)
    return left


@pytest.mark.statistical
def test_a_masked_vector_looks_uniform():
    masked, _ = masked_and_keys()
    assert looks_uniform(masked)


@pytest.mark.statistical
@pytest.mark.parametrize("hidden", range(N))
def test_it_does_to_everyone_who_knows_all_masks_but_one(hidden):
    masked, keys = masked_and_keys()
    assert looks_uniform(without(masked, keys, set(keys) - {hidden}))


@pytest.mark.statistical
def test_the_check_would_notice_that_no_mask_is_left():
    masked, keys = masked_and_keys()
    left = without(masked, keys, keys)
    assert left.tolist() == CONSTANT.tolist()
    assert not looks_uniform(left)


@pytest.mark.statistical
@pytest.mark.parametrize("missing", range(N))
def test_the_check_would_notice_a_merchant_that_left_one_mask_out(monkeypatch, missing):
    """The twin: all masks but one are known, and that one was never put on."""
    skipped = []

    def forgetful(values, key, *, subtract=False):
        order = [2, 0, 1, 3, 4]  # of the masks as they are put on
        if order[len(skipped)] != missing:
            add_mask_(values, key, subtract=subtract)
        skipped.append(key)

    monkeypatch.setattr("secure_sum.member.add_mask_", forgetful)
    masked, keys = masked_and_keys()
    assert len(skipped) == N
    assert not looks_uniform(without(masked, keys, set(keys) - {missing}))


@pytest.mark.statistical
def test_two_rounds_of_the_same_values_differ_by_what_looks_uniform():
    block = set_up(N, threshold=THRESHOLD, rounds=2)
    assert looks_uniform(block[2].masked(1, CONSTANT) - block[2].masked(2, CONSTANT))


@pytest.mark.statistical
@pytest.mark.parametrize(
    "spoil",
    [
        lambda words: words & np.uint64(2**63 - 1),
        lambda words: np.repeat(words[::2], 2),
        lambda words: np.where(np.arange(SIZE) % 50 == 0, np.uint64(7), words),
    ],
    ids=["one bit missing", "each word twice", "one word in fifty not masked"],
)
def test_the_check_would_notice_words_that_are_not_quite_any_words(spoil):
    masked, _ = masked_and_keys()
    assert not looks_uniform(spoil(masked))
