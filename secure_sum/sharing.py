"""A secret in shares, of which the threshold's number gives it back and one fewer says nothing; and their envelopes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from numpy.typing import NDArray

from secure_sum.masks import LABEL, derived, numbered
from secure_sum.messages import SECRET_BYTES, SECRETS

BOX_OVERHEAD = 16  # the tag
_NONCE = bytes(12)  # a key encrypts one box, ever


def dealt(secret: bytes, *, threshold: int, holders: Sequence[int]) -> NDArray[np.uint8]:
    """[holders, 16]: one share of a secret of 16 bytes for each holder. Shamir 1979, in GF(2**128)."""
    shares = dict(Shamir.split(threshold, max(holders) + 1, secret, ssss=False))  # numbered from 1
    return np.frombuffer(b"".join(shares[holder + 1] for holder in holders), np.uint8).reshape(-1, SECRET_BYTES)


def combined(shares: Mapping[int, bytes]) -> bytes:
    """The secret of exactly the threshold's number of shares, by holder."""
    secret: bytes = Shamir.combine([(holder + 1, share) for holder, share in shares.items()], ssss=False)
    return secret


def share_hash(share: bytes, *, context: bytes, dealer: int, holder: int, round: int, which: int) -> bytes:
    """16 bytes by which a wrong share is told from the right one: half of a SHA-256.

    Nobody who does not have the 16 random bytes of the share learns them from it.
    """
    about = context + numbered(dealer, holder, round, which)
    return hashlib.sha256(LABEL + b"share\n" + about + share).digest()[:SECRET_BYTES]


def share_hashes(
    shares: NDArray[np.uint8], *, context: bytes, dealer: int, holder: int, span: range
) -> NDArray[np.uint8]:
    """[rounds, secrets, 16]: the hash of each of a dealer's shares [rounds, secrets, 16] for one holder."""
    hashes = [
        share_hash(of_round[which].tobytes(), context=context, dealer=dealer, holder=holder, round=round, which=which)
        for round, of_round in zip(span, shares, strict=True)
        for which in range(len(SECRETS))
    ]
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(shares.shape)


def sealed(
    shares: NDArray[np.uint8], *, own: X25519PrivateKey, other: bytes, context: bytes, dealer: int, holder: int
) -> bytes:
    """The dealer's shares for one holder, which only that holder can read."""
    key, about = _envelope(own, other, context=context, dealer=dealer, holder=holder)
    return ChaCha20Poly1305(key).encrypt(_NONCE, shares.tobytes(), about)


def unsealed(
    box: NDArray[np.uint8], *, own: X25519PrivateKey, other: bytes, context: bytes, dealer: int, holder: int
) -> NDArray[np.uint8] | None:
    """[rounds, secrets, 16]: what that dealer sealed for that holder under that roll; None if it did not."""
    key, about = _envelope(own, other, context=context, dealer=dealer, holder=holder)
    try:
        plain = ChaCha20Poly1305(key).decrypt(_NONCE, box.tobytes(), about)
    except InvalidTag:
        return None
    return np.frombuffer(plain, np.uint8).reshape(-1, len(SECRETS), SECRET_BYTES)


def box_bytes(rounds: int) -> int:
    """Length of a sealed box."""
    return rounds * len(SECRETS) * SECRET_BYTES + BOX_OVERHEAD


def _envelope(own: X25519PrivateKey, other: bytes, *, context: bytes, dealer: int, holder: int) -> tuple[bytes, bytes]:
    shared = own.exchange(X25519PublicKey.from_public_bytes(other))
    about = numbered(dealer, holder)
    return derived(shared, b"box\n" + about, salt=context), context + about
