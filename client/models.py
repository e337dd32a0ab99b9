"""Models from the platform: nothing is kept that is not signed, whole and of the shape that its plan says."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from agreement.manifest import ModelManifest, check_file, verify_manifest
from agreement.signing import SignatureError, VerifyKey
from client.platform import PlatformClient
from daemons.files import write_private
from pp_model.errors import ConfigError, ProtocolError
from pp_model.model import array_shapes
from pp_model.plan import TrainingPlan
from pp_model.serialization import Arrays, check_arrays, from_safetensors

MODEL_FILE, CARD_FILE, MANIFEST_FILE = "model.safetensors", "model_card.md", "manifest.json"


@dataclass(frozen=True, kw_only=True)
class PulledModel:
    """A verified model on this machine.

    Attributes:
        new: whether it was fetched now; else it was here.
        again: the number of the first model with the same file, where the platform went back to it; else None.
    """

    manifest: ModelManifest
    plan: TrainingPlan
    folder: Path
    new: bool
    again: int | None


@dataclass(frozen=True, kw_only=True)
class KeptModel:
    """A model that was pulled, verified again as it is now on the disk."""

    manifest: ModelManifest
    plan: TrainingPlan
    arrays: Arrays


def pull_newest(client: PlatformClient, key: VerifyKey, folder: Path) -> PulledModel | None:
    """The platform's newest model in a folder of its own below `folder`: there in full, or not at all.

    Returns:
        None where the platform has published none.

    Raises:
        SignatureError: something is not what the platform signed; nothing was kept.
        PlatformError, RefusedError: the platform was not reached, or does not have it.
    """
    published = [(verify_manifest(signed, key), signed) for signed in client.signed_models()]
    if not published:
        return None
    manifest, signed = max(published, key=lambda each: each[0].model_id)
    first = min(other.model_id for other, _ in published if other.sha256 == manifest.sha256)
    again = None if first == manifest.model_id else first
    place = folder / f"{manifest.model_id:06d}-{manifest.sha256[:12]}"
    if place.exists():
        data = check_file((place / MODEL_FILE).read_bytes(), manifest.sha256, what=f"model in {place}")
        check_file((place / CARD_FILE).read_bytes(), manifest.card_sha256, what=f"card in {place}")
        if not (place / MANIFEST_FILE).exists():  # pulled by an older version of this program
            write_private(place / MANIFEST_FILE, signed)
        return PulledModel(manifest=manifest, plan=checked_plan(data, manifest), folder=place, new=False, again=again)
    data, card = client.model(manifest), client.card(manifest)
    plan = checked_plan(data, manifest)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder, prefix=".new-"))
    try:
        write_private(made / MODEL_FILE, data)
        write_private(made / CARD_FILE, card)
        write_private(made / MANIFEST_FILE, signed)
        made.rename(place)  # fails where a folder with files is in the way, so nothing is overwritten
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return PulledModel(manifest=manifest, plan=plan, folder=place, new=True, again=again)


def newest_kept(folder: Path, key: VerifyKey) -> KeptModel:
    """The newest model below `folder`, with the platform's signature, hash, plan, shapes and values checked again.

    Nothing is asked of the platform.

    Raises:
        ConfigError: none is there, or an older version of this program pulled it, without its signature.
        SignatureError: the newest is not, or no longer, what the platform signed.
    """
    places = sorted((place for place in folder.glob("[0-9]*-*")), key=lambda place: int(place.name.partition("-")[0]))
    if not places:
        raise ConfigError(f"there is no model in {folder}; fetch one with pp-client pull")
    place = places[-1]
    try:
        manifest = verify_manifest((place / MANIFEST_FILE).read_bytes(), key)
    except FileNotFoundError:
        raise ConfigError(f"the model in {place} is without its signature; fetch it with pp-client pull") from None
    data = check_file((place / MODEL_FILE).read_bytes(), manifest.sha256, what=f"model in {place}")
    plan = checked_plan(data, manifest)
    return KeptModel(manifest=manifest, plan=plan, arrays=from_safetensors(data)[0])


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
