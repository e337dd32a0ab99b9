"""The messages of the secure sum as bytes: each has exactly one text, a bounded size and a fixed layout.

A container of safetensors, written by ourselves so that equal messages are equal bytes in every process, and read
with nothing taken on trust: what is read must come out the same when it is written again.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from pp_model.errors import ProtocolError

VERSION = "1"
MOST_BYTES = 2**25  # 1,000 merchants and 256 rounds take 25 million
MOST_HEADER_BYTES = 4096
MOST_ROUNDS = 256  # in a block
KEY_BYTES = 32
SECRET_BYTES = 16
SIGNATURE_BYTES = 96
SECRETS = ("whole", "self", "pairwise")  # what a merchant deals for a round, in this order

_TYPES = {"U8": "u1", "U64": "<u8"}
_NUMBER, _DIGEST = "0|[1-9][0-9]{0,8}", "[0-9a-f]{64}"
_FIELDS = {
    "plan": "[!-~]{1,128}",
    "roster": _DIGEST,
    "context": _DIGEST,
    "identity": "[ -~]{1,300}",
    **dict.fromkeys(("threshold", "block", "first_round", "rounds", "round", "index"), _NUMBER),
}
_TERMS = ("plan", "roster", "threshold", "block", "first_round", "rounds")
_ROUND = ("context", "round")
Array = NDArray[np.uint8] | NDArray[np.uint64]
_Layout = tuple[str, tuple[int | str, ...]]  # a dimension with a name has any size, the same wherever it is named
_SHARES: _Layout = ("U8", ("members", "rounds", len(SECRETS), SECRET_BYTES))
_BOXES: _Layout = ("U8", ("others", "box"))
_SIGNATURE: _Layout = ("U8", (SIGNATURE_BYTES,))
_LIST: _Layout = ("U64", ("list",))
_KINDS: dict[str, tuple[tuple[str, ...], dict[str, _Layout]]] = {
    "open": (_TERMS, {}),
    "keys": (
        (*_TERMS, "index", "identity"),
        {
            "channel": ("U8", (KEY_BYTES,)),
            "masks": ("U8", ("rounds", KEY_BYTES)),
            "commitments": ("U8", ("rounds", KEY_BYTES)),
            "signature": _SIGNATURE,
        },
    ),
    "roll": ((), {"keys": ("U8", ("bytes",)), "ends": ("U64", ("members",))}),
    "shares": (("context", "index"), {"boxes": _BOXES, "hashes": _SHARES, "signature": _SIGNATURE}),
    "delivery": (("context", "index"), {"boxes": _BOXES, "hashes": ("U8", ("others", *_SHARES[1][1:]))}),
    "ready": (("context", "index"), {"accused": _LIST, "signature": _SIGNATURE}),
    "survivors": (_ROUND, {"members": _LIST}),
    "signed": ((*_ROUND, "index"), {"signature": _SIGNATURE}),
    "revealed": ((*_ROUND, "index"), {"shares": ("U8", ("members", SECRET_BYTES))}),
    "quorum": (
        _ROUND,
        {"members": _LIST, "signers": ("U64", ("signers",)), "signatures": ("U8", ("signers", SIGNATURE_BYTES))},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message, with exactly the fields and arrays of its kind."""

    kind: str
    fields: Mapping[str, str]
    arrays: Mapping[str, Array]

    def number(self, field: str) -> int:
        """A field that is a number, from 0 to 10**9 - 1."""
        return int(self.fields[field])

    def octets(self, name: str) -> NDArray[np.uint8]:
        """An array of bytes."""
        return np.asarray(self.arrays[name], np.uint8)

    def numbers(self, name: str) -> tuple[int, ...]:
        """An array of numbers."""
        return tuple(int(number) for number in self.arrays[name])

    def unsigned(self) -> bytes:
        """What its signature is over: the message without it."""
        arrays = {name: array for name, array in self.arrays.items() if name != "signature"}
        return written(self.kind, self.fields, arrays)


