import http.server
import signal
import sys
import threading
import time
from contextlib import contextmanager

import flwr.supernode.fleet_http_connection as fleet
import flwr.supernode.start_client_internal as loop
import httpx
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.nodestate import nodestate_factory
from flwr.supernode.servicer.runtime import runtime_handlers

import client.supernode as supernode_module
from client import flower_hooks
from client.flower_hooks import MOST_TIMES_GIVEN, NOTHING
from client.supernode import BAD_ARGUMENTS, main, unsafe
from tests.support.flower_platform import RUN, LoopbackSuperNode

SAFE = ["--isolation", "process", "--superexec-auth-secret-file", "secret", "--host", "127.0.0.1", "--port", "9101"]
REPLACED = [
    *((loop, name) for name in ("http_request_response", "get_fused_config_from_fab", "time", "pull_objects")),
    (fleet, "FleetHttpClient"),
    (runtime_handlers, "acquire_task"),
    (nodestate_factory, "InMemoryNodeState"),
    (threading, "excepthook"),
]


@pytest.fixture
def stock(monkeypatch):
    """Flower as it came, whatever the test does to it."""
    for module, name in REPLACED:
        monkeypatch.setattr(module, name, getattr(module, name))


# The arguments


@pytest.mark.parametrize(
    "more", [[], ["--host", "::1"], ["--host", "localhost"], ["--health-server-address", "127.0.0.1:9000"]]
)
def test_safe_arguments_have_no_fault(more):
    assert unsafe([*SAFE, *more]) == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([*SAFE, "--insecure"], "--insecure"),
        ([*SAFE, "--isolation", "subprocess"], "--isolation"),
        (["--superexec-auth-secret-file", "secret"], "--isolation"),
        (["--isolation", "process"], "--superexec-auth-secret-file"),
        ([*SAFE, "--host", "0.0.0.0"], "--host"),
        ([*SAFE, "--host", "::"], "--host"),
        ([*SAFE, "--host", "shop.example"], "--host"),
        ([*SAFE, "--allow-runtime-dependency-installation"], "--allow-runtime-dependency-installation"),
        ([*SAFE, "--health-server-address", "0.0.0.0:9000"], "--health-server-address"),
        ([*SAFE, "--health-server-address", "[::]:9000"], "--health-server-address"),
    ],
)
def test_unsafe_arguments_are_refused_by_name(arguments, word):
    (sentence,) = unsafe(arguments)
    assert word in sentence


def test_with_unsafe_arguments_nothing_is_started(monkeypatch, capsys, stock):
    monkeypatch.setattr(sys, "argv", ["supernode", *SAFE, "--insecure"])
    monkeypatch.setattr(supernode_module, "flower_supernode", lambda: pytest.fail("started"))
    with pytest.raises(SystemExit) as stopped:
        main()
    assert (stopped.value.code, capsys.readouterr().err.count("\n")) == (BAD_ARGUMENTS, 1)


def test_a_loop_that_ends_by_itself_ends_the_process_with_a_failure(monkeypatch, stock):
    monkeypatch.setattr(sys, "argv", ["supernode", *SAFE])
    monkeypatch.setattr(supernode_module, "flower_supernode", lambda: None)
    monkeypatch.setattr(supernode_module, "tighten", lambda: None)
    monkeypatch.setattr(supernode_module, "flwr_exit", lambda code, _: sys.exit(f"failed with {code}"))
    with pytest.raises(SystemExit, match="failed with 305"):
        main()


# What is fetched, and what is told


class Connection:
    """Stands for Flower's connection to the platform; notes what is asked and sent."""

    def __init__(self):
        self.asked, self.sent = [], []

    @contextmanager
    def __call__(self, *arguments):
        self.arguments = arguments
        yield 7, "receive", self.send, self.get_run, self.get_fab, "pull", "push", "confirm"

    def send(self, message, tree, seconds):
        self.sent.append((message, tree, seconds))
        return {"part"}, "session"

    def get_run(self, number):
        self.asked.append(number)
        run = Run.create_empty(number)
        run.fab_id, run.fab_hash, run.series_id = "platform/app", "ab" * 32, 9
        run.override_config, run.primary_task_type = {"lr": 1}, TaskType.AGENT_APP
        return run

    def get_fab(self, *arguments):
        self.asked.append(arguments)
        return Fab("ab" * 32, b"hostile", {})


