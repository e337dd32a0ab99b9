"""A round's messages through a real SuperLink, to nodes of Flower's fleet protocol that answer as a test says."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto, run_from_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from server.bundle import stub_bundle
from server.control import ControlClient
from server.exchange import exchange
from tests.support.superlink import node_key, running_superlink, wait_until

pytestmark = pytest.mark.e2e

HEARTBEAT = 1800.0  # no node goes missing unless it says so
POLL_SECONDS = 0.1


@pytest.fixture(scope="module")
def link(tmp_path_factory):
    with running_superlink(tmp_path_factory.mktemp("link")) as running:
        yield running


@pytest.fixture(scope="module")
def grid(link):
    """The Grid of a run, as `flwr-serverapp` makes it once `flower-superexec` has handed it the run's token."""
    with ControlClient(link.address, link.ca_file, link.operator_secret) as operator:
        run = operator.start_run(stub_bundle(), {})
    secret = SuperExecAuthHttpInterceptor(
        master_secret=link.superexec_secret_file.read_bytes(), protected_methods=["/flwr.proto.Runtime/AcquireTask"]
    )
    superexec = RuntimeHttpClient(f"https://{link.address}", interceptors=[secret], verify=tls(link))
    token = superexec.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])).token
    superexec.close()
    made = HttpGrid(link.address, root_certificates=link.ca_file.read_bytes(), token=token)
    begun = made._runtime_client.PullTaskInput(PullTaskInputRequest())
    made.set_run(run_from_proto(begun.run))
    assert begun.run.run_id == run
    alive = HeartbeatSender(make_task_heartbeat_fn_http(made._runtime_client))
    alive.start()
    before = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id
    TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = begun.task_id, run, begun.context.node_id
    yield made
    alive.stop()
    TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before
    made.close()


def tls(link) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(link.ca_file))


@dataclass(kw_only=True)
class FleetNode:
    """A merchant's node: it takes one message after the other and answers with `answer(message)`.

    Attributes:
        withheld: announces its replies and never sends what is in them.
    """

    client: FleetHttpClient
    node_id: int
    public_key: bytes
    answer: Callable[[Message], Message | None]
    withheld: bool = False
    took: list[str] = field(default_factory=list)

    def connect(self) -> None:
        self.client.ActivateNode(ActivateNodeRequest(public_key=self.public_key, heartbeat_interval=HEARTBEAT))

    def disconnect(self) -> None:
        self.client.DeactivateNode(DeactivateNodeRequest(node_id=self.node_id))

    def serve(self, over: threading.Event) -> None:
        while not over.wait(POLL_SECONDS):
            response = self.client.PullMessages(PullMessagesRequest(node=Node(node_id=self.node_id)))
            for proto in response.messages_list:
                self.took.append(proto.metadata.message_id)
                if reply := self.answer(message_from_proto(proto)):
                    self._reply(reply)

    def _reply(self, reply: Message) -> None:
        reply.metadata.__dict__["_message_id"] = reply.object_id
        objects = get_all_nested_objects(reply)
        request = PushMessagesRequest(
            node=Node(node_id=self.node_id),
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[get_object_tree(reply)],
        )
        response = self.client.PushMessages(request)
        for name in [] if self.withheld else response.objects_to_push:
            self.client.PushObject(
                PushObjectRequest(
                    node=Node(node_id=self.node_id),
                    run_id=reply.metadata.run_id,
                    object_id=name,
                    object_content=objects[name].deflate(),
                    session_id=response.session_id,
                )
            )


@contextmanager
def nodes(link, folder, count: int, answer: Callable[[Message], Message | None]) -> Iterator[list[FleetNode]]:
    """So many registered and connected nodes, served in threads; unregistered at the end."""
    over = threading.Event()
    with ControlClient(link.address, link.ca_file, link.operator_secret) as operator, ExitStack() as stack:
        made, threads = [], []
        for number in range(count):
            key_file, line = node_key(folder, f"node-{number}")
            key = load_ssh_private_key(key_file.read_bytes(), password=None)
            signer = NodeAuthHttpInterceptor(key, key.public_key())
            client = FleetHttpClient(f"https://{link.address}", interceptors=[signer], verify=tls(link))
            stack.callback(client.close)
            node_id = operator.register(f"merchant-{number}", line)
            stack.callback(operator.unregister, node_id)
            made.append(FleetNode(client=client, node_id=node_id, public_key=signer._public_key_bytes, answer=answer))
            made[-1].connect()
            threads.append(threading.Thread(target=made[-1].serve, args=(over,)))
        try:
            for thread in threads:
                thread.start()
            yield made
        finally:
            over.set()
            for thread in threads:
                thread.join()


