import json
import pickle
import struct
from io import BytesIO

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from flower_edge import records
from flower_edge.records import anchor_from_record, arrays_to_record, to_record, wire_from_record, with_anchor
from pp_model.errors import ProtocolError
from pp_model.protocol import Anchor, MaskedRelease, Release, SumAnswer, Wire, reply_from_wire
from tests.support.fake_merchants import random_arrays


def record_with(data: bytes, *, stype: str = "safetensors", name: str = "safetensors") -> RecordDict:
    blob = Array("uint8", (len(data),), stype, data)
    return RecordDict({"arrays": ArrayRecord({name: blob}), "scalars": ConfigRecord({"kind": "release"})})


def npy(values: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    buffer = BytesIO()
    np.save(buffer, values, allow_pickle=allow_pickle)
    return buffer.getvalue()


def blob(entries: dict[str, object], body: bytes = bytes(8)) -> bytes:
    """A safetensors file with this header, whatever it says."""
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + body


def tensor(dtype: str = "F32", shape: tuple[int, ...] = (2,), offsets: tuple[int, int] = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_a_message_comes_back_as_it_was():
    arrays = random_arrays(1) | {"scalar": np.array(2.5, dtype=np.float32), "empty": np.zeros((0, 3), np.float32)}
    wire = wire_from_record(to_record(Wire(arrays=arrays, scalars={"version": 1, "kind": "x", "rate": 0.5})))
    assert wire.scalars == {"version": 1, "kind": "x", "rate": 0.5}
    assert sorted(wire.arrays) == sorted(arrays)
    assert all(np.array_equal(wire.arrays[name], arrays[name]) for name in arrays)
    assert all(wire.arrays[name].shape == arrays[name].shape for name in arrays)


def test_a_release_crosses_the_edge():
    release = Release(task="t", update=random_arrays(2))
    back = reply_from_wire(wire_from_record(to_record(release.to_wire())))
    assert back.task == "t"
    assert all(np.array_equal(back.update[name], array) for name, array in release.update.items())


def test_a_transposed_array_keeps_its_values():
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    back = wire_from_record(to_record(Wire(arrays={"w": array}, scalars={})))
    assert np.array_equal(back.arrays["w"], array)


class Bomb:
    exploded = False

    def __reduce__(self):
        return (setattr, (Bomb, "exploded", True))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(pickle.dumps(Bomb()), id="a-bare-pickle"),
        pytest.param(npy(np.array([Bomb()], dtype=object), allow_pickle=True), id="an-object-array"),
    ],
)
def test_a_pickle_in_a_message_is_refused_and_never_run(data):
    with pytest.raises(ProtocolError, match="not a safetensors file"):
        wire_from_record(record_with(data))
    assert not Bomb.exploded


def test_the_blob_of_the_tests_is_one_that_is_read():
    assert wire_from_record(record_with(blob({"w": tensor()}))).arrays["w"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(blob({"w": tensor("F64", (1,))}), id="float64"),
        pytest.param(blob({"w": tensor("F16", (4,))}), id="float16"),
        pytest.param(blob({"w": tensor("BF16", (4,))}), id="bfloat16"),
        pytest.param(blob({"w": tensor("I32")}), id="integers"),
        pytest.param(blob({"w": tensor(shape=(3,))}), id="another-shape-than-bytes"),
        pytest.param(blob({"w": tensor(shape=(2**40,), offsets=(0, 2**42))}), id="claims-terabytes"),
        pytest.param(blob({"w": tensor(shape=(-1, -2))}), id="negative-sides"),
        pytest.param(blob({"w": tensor()})[:-1], id="a-byte-too-few"),
        pytest.param(blob({"w": tensor()}) + b"x", id="a-byte-too-many"),
        pytest.param(blob({"w": tensor(), "v": tensor()}), id="overlapping"),
        pytest.param(b"", id="nothing"),
        pytest.param(struct.pack("<Q", 2**60), id="header-longer-than-all"),
        pytest.param(blob({"__metadata__": {"customer": "c1"}, "w": tensor()}), id="text-beside-the-arrays"),
    ],
)
def test_a_blob_of_anything_but_float32_arrays_is_refused(data):
    with pytest.raises(ProtocolError):
        wire_from_record(record_with(data))


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(record_with(blob({"w": tensor()}), stype="numpy.ndarray"), id="another-serialisation"),
        pytest.param(record_with(blob({"w": tensor()}), name="w"), id="another-name"),
        pytest.param(
            RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(2, "f4"))}), "scalars": ConfigRecord()}), id="plain"
        ),
    ],
)
def test_arrays_that_are_not_one_blob_are_refused(record):
    with pytest.raises(ProtocolError, match="one safetensors blob"):
        wire_from_record(record)


def test_more_bytes_or_arrays_than_allowed_are_refused(monkeypatch):
    record = to_record(Wire(arrays=random_arrays(1), scalars={}))
    monkeypatch.setattr(records, "MAX_ARRAYS", 1)
    with pytest.raises(ProtocolError, match="2 arrays"):
        wire_from_record(record)
    monkeypatch.undo()
    monkeypatch.setattr(records, "MAX_ARRAY_BYTES", 100)
    with pytest.raises(ProtocolError, match="bytes; allowed: 100"):
        wire_from_record(record)


# Letters of a secure sum.


