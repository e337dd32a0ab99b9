"""Secret randomness: who is in a batch, and the noise. It comes from the operating system and cannot be seeded."""

from __future__ import annotations

import math
import os
from typing import Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from pp_model.errors import ConfigError

GAUSSIANS_PER_DRAW = 4


class SecretSource(Protocol):
    """Where noise and batch membership come from."""

    def uniform(self, size: int) -> NDArray[np.float64]:
        """`size` independent numbers, uniform on the open interval (0, 1)."""
        ...

    def standard_normal(self, size: int) -> NDArray[np.float64]:
        """`size` independent standard normal numbers."""
        ...

    def words(self, size: int) -> NDArray[np.uint64]:
        """`size` independent words of 64 bits, uniform on all of them."""
        ...


class SystemSource:
    """ChaCha20 keyed with 32 fresh bytes of the operating system for every call (checklist D26 to D28).

    It keeps no state, so none can be saved, restored or repeated.
    """

    def uniform(self, size: int) -> NDArray[np.float64]:
        """See `SecretSource`."""
        return uniform_from_bytes(_fresh_bytes(8 * size))

    def standard_normal(self, size: int) -> NDArray[np.float64]:
        """See `SecretSource`; made as `normal_from_uniform` says."""
        return normal_from_uniform(self.uniform(GAUSSIANS_PER_DRAW * size))

    def words(self, size: int) -> NDArray[np.uint64]:
        """See `SecretSource`."""
        return words_from_bytes(_fresh_bytes(8 * size))


def _fresh_bytes(size: int) -> bytes:
    cipher = Cipher(algorithms.ChaCha20(os.urandom(32), bytes(16)), mode=None).encryptor()
    return cipher.update(bytes(size))


def words_from_bytes(random: bytes) -> NDArray[np.uint64]:
    """One word for 8 bytes, the lowest first, on every machine."""
    return np.frombuffer(random, dtype="<u8").astype(np.uint64, copy=False)


def uniform_from_bytes(random: bytes) -> NDArray[np.float64]:
    """One number a word of 8 bytes: the middle of one of 2**52 equal cells of (0, 1), so never 0 or 1."""
    bits = words_from_bytes(random) >> np.uint64(12)
    return (bits.astype(np.float64) + 0.5) * 2.0**-52  # exact: with 53 bits the last cell would round to 1


def normal_from_uniform(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Independent standard normal numbers out of four times as many uniform ones.

    Each is half the sum of four, so that the low bits of a result do not single out the one uniform number that
    could have made it (the attack of Mironov 2012; the remedy of Holohan and Braghin 2021, arXiv:2107.10138).
    """
    # The quantile of the normal distribution is sqrt(2) erfinv(2u - 1); 2u - 1 is exact. (PyTorch's is five times as
    # fast as SciPy's ndtri, and as exact.)
    draws = torch.erfinv(torch.from_numpy(2 * uniform - 1)).mul_(math.sqrt(2)).numpy().reshape(GAUSSIANS_PER_DRAW, -1)
    return np.asarray(draws.sum(axis=0) / math.sqrt(GAUSSIANS_PER_DRAW), dtype=np.float64)


def poisson_batch(secret: SecretSource, *, num_customers: int, sample_rate: float) -> NDArray[np.intp]:
    """Who is in one step: each customer independently with probability `sample_rate`. May be empty.

    Raises:
        ConfigError: `sample_rate` is not in (0, 1].
    """
    if not 0 < sample_rate <= 1:
        raise ConfigError(f"sample_rate is {sample_rate!r}; allowed: above 0, at most 1")
    return np.flatnonzero(secret.uniform(num_customers) < sample_rate)
