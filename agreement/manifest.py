"""What a published model is, signed by the platform: its file, its card, and the plan that it came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from agreement.signing import SignatureError, SigningKey, VerifyKey
from pp_model.config import from_mapping, to_mapping
from pp_model.errors import ConfigError

MANIFEST_VERSION = 1
KIND = "model"


@dataclass(frozen=True, kw_only=True)
class ModelManifest:
    """One published model.

    Attributes:
        model_id: the platform's number of it; rises with every model.
        sha256, card_sha256: of the safetensors file and of its card.
        plan_fingerprint: of the plan that was trained.
        chain_head: hash of the last link of the chain plan, rounds, merchants, checkpoints.
    """

    version: int = MANIFEST_VERSION
    platform: str
    model_id: int
    sha256: str
    card_sha256: str
    plan_fingerprint: str
    chain_head: str


def sign_manifest(manifest: ModelManifest, key: SigningKey) -> bytes:
    """The manifest as it travels."""
    return key.sign(KIND, to_mapping(manifest))


def verify_manifest(data: bytes, key: VerifyKey) -> ModelManifest:
    """The manifest that the owner of `key` signed.

    Raises:
        SignatureError: not signed so, or of a version that this program does not read.
    """
    document: dict[str, Any] = key.verify(KIND, data)
    try:
        manifest = from_mapping(ModelManifest, document, path="model")
    except ConfigError as error:
        raise SignatureError(f"the model's manifest cannot be read: {error}; update the program") from None
    if manifest.version != MANIFEST_VERSION:
        raise SignatureError(f"the model's manifest is of version {manifest.version}; update the program")
    return manifest


def check_file(data: bytes, sha256: str, *, what: str) -> bytes:
    """`data`, which is the file that the manifest means.

    Raises:
        SignatureError: another file.
    """
    if hashlib.sha256(data).hexdigest() != sha256:
        raise SignatureError(f"the {what} is not the one that the platform signed; fetch it again")
    return data
