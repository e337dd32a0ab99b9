import pickle
from io import BytesIO

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from flower_edge import records
from flower_edge.records import to_record, wire_from_record
from pp_model.errors import ProtocolError
from pp_model.protocol import Release, Wire, reply_from_wire
from tests.support.fake_merchants import random_arrays


def record_with(array: Array) -> RecordDict:
    return RecordDict({"arrays": ArrayRecord({"w": array}), "scalars": ConfigRecord({"kind": "release"})})


def npy(values: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    buffer = BytesIO()
    np.save(buffer, values, allow_pickle=allow_pickle)
    return buffer.getvalue()


def npy_header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    buffer = BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def test_a_message_comes_back_as_it_was():
    arrays = random_arrays(1) | {"scalar": np.array(2.5, dtype=np.float32), "empty": np.zeros((0, 3), np.float32)}
    wire = wire_from_record(to_record(Wire(arrays=arrays, scalars={"version": 1, "kind": "x", "rate": 0.5})))
    assert wire.scalars == {"version": 1, "kind": "x", "rate": 0.5}
    assert list(wire.arrays) == list(arrays)
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
def test_a_pickle_in_an_array_is_refused_and_never_run(data):
    with pytest.raises(ProtocolError, match="damaged"):
        wire_from_record(record_with(Array("float32", (1,), "numpy.ndarray", data)))
    assert not Bomb.exploded


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(Array(np.zeros(2)), id="float64"),
        pytest.param(Array("float32", (2,), "numpy.ndarray", npy(np.zeros(2))), id="float64-said-to-be-float32"),
        pytest.param(Array("float32", (2,), "numpy.ndarray", npy(np.zeros(2, ">f4"))), id="big-endian"),
        pytest.param(Array("float32", (2,), "torch.save", npy(np.zeros(2, "f4"))), id="another-serialisation"),
        pytest.param(Array("float32", (3,), "numpy.ndarray", npy(np.zeros(2, "f4"))), id="another-shape-than-said"),
        pytest.param(Array("float32", (2,), "numpy.ndarray", npy(np.zeros(2, "f4"))[:-1]), id="a-byte-too-few"),
        pytest.param(Array("float32", (2,), "numpy.ndarray", npy(np.zeros(2, "f4")) + b"x"), id="a-byte-too-many"),
        pytest.param(Array("float32", (2,), "numpy.ndarray", b""), id="nothing"),
        pytest.param(Array("float32", (2,), "numpy.ndarray", b"\x93NUMPY\x01\x00\xff\xff"), id="header-cut-off"),
        pytest.param(Array("float32", (2,), "numpy.ndarray", b"PK\x03\x04zip"), id="a-zip"),
        pytest.param(Array("float32", (-1, -2), "numpy.ndarray", npy_header((-1, -2)) + bytes(8)), id="negative-sides"),
    ],
)
def test_an_array_that_is_not_plain_float32_is_refused(array):
    with pytest.raises(ProtocolError, match="'w'"):
        wire_from_record(record_with(array))


def test_a_header_that_claims_more_than_came_is_refused_before_anything_is_loaded(monkeypatch):
    def loads(*_, **__):
        raise AssertionError("the loader allocates what the header claims")

    monkeypatch.setattr(np, "load", loads)
    huge = (2**40,)
    with pytest.raises(ProtocolError, match="damaged"):
        wire_from_record(record_with(Array("float32", huge, "numpy.ndarray", npy_header(huge) + bytes(4))))


def test_the_loader_is_told_not_to_unpickle(monkeypatch):
    seen = []
    load = np.load
    monkeypatch.setattr(np, "load", lambda file, **how: seen.append(how) or load(file, **how))
    wire_from_record(record_with(Array(np.zeros(2, "f4"))))
    assert seen == [{"allow_pickle": False}]


def test_more_bytes_or_arrays_than_allowed_are_refused(monkeypatch):
    record = to_record(Wire(arrays=random_arrays(1), scalars={}))
    monkeypatch.setattr(records, "MAX_ARRAYS", 1)
    with pytest.raises(ProtocolError, match="2 arrays"):
        wire_from_record(record)
    monkeypatch.undo()
    monkeypatch.setattr(records, "MAX_ARRAY_BYTES", 100)
    with pytest.raises(ProtocolError, match="allowed: 1024 and 100"):
        wire_from_record(record)


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
        wire_from_record(RecordDict({"arrays": ArrayRecord(), "scalars": ConfigRecord(scalars)}))


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
