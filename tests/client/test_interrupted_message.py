"""A message of the platform that is interrupted on its way leaves nothing behind, and later replies are in step."""

import threading

import httpx
import pytest
from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode, Status
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import RunNotRunningException
from flwr.supernode import start_client_internal as loop
from flwr.supernode.nodestate import nodestate_factory
from flwr.supernode.servicer.runtime import runtime_handlers

import client.flower_hooks as flower_hooks
from tests.support import flower_platform
from tests.support.flower_platform import RUN, LoopbackSuperNode

TRAINING_SECONDS = 0.7  # longer than the loop's own wait for a reply


@pytest.fixture
def node(monkeypatch):
    replaced = [
        (loop, "_pull_and_store_message"),
        (loop, "_push_messages"),
        (loop, "get_fused_config_from_fab"),
        (runtime_handlers, "acquire_task"),
        (nodestate_factory, "InMemoryNodeState"),
    ]
    for module, name in replaced:
        monkeypatch.setattr(module, name, getattr(module, name))
    flower_hooks.serve_one_runner()
    flower_hooks.open_no_bundle()
    return LoopbackSuperNode(secret=b"s")


def fine(*_):
    return None


def over(*_):
    raise RunNotRunningException


def cut(*_):
    raise httpx.ConnectTimeout("the handshake timed out")


def take(node, *, before_pull=fine, confirm=fine, number=1):
    """SuperNode's loop takes a message, whose parts and confirmation may fail."""
    message = flower_platform._from_platform(RecordDict({"c": ConfigRecord({"a": number})}), MessageType.TRAIN)
    parts = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    message.metadata.__dict__["_message_id"] = message.object_id
    taken = loop._pull_and_store_message(
        state=node.state,
        object_store=node.state.object_store,
        node_config={},
        receive=lambda: (message, get_object_tree(message)),
        get_run=lambda number: flower_hooks._without_bundle(lambda _: flower_platform.Run.create_empty(number))(number),
        get_fab=lambda *_: flower_hooks.NOTHING,
        pull_object=lambda _, name: before_pull() or parts[name],
        confirm_message_received=confirm,
        trusted_entities=None,
    )
    return message, taken


def answer(node, message):
    reply = Message(Error(ErrorCode.UNKNOWN, "stands for a release"), reply_to=message)
    loop._insert_message(reply, node.state, node.state.object_store)


def push(node):
    """Which messages' replies SuperNode's loop sends before it takes the next."""
    sent = []

    def send(reply, *_):
        sent.append(reply.metadata.reply_to_message_id)
        return set(), ""

    loop._push_messages(state=node.state, object_store=node.state.object_store, send=send, push_object=fine)
    return sent


def left(node):
    open_tasks = node.state.get_tasks(statuses=[Status.PENDING, Status.STARTING, Status.RUNNING])
    return len(node.state.msg_store), len(node.state.object_store), len(open_tasks)


ENDS = [{"before_pull": over}, {"confirm": over}]


@pytest.mark.parametrize("ends", ENDS)
def test_a_message_of_a_run_that_ends_meanwhile_is_forgotten_with_its_task(node, ends):
    flower_hooks.take_a_message_or_leave_it()
    _, taken = take(node, **ends)
    assert (taken, left(node)) == (None, (0, 0, 0))


@pytest.mark.parametrize("ends", ENDS)
def test_stock_flower_would_keep_it_so_the_look_can_fail(node, ends):
    _, taken = take(node, **ends)
    messages, _, tasks = left(node)
    assert (taken, messages, tasks) == (None, 1, 1)


def test_a_whole_message_is_answered_though_the_network_is_cut_before_its_confirmation(node):
    flower_hooks.take_a_message_or_leave_it()
    _, taken = take(node, confirm=cut)
    messages, _, tasks = left(node)
    assert (taken, messages, tasks) == (RUN, 1, 1)


def test_a_message_whose_parts_are_cut_off_is_forgotten(node):
    flower_hooks.take_a_message_or_leave_it()
    _, taken = take(node, before_pull=cut)
    assert (taken, left(node)) == (None, (0, 0, 0))


def reply_without_message(node):
    """A reply whose message SuperNode has forgotten, such as one that the runner gave while the run ended."""
    message, _ = take(node, number=0)
    answer(node, message)
    node.state.delete_messages(message_ids=[message.metadata.message_id])
    return message.metadata.message_id


def push_while_the_runner_trains(node):
    stray = reply_without_message(node)
    message, _ = take(node)
    runner = threading.Timer(TRAINING_SECONDS, answer, [node, message])
    runner.start()
    sent = push(node)
    runner.join()
    return sent, [stray, message.metadata.message_id]


def test_a_message_is_answered_before_the_next_is_taken_whatever_else_was_to_send(node):
    flower_hooks.answer_before_the_next()
    sent, both = push_while_the_runner_trains(node)
    assert sent == both
    assert not node.state.owes_a_reply()


def test_stock_flower_would_be_a_message_late_from_then_on_so_the_look_can_fail(node):
    sent, both = push_while_the_runner_trains(node)
    assert sent == both[:1]
    assert node.state.owes_a_reply()
