"""Replies are given as they come, and no more than a few are in memory, whatever merchants do."""

import math
import threading
import time
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE, ErrorCode
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)

from flower_edge.records import MAX_ARRAY_BYTES, to_record, with_anchor
from pp_model.protocol import Anchor, Release
from server import exchange as module
from server.exchange import FETCHERS, OBJECTS_A_TURN, exchange
from simulations.grid import InProcessGrid
from tests.support.fake_link import FAST, Link, exchanged, grid_over, messages_to, said
from tests.support.superlink import wait_until


@pytest.fixture(autouse=True)
def _process_that_may_send():
    with InProcessGrid(ClientApp(), node_configs={}):
        yield


def test_a_reply_is_given_as_soon_as_it_has_come():
    others = threading.Event()
    link = Link(lambda n, m: said(n, m) if n == 1 or others.is_set() else None)
    replies = exchange(grid_over(link), messages_to(1, 2), timeout=30.0, poll_seconds=FAST)
    first = next(replies)
    others.set()
    assert [tuple(reply.content["out"].values()) for reply in (first, *replies)] == [(1, 7), (2, 7)]


def alive_counted(monkeypatch) -> Callable[[], int]:
    """How many replies are in memory, of all that were ever put together."""
    made, whole = [], module.inflate_object_from_contents

    def inflated(*args):
        message = whole(*args)
        made.append(weakref.ref(message))
        return message

    monkeypatch.setattr(module, "inflate_object_from_contents", inflated)
    return lambda: sum(ref() is not None for ref in made)


A_FEW = 2 * FETCHERS  # those waiting to be taken, and one in each hand


@pytest.mark.parametrize("nodes", [50, 500])
def test_while_nobody_takes_them_no_more_than_a_few_replies_are_fetched(nodes, monkeypatch):
    alive = alive_counted(monkeypatch)
    link = Link(said, nodes=range(nodes))
    replies = exchange(grid_over(link), messages_to(*range(nodes)), timeout=60.0, poll_seconds=FAST)
    next(replies)
    wait_until(lambda: alive() >= FETCHERS, timeout=20.0)
    time.sleep(0.2)  # long enough for dozens
    assert alive() <= A_FEW
    most = max(alive() for _ in replies)
    assert most <= A_FEW + 1
    assert len(link.confirmed) == nodes


def test_who_stops_taking_replies_ends_the_exchange(monkeypatch):
    alive = alive_counted(monkeypatch)
    before, link = threading.active_count(), Link(said)
    replies = exchange(grid_over(link), messages_to(*range(50)), timeout=60.0, poll_seconds=FAST)
    next(replies)
    replies.close()
    del replies
    wait_until(lambda: threading.active_count() <= before and alive() == 0, timeout=20.0)
    assert len(link.confirmed) < 50


def test_what_comes_after_the_deadline_does_not_count_though_it_is_still_being_read():
    began = time.monotonic()
    link = Link(lambda n, m: said(n, m) if n == 1 or time.monotonic() - began > 0.5 else None)
    replies = exchange(grid_over(link), messages_to(1, 2), timeout=0.4, poll_seconds=FAST)
    assert next(replies).content["out"]["node"] == 1
    time.sleep(0.8)  # so long does it take to read
    assert list(replies) == []


def test_the_text_of_an_error_is_not_kept():
    link = Link(lambda _, m: Message(Error(ErrorCode.NODE_UNAVAILABLE, "x" * 10_000), reply_to=m))
    replies, _ = exchanged(link, 1)
    assert (replies[1].error.code, replies[1].error.reason) == (ErrorCode.NODE_UNAVAILABLE, None)


def withholding(*honest: int) -> Link:
    """A SuperLink to which all but the `honest` send their replies without the last part that is asked for."""

    def answer(node, message):
        reply = Message(RecordDict({"out": ConfigRecord({"node": node, "text": f"{node}" * 1000})}), reply_to=message)
        last = next(iterate_object_tree(get_object_tree(reply))).object_id
        vars(reply)["missing"] = set() if node in honest else {last}
        return reply

    return Link(answer)


def parts_kept(monkeypatch, link, *nodes: int) -> tuple[int, dict[int, Message]]:
    """Most bytes of parts that were kept between turns; and the replies."""
    most, keep = 0, module._Exchange._keep

    def kept(exchange, fetch):
        nonlocal most
        keep(exchange, fetch)
        most = max(most, exchange._kept_bytes)
        assert exchange._kept_bytes >= len(b"".join(fetch.contents.values()))

    monkeypatch.setattr(module._Exchange, "_keep", kept)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.02)
    replies, _ = exchanged(link, *nodes, timeout=1.0)
    return most, replies


def test_parts_of_replies_that_never_become_whole_are_kept_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(module, "PARTS_BYTES", 2000)
    most, replies = parts_kept(monkeypatch, withholding(90), *range(40), 90)
    assert 0 < most <= 2000
    assert set(replies) == {90}


def test_a_reply_whose_parts_come_late_is_whole_though_others_take_all_the_room(monkeypatch):
    monkeypatch.setattr(module, "PARTS_BYTES", 0)
    link = withholding()
    threading.Timer(0.4, link.missing.clear).start()
    _, replies = parts_kept(monkeypatch, link, 1, 2, 3)
    assert {node: reply.content["out"]["node"] for node, reply in replies.items()} == {1: 1, 2: 2, 3: 3}


def test_the_largest_message_of_ours_is_fetched_in_one_turn():
    anchor = Anchor(ledger="0" * 64, seq=1, hash="0" * 64)
    release = Release(task="0" * 64, update={"w": np.ones(1, np.float32)})
    message = Message(with_anchor(to_record(release.to_wire()), anchor), 1, MessageType.TRAIN)
    chunks = math.ceil(MAX_ARRAY_BYTES / FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE)
    assert len(get_all_nested_objects(message)) - 1 + chunks <= OBJECTS_A_TURN
