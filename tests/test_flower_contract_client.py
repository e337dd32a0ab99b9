"""What the merchant's side relies on inside Flower. An upgrade that moves one of these fails here."""

import ast
import inspect
import threading
import time
from collections.abc import Iterator

import flwr.supernode.fleet_http_connection as fleet
import flwr.supernode.start_client_internal as loop
import httpx
import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, HEARTBEAT_PATIENCE
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, run_pb2, runtime_pb2
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode import main as runtime_app
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode, flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.nodestate import NodeStateFactory, nodestate_factory
from flwr.supernode.nodestate.in_memory_nodestate import CLIENT_APP_CRASHED_ERROR, InMemoryNodeState
from flwr.supernode.runtime.run_clientapp import push_message
from flwr.supernode.servicer.runtime import runtime_handlers

from client.flower_hooks import NOTHING
from client.runner import HEARTBEAT_SECONDS


def names_used(function: object) -> set[str]:
    """Names that the function looks up in its module or beyond when it runs."""
    tree = ast.parse(inspect.getsource(function))  # type: ignore[arg-type]
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def calls(function: object, name: str) -> Iterator[list[str]]:
    """The arguments of each call of that name in the function, as source."""
    for node in ast.walk(ast.parse(inspect.getsource(function))):  # type: ignore[arg-type]
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name:
            yield [ast.unparse(argument) for argument in [*node.args, *(k.value for k in node.keywords)]]


# The connection with the platform


def test_the_loop_connects_through_the_name_that_is_replaced():
    assert next(calls(loop._init_connection, "http_request_response")) == [
        "address",
        "insecure",
        "root_certificates",
        "authentication_keys",
        "max_retries",
        "max_wait_time",
    ]
    assert loop.http_request_response is fleet.http_request_response


def test_a_connection_is_these_eight_things_in_this_order():
    tree = ast.parse(inspect.getsource(loop.start_client_internal))
    unpacked = [
        ast.unparse(node.targets[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.value) == "conn"
    ]
    order = "node_id, receive, send, get_run, get_fab, pull_object, push_object, confirm_message_received"
    assert unpacked == [f"({order})"]
    yields = [
        n for n in ast.walk(ast.parse(inspect.getsource(fleet.http_request_response))) if isinstance(n, ast.Yield)
    ]
    assert [ast.unparse(node.value) for node in yields] == [f"({order.replace('node_id', 'node.node_id', 1)})"]


def test_the_seconds_of_a_task_are_the_third_thing_sent():
    assert list(calls(loop._push_messages, "send")) == [["message", "object_tree", "clientapp_runtime"]]


def test_bundle_and_configuration_are_asked_for_through_these_names():
    assert list(calls(loop._pull_and_store_message, "get_run")) == [["run_id"]]
    assert list(calls(loop._pull_and_store_message, "get_fab")) == [["run_info.fab_hash", "run_id"]]
    assert list(calls(loop._pull_and_store_message, "get_fused_config_from_fab")) == [["fab.content", "run_info"]]


def test_the_bundle_is_read_by_nothing_but_what_is_replaced():
    reads = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(inspect.getsource(loop)))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "fab.content"
    ]
    assert reads == ["fab.content"] * 2  # the configuration, and the signature of --trusted-entities


def test_flowers_memory_takes_an_empty_bundle_by_its_hash():
    state = InMemoryNodeState(ObjectStoreFactory().store())
    assert state.store_fab(NOTHING) == NOTHING.hash_str
    assert state.get_fab(NOTHING.hash_str) == NOTHING


def test_a_fleet_client_would_follow_a_redirect():
    with FleetHttpClient.from_server_address("127.0.0.1:1", True, None, []) as client:
        assert isinstance(client._client, httpx.Client)
        assert client._client.follow_redirects is True
    assert "FleetHttpClient" in names_used(fleet.http_request_response)


# What leaves: every field that a SuperNode can fill in. A new one is looked at before it is let through.

FIELDS = {
    fleet_pb2.ActivateNodeRequest: {"public_key", "heartbeat_interval"},
    fleet_pb2.DeactivateNodeRequest: {"node_id"},
    fleet_pb2.PullMessagesRequest: {"node", "message_ids"},
    fleet_pb2.PushMessagesRequest: {"node", "messages_list", "message_object_trees", "clientapp_runtime_list"},
    heartbeat_pb2.SendNodeHeartbeatRequest: {"node", "heartbeat_interval"},
    run_pb2.GetRunRequest: {"node", "run_id"},
    message_pb2.PullObjectRequest: {"node", "run_id", "object_id"},
    message_pb2.PushObjectRequest: {"node", "run_id", "object_id", "object_content", "session_id"},
    message_pb2.ConfirmMessageReceivedRequest: {"node", "run_id", "message_object_id"},
    message_pb2.Message: {"metadata", "content", "error"},
    message_pb2.Metadata: {
        *("run_id", "message_id", "src_node_id", "dst_node_id", "reply_to_message_id", "group_id"),
        *("created_at", "ttl", "message_type", "src_task_id", "dst_task_id"),
    },
    runtime_pb2.PushTaskOutputRequest: {"context", "sub_status", "details", "clientapp_runtime"},
    runtime_pb2.AcquireTaskRequest: {"supported_task_types", "agentapp_fab_hashes"},
}


