"""Where a run stands, on disk after every round: one safetensors file each, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from pp_model.errors import ArraysError, CheckpointError
from pp_model.plan import TrainingPlan
from pp_model.serialization import Arrays, fingerprint, from_safetensors, to_safetensors
from server.optimizer import ServerOptimizer
from server.rounds import TrainingState

KEEP = 3

log = logging.getLogger(__name__)


def write_atomically(path: Path, data: bytes) -> None:
    """`data` at `path`, on the disk when this returns. A crash at any point leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save_checkpoint(directory: Path, state: TrainingState, plan: TrainingPlan, *, keep: int | None = KEEP) -> Path:
    """The state as a file of its own, named by its round; all but the last `keep` (None: none) are then deleted.

    Void rounds are not part of it: who runs again after three of them gets three more.
    """
    directory.mkdir(parents=True, exist_ok=True)
    arrays: Arrays = {f"model/{name}": array for name, array in state.arrays.items()}
    arrays |= {f"optimizer/{name}": array for name, array in state.optimizer.to_arrays().items()}
    metadata = {"round": str(state.round), "plan": plan.fingerprint}
    path = directory / f"round-{state.round:06d}.safetensors"
    write_atomically(path, to_safetensors(arrays, {**metadata, "sha256": _digest(arrays, metadata)}))
    if keep is not None:
        for old in _files(directory)[max(1, keep) :]:
            old.unlink()
    return path


def load_latest(directory: Path, plan: TrainingPlan) -> TrainingState | None:
    """The state of the latest checkpoint that is whole, or None where there is none yet.

    A damaged file is logged and passed over for the one before it.

    Raises:
        CheckpointError: the checkpoint is of another plan, or all of them are damaged.
    """
    files = _files(directory)
    for path in files:
        try:
            return _load(path, plan)
        except ArraysError:
            log.warning("checkpoint damaged", extra={"checkpoint": path.name})
    if files:
        raise CheckpointError(
            f"all {len(files)} checkpoints in {directory} are damaged; restore the folder from a copy, "
            "or name an empty folder to begin again"
        )
    return None


def load_checkpoint(path: Path, plan: TrainingPlan) -> TrainingState:
    """The state in one checkpoint.

    Raises:
        CheckpointError: the file is missing, damaged, or of another plan.
    """
    try:
        return _load(path, plan)
    except (ArraysError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable checkpoint: {error}") from error


def _load(path: Path, plan: TrainingPlan) -> TrainingState:
    arrays, metadata = from_safetensors(path.read_bytes())
    if metadata.pop("sha256", "") != _digest(arrays, metadata):
        raise ArraysError("the content does not match its digest")
    if metadata["plan"] != plan.fingerprint:
        raise CheckpointError(
            f"{path} is of another plan ({metadata['plan'][:12]}...; this plan is {plan.fingerprint[:12]}...). "
            "Run the plan it belongs to, or name another folder."
        )
    parts: dict[str, Arrays] = {"model": {}, "optimizer": {}}
    for key, array in arrays.items():
        part, _, name = key.partition("/")
        parts[part][name] = array
    optimizer = ServerOptimizer.from_arrays(parts["optimizer"], plan=plan.server, rounds=plan.rounds)
    return TrainingState(round=int(metadata["round"]), arrays=parts["model"], optimizer=optimizer)


def _digest(arrays: Arrays, metadata: Mapping[str, str]) -> str:
    return hashlib.sha256((json.dumps(dict(metadata), sort_keys=True) + fingerprint(arrays)).encode()).hexdigest()


def _files(directory: Path) -> list[Path]:
    """Latest first. A temporary file begins with a dot and is no checkpoint."""
    return sorted(directory.glob("round-*.safetensors"), reverse=True)
