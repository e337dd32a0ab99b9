"""The merchant's runner: takes training tasks from its own SuperNode and answers them with the app installed here.

It speaks to nothing but SuperNode's loopback address. What the platform ships is not looked at: bundle, run
configuration and the state of a run stay where they are, and a task reaches the app as a message and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SubStatus
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import push_message

from client.loopback import is_loopback
from flower_edge.bounds import check_unpacked_size
from flower_edge.records import to_record
from pp_model.errors import ConfigError
from pp_model.protocol import Refusal, RefusalCode

HEARTBEAT_SECONDS = 10.0  # SuperNode gives a silent runner up after sixty
REQUEST_SECONDS = 30.0
PARTS_SECONDS = 600.0  # SuperNode hands a task out before the last part of its message has come from the platform

log = logging.getLogger(__name__)


def run_app(app: ClientApp, arguments: Sequence[str]) -> None:
    """`serve` as a process: `--address` and `--secret-file` as arguments, until SIGTERM or SIGINT.

    A signal lets the task in hand end; whoever cannot wait kills, and the task is given again.
    """
    parser = argparse.ArgumentParser(prog="client.runner", description="Answers the tasks of a SuperNode.")
    parser.add_argument("--address", required=True, help="loopback address of the SuperNode, as 127.0.0.1:9101")
    parser.add_argument("--secret-file", required=True, type=Path, help="what SuperNode knows its runner by")
    given = parser.parse_args(arguments)
    serve(app, address=given.address, secret=given.secret_file.read_bytes(), stop=stop_at_signals())


def stop_at_signals() -> threading.Event:
    """Set when SIGTERM or SIGINT comes, from now on.

    A handler interrupts the main thread anywhere, also inside of an event's own lock, where setting it would wait for
    ever: the kernel sends several signals when a supervisor is killed. So the handler leaves a note for a thread.
    """
    stop, came = threading.Event(), queue.SimpleQueue[int]()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: came.put(received))

    def wait() -> None:
        came.get()
        stop.set()

    threading.Thread(target=wait, name="signals", daemon=True).start()
    return stop


def serve(app: ClientApp, *, address: str, secret: bytes, stop: threading.Event, poll_seconds: float = 0.2) -> None:
    """Answers the SuperNode's tasks with `app`, one after the other, until `stop` is set.

    Only training reaches the app; everything else is refused by a code. No text of a failure leaves: whatever goes
    wrong is a refusal, and a SuperNode that is away is asked again until it is back.

    Raises:
        ConfigError: the address is not a loopback one.
    """
    if not is_loopback(address):
        raise ConfigError(f"the runner speaks to this machine only, not to {address}; give 127.0.0.1:PORT")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each time that it asks
    asking = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={"/flwr.proto.Runtime/AcquireTask"})
    answers = True
    with _client(address, asking) as supernode:
        while not stop.is_set():
            try:
                token = _next_task(supernode)
                answers = True
            except Exception as error:
                if answers:
                    log.warning("supernode does not answer", extra={"error": type(error).__name__})
                token, answers = "", False
            if token:
                _work(app, address=address, token=token)
            else:
                stop.wait(poll_seconds)


def _next_task(supernode: RuntimeHttpClient) -> str:
    response = supernode.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
    return response.token


def _work(app: ClientApp, *, address: str, token: str) -> None:
    """One task. Where SuperNode goes away or the runner dies in the middle, SuperNode gives the task again."""
    try:
        with _client(address, RuntimeTokenHttpInterceptor(token)) as supernode, _heartbeats(supernode):
            supernode.PullTaskInput(PullTaskInputRequest())  # marks the task as running; its content is not read
            message, tree = _envelope(supernode)
            reply = Message(_answer(app, message, tree, supernode), reply_to=message)
            push_message(supernode, reply, _bare_context(message))
            supernode.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.COMPLETED))
    except Exception as error:
        log.warning("task dropped", extra={"error": type(error).__name__})


def _answer(app: ClientApp, message: Message, tree: ObjectTree, supernode: RuntimeHttpClient) -> RecordDict:
    """The content of the reply; never raises but where SuperNode is gone."""
    if message.metadata.message_type != MessageType.TRAIN:
        return _refusal(RefusalCode.BAD_TASK)
    try:
        message.content = _content(message, tree, supernode)
    except httpx.HTTPError:
        raise
    except Exception as error:
        log.warning("message not readable", extra={"error": type(error).__name__})
        return _refusal(RefusalCode.BAD_TASK)
    try:
        return app(message, _bare_context(message)).content
    except Exception as error:
        log.warning("app failed", extra={"error": type(error).__name__})
        return _refusal(RefusalCode.UNAVAILABLE)


def _refusal(code: RefusalCode) -> RecordDict:
    return to_record(Refusal(task="", code=code).to_wire())


def _envelope(supernode: RuntimeHttpClient) -> tuple[Message, ObjectTree]:
    """The message without its content. SuperNode puts it in place a moment after the task."""
    deadline = time.monotonic() + REQUEST_SECONDS
    while not (response := supernode.PullMessages(PullAppMessagesRequest())).messages_list:
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)
    return message_from_proto(response.messages_list[0]), response.message_object_trees[0]


def _content(message: Message, tree: ObjectTree, supernode: RuntimeHttpClient) -> RecordDict:
    """The parts are not confirmed, so that SuperNode keeps them for a runner after this one."""
    node = Node(node_id=message.metadata.dst_node_id)
    parts = pull_objects(
        [part.object_id for part in iterate_object_tree(tree)],
        make_pull_object_fn_protobuf(supernode.PullObject, node, message.metadata.run_id),
        max_time=PARTS_SECONDS,
        max_tries_per_object=None,
        initial_backoff=0.05,
        backoff_cap=0.5,
    )
    check_unpacked_size(parts)
    whole = inflate_object_from_contents(tree.object_id, parts)
    if not isinstance(whole, Message):
        raise TypeError("not a message")
    return whole.content


def _bare_context(message: Message) -> Context:
    """Who is asked and in which run; nothing that the platform configured, nothing kept from another task."""
    metadata = message.metadata
    return Context(
        run_id=metadata.run_id, node_id=metadata.dst_node_id, node_config={}, state=RecordDict(), run_config={}
    )


@contextlib.contextmanager
def _client(address: str, interceptor: ProtobufClientInterceptor) -> Iterator[RuntimeHttpClient]:
    """Flower's client without its retries, which end the process, and without the environment's proxies."""
    client = RuntimeHttpClient(f"http://{address}", interceptors=[interceptor])
    client._client.close()
    client._client = httpx.Client(timeout=REQUEST_SECONDS, trust_env=False)
    try:
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def _heartbeats(supernode: RuntimeHttpClient) -> Iterator[None]:
    """Tells SuperNode that the task is being worked on. Flower's own sender stops the process when it fails."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(Exception):
                supernode.SendTaskHeartbeat(SendTaskHeartbeatRequest())

    thread = threading.Thread(target=beat, name="heartbeats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