@pytest.mark.parametrize(("message", "fields"), FIELDS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_no_request_has_a_field_that_nobody_has_looked_at(message, fields):
    assert set(message.DESCRIPTOR.fields_by_name) == fields


def test_a_supernode_asks_the_platform_for_these_things_and_no_more():
    requests = {name for name in names_used(fleet.http_request_response) if name.endswith("Request")}
    assert requests == {
        *("ActivateNodeRequest", "DeactivateNodeRequest", "RegisterNodeFleetRequest", "UnregisterNodeFleetRequest"),
        *("SendNodeHeartbeatRequest", "PullMessagesRequest", "PushMessagesRequest", "GetRunRequest", "GetFabRequest"),
    }


def test_supernodes_own_error_has_a_fixed_text():
    assert CLIENT_APP_CRASHED_ERROR.reason == "ClientApp stopped responding."


# The waits


def test_the_loop_uses_time_for_three_waits_only():
    uses = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(inspect.getsource(loop)))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "time"
    ]
    assert uses == ["time.sleep"] * 3
    assert sorted(next(zip(*calls(loop, "time.sleep"), strict=True))) == ["0.5", "0.5", "3"]
    assert loop.time is time


def test_parts_are_pulled_through_the_name_that_is_replaced():
    assert len(list(calls(loop._pull_and_store_message, "pull_objects"))) == 1
    parameters = inspect.signature(loop.pull_objects).parameters
    assert {"initial_backoff", "backoff_cap", "max_tries_per_object", "max_time"} <= set(parameters)


# The runner's side


def test_flower_makes_its_memory_by_the_name_that_is_replaced(monkeypatch):
    class Ours(InMemoryNodeState):
        pass

    monkeypatch.setattr(nodestate_factory, "InMemoryNodeState", Ours)
    assert type(NodeStateFactory(ObjectStoreFactory()).state()) is Ours


def test_a_task_is_acquired_through_the_module_that_is_replaced(monkeypatch):
    app = runtime_app.create_app()
    monkeypatch.setattr(runtime_handlers, "acquire_task", "ours")
    assert app.state.runtime_handlers.acquire_task == "ours"


def test_flowers_memory_has_the_parts_that_ours_works_on():
    state = InMemoryNodeState(ObjectStoreFactory().store())
    for name in ("msg_store", "lock_msg_store", "_store_error_replies", "_on_task_tokens_expired", "object_store"):
        assert hasattr(state, name)
    task_id = state.create_task(TaskType.CLIENT_APP, 5, NOTHING.hash_str)
    assert task_id is not None
    assert state.claim_task(task_id)
    assert [task.status.status for task in state.get_tasks(statuses=["starting", "running"])] == ["starting"]
    assert state.finish_task(task_id, "stopped", "")
    assert state.get_tasks(statuses=["pending", "starting", "running"]) == []


def test_a_silent_task_has_several_heartbeats_time():
    assert HEARTBEAT_DEFAULT_INTERVAL >= 2 * HEARTBEAT_SECONDS  # from the claim on
    assert HEARTBEAT_PATIENCE * HEARTBEAT_DEFAULT_INTERVAL >= 5 * HEARTBEAT_SECONDS  # between two


def test_a_runtime_client_has_one_http_client_that_can_be_exchanged():
    client = RuntimeHttpClient("http://127.0.0.1:1", interceptors=[RuntimeTokenHttpInterceptor("token")])
    assert isinstance(client._client, httpx.Client)
    assert client._retry_invoker is None
    client.close()


def test_a_push_takes_node_and_run_from_the_context_and_nothing_else():
    source = inspect.getsource(push_message)
    assert source.count("context.") == source.count("context.node_id") + source.count("context.run_id") == 2


def test_an_envelope_takes_content():
    envelope = make_message(metadata=Metadata(5, "", 1, 2, "", "1", 0.0, 60.0, "train"), content=RecordDict())
    envelope.content = RecordDict({"c": ConfigRecord({"a": 1})})
    assert set(envelope.content) == {"c"}


# The command


def test_the_command_is_a_function_beside_its_parser():
    assert callable(flower_supernode)
    given = _parse_args_run_supernode().parse_args([])
    assert (given.insecure, given.isolation, given.host) == (False, "subprocess", "127.0.0.1")
    assert (given.superexec_auth_secret_file, given.health_server_address) == (None, None)
    assert given.runtime_dependency_install is False


def test_the_command_reads_its_arguments_from_the_process():
    assert list(calls(inspect.getmodule(_parse_args_run_supernode), "_parse_args_run_supernode().parse_args")) == [[]]


def test_a_thread_that_ends_with_an_exception_is_told_to_the_hook(monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    thread = threading.Thread(target=lambda: 1 // 0)
    thread.start()
    thread.join()
    assert [type(told[0].exc_value)] == [ZeroDivisionError]