def messages_to(merchants: list[FleetNode], arrays: int = 1) -> list[Message]:
    record = RecordDict({"arrays": array_record(arrays), "scalars": ConfigRecord({"task": time.time()})})
    return [Message(record, node.node_id, MessageType.TRAIN, ttl=60.0, group_id="1") for node in merchants]


def array_record(count: int) -> ArrayRecord:
    return ArrayRecord({f"layer-{i}": Array(np.full((64, 64), i, dtype=np.float32)) for i in range(count)})


def answered(message: Message, arrays: int = 1) -> Message:
    mine = ConfigRecord({"from": message.metadata.dst_node_id, "nonce": time.time()})
    return Message(RecordDict({"arrays": array_record(arrays), "scalars": mine}), reply_to=message)


def failed(message: Message) -> Message:
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION), reply_to=message)


def senders(asked: list[Message], replies: list[Message]) -> dict[int, int | None]:
    """Who each node asked says it is; None for an error."""
    node_of = {message.metadata.message_id: message.metadata.dst_node_id for message in asked}
    return {
        node_of[reply.metadata.reply_to_message_id]: reply.content["scalars"]["from"] if reply.has_content() else None
        for reply in replies
    }


def test_everybodys_reply_comes_back_whole(link, grid, tmp_path):
    with nodes(link, tmp_path, 3, lambda message: answered(message, arrays=5)) as merchants:
        asked = messages_to(merchants, arrays=5)
        replies = list(exchange(grid, asked, timeout=30.0))
    assert senders(asked, replies) == {node.node_id: node.node_id for node in merchants}
    for reply in replies:
        assert {name: array.numpy()[0, 0] for name, array in reply.content["arrays"].items()} == {
            f"layer-{i}": i for i in range(5)
        }


def test_a_merchant_that_withholds_its_reply_holds_up_nobody_and_the_round_ends_in_time(link, grid, tmp_path):
    with nodes(link, tmp_path, 4, answered) as merchants:
        for node in merchants[:2]:
            node.withheld = True
        asked, began = messages_to(merchants), time.monotonic()
        replies = list(exchange(grid, asked, timeout=3.0))
        seconds = time.monotonic() - began
    assert senders(asked, replies) == {node.node_id: node.node_id for node in merchants[2:]}
    assert 3.0 <= seconds < 4.0


def test_a_merchant_that_failed_is_asked_once_more_and_its_answer_counts(link, grid, tmp_path):
    calls = []

    def answer(message):
        calls.append(message)
        return failed(message) if len(calls) == 1 else answered(message)

    with nodes(link, tmp_path, 1, answer) as merchants:
        asked = messages_to(merchants)
        replies = list(exchange(grid, asked, timeout=30.0))
    assert senders(asked, replies) == {merchants[0].node_id: merchants[0].node_id}
    assert len(set(merchants[0].took)) == 2


def test_a_merchant_that_goes_and_comes_back_within_the_round_is_asked_again(link, grid, tmp_path):
    calls, gone = [], threading.Event()

    def answer(message):
        calls.append(message)
        if len(calls) == 1:
            merchants[0].disconnect()
            gone.set()
            return None  # its process is over
        return answered(message)

    with nodes(link, tmp_path, 1, answer) as merchants:

        def come_back() -> None:
            assert gone.wait(20)
            time.sleep(1.5)  # long enough to be missed
            merchants[0].connect()

        back = threading.Thread(target=come_back)
        back.start()
        asked = messages_to(merchants)
        replies = list(exchange(grid, asked, timeout=30.0))
        back.join()
    assert senders(asked, replies) == {merchants[0].node_id: merchants[0].node_id}


def test_a_stopped_superlink_does_not_move_the_deadline_and_what_came_in_counts(link, grid, tmp_path):
    first = threading.Event()

    def answer(message):
        if message.metadata.dst_node_id == merchants[0].node_id:
            return answered(message)
        first.wait(20)
        return answered(message)

    with nodes(link, tmp_path, 2, answer) as merchants:
        asked, began, result = messages_to(merchants), time.monotonic(), []
        round_ = threading.Thread(target=lambda: result.extend(exchange(grid, asked, timeout=4.0)))
        round_.start()
        wait_until(lambda: bool(merchants[0].took and merchants[1].took), timeout=3.0)
        time.sleep(max(0.0, began + 2.0 - time.monotonic()))  # by now the first reply is in
        link.process.send_signal(19)
        try:
            round_.join(timeout=10)
            seconds = time.monotonic() - began
        finally:
            link.process.send_signal(18)
            first.set()
    assert senders(asked, result) == {merchants[0].node_id: merchants[0].node_id}
    assert seconds < 5.0
