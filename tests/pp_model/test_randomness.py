"""Checklist: D16, D17, D26, D27, D28, D43.

Facts that need no tolerance; what is drawn is tested in tests/statistical.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from scipy.special import ndtri

from pp_model import randomness
from pp_model.errors import ConfigError
from pp_model.randomness import (
    SystemSource,
    normal_from_uniform,
    poisson_batch,
    uniform_from_bytes,
    words_from_bytes,
)


class FixedSource(SystemSource):
    """Gives what it was given."""

    def __init__(self, *values: float) -> None:
        self.values = np.array(values)

    def uniform(self, size: int) -> np.ndarray:
        return np.resize(self.values, size)


def test_the_largest_and_the_smallest_word_stay_inside_the_open_interval():
    low, high = uniform_from_bytes(bytes(8) + b"\xff" * 8)
    assert low == 2.0**-53
    assert high == 1 - 2.0**-53
    assert np.isfinite(ndtri([low, high])).all()


def test_a_word_has_its_lowest_byte_first():
    assert words_from_bytes(b"\x01" + bytes(14) + b"\x80").tolist() == [1, 2**63]


def test_low_and_high_cells_mirror_each_other():
    words = np.array([0, 1 << 12, 12345 << 12, 1 << 63], dtype="<u8")
    np.testing.assert_array_equal(uniform_from_bytes(words.tobytes()), 1 - uniform_from_bytes((~words).tobytes()))


def test_every_call_takes_a_fresh_key_of_32_bytes(monkeypatch):
    sizes = []

    def urandom(size: int) -> bytes:
        sizes.append(size)
        return bytes([len(sizes)]) * size

    monkeypatch.setattr(randomness.os, "urandom", urandom)
    source = SystemSource()
    first, second = source.uniform(8), source.uniform(8)
    assert sizes == [32, 32]
    assert not np.array_equal(first, second)
    assert not np.array_equal(source.words(8), source.words(8))
    assert sizes == [32] * 4


def test_the_system_source_has_nothing_to_save():
    source = SystemSource()
    source.uniform(3)
    assert vars(source) == {}


def test_two_sources_and_two_calls_share_no_number():
    one, two = SystemSource(), SystemSource()
    numbers = np.concatenate([one.uniform(200), one.uniform(200), two.uniform(200)])
    assert len(set(numbers)) == 600  # a chance meeting: 600**2 / 2 / 2**52 = 4e-11
    assert len(set(np.concatenate([one.words(200), one.words(200), two.words(200)]))) == 600


def test_numpy_and_torch_seeds_do_not_repeat_the_noise():
    import torch

    draws = []
    for _ in range(2):
        np.random.seed(42)
        torch.manual_seed(42)
        draws.append(SystemSource().standard_normal(5))
    assert not np.array_equal(*draws)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_draws_other_noise():
    source = SystemSource()
    source.uniform(4)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, source.uniform(4).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = np.frombuffer(os.read(reader, 32))
    os.close(reader)
    os.close(writer)
    assert not set(theirs) & set(source.uniform(4))


def test_a_normal_number_is_half_the_sum_of_four():
    (number,) = normal_from_uniform(np.array([0.9, 0.8, 0.7, 0.6]))
    assert number == pytest.approx(ndtri([0.9, 0.8, 0.7, 0.6]).sum() / 2, rel=1e-14)


def test_the_systems_noise_is_made_of_four_of_its_uniform_numbers_each(monkeypatch):
    monkeypatch.setattr(randomness.os, "urandom", bytes)  # a key of zeros
    uniform, normal = SystemSource().uniform(12), SystemSource().standard_normal(3)
    np.testing.assert_allclose(normal, ndtri(uniform).reshape(4, 3).sum(axis=0) / 2, rtol=1e-14)


def test_who_is_in_a_batch_depends_on_one_number_a_customer():
    batch = poisson_batch(FixedSource(0.1, 0.5, 0.2, 0.9), num_customers=4, sample_rate=0.3)
    assert batch.tolist() == [0, 2]


def test_a_sample_rate_of_one_takes_everyone():
    assert poisson_batch(SystemSource(), num_customers=1_000, sample_rate=1.0).tolist() == list(range(1_000))


def test_a_shop_without_customers_has_empty_batches():
    assert len(poisson_batch(SystemSource(), num_customers=0, sample_rate=0.5)) == 0


@pytest.mark.parametrize("sample_rate", [0.0, -0.1, 1.1, float("nan"), float("inf")])
def test_a_rate_that_is_no_probability_is_refused_by_name(sample_rate):
    with pytest.raises(ConfigError, match="sample_rate"):
        poisson_batch(SystemSource(), num_customers=3, sample_rate=sample_rate)


def test_no_noise_is_an_empty_array():
    assert SystemSource().standard_normal(0).shape == (0,)
