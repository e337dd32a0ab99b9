"""A merchant's node key: ECDSA on P-384 in OpenSSH's formats, as Flower wants it. It signs connections and requests."""

from __future__ import annotations

import base64
import hashlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pp_model.errors import ConfigError


def new_node_key() -> ec.EllipticCurvePrivateKey:
    """A new key pair."""
    return ec.generate_private_key(ec.SECP384R1())


def private_text(key: ec.EllipticCurvePrivateKey) -> bytes:
    """OpenSSH's private format, without a passphrase; the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def public_text(key: ec.EllipticCurvePublicKey) -> bytes:
    """One line: the kind and the key in base64."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def load_private(data: bytes) -> ec.EllipticCurvePrivateKey:
    """The key of `private_text`.

    Raises:
        ConfigError: another kind of key, one with a passphrase, or none.
    """
    try:
        key = serialization.load_ssh_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigError("the node key is not an ECDSA P-384 key without a passphrase; make one with pp-client init")
    return key


def load_public(data: bytes) -> ec.EllipticCurvePublicKey:
    """The key of `public_text`; a comment behind it does not matter.

    Raises:
        ConfigError: another kind of key, or none.
    """
    try:
        key = serialization.load_ssh_public_key(data.strip())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigError(
            "not a merchant's public key; expected the line that pp-client init prints: ecdsa-sha2-nistp384 and more"
        )
    return key


def fingerprint_of(key: ec.EllipticCurvePublicKey) -> str:
    """`SHA256:` and 43 characters, as `ssh-keygen -lf` prints them."""
    blob = base64.b64decode(public_text(key).split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
