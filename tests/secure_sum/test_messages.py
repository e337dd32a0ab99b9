"""One text for each message, and an error of ours for every other text."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from pp_model.errors import ProtocolError
from secure_sum.messages import MOST_BYTES, kind_of, read, written
from tests.support.secure_sums import SIZE, changed, set_up, vectors

BLOCK = set_up(4, threshold=3, rounds=2, seed="messages")


def round_messages():
    """What is said in a round with a drop-out, and in one without."""
    values = vectors(4, rng=np.random.default_rng(1))
    said = {}
    for round, masking in ((1, range(3)), (2, range(4))):
        summing = BLOCK.collector.round_sum(round, size=SIZE)
        for index in masking:
            summing.add(index, BLOCK[index].masked(round, values[index]))
        said["survivors"] = summing.survivors()
        for index in masking:
            answer = BLOCK[index].reveal(said["survivors"])
            said[kind_of(answer)] = answer
            summing.add_answer(index, answer)
        if summing.quorum() is not None:
            said["quorum"] = summing.quorum()
    return said


MESSAGES = {
    "open": BLOCK.collector.opening(),
    "keys": BLOCK[0].keys(),
    "roll": BLOCK.collector.roll(),
    "shares": BLOCK[0].shares(BLOCK.collector.roll()),
    "delivery": BLOCK.collector.delivery(0),
    "ready": BLOCK[0].ready_for(BLOCK.collector.delivery(0)),
    **round_messages(),
}
by_kind = pytest.mark.parametrize("kind", MESSAGES)


def rewritten(data, change):
    """The message with its header changed as a dictionary."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    text = change(header)
    text = text if isinstance(text, bytes) else json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def test_there_is_a_message_of_every_kind():
    assert len(MESSAGES) == 10


@by_kind
def test_a_message_says_its_kind_and_is_written_again_as_it_was(kind):
    data = MESSAGES[kind]
    message = read(data, kind)
    assert kind_of(data) == kind == message.kind
    assert written(kind, message.fields, message.arrays) == data


@by_kind
def test_a_message_of_another_kind_is_refused(kind):
    for other in MESSAGES:
        if other != kind:
            with pytest.raises(ProtocolError, match="expected"):
                read(MESSAGES[kind], other)


@by_kind
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda header: header["__metadata__"].update(version="2"), "another version"),
        (lambda header: header["__metadata__"].update(version=1), "another version"),
        (lambda header: header["__metadata__"].update(kind="gossip"), "does not know"),
        (lambda header: header["__metadata__"].update(kind=["open"]), "does not know"),
        (lambda header: header["__metadata__"].update(more="x"), "too many or too few"),
        (lambda header: header["__metadata__"].update(more=3), "not text"),
        (lambda header: header.update(more={"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}), "too many"),
        (lambda header: header.pop("__metadata__"), "not a message"),
        (lambda header: header.update(__metadata__=[]), "not a message"),
        (lambda _: b"[" * 4000, "not a message"),
        (lambda _: b"9" * 4000, "not a message"),
        (lambda _: b"\xff{}", "not a message"),
        (lambda header: json.dumps(header, sort_keys=True).encode(), "the one way|not a message"),
    ],
    ids=range(13),
)
def test_another_header_is_refused(kind, change, match):
    with pytest.raises(ProtocolError, match=match):
        read(rewritten(MESSAGES[kind], change), kind)


NO_TEXT = ["", "1" * 400, "é", "a\n"]
NO_NUMBER = [*NO_TEXT, "-1", "01", "1 "]
FIELDS = [
    (kind, field, value)
    for kind, data in MESSAGES.items()
    for field in read(data, kind).fields
    for value in (NO_TEXT if field in ("plan", "identity") else NO_NUMBER)
]


@pytest.mark.parametrize(("kind", "field", "value"), FIELDS)
def test_a_field_that_is_not_as_the_format_wants_it_is_refused(kind, field, value):
    with pytest.raises(ProtocolError, match=f"{field!r}"):
        read(changed(MESSAGES[kind], kind, fields={field: value}), kind)


ARRAYS = [(kind, name) for kind, data in MESSAGES.items() for name in read(data, kind).arrays]


@pytest.mark.parametrize(("kind", "name"), ARRAYS)
def test_an_array_of_another_type_or_shape_is_refused(kind, name):
    message = read(MESSAGES[kind], kind)
    array = message.arrays[name]
    other = np.uint64 if array.dtype == np.uint8 else np.uint8
    with pytest.raises(ProtocolError, match="another type"):
        read(changed(MESSAGES[kind], kind, **{name: array.astype(other)}), kind)
    for wrong in (array[np.newaxis], array.reshape(-1)[:0].reshape(0, 0, 0, 0, 0)):
        with pytest.raises(ProtocolError, match="has shape"):
            read(changed(MESSAGES[kind], kind, **{name: wrong}), kind)


def test_a_dimension_that_the_reader_knows_must_be_that():
    read(MESSAGES["keys"], "keys", sizes={"rounds": 2})
    with pytest.raises(ProtocolError, match="expected"):
        read(MESSAGES["keys"], "keys", sizes={"rounds": 3})


def test_dimensions_of_one_name_must_agree():
    masks = read(MESSAGES["keys"], "keys").octets("masks")
    with pytest.raises(ProtocolError, match="has shape"):
        read(changed(MESSAGES["keys"], "keys", masks=masks[:1]), "keys")


def test_a_message_larger_than_the_bound_is_refused_before_it_is_read():
    with pytest.raises(ProtocolError, match="allowed: at most"):
        kind_of(bytes(MOST_BYTES + 1))


def test_a_header_larger_than_the_bound_is_refused_before_it_is_read():
    header = json.dumps({"__metadata__": {"version": "1", "kind": "open"}}).encode()
    assert kind_of(struct.pack("<Q", 4096) + header.ljust(4096)) == "open"
    with pytest.raises(ProtocolError, match="not a message"):
        kind_of(struct.pack("<Q", 4104) + header.ljust(4104))


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float16, np.bool_], ids=str)
def test_arrays_of_numbers_that_no_message_has_are_refused(dtype):
    metadata = {"version": "1", "kind": "survivors", "context": "0" * 64, "round": "1"}
    with pytest.raises(ProtocolError, match="another type"):
        read(save({"members": np.zeros(3, dtype)}, metadata), "survivors")


@by_kind
def test_a_message_cut_short_or_with_something_behind_it_is_refused(kind):
    data = MESSAGES[kind]
    ends = {*range(0, len(data), max(1, len(data) // 64)), len(data) - 1}
    for damaged in (data + b"\0", data + data, *(data[:end] for end in ends)):
        with pytest.raises(ProtocolError):
            read(damaged, kind)


@given(st.sampled_from(sorted(MESSAGES)), st.binary(max_size=600))
def test_bytes_of_no_meaning_are_refused(kind, noise):
    for data in (noise, struct.pack("<Q", len(noise)) + noise, MESSAGES[kind][:64] + noise):
        with pytest.raises(ProtocolError):
            kind_of(read(data, kind).kind.encode())


@given(st.data())
def test_a_flipped_bit_gives_another_message_of_the_format_or_an_error_of_ours(data):
    kind = data.draw(st.sampled_from(sorted(MESSAGES)))
    flipped = bytearray(MESSAGES[kind])
    bit = data.draw(st.integers(0, 8 * len(flipped) - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        message = read(bytes(flipped), kind)
    except ProtocolError:
        return
    assert written(kind, message.fields, message.arrays) == flipped
