"""Checklist: D15, D25.

Named arrays as bytes: the same bytes in every process, damage noticed, nothing that could run on load.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pp_model.errors import ArraysError
from pp_model.serialization import check_arrays, fingerprint, from_safetensors, shapes_of, to_safetensors

float32 = st.floats(width=32)
arrays_of_any_shape = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=8).filter(
        lambda name: name != "__metadata__"
    ),
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), elements=float32),
    max_size=4,
)
ARRAYS = {"head.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.array(0.5, np.float32)}
SHAPES = {"head.weight": (2, 3), "bias": ()}


@given(arrays_of_any_shape, st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_arrays_and_metadata_come_back_bit_by_bit(arrays, metadata):
    back, back_metadata = from_safetensors(to_safetensors(arrays, metadata))
    assert shapes_of(back) == shapes_of(arrays)
    assert {n: a.tobytes() for n, a in back.items()} == {n: a.tobytes() for n, a in arrays.items()}
    assert back_metadata == metadata
    assert to_safetensors(back, back_metadata) == to_safetensors(arrays, metadata)


def test_the_order_of_names_does_not_change_the_bytes():
    backwards = dict(reversed(ARRAYS.items()))
    assert to_safetensors(ARRAYS, {"b": "1", "a": "2"}) == to_safetensors(backwards, {"a": "2", "b": "1"})
    assert fingerprint(ARRAYS) == fingerprint(backwards)


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_the_bytes_are_the_same_in_another_process(hash_seed):
    program = (
        "import numpy as np, hashlib; from pp_model.serialization import *;"
        "a = {n: np.full(i + 1, i, np.float32) for i, n in enumerate('zebra')};"
        "m = {k: k for k in ('kind', 'version', 'task', 'digest')};"
        "print(hashlib.sha256(to_safetensors(a, m)).hexdigest(), fingerprint(a))"
    )
    arrays = {n: np.full(i + 1, i, np.float32) for i, n in enumerate("zebra")}
    import hashlib

    here = hashlib.sha256(to_safetensors(arrays, {k: k for k in ("kind", "version", "task", "digest")})).hexdigest()
    there = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.split() == [here, fingerprint(arrays)]


@given(st.data())
def test_damaged_bytes_are_refused_or_hold_other_arrays_but_never_crash(data):
    whole = to_safetensors(ARRAYS, {"kind": "release"})
    cut = data.draw(st.integers(0, len(whole) - 1))
    for damaged in (whole[:cut], whole[:cut] + data.draw(st.binary(min_size=1, max_size=9)) + whole[cut:]):
        try:
            arrays, _ = from_safetensors(damaged)
        except ArraysError:
            continue
        assert all(array.dtype == np.float32 for array in arrays.values())


@pytest.mark.parametrize("data", [b"", b"\x00" * 8, b"\xff" * 64, b"{}", pickle.dumps({"a": 1}), b"PK\x03\x04" * 9])
def test_what_is_no_safetensors_file_is_refused_by_our_own_error(data):
    with pytest.raises(ArraysError, match="not a safetensors file"):
        from_safetensors(data)


@pytest.mark.parametrize(("dtype", "width"), [("F64", 8), ("I64", 8), ("F16", 2), ("BF16", 2), ("U8", 1), ("BOOL", 1)])
def test_anything_but_float32_is_refused(dtype, width):
    header = json.dumps({"a": {"dtype": dtype, "shape": [1], "data_offsets": [0, width]}}).encode()
    header += b" " * (-len(header) % 8)
    with pytest.raises(ArraysError):
        from_safetensors(struct.pack("<Q", len(header)) + header + bytes(width))


def test_loading_never_unpickles(monkeypatch):
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    assert from_safetensors(to_safetensors(ARRAYS, {}))[0].keys() == ARRAYS.keys()


@given(arrays_of_any_shape, arrays_of_any_shape)
def test_fingerprints_are_equal_exactly_when_the_arrays_are(first, second):
    def content(arrays):
        return {name: (array.shape, array.tobytes()) for name, array in arrays.items()}

    assert (fingerprint(first) == fingerprint(second)) == (content(first) == content(second))


@pytest.mark.parametrize(
    "other",
    [
        {**ARRAYS, "bias": np.array(0.50000006, np.float32)},
        {**ARRAYS, "bias": np.array([0.5], np.float32)},
        {**ARRAYS, "head.weight": ARRAYS["head.weight"].reshape(3, 2)},
        {"head.weight": ARRAYS["head.weight"], "bia": ARRAYS["bias"]},
        {"head.weight": ARRAYS["head.weight"]},
    ],
    ids=["value", "shape-of-a-scalar", "shape", "name", "missing"],
)
def test_any_difference_changes_the_fingerprint(other):
    assert fingerprint(other) != fingerprint(ARRAYS)


def test_a_transposed_view_has_the_fingerprint_of_its_copy():
    view = ARRAYS["head.weight"].T
    assert fingerprint({"w": view}) == fingerprint({"w": view.copy()})
    assert from_safetensors(to_safetensors({"w": view}, {}))[0]["w"].tolist() == view.tolist()


def test_good_arrays_pass_in_the_order_of_the_model():
    checked = check_arrays(dict(reversed(ARRAYS.items())), SHAPES)
    assert list(checked) == list(SHAPES)


SECRET = 123456.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bias": np.array(SECRET, np.float64)}, "'bias' is not float32"),
        ({"bias": SECRET}, "'bias' is not float32"),
        ({"bias": [SECRET]}, "'bias' is not float32"),
        ({"bias": np.full(1, SECRET, np.float32)}, r"'bias' has shape \(1,\); expected \(\)"),
        ({"head.weight": np.full((3, 2), SECRET, np.float32)}, r"'head.weight' has shape \(3, 2\)"),
        ({"head.weight": np.array([[SECRET, np.nan, 1]] * 2, np.float32)}, "'head.weight' has a value that is not fin"),
        ({"head.weight": np.array([[SECRET, np.inf, 1]] * 2, np.float32)}, "'head.weight' has a value that is not fin"),
        ({"running_mean": np.full(2, SECRET, np.float32)}, "first at 'running_mean'"),
    ],
)
def test_the_first_difference_is_named_and_no_value_is(change, says):
    with pytest.raises(ArraysError, match=says) as caught:
        check_arrays({**ARRAYS, **change}, SHAPES)
    assert "123456" not in str(caught.value)


def test_a_missing_array_is_named():
    with pytest.raises(ArraysError, match="first at 'bias'"):
        check_arrays({"head.weight": ARRAYS["head.weight"]}, SHAPES)
