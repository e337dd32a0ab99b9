"""Named float32 arrays: checked, fingerprinted, and as safetensors bytes. Nothing here can run code on load."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as _load_safetensors

from pp_model.errors import ArraysError

Arrays = dict[str, NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, tuple[int, ...]]:
    """The shape of each array by name."""
    return {name: tuple(array.shape) for name, array in arrays.items()}


def check_arrays(arrays: Mapping[str, object], shapes: Shapes) -> Arrays:
    """The same arrays, proven to have exactly the names and shapes of `shapes`, float32, finite, in that order.

    Raises:
        ArraysError: names the first array that differs, and how; never a value of it.
    """
    if set(arrays) != set(shapes):
        odd = sorted(set(arrays) ^ set(shapes))[0]
        raise ArraysError(f"array names differ from the plan's model, first at {odd[:80]!r}")
    checked: Arrays = {}
    for name, shape in shapes.items():
        array = arrays[name]
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            raise ArraysError(f"array {name!r} is not float32")
        if tuple(array.shape) != tuple(shape):
            raise ArraysError(f"array {name!r} has shape {tuple(array.shape)}; expected {tuple(shape)}")
        if not np.isfinite(array).all():
            raise ArraysError(f"array {name!r} has a value that is not finite")
        checked[name] = array
    return checked


def fingerprint(arrays: Mapping[str, NDArray[np.float32]]) -> str:
    """SHA-256 over names, shapes and bytes, in name order: equal exactly when the arrays are equal bit by bit."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], dtype="<f4", order="C")
        digest.update(json.dumps([name, list(array.shape)]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def to_safetensors(arrays: Mapping[str, NDArray[np.float32]], metadata: Mapping[str, str]) -> bytes:
    """The arrays and their metadata as safetensors bytes; equal inputs give equal bytes, in every process.

    The library's own writer orders metadata by a hash that differs between processes.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    body = b""
    for name in sorted(arrays):
        data = np.asarray(arrays[name], dtype="<f4", order="C").tobytes()
        shape, offsets = list(arrays[name].shape), [len(body), len(body) + len(data)]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        body += data
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def from_safetensors(data: bytes) -> tuple[Arrays, dict[str, str]]:
    """The arrays and metadata of `to_safetensors`.

    Raises:
        ArraysError: the bytes are damaged, or hold anything but float32.
    """
    try:
        arrays = _load_safetensors(data)
        header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    except (SafetensorError, ValueError, struct.error, KeyError) as error:
        raise ArraysError("these bytes are not a safetensors file; fetch or make the file again") from error
    if any(array.dtype != np.float32 for array in arrays.values()):
        raise ArraysError("this safetensors file holds arrays that are not float32")
    metadata = header.get("__metadata__", {})
    arrays = {name: arrays[name] for name in sorted(arrays)}  # the reader gives them in random order
    return arrays, {str(key): str(value) for key, value in metadata.items()}
