"""Our messages as Flower's records, and back: arrays, scalars, and perhaps the anchor of a ledger beside them."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from pp_model.errors import ProtocolError
from pp_model.protocol import Anchor, Wire
from pp_model.serialization import Arrays, from_safetensors, to_safetensors

MAX_ARRAYS = 1024
MAX_ARRAY_BYTES = 64 * 2**20  # of all arrays together: 16 million parameters, thirty times the largest model

MAX_SCALARS = 16
MAX_TEXT = 2**20
BLOB, LETTER = "safetensors", "letter"


def to_record(wire: Wire) -> RecordDict:
    """The message as Flower carries it; `wire_from_record` is the inverse."""
    arrays = arrays_to_record(wire.arrays)
    if wire.letter:
        arrays[LETTER] = Array("uint8", (len(wire.letter),), LETTER, wire.letter)
    return RecordDict({"arrays": arrays, "scalars": ConfigRecord(dict(wire.scalars))})


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
    blobs = ArrayRecord({name: array for name, array in arrays.items() if name != LETTER})
    return Wire(arrays=arrays_from_record(blobs), scalars=_scalars(scalars), letter=_letter(arrays))


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
    """Named float32 arrays as Flower carries them: one safetensors blob; of none, nothing.

    Flower fetches every array of a record in a request or two of its own: a model of twelve would take a second.
    """
    if not arrays:
        return ArrayRecord()
    data = to_safetensors(arrays, {})
    return ArrayRecord({BLOB: Array("uint8", (len(data),), BLOB, data)})


def arrays_from_record(record: ArrayRecord) -> Arrays:
    """The named arrays in a record of the other side.

    Raises:
        ProtocolError: not one safetensors blob of float32 arrays, too many of them, or too large.
    """
    if not record:
        return {}
    if list(record) != [BLOB] or record[BLOB].stype != BLOB:
        raise ProtocolError("a message's arrays are one safetensors blob")
    data = record[BLOB].data
    if len(data) > MAX_ARRAY_BYTES:
        raise ProtocolError(f"a message with arrays of {len(data)} bytes; allowed: {MAX_ARRAY_BYTES}")
    arrays, metadata = from_safetensors(data)
    if len(arrays) > MAX_ARRAYS or metadata:
        raise ProtocolError(f"a message of {len(arrays)} arrays; allowed: {MAX_ARRAYS}, and nothing beside them")
    return arrays


def _letter(record: ArrayRecord) -> bytes:
    if LETTER not in record:
        return b""
    array = record[LETTER]
    if array.stype != LETTER or not 0 < len(array.data) <= MAX_ARRAY_BYTES:
        raise ProtocolError(f"a letter of {len(array.data)} bytes; allowed: 1 to {MAX_ARRAY_BYTES}")
    return bytes(array.data)


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
