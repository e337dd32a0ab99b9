"""Ed25519-signed JSON documents with exactly one valid text each, so that any changed bit is a refused document."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pp_model.errors import ConfigError, PurchasePowerError

MAX_BYTES = 2**20
_SCHEME = "ed25519:"


class SignatureError(PurchasePowerError):
    """A document that its signer did not sign in this form, or that is not a document at all."""


@dataclass(frozen=True)
class VerifyKey:
    """The public half of a signing key; what a merchant pins."""

    _key: Ed25519PublicKey

    @staticmethod
    def from_text(text: str) -> VerifyKey:
        """The key in `to_text`.

        Raises:
            ConfigError: not such a text.
        """
        try:
            if text.startswith(_SCHEME):
                return VerifyKey(
                    Ed25519PublicKey.from_public_bytes(base64.b64decode(text[len(_SCHEME) :], validate=True))
                )
        except (ValueError, binascii.Error):
            pass
        raise ConfigError(f"{text[:60]!r} is not a plan-signing key; expected ed25519: and 44 characters")

    def to_text(self) -> str:
        """`ed25519:` and the key in base64."""
        raw = self._key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return _SCHEME + base64.b64encode(raw).decode()

    def verify(self, kind: str, data: bytes) -> dict[str, Any]:
        """The document in `data`, signed as a `kind` by the owner of this key.

        Raises:
            SignatureError: another signer, kind or text; one flipped bit is enough.
        """
        try:
            table: Any = json.loads(data) if len(data) <= MAX_BYTES else None
            document, signature = table["document"], base64.b64decode(table["signature"], validate=True)
            # One document, one text: spaces, key order, escapes and spare bits of base64 are not left open.
            if not isinstance(document, dict) or _envelope(kind, document, signature) != data:
                raise ValueError
            self._key.verify(signature, _signed_text(kind, document))
        except (ValueError, TypeError, KeyError, RecursionError, InvalidSignature):
            raise SignatureError(
                f"this is not {_article(kind)} signed with the pinned key {self.to_text()[:20]}...; ask the platform "
                "for it again, and compare the key with the platform's by another way than this one"
            ) from None
        return document


@dataclass(frozen=True)
class SigningKey:
    """The platform's plan-signing key."""

    _key: Ed25519PrivateKey

    @staticmethod
    def generate() -> SigningKey:
        """A new key."""
        return SigningKey(Ed25519PrivateKey.generate())

    @staticmethod
    def from_pem(data: bytes) -> SigningKey:
        """The key of `to_pem`.

        Raises:
            ConfigError: not an Ed25519 private key in PEM without a password.
        """
        try:
            key = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError("the plan-signing key is not an Ed25519 private key in PEM; restore it from its backup")
        return SigningKey(key)

    def to_pem(self) -> bytes:
        """PKCS8 without a password; the file's mode protects it."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def public(self) -> VerifyKey:
        """What merchants pin."""
        return VerifyKey(self._key.public_key())

    def sign(self, kind: str, document: Mapping[str, Any]) -> bytes:
        """The one signed text of `document`, valid as a `kind` and as nothing else."""
        return _envelope(kind, document, self._key.sign(_signed_text(kind, document)))


def canonical_json(document: Mapping[str, Any]) -> str:
    """Sorted keys, no spaces, ASCII."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _signed_text(kind: str, document: Mapping[str, Any]) -> bytes:
    return f"purchase-power {kind}\n{canonical_json(document)}".encode()


def _envelope(kind: str, document: Mapping[str, Any], signature: bytes) -> bytes:
    encoded = base64.b64encode(signature).decode()
    return canonical_json({"signed": kind, "document": document, "signature": encoded}).encode()


def _article(kind: str) -> str:
    return f"an {kind}" if kind[:1] in "aeiou" else f"a {kind}"
