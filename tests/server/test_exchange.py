"""Flower's own Grid, with merchants behind it that answer, fail, or try to hold everybody up."""

import threading
import time

import httpx
import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse, ObjectTree
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import GetNodesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.run import RunNotRunningException

from flower_edge import bounds
from flower_edge.records import to_record
from pp_model.protocol import Wire
from server import exchange as module
from server.exchange import FETCHERS, MAX_OBJECTS, exchange, node_ids
from simulations.grid import InProcessGrid
from tests.support.fake_link import Link, contents, exchanged, failed, grid_over, messages_to, said


@pytest.fixture(autouse=True)
def _process_that_may_send():
    with InProcessGrid(ClientApp(), node_configs={}):
        yield


def test_everybodys_reply_comes_and_the_end_does_not_wait_for_the_deadline():
    link = Link(said)
    replies, seconds = exchanged(link, *range(20))
    assert contents(replies) == {node: (node, 7) for node in range(20)}
    assert seconds < 2.0
    assert len(link.confirmed) == 20


def test_whom_nobody_asks_nobody_waits_for():
    assert list(exchange(grid_over(Link(said)), [], timeout=60.0)) == []


def test_at_the_deadline_those_who_answered_count():
    replies, seconds = exchanged(Link(lambda n, m: said(n, m) if n != 2 else None), 1, 2, 3, timeout=0.4)
    assert contents(replies) == {1: (1, 7), 3: (3, 7)}
    assert 0.4 <= seconds < 1.0


def test_replies_whose_parts_never_come_hold_up_neither_the_others_nor_the_end():
    def answer(node, message):
        reply = said(node, message)
        vars(reply)["missing"] = set(get_all_nested_objects(reply)) if node < 3 * FETCHERS else set()
        return reply

    came = threading.Event()
    link = Link(answer)
    link.ConfirmMessageReceived = lambda _: came.set() or ConfirmMessageReceivedResponse()
    result = []
    run = threading.Thread(target=lambda: result.append(exchanged(link, *range(3 * FETCHERS + 1), timeout=0.8)))
    run.start()
    assert came.wait(0.5)  # the honest one's, long before the deadline
    run.join()
    ((replies, seconds),) = result
    assert contents(replies) == {3 * FETCHERS: (3 * FETCHERS, 7)}
    assert seconds < 1.3


def test_parts_that_come_late_are_waited_for():
    link = Link(lambda n, m: said(n, m, missing=set(get_all_nested_objects(said(n, m)))))
    threading.Timer(0.3, lambda: link.missing.clear()).start()
    replies, _ = exchanged(link, 1)
    assert contents(replies) == {1: (1, 7)}


def test_a_reply_with_a_part_that_nobody_has_is_its_senders_error():
    link = Link(said)
    link.answer = lambda n, m: link.gone.update(get_all_nested_objects(r := said(n, m))) or r if n == 1 else said(n, m)
    replies, seconds = exchanged(link, 1, 2, timeout=0.6)
    assert contents(replies) == {1: ErrorCode.MESSAGE_UNAVAILABLE, 2: (2, 7)}
    assert seconds < 1.1


def test_a_reply_of_very_many_parts_is_its_senders_error_and_not_fetched():
    many = ObjectTree(object_id="0", children=[ObjectTree(object_id=str(i)) for i in range(1, MAX_OBJECTS + 1)])
    link = Link(lambda n, m: said(n, m, **({"tree": many} if n == 1 else {})))
    fetched, pull = [], link.PullObject
    link.PullObject = lambda request: fetched.append(request.object_id) or pull(request)
    replies, _ = exchanged(link, 1, 2, timeout=0.4)
    assert contents(replies) == {1: ErrorCode.MESSAGE_UNAVAILABLE, 2: (2, 7)}
    assert not {str(i) for i in range(MAX_OBJECTS + 1)} & set(fetched)


def test_a_reply_of_very_many_bytes_is_its_senders_error(monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 3000)
    big = RecordDict({"out": ConfigRecord({"text": "x" * 4000})})
    link = Link(lambda n, m: said(n, m) if n == 2 else Message(big, reply_to=m))
    replies, _ = exchanged(link, 1, 2, timeout=0.4)
    assert contents(replies) == {1: ErrorCode.MESSAGE_UNAVAILABLE, 2: (2, 7)}


def test_a_reply_that_unpacks_to_too_much_is_its_senders_error(monkeypatch):
    monkeypatch.setattr(bounds, "MAX_ARRAY_BYTES", 100)
    big = to_record(Wire(arrays={"w": np.zeros(1_000, np.float32)}, scalars={}))
    link = Link(lambda n, m: said(n, m) if n == 2 else Message(big, reply_to=m))
    replies, _ = exchanged(link, 1, 2, timeout=0.4)
    assert contents(replies) == {1: ErrorCode.MESSAGE_UNAVAILABLE, 2: (2, 7)}


@pytest.mark.parametrize("forged", [b"", b"\xff" * 100, b"Message  2\x00{}", b"NoSuchType  0\x00"])
def test_a_reply_of_any_bytes_is_its_senders_error_and_ends_nothing(forged):
    def answer(node, message):
        reply = said(node, message)
        if node == 1:
            vars(reply)["forged"] = {reply.object_id: forged}
        return reply

    replies, _ = exchanged(Link(answer), 1, 2, timeout=0.4)
    assert contents(replies) == {1: ErrorCode.MESSAGE_UNAVAILABLE, 2: (2, 7)}


