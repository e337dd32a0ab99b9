"""A published model's files, and whether they are still what the platform signed."""

from __future__ import annotations

import json
from pathlib import Path

from agreement.manifest import check_file, verify_manifest
from agreement.signing import SignatureError, VerifyKey
from server.chain import ChainError, verify_chain
from server.registry import ModelRecord

MODEL, CARD, MANIFEST, CHAIN = "model.safetensors", "model_card.md", "manifest.json", "chain.json"


def verified_files(model: ModelRecord, manifest: bytes, key: VerifyKey) -> dict[str, bytes]:
    """The contents of an export by file name, each of them what the manifest says, and the manifest signed by us.

    Raises:
        SignatureError: a file is missing, was changed, or the chain does not lead to the model.
    """
    folder = Path(model.file).parent
    try:
        signed = verify_manifest(manifest, key)
        files = {name: (folder / name).read_bytes() for name in (MODEL, CARD, CHAIN)}
        check_file(files[MODEL], signed.sha256, what="model")
        check_file(files[CARD], signed.card_sha256, what="card")
        verify_chain(
            json.loads(files[CHAIN]),
            head=signed.chain_head,
            plan_fingerprint=signed.plan_fingerprint,
            model_sha256=signed.sha256,
        )
    except (SignatureError, ChainError, OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SignatureError(
            f"model {model.id} in {folder} is not what was published: {reason}. Restore the folder"
        ) from None
    return {**files, MANIFEST: manifest}
