"""Our messages as Flower's records, and back: arrays, scalars, and perhaps the anchor of a ledger beside them."""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.constant import SType
from numpy.typing import NDArray

from pp_model.errors import ProtocolError
from pp_model.protocol import Anchor, Wire
from pp_model.serialization import Arrays

MAX_ARRAYS = 1024
MAX_ARRAY_BYTES = 64 * 2**20  # of all arrays together: 16 million parameters, thirty times the largest model
MAX_SCALARS = 16
MAX_TEXT = 2**20
_HEADER_BYTES = 16_384  # no header of a float32 array in numpy's format comes near


def to_record(wire: Wire) -> RecordDict:
    """The message as Flower carries it; `wire_from_record` is the inverse."""
    return RecordDict({"arrays": arrays_to_record(wire.arrays), "scalars": ConfigRecord(dict(wire.scalars))})


def wire_from_record(record: RecordDict) -> Wire:
    """The message in a record of the other side, which may be hostile.

    Nothing in it can run code, and no more memory is taken than its own bytes times two.

    Raises:
        ProtocolError: other records, a scalar that is not text or a number, arrays that are not float32, too much.
    """
    if set(record) - {"anchor"} != {"arrays", "scalars"}:
        raise ProtocolError("a message carries the records 'arrays' and 'scalars', and may carry an 'anchor'")
    arrays, scalars = record["arrays"], record["scalars"]
    if not isinstance(arrays, ArrayRecord) or not isinstance(scalars, ConfigRecord):
        raise ProtocolError("a message's 'arrays' are an array record and its 'scalars' a config record")
    return Wire(arrays=arrays_from_record(arrays), scalars=_scalars(scalars))


def with_anchor(record: RecordDict, anchor: Anchor | None) -> RecordDict:
    """The same message with a ledger's anchor beside it; without one where there is none."""
    records = {name: value for name, value in record.items() if name != "anchor"}
    if anchor is not None:
        records["anchor"] = ConfigRecord({"ledger": anchor.ledger, "seq": anchor.seq, "hash": anchor.hash})
    return RecordDict(records)


def anchor_from_record(record: RecordDict) -> Anchor | None:
    """The anchor beside a message of the other side; None where there is none.

    Raises:
        ProtocolError: something else under its name.
    """
    anchor = record.get("anchor")
    if anchor is None:
        return None
    if not isinstance(anchor, ConfigRecord) or set(anchor) != {"ledger", "seq", "hash"}:
        raise ProtocolError("an anchor carries exactly ledger, seq and hash")
    ledger, seq, entry_hash = anchor["ledger"], anchor["seq"], anchor["hash"]
    if not isinstance(ledger, str) or not isinstance(entry_hash, str) or not isinstance(seq, int):
        raise ProtocolError("an anchor's ledger and hash are text, its seq a whole number")
    return Anchor(ledger=ledger, seq=seq, hash=entry_hash)


def arrays_to_record(arrays: Arrays) -> ArrayRecord:
    """Named float32 arrays as Flower carries them."""
    return ArrayRecord({name: Array(np.asarray(array, dtype="<f4")) for name, array in arrays.items()})


def arrays_from_record(record: ArrayRecord) -> Arrays:
    """The named arrays in a record of the other side.

    Raises:
        ProtocolError: too many or too large, or one that is not float32 in numpy's own format; names the array.
    """
    size = sum(len(array.data) for array in record.values())
    if len(record) > MAX_ARRAYS or size > MAX_ARRAY_BYTES:
        raise ProtocolError(
            f"a message of {len(record)} arrays and {size} bytes; allowed: {MAX_ARRAYS} and {MAX_ARRAY_BYTES}"
        )
    return {name: _array(name, array) for name, array in record.items()}


def _array(name: str, array: Array) -> NDArray[np.float32]:
    if array.stype != SType.NUMPY or array.dtype != "float32":
        raise ProtocolError(f"array {name[:80]!r} is not float32 in numpy's format")
    try:
        _check_header(array)
        values = np.load(BytesIO(array.data), allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, TypeError) as error:
        raise ProtocolError(f"array {name[:80]!r} is damaged") from error
    return np.asarray(values, dtype=np.float32, order="C")


def _check_header(array: Array) -> None:
    # The loader allocates what the header claims before it reads: the claim must fit the bytes that came.
    data = BytesIO(array.data[:_HEADER_BYTES])
    if np.lib.format.read_magic(data) != (1, 0):
        raise ValueError("version")
    shape, _, dtype = np.lib.format.read_array_header_1_0(data)
    if dtype != np.dtype("<f4") or shape != tuple(array.shape) or any(side < 0 for side in shape):
        raise ValueError("header")
    if data.tell() + 4 * math.prod(shape) != len(array.data):
        raise ValueError("length")


def _scalars(record: ConfigRecord) -> dict[str, str | int | float]:
    if len(record) > MAX_SCALARS:
        raise ProtocolError(f"a message of {len(record)} scalars; allowed: {MAX_SCALARS}")
    scalars: dict[str, str | int | float] = {}
    for name, value in record.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ProtocolError(f"scalar {name[:80]!r} is neither text nor a number")
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise ProtocolError(f"scalar {name[:80]!r} has {len(value)} characters; allowed: {MAX_TEXT}")
        scalars[name] = value
    return scalars