@pytest.fixture
def platform(monkeypatch, stock):
    platform = Connection()
    monkeypatch.setattr(flower_hooks, "http_request_response", platform)
    flower_hooks.fetch_no_bundle_and_tell_no_time()
    return platform


def test_the_bundle_is_never_asked_for(platform):
    with loop._init_connection("127.0.0.1:1", False) as (_, _, _, get_run, get_fab, *_):
        run = get_run(3)
        assert get_fab(run.fab_hash, 3) == NOTHING
    assert (run.run_id, run.series_id, run.fab_hash, platform.asked) == (3, 9, NOTHING.hash_str, [3])


def test_neither_configuration_nor_kind_of_task_comes_from_the_platform(platform):
    with loop._init_connection("127.0.0.1:1", False) as (_, _, _, get_run, *_):
        run = get_run(3)
    assert (run.override_config, run.fab_id, run.primary_task_type) == ({}, "", TaskType.SERVER_APP)


def test_the_seconds_of_a_task_are_not_told(platform):
    with loop._init_connection("127.0.0.1:1", False) as (_, _, send, *_):
        assert send("message", "tree", 12.345) == ({"part"}, "session")
    assert platform.sent == [("message", "tree", 0.0)]


def test_the_rest_of_the_connection_is_flowers(platform):
    with loop._init_connection("127.0.0.1:1", False, b"ca", None, 3, 4.0) as (node, receive, _, _, _, *others):
        assert (node, receive, others) == (7, "receive", ["pull", "push", "confirm"])
    assert platform.arguments == ("127.0.0.1:1", False, b"ca", None, 3, 4.0)


def test_a_bundle_is_not_opened(stock):
    flower_hooks.open_no_bundle()
    assert loop.get_fused_config_from_fab(b"not a zip", Run.create_empty(1)) == {}