@pytest.mark.parametrize(
    "method", ["PushMessages", "PushObject", "PullMessages", "PullObject", "ConfirmMessageReceived"]
)
def test_what_the_superlink_fails_to_do_for_a_while_is_done_after_it(method):
    link, failures = Link(said), iter([httpx.ConnectError("down")] * 5)
    works = getattr(link, method)

    def flaky(request):
        if error := next(failures, None):
            raise error
        return works(request)

    setattr(link, method, flaky)
    replies, _ = exchanged(link, 1, 2)
    assert contents(replies) == {1: (1, 7), 2: (2, 7)}


@pytest.mark.parametrize("method", ["PushMessages", "PullMessages", "PullObject"])
def test_a_superlink_that_hangs_does_not_move_the_deadline(method):
    link, release = Link(said), threading.Event()
    setattr(link, method, lambda _: release.wait())
    try:
        replies, seconds = exchanged(link, 1, 2, timeout=0.4)
    finally:
        release.set()
    assert replies == {}
    assert seconds < 0.9


def test_a_stopped_run_ends_the_exchange_at_once():
    link = Link(said)

    def stopped(_):
        raise RunNotRunningException

    link.PullMessages = stopped
    began = time.monotonic()
    with pytest.raises(RunNotRunningException):
        exchanged(link, 1, timeout=60.0)
    assert time.monotonic() - began < 5.0


def test_a_node_that_is_gone_when_the_messages_go_out_is_not_waited_for():
    replies, seconds = exchanged(Link(said, nodes=[1, 3]), 1, 2, 3, timeout=60.0)
    assert set(replies) == {1, 3}
    assert seconds < 5.0


def once_failing(answers):
    """Fails what is asked first, and keeps the tasks that it was asked."""

    def answer(node, message):
        answers.append((node, message.metadata.message_id, message.metadata.group_id, dict(message.content["in"])))
        return failed(message) if len(answers) == 1 else said(node, message)

    return answer


def test_a_node_that_failed_and_is_connected_is_asked_the_same_once_more():
    answers = []
    replies, seconds = exchanged(Link(once_failing(answers)), 1)
    assert contents(replies) == {1: (1, 7)}
    (first, second) = answers
    assert (first[0], first[2:]) == (second[0], second[2:])
    assert first[1] != second[1]
    assert seconds < 2.0


def test_a_node_that_fails_twice_is_not_asked_a_third_time():
    asked = []
    replies, seconds = exchanged(Link(lambda n, m: asked.append(n) or failed(m)), 1)
    assert contents(replies) == {1: ErrorCode.NODE_UNAVAILABLE}
    assert asked == [1, 1]
    assert seconds < 2.0


def test_a_node_that_failed_and_comes_back_before_half_time_is_asked_again(monkeypatch):
    monkeypatch.setattr(module, "NODES_SECONDS", 0.02)
    answers, link = [], Link(None)
    link.answer = once_failing(answers)
    connected = iter([[], [], [], [1]])
    link.GetNodes = lambda _: GetNodesResponse(nodes=[NodeInfo(node_id=node) for node in next(connected, [1])])
    replies, _ = exchanged(link, 1, timeout=4.0)
    assert contents(replies) == {1: (1, 7)}
    assert len(answers) == 2


def test_a_node_that_stays_away_is_given_up_at_half_time():
    asked, link = [], Link(None)
    link.answer = lambda n, m: asked.append(n) or failed(m)
    link.GetNodes = lambda _: GetNodesResponse()
    replies, seconds = exchanged(link, 1, timeout=0.8)
    assert contents(replies) == {1: ErrorCode.NODE_UNAVAILABLE}
    assert asked == [1]
    assert 0.4 <= seconds < 0.75


def test_a_node_that_fails_after_half_time_is_not_asked_again():
    asked, began = [], time.monotonic()
    link = Link(lambda n, m: (asked.append(n) or failed(m)) if time.monotonic() - began > 0.5 else None)
    replies, seconds = exchanged(link, 1, timeout=0.9)
    assert contents(replies) == {1: ErrorCode.NODE_UNAVAILABLE}
    assert asked == [1]
    assert seconds < 0.85


def test_a_busy_superlink_is_looked_at_less_often():
    link = Link(lambda *_: None)
    poll = link.PullMessages

    def slow(request):
        time.sleep(0.04)
        return poll(request)

    link.PullMessages = slow
    exchanged(link, 1, timeout=0.8)
    assert link.polls <= 5


def test_another_grid_answers_in_its_own_time_and_way():
    app, rounds = ClientApp(), []

    @app.train()
    def train(message, context):
        time.sleep(0.2)
        return said(context.node_id, message)

    with InProcessGrid(app, node_configs={1: {}}, on_round=lambda *args: rounds.append(args)) as grid:
        (reply,) = exchange(grid, messages_to(1), timeout=0.01)
    assert tuple(reply.content["out"].values()) == (1, 7)
    assert len(rounds) == 1


def test_the_connected_nodes_are_those_of_the_grid():
    assert node_ids(grid_over(Link(said, nodes=[7, 5])), timeout=1.0) == [7, 5]
    with InProcessGrid(ClientApp(), node_configs={7: {}, 5: {}}) as grid:
        assert node_ids(grid, timeout=0.0) == [7, 5]


def test_a_superlink_that_is_away_or_hangs_has_no_nodes():
    link, release = Link(said), threading.Event()

    def away(_):
        raise httpx.ReadTimeout("slow")

    link.GetNodes = away
    assert node_ids(grid_over(link), timeout=5.0) == []
    link.GetNodes = lambda _: release.wait()
    began = time.monotonic()
    assert node_ids(grid_over(link), timeout=0.1) == []
    assert time.monotonic() - began < 1.0
    release.set()


def test_a_stopped_run_is_told_when_nodes_are_looked_for():
    link = Link(said)

    def stopped(_):
        raise RunNotRunningException

    link.GetNodes = stopped
    with pytest.raises(RunNotRunningException):
        node_ids(grid_over(link), timeout=5.0)
