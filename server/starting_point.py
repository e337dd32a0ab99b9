"""What training starts from: the starting points that ship with the package, a file, or fresh weights."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from pp_model.errors import ArraysError, CheckpointError
from pp_model.model import array_shapes, fresh_arrays
from pp_model.model_spec import Encoder, ModelSpec
from pp_model.serialization import Arrays, check_arrays, from_safetensors


def load_init(source: str, model: ModelSpec, *, seed: int) -> Arrays:
    """The arrays a run starts from: "default" (shipped with the package), "none" (fresh weights) or a file.

    Raises:
        CheckpointError: no such file, a damaged one, or one of another model; says what to do.
    """
    if source == "none":
        return fresh_arrays(model, seed=seed)
    path = default_init(model.encoder) if source == "default" else Path(source)
    try:
        arrays, _ = from_safetensors(path.read_bytes())
        return check_arrays(arrays, array_shapes(model))
    except OSError as error:
        raise CheckpointError(f"cannot read the starting point {path}; give a file, 'default' or 'none'") from error
    except ArraysError as error:
        raise CheckpointError(
            f"{path} is damaged or of another model; make one with pp-sim pretrain and give it as --init"
        ) from error


def default_init(encoder: Encoder) -> Path:
    """The starting point that ships with the package."""
    return Path(str(resources.files("server") / "pretrained" / f"{encoder}.safetensors"))