class Redirecting(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.hits.append(self.path)
        self.send_response(307 if self.path != "/elsewhere" else 200)
        self.send_header("location", "/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def redirecting():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as server:
        server.hits = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def activate(client: type[FleetHttpClient], server) -> None:
    with client.from_server_address(f"127.0.0.1:{server.server_port}", True, None, []) as connection:
        connection.ActivateNode(ActivateNodeRequest())


def test_a_platform_cannot_send_the_supernode_elsewhere(stock, redirecting):
    flower_hooks.follow_no_redirect()
    with pytest.raises(httpx.HTTPStatusError):
        activate(fleet.FleetHttpClient, redirecting)
    assert redirecting.hits == ["/v1/fleet/activate-node"]


def test_stock_flower_would_go_elsewhere_so_the_check_can_fail(redirecting):
    activate(FleetHttpClient, redirecting)
    assert redirecting.hits == ["/v1/fleet/activate-node", "/elsewhere"]


# How often it looks


@pytest.mark.parametrize(("asked", "least", "most"), [(3, 0.3, 0.7), (0.5, 0.08, 0.12), (0.25, 0.25, 0.25)])
def test_the_loop_waits_shorter_and_never_twice_the_same(stock, monkeypatch, asked, least, most):
    slept = []
    monkeypatch.setattr(flower_hooks.time, "sleep", slept.append)
    flower_hooks.look_often()
    for _ in range(200):
        loop.time.sleep(asked)
    assert least <= min(slept) <= max(slept) <= most
    assert len(set(slept)) == (1 if least == most else 200)


def test_the_rest_of_the_process_sleeps_as_before(stock):
    before = time.sleep
    flower_hooks.look_often()
    assert time.sleep is before
    assert loop.time is not time


def test_a_thread_that_ends_unexpectedly_ends_the_supernode(stock, monkeypatch):
    killed = []
    monkeypatch.setattr(flower_hooks.os, "kill", lambda *arguments: killed.append(arguments))
    flower_hooks.end_when_a_thread_ends()
    thread = threading.Thread(target=lambda: 1 // 0)
    thread.start()
    thread.join()
    assert [number for _, number in killed] == [signal.SIGTERM]


# One runner


@pytest.fixture
def node(stock):
    flower_hooks.serve_one_runner()
    flower_hooks.open_no_bundle()
    return LoopbackSuperNode(secret=b"s")


def take(state):
    """The task and message that a runner is given when it asks; None where there is nothing to do."""
    request = runtime_handlers.AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    response = runtime_handlers.acquire_task(request, state)
    if not response.token:
        return None
    assert state.activate_task(response.task.task_id)
    (message,) = state.get_messages_legacy(run_ids=[RUN], is_reply=False, limit=1)
    return response.task, message


def hand_in(state, message: Message, *, parts: int | None = None) -> Message:
    """Pushes a reply, or only so many of its parts, as a runner does."""
    reply = Message(RecordDict({"c": ConfigRecord({"a": 1})}), reply_to=message)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    session = state.start_session(RUN)
    stored, missing = state.store_message_and_object_tree(reply, get_object_tree(reply), session)
    assert stored
    assert len(missing) == 3
    contents = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
    for name in missing[:parts]:
        assert state.store_object(RUN, session, name, contents[name])
    return reply


def ready(state) -> list[str]:
    return [reply.metadata.message_id for reply in state.get_messages_legacy(is_reply=True)]


def test_a_task_is_given_once_to_a_runner_that_finishes_it(node):
    asked = node.give(RecordDict())
    task, message = take(node.state)
    assert message.metadata.message_id == asked.metadata.message_id
    reply = hand_in(node.state, message)
    node.state.finish_task(task.task_id, "completed", "")
    assert take(node.state) is None
    assert ready(node.state) == [reply.metadata.message_id]


@pytest.mark.parametrize("parts", [0, 1, 2])
def test_a_reply_counts_when_its_last_part_has_come(node, parts):
    node.give(RecordDict())
    _, message = take(node.state)
    hand_in(node.state, message, parts=parts)
    assert ready(node.state) == []
    again = hand_in(node.state, take(node.state)[1])
    assert ready(node.state) == [again.metadata.message_id]


def test_a_message_keeps_its_parts_until_its_reply_is_sent(node):
    asked = node.give(RecordDict({"c": ConfigRecord({"asked": 1})})).metadata.message_id
    reply = hand_in(node.state, take(node.state)[1]).metadata.message_id
    assert node.state.object_store.get(asked)
    node.state.delete_messages(message_ids=[reply, asked])
    assert len(node.state.object_store) == 0


def test_a_runner_killed_after_handing_in_is_not_given_the_task_again(node):
    node.give(RecordDict())
    reply = hand_in(node.state, take(node.state)[1])
    assert take(node.state) is None
    assert ready(node.state) == [reply.metadata.message_id]


def test_a_task_that_ends_every_runner_is_answered_with_an_error_at_last(node):
    node.give(RecordDict())
    for _ in range(MOST_TIMES_GIVEN):
        assert take(node.state) is not None
    assert take(node.state) is None
    (reply,) = node.replies(1)
    assert reply.error.reason == "ClientApp stopped responding."


@pytest.mark.parametrize("parts", [None, 1])
def test_a_runner_that_is_gone_for_good_is_an_error_after_flowers_minute(node, parts):
    node.give(RecordDict())
    _, message = take(node.state)
    if parts:
        hand_in(node.state, message, parts=parts)
    for record in node.state.task_token_store.values():
        record.active_until = record.active_until.replace(year=2000)
    (reply,) = node.replies(1)
    assert reply.error.reason == "ClientApp stopped responding."


def test_the_next_message_counts_from_the_start(node):
    for _ in range(3):
        asked = node.give(RecordDict({"c": ConfigRecord({"n": time.time_ns()})})).metadata.message_id
        assert [take(node.state)[1].metadata.message_id for _ in range(MOST_TIMES_GIVEN)] == [asked] * MOST_TIMES_GIVEN
        hand_in(node.state, node.state.msg_store[asked].message)
        node.replies(1)
    assert node.state._times_given == {}
