"""Secrets of a merchant for one round, and the masks that are made of them: X25519, HKDF-SHA-256 and ChaCha20."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from secure_sum.messages import KEY_BYTES, SECRET_BYTES, VERSION

LABEL = f"purchase-power secure-sum {VERSION} ".encode()
_WORDS_AT_ONCE = 2**15  # 256 KiB stay in the processor's cache


@dataclass(frozen=True, kw_only=True)
class RoundSecrets:
    """What a merchant draws for one round; 16 bytes each.

    Attributes:
        whole: what the seeds of its own mask and of its top-up are made of. It is given away only when the whole roll
            survived.
        pairwise: what the key is made of with which it agrees on a mask with each other merchant.
    """

    whole: bytes
    pairwise: bytes

    @staticmethod
    def drawn(entropy: Callable[[int], bytes]) -> RoundSecrets:
        """Fresh ones."""
        return RoundSecrets(whole=entropy(SECRET_BYTES), pairwise=entropy(SECRET_BYTES))

    def in_order(self) -> tuple[bytes, bytes, bytes]:
        """What is dealt, in the order of `messages.SECRETS`."""
        return self.whole, self_mask_seed(self.whole), self.pairwise


def numbered(*numbers: int) -> bytes:
    """Numbers below 2**32 as bytes, each of fixed length, so that no two lists look alike."""
    return struct.pack(f">{len(numbers)}I", *numbers)


def derived(secret: bytes, info: bytes, *, salt: bytes = b"") -> bytes:
    """A key of 32 bytes for one purpose. HKDF with SHA-256 (RFC 5869)."""
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=salt, info=LABEL + info).derive(secret)


def words(seed: bytes) -> Callable[[int], NDArray[np.uint64]]:
    """A reader of random words: each call gives the next so many, the same for the same seed on every machine."""
    return _keystream(derived(seed, b"words"))


def mask_pair(pairwise: bytes) -> X25519PrivateKey:
    """The private key of a merchant's masks of one round."""
    return X25519PrivateKey.from_private_bytes(derived(pairwise, b"mask key"))


def public_bytes(key: X25519PrivateKey) -> bytes:
    """32 bytes: the public half."""
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def self_mask_seed(whole: bytes) -> bytes:
    """The seed of a merchant's own mask. It does not lead back to `whole`, so it can be given away alone."""
    return derived(whole, b"self")[:SECRET_BYTES]


def top_up_seed(whole: bytes) -> bytes:
    """The seed of the noise that is taken out again when nobody dropped out."""
    return derived(whole, b"top-up")[:SECRET_BYTES]


def commitment(self_mask: bytes, *, index: int, round: int) -> bytes:
    """Ties a merchant to the seed of its own mask without giving it away: a hash, of 16 bytes that nobody can guess."""
    return hashlib.sha256(LABEL + b"commitment\n" + numbered(index, round) + self_mask).digest()


def self_key(self_mask: bytes, *, context: bytes, index: int, round: int) -> bytes:
    """The key of a merchant's own mask."""
    return derived(self_mask, b"self mask\n" + numbered(round, index), salt=context)


def pair_key(
    own: X25519PrivateKey, own_index: int, other: bytes, other_index: int, *, context: bytes, round: int
) -> bytes:
    """The key of the mask that two merchants share; either makes it of its own private and the other's public key."""
    low, high = sorted((own_index, other_index))
    shared = own.exchange(X25519PublicKey.from_public_bytes(other))
    return derived(shared, b"pairwise\n" + numbered(round, low, high), salt=context)


def add_mask_(values: NDArray[np.uint64], key: bytes, *, subtract: bool = False) -> None:
    """Adds the mask of `key` to `values`, or takes it away, modulo 2**64."""
    stream, change = _keystream(key), np.subtract if subtract else np.add
    for start in range(0, len(values), _WORDS_AT_ONCE):
        part = values[start : start + _WORDS_AT_ONCE]
        change(part, stream(len(part)), out=part)


def _keystream(key: bytes) -> Callable[[int], NDArray[np.uint64]]:
    encryptor = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    def read(size: int) -> NDArray[np.uint64]:
        return np.frombuffer(encryptor.update(bytes(8 * size)), "<u8").astype(np.uint64, copy=False)

    return read
