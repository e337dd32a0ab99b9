"""Models from the platform: nothing is kept that is not signed, whole and of the shape that its plan says."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from agreement.manifest import ModelManifest, check_file
from agreement.signing import SignatureError, VerifyKey
from client.platform import PlatformClient
from daemons.files import write_private
from pp_model.errors import ConfigError, ProtocolError
from pp_model.model import array_shapes
from pp_model.plan import TrainingPlan
from pp_model.serialization import check_arrays, from_safetensors

MODEL_FILE, CARD_FILE = "model.safetensors", "model_card.md"


@dataclass(frozen=True, kw_only=True)
class PulledModel:
    """A verified model on this machine.

    Attributes:
        new: whether it was fetched now; else it was here.
    """

    manifest: ModelManifest
    plan: TrainingPlan
    folder: Path
    new: bool


def pull_newest(client: PlatformClient, key: VerifyKey, folder: Path) -> PulledModel | None:
    """The platform's newest model in a folder of its own below `folder`: there in full, or not at all.

    Returns:
        None where the platform has published none.

    Raises:
        SignatureError: something is not what the platform signed; nothing was kept.
        PlatformError, RefusedError: the platform was not reached, or does not have it.
    """
    manifests = client.models(key)
    if not manifests:
        return None
    manifest = max(manifests, key=lambda each: each.model_id)
    place = folder / f"{manifest.model_id:06d}-{manifest.sha256[:12]}"
    if place.exists():
        data = check_file((place / MODEL_FILE).read_bytes(), manifest.sha256, what=f"model in {place}")
        check_file((place / CARD_FILE).read_bytes(), manifest.card_sha256, what=f"card in {place}")
        return PulledModel(manifest=manifest, plan=checked_plan(data, manifest), folder=place, new=False)
    data, card = client.model(manifest), client.card(manifest)
    plan = checked_plan(data, manifest)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder, prefix=".new-"))
    try:
        write_private(made / MODEL_FILE, data)
        write_private(made / CARD_FILE, card)
        made.rename(place)  # fails where a folder with files is in the way, so nothing is overwritten
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return PulledModel(manifest=manifest, plan=plan, folder=place, new=True)


def checked_plan(data: bytes, manifest: ModelManifest) -> TrainingPlan:
    """The plan inside a model's file, whose arrays have its names and shapes and are finite.

    Raises:
        SignatureError: they do not, or it is another plan than the manifest's.
    """
    try:
        arrays, metadata = from_safetensors(data)
        plan = TrainingPlan.from_json(metadata.get("plan", ""))
        check_arrays(arrays, array_shapes(plan.model))
    except (ProtocolError, ConfigError) as error:
        raise SignatureError(
            f"the model is signed, but is not one: {error}. Tell the platform; nothing was kept."
        ) from None
    if plan.fingerprint != manifest.plan_fingerprint:
        raise SignatureError("the model carries another plan than the platform signed; tell it. Nothing was kept.")
    return plan
