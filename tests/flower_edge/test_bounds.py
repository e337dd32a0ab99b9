"""A message is measured before it is put together: a part may be named more often than it was sent."""

import json

import numpy as np
import pytest
from flwr.app import Array
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from flower_edge import bounds
from flower_edge.bounds import check_unpacked_size
from flower_edge.records import to_record
from pp_model.errors import ProtocolError
from pp_model.protocol import Wire
from tests.support.fake_merchants import random_arrays


def parts_of(record) -> dict[str, bytes]:
    return {name: each.deflate() for name, each in get_all_nested_objects(record).items()}


def bomb(times: int) -> dict[str, bytes]:
    """A message whose one array names its one part so many times, as a hostile sender can write it."""
    parts = parts_of(to_record(Wire(arrays={"w": np.zeros(1000, np.float32)}, scalars={})))
    (name,) = (name for name, content in parts.items() if content.startswith(b"Array "))
    once, many = json.dumps({"arraychunk_ids": [0]})[1:-1], json.dumps({"arraychunk_ids": [0] * times})[1:-1]
    head, body = parts[name].split(b"\x00", 1)
    body = body.replace(once.encode(), many.encode())
    assert many.encode() in body
    kind, children, _ = head.decode().split(" ")
    return parts | {name: f"{kind} {children} {len(body)}".encode() + b"\x00" + body}


def test_an_honest_message_passes():
    check_unpacked_size(parts_of(to_record(Wire(arrays=random_arrays(1), scalars={"round": 1}))))


def test_an_array_that_names_a_part_too_often_is_refused_before_it_is_put_together(monkeypatch):
    monkeypatch.setattr(Array, "inflate", lambda *_: pytest.fail("put together"))
    monkeypatch.setattr(bounds, "MAX_ARRAY_BYTES", 1_000_000)
    check_unpacked_size(bomb(100))
    with pytest.raises(ProtocolError, match="unpacks to"):
        check_unpacked_size(bomb(1000))


@pytest.mark.parametrize("content", [b"", b"Array", b"Array x 3\x00abc", b"Array  2\x00{}", b"\xff\x00"])
def test_parts_that_are_not_flowers_are_refused(content):
    with pytest.raises(ProtocolError, match="not Flower's"):
        check_unpacked_size({"a": content})
