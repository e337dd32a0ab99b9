"""Signatures with a merchant's node key: ECDSA on P-384 with SHA-384, as two numbers of 48 bytes."""

from __future__ import annotations

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from numpy.typing import NDArray

from secure_sum.masks import LABEL
from secure_sum.messages import SIGNATURE_BYTES

_HALF = SIGNATURE_BYTES // 2


def signature_of(key: ec.EllipticCurvePrivateKey, kind: str, body: bytes) -> NDArray[np.uint8]:
    """[96] bytes: the signature over a message of that kind, the same whenever it is asked for (RFC 6979)."""
    made = key.sign(_text(kind, body), ec.ECDSA(hashes.SHA384(), deterministic_signing=True))
    halves = [number.to_bytes(_HALF, "big") for number in decode_dss_signature(made)]
    return np.frombuffer(b"".join(halves), np.uint8)


def is_signed(key: ec.EllipticCurvePublicKey, kind: str, body: bytes, signature: NDArray[np.uint8]) -> bool:
    """Whether the owner of `key` signed that message of that kind."""
    raw = signature.tobytes()
    halves = [int.from_bytes(half, "big") for half in (raw[:_HALF], raw[_HALF:])]
    try:
        key.verify(encode_dss_signature(*halves), _text(kind, body), ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


def _text(kind: str, body: bytes) -> bytes:
    return LABEL + kind.encode() + b"\n" + body
