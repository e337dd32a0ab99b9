"""A message from the platform whose run ends before all of it has come leaves nothing behind at the merchant."""

import pytest
from flwr.app import ConfigRecord, MessageType, RecordDict
from flwr.common.constant import Status
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import RunNotRunningException
from flwr.supernode import start_client_internal as loop
from flwr.supernode.nodestate import nodestate_factory
from flwr.supernode.servicer.runtime import runtime_handlers

import client.flower_hooks as flower_hooks
from tests.support import flower_platform
from tests.support.flower_platform import LoopbackSuperNode


@pytest.fixture
def node(monkeypatch):
    replaced = [
        (loop, "_pull_and_store_message"),
        (loop, "get_fused_config_from_fab"),
        (runtime_handlers, "acquire_task"),
        (nodestate_factory, "InMemoryNodeState"),
    ]
    for module, name in replaced:
        monkeypatch.setattr(module, name, getattr(module, name))
    flower_hooks.serve_one_runner()
    flower_hooks.open_no_bundle()
    return LoopbackSuperNode(secret=b"s")


def give_what_ends(node, *, whole):
    """A message of a run that ends while its parts are fetched, or, when the message is `whole`, confirmed."""
    message = flower_platform._from_platform(RecordDict({"c": ConfigRecord({"a": 1})}), MessageType.TRAIN)
    parts = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    message.metadata.__dict__["_message_id"] = message.object_id

    def over(*_):
        raise RunNotRunningException

    return loop._pull_and_store_message(
        state=node.state,
        object_store=node.state.object_store,
        node_config={},
        receive=lambda: (message, get_object_tree(message)),
        get_run=lambda number: flower_hooks._without_bundle(lambda _: flower_platform.Run.create_empty(number))(number),
        get_fab=lambda *_: flower_hooks.NOTHING,
        pull_object=(lambda _, name: parts[name]) if whole else over,
        confirm_message_received=over,
        trusted_entities=None,
    )


def left(node):
    open_tasks = node.state.get_tasks(statuses=[Status.PENDING, Status.STARTING, Status.RUNNING])
    return len(node.state.msg_store), len(node.state.object_store), len(open_tasks)


@pytest.mark.parametrize("whole", [False, True])
def test_a_message_of_a_run_that_ends_meanwhile_is_forgotten_with_its_task(node, whole):
    flower_hooks.take_a_message_or_leave_it()
    assert give_what_ends(node, whole=whole) is None
    assert left(node) == (0, 0, 0)


@pytest.mark.parametrize("whole", [False, True])
def test_stock_flower_would_keep_it_so_the_look_can_fail(node, whole):
    assert give_what_ends(node, whole=whole) is None
    messages, _, tasks = left(node)
    assert (messages, tasks) == (1, 1)