def letter_record(
    letter: bytes, *, stype: str = "letter", dtype: str = "uint8", more: Array | None = None
) -> RecordDict:
    arrays = ArrayRecord({"letter": Array(dtype, (len(letter),), stype, letter)})
    if more is not None:
        arrays["safetensors"] = more
    return RecordDict({"arrays": arrays, "scalars": ConfigRecord({"version": 2, "kind": "sum_answer"})})


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(SumAnswer(letter=bytes(range(256))), id="answer"),
        pytest.param(MaskedRelease(task="t", values=np.array([0, 2**64 - 1, 5], np.uint64)), id="masked"),
    ],
)
def test_a_letter_crosses_the_edge_as_the_bytes_it_is(message):
    wire = wire_from_record(to_record(message.to_wire()))
    assert wire == message.to_wire()
    assert type(wire.letter) is bytes
    assert reply_from_wire(wire).to_wire() == message.to_wire()


def test_a_message_without_a_letter_has_no_record_of_one():
    assert list(to_record(Wire(arrays=random_arrays(1), scalars={}))["arrays"]) == ["safetensors"]
    assert list(to_record(Wire(arrays={}, scalars={}))["arrays"]) == []


def test_a_letter_beside_arrays_is_carried_and_no_kind_of_message_takes_both():
    """The edge carries what it is given; what belongs together is the protocol's to say."""
    wire = Wire(arrays=random_arrays(1), scalars={"version": 2, "kind": "sum_answer"}, letter=b"x")
    carried = wire_from_record(to_record(wire))
    assert (carried.letter, sorted(carried.arrays)) == (b"x", sorted(wire.arrays))
    for kind in ("sum_answer", "masked", "release", "refusal"):
        with pytest.raises(ProtocolError):
            reply_from_wire(Wire(arrays=carried.arrays, scalars={"version": 2, "kind": kind}, letter=carried.letter))


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(letter_record(b"x", stype="safetensors"), id="another-serialisation"),
        pytest.param(letter_record(b"x", stype="numpy.ndarray"), id="numpy"),
        pytest.param(letter_record(b""), id="empty"),
        pytest.param(letter_record(b"x", more=Array("uint8", (1,), "letter", b"y")), id="two-letters"),
        pytest.param(letter_record(b"x", more=Array("uint8", (1,), "safetensors", b"y")), id="and-a-bad-blob"),
    ],
)
def test_a_letter_of_another_form_is_refused(record):
    with pytest.raises(ProtocolError):
        wire_from_record(record)


def test_a_letter_longer_than_allowed_is_refused(monkeypatch):
    monkeypatch.setattr(records, "MAX_ARRAY_BYTES", 100)
    assert wire_from_record(letter_record(bytes(100))).letter == bytes(100)
    with pytest.raises(ProtocolError, match="a letter of 101 bytes; allowed: 1 to 100"):
        wire_from_record(letter_record(bytes(101)))


@pytest.mark.parametrize(
    "scalars",
    [
        pytest.param({"a": b"bytes"}, id="bytes"),
        pytest.param({"a": [1, 2]}, id="a-list"),
        pytest.param({"a": True}, id="a-truth-value"),
        pytest.param({"a": "x" * (2**20 + 1)}, id="a-long-text"),
        pytest.param({str(i): i for i in range(17)}, id="too-many"),
    ],
)
def test_a_scalar_of_another_kind_is_refused(scalars):
    with pytest.raises(ProtocolError, match="scalar"):
        wire_from_record(RecordDict({"arrays": arrays_to_record({}), "scalars": ConfigRecord(scalars)}))


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(RecordDict(), id="empty"),
        pytest.param(RecordDict({"arrays": ArrayRecord()}), id="one-missing"),
        pytest.param(
            RecordDict({"arrays": ArrayRecord(), "scalars": ConfigRecord(), "metrics": MetricRecord()}), id="one-more"
        ),
        pytest.param(RecordDict({"arrays": ConfigRecord(), "scalars": ArrayRecord()}), id="exchanged"),
    ],
)
def test_other_records_than_the_two_are_refused(record):
    with pytest.raises(ProtocolError, match="arrays"):
        wire_from_record(record)


ANCHOR = Anchor(ledger="a" * 64, seq=7, hash="b" * 64)


def test_an_anchor_travels_beside_a_message_and_changes_nothing_of_it():
    plain = to_record(Release(task="t", update=random_arrays(2)).to_wire())
    with_one = with_anchor(plain, ANCHOR)
    assert anchor_from_record(with_one) == ANCHOR
    assert anchor_from_record(plain) is None
    assert wire_from_record(with_one).scalars == wire_from_record(plain).scalars
    assert anchor_from_record(with_anchor(with_one, None)) is None


@pytest.mark.parametrize(
    "anchor",
    [
        pytest.param(ArrayRecord(), id="arrays"),
        pytest.param(ConfigRecord({"ledger": "a" * 64, "seq": 1}), id="no-hash"),
        pytest.param(ConfigRecord({"ledger": "a" * 64, "seq": 1.5, "hash": "b" * 64}), id="half-an-entry"),
        pytest.param(ConfigRecord({"ledger": "a" * 64, "seq": -1, "hash": "b" * 64}), id="before-the-first"),
        pytest.param(ConfigRecord({"ledger": "a" * 64, "seq": True, "hash": "b" * 64}), id="a-truth-value"),
        pytest.param(ConfigRecord({"ledger": "c1 bought", "seq": 1, "hash": "b" * 64}), id="text"),
        pytest.param(ConfigRecord({"ledger": "a" * 64, "seq": 1, "hash": "b" * 64, "count": 3}), id="one-more"),
    ],
)
def test_what_is_no_anchor_is_refused(anchor):
    record = to_record(Wire(arrays={}, scalars={}))
    record["anchor"] = anchor
    with pytest.raises(ProtocolError, match="anchor"):
        anchor_from_record(record)