def written(kind: str, fields: Mapping[str, str | int], arrays: Mapping[str, Array]) -> bytes:
    """The message as bytes: equal messages give equal bytes."""
    metadata = {"version": VERSION, "kind": kind} | {name: str(value) for name, value in fields.items()}
    header: dict[str, object] = {"__metadata__": metadata}
    parts, end = [], 0
    for name in sorted(arrays):
        dtype = "U64" if arrays[name].dtype == np.uint64 else "U8"
        parts.append(np.asarray(arrays[name], _TYPES[dtype]).tobytes())
        header[name] = {
            "dtype": dtype,
            "shape": list(arrays[name].shape),
            "data_offsets": [end, end + len(parts[-1])],
        }
        end += len(parts[-1])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


def kind_of(data: bytes) -> str:
    """Which kind of message the bytes say that they are; `read` checks the rest.

    Raises:
        ProtocolError: damaged, too large, of another version, or of no kind that we know.
    """
    return _header(data)["__metadata__"]["kind"]


def read(data: bytes, kind: str, *, sizes: Mapping[str, int] | None = None) -> Message:
    """The message of `written`.

    Args:
        sizes: what dimensions must be, by name; those that are not named may be anything.

    Raises:
        ProtocolError: anything but the one text of a message of this kind; says what, and nothing out of the message.
    """
    header = _header(data)
    metadata = header.pop("__metadata__")
    if metadata["kind"] != kind:
        raise ProtocolError(f"a message of kind {metadata['kind']!r}; expected {kind!r}")
    names, layouts = _KINDS[kind]
    if set(metadata) != {"version", "kind", *names} or set(header) != set(layouts):
        raise ProtocolError(f"a {kind} message with a field or an array too many or too few")
    fields = {name: metadata[name] for name in names}
    for name, value in fields.items():
        if not re.fullmatch(_FIELDS[name], value):
            raise ProtocolError(f"the field {name!r} of a {kind} message is not as the format wants it")
    if any(not isinstance(entry, dict) or entry.get("dtype") != layouts[name][0] for name, entry in header.items()):
        raise ProtocolError(f"a {kind} message with an array of another type")
    arrays = _arrays(data, kind)
    _check_shapes(arrays, layouts, kind=kind, sizes=sizes or {})
    if written(kind, fields, arrays) != data:
        raise ProtocolError(f"a {kind} message that is not written in the one way there is")
    return Message(kind=kind, fields=fields, arrays=arrays)


def _header(data: bytes) -> dict[str, dict[str, str]]:
    if len(data) > MOST_BYTES:
        raise ProtocolError(f"a message of {len(data)} bytes; allowed: at most {MOST_BYTES}")
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MOST_HEADER_BYTES, len(data) - 8):
        raise ProtocolError("these bytes are not a message of a secure sum")
    try:
        header: dict[str, dict[str, str]] = json.loads(data[8 : 8 + length])
        metadata = header["__metadata__"]
        version, kind = metadata["version"], metadata["kind"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ProtocolError("these bytes are not a message of a secure sum") from None
    if version != VERSION:
        raise ProtocolError(f"a message of another version of the secure sum; this program speaks {VERSION}")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ProtocolError(f"a message of a kind that the secure sum does not know; it knows {', '.join(_KINDS)}")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ProtocolError("a message with a field that is not text")
    return header


def _arrays(data: bytes, kind: str) -> dict[str, Array]:
    try:
        loaded = load(data)
    except (SafetensorError, ValueError, KeyError, OverflowError):
        raise ProtocolError(f"a damaged {kind} message") from None
    return {name: loaded[name] for name in sorted(loaded)}


def _check_shapes(
    arrays: Mapping[str, Array], layouts: Mapping[str, _Layout], *, kind: str, sizes: Mapping[str, int]
) -> None:
    known = dict(sizes)
    for name, (_, layout) in layouts.items():
        shape = arrays[name].shape
        expected = tuple(
            known.setdefault(size, shape[axis]) if isinstance(size, str) and axis < len(shape) else size
            for axis, size in enumerate(layout)
        )
        if shape != expected:
            raise ProtocolError(f"array {name!r} of a {kind} message has shape {shape}; expected {expected}")
