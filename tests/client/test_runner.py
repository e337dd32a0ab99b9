import logging
import threading
from contextlib import contextmanager

import flwr.supernode.start_client_internal as loop
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_to_proto
from flwr.supercore.constant import TaskType
from flwr.supernode.nodestate import nodestate_factory
from flwr.supernode.servicer.runtime import runtime_handlers

from client import flower_hooks, runner
from client.runner import serve
from flower_edge import bounds
from flower_edge.records import to_record, wire_from_record
from pp_model.errors import ConfigError
from pp_model.protocol import Refusal, RefusalCode, Wire, reply_from_wire
from simulations.ports import free_port
from tests.support.flower_platform import LoopbackSuperNode, wait_until

SECRET = b"a secret of the shop's own"
CANARY = "Quetzalcoatl Vandersloot, 719384.65"


def content(number: int = 1) -> RecordDict:
    return RecordDict({"c": ConfigRecord({"number": number}), "a": ArrayRecord({"w": Array(np.arange(3.0))})})


class App:
    """A ClientApp that writes down what it is asked, and answers with `answer`."""

    def __init__(self, answer=None):
        self.seen: list[tuple[Message, Context]] = []
        self.answer = answer or (lambda message: Message(message.content, reply_to=message))

    def __call__(self, message: Message, context: Context) -> Message:
        self.seen.append((message, context))
        return self.answer(message)


@pytest.fixture
def supernode(monkeypatch):
    monkeypatch.setattr(runtime_handlers, "acquire_task", runtime_handlers.acquire_task)
    monkeypatch.setattr(nodestate_factory, "InMemoryNodeState", nodestate_factory.InMemoryNodeState)
    flower_hooks.serve_one_runner()
    monkeypatch.setattr(loop, "get_fused_config_from_fab", lambda _, run: dict(run.override_config))
    with LoopbackSuperNode(secret=SECRET) as supernode:
        yield supernode


@contextmanager
def serving(app, address: str, *, secret: bytes = SECRET):
    stop = threading.Event()
    arguments = {"address": address, "secret": secret, "stop": stop, "poll_seconds": 0.02}
    thread = threading.Thread(target=serve, args=(app,), kwargs=arguments)
    thread.start()
    try:
        yield
        assert thread.is_alive()
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()


def same(first: RecordDict, second: RecordDict) -> bool:
    return recorddict_to_proto(first) == recorddict_to_proto(second)


def code(reply: Message) -> RefusalCode:
    answer = reply_from_wire(wire_from_record(reply.content))
    assert isinstance(answer, Refusal)
    assert same(reply.content, to_record(Refusal(task="", code=answer.code).to_wire()))
    return answer.code


def finished(supernode) -> list[tuple[str, str]]:
    """How each task ended, and the text that was left with it."""
    tasks = lambda: supernode.state.get_tasks()  # noqa: E731
    wait_until(lambda: all(task.status.status == "finished" for task in tasks()), timeout=20)
    return [(task.status.sub_status, task.status.details) for task in tasks()]


def test_a_training_task_is_answered_by_the_installed_app(supernode):
    app = App()
    with serving(app, supernode.address):
        asked = supernode.give(content())
        (reply,) = supernode.replies(1)
        assert finished(supernode) == [("completed", "")]
    assert same(app.seen[0][0].content, content())
    assert same(reply.content, content())
    assert reply.metadata.reply_to_message_id == asked.metadata.message_id


def test_a_real_client_app_is_called(supernode):
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    with serving(app, supernode.address):
        supernode.give(content())
        assert same(supernode.replies(1)[0].content, RecordDict())


@pytest.mark.parametrize("kind", [MessageType.EVALUATE, MessageType.QUERY, "train.metrics", "system"])
def test_what_is_not_training_is_refused_and_never_reaches_the_app(supernode, kind):
    app = App()
    with serving(app, supernode.address):
        supernode.give(content(), kind=kind)
        assert code(supernode.replies(1)[0]) is RefusalCode.BAD_TASK
    assert app.seen == []


def test_parts_that_are_no_message_are_refused_and_never_reach_the_app(supernode):
    app = App()
    with serving(app, supernode.address):
        supernode.give(content(), root=ConfigRecord({"not": "a message"}))
        assert code(supernode.replies(1)[0]) is RefusalCode.BAD_TASK
    assert app.seen == []


def test_a_message_that_unpacks_to_too_much_is_refused_before_it_is_put_together(supernode, monkeypatch):
    monkeypatch.setattr(bounds, "MAX_ARRAY_BYTES", 100)
    app = App()
    with serving(app, supernode.address):
        supernode.give(to_record(Wire(arrays={"w": np.zeros(1_000, np.float32)}, scalars={})))
        assert code(supernode.replies(1)[0]) is RefusalCode.BAD_TASK
    assert app.seen == []


def raises(error: Exception):
    def answer(message: Message) -> Message:
        raise error

    return answer


FAILURES = {
    "an-exception": raises(ValueError(CANARY)),
    "an-exception-of-no-message": raises(MemoryError(CANARY)),
    "a-timeout": raises(TimeoutError(CANARY)),
    "flowers-error": lambda message: Message(Error(0, CANARY), reply_to=message),
    "nothing": lambda _: None,
    "text": lambda _: CANARY,
}


@pytest.mark.parametrize("answer", FAILURES.values(), ids=FAILURES)
def test_a_failing_app_is_a_code_and_its_text_stays(supernode, answer, caplog, capfd):
    with caplog.at_level(logging.DEBUG), serving(App(answer), supernode.address):
        supernode.give(content())
        (reply,) = supernode.replies(1)
        assert code(reply) is RefusalCode.UNAVAILABLE
        assert finished(supernode) == [("completed", "")]
    heard = repr([vars(record) for record in caplog.records]) + "".join(capfd.readouterr())
    assert CANARY not in heard


def test_a_failing_task_ends_nothing_the_next_is_answered(supernode):
    answers = iter([*FAILURES.values(), lambda message: Message(message.content, reply_to=message)])
    with serving(App(lambda message: next(answers)(message)), supernode.address):
        for _ in FAILURES:
            supernode.give(content())
            assert code(supernode.replies(1)[0]) is RefusalCode.UNAVAILABLE
        supernode.give(content(2))
        assert same(supernode.replies(1)[0].content, content(2))


def test_the_app_learns_nothing_that_the_platform_or_another_task_left_behind(supernode):
    def leaves_something(message: Message) -> Message:
        app.seen[-1][1].state["left"] = ConfigRecord({"by": "the task before"})
        return Message(RecordDict(), reply_to=message)

    app = App(leaves_something)
    with serving(app, supernode.address):
        for _ in range(2):
            supernode.give(content(), override_config={"run": CANARY})
            supernode.replies(1)
    for _, context in app.seen:
        assert (context.node_config, context.run_config) == ({}, {})
    assert len({id(context) for _, context in app.seen}) == 2
    assert supernode.state.get_run_series_context(0).state == RecordDict()


def test_only_metadata_of_flowers_own_making_is_sent(supernode):
    def chatty(message: Message) -> Message:
        reply = Message(RecordDict(), reply_to=message, ttl=1.0)
        reply.metadata.message_type = f"train.{CANARY.split()[0].lower()}"
        return reply

    with serving(App(chatty), supernode.address):
        asked = supernode.give(content())
        (reply,) = supernode.replies(1)
    assert (reply.metadata.message_type, reply.metadata.group_id) == ("train", asked.metadata.group_id)
    assert reply.metadata.ttl > 100.0


def test_no_task_but_a_client_apps_is_taken(supernode):
    app = App()
    with serving(app, supernode.address):
        others = [supernode.state.create_task(kind, 5) for kind in TaskType if kind != TaskType.CLIENT_APP]
        supernode.give(content())
        supernode.replies(1)
        statuses = {task.status.status for task in supernode.state.get_tasks(task_ids=others)}
    assert (statuses, len(app.seen)) == ({"pending"}, 1)


def test_without_the_secret_no_task_is_given_and_the_runner_keeps_asking(supernode, caplog):
    app = App()
    with serving(app, supernode.address, secret=b"another"):
        supernode.give(content())
        wait_until(lambda: "supernode does not answer" in caplog.text, timeout=20)
        assert [task.status.status for task in supernode.state.get_tasks()] == ["pending"]
    assert app.seen == []


def test_a_supernode_that_is_away_is_one_line_in_the_log(caplog):
    app, port = App(), free_port()
    with serving(app, f"127.0.0.1:{port}"):
        wait_until(lambda: "supernode does not answer" in caplog.text, timeout=20)
    assert caplog.text.count("supernode does not answer") == 1


def test_the_proxy_of_the_environment_is_not_asked(supernode, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with serving(App(), supernode.address):
        supernode.give(content())
        assert same(supernode.replies(1)[0].content, content())


@pytest.mark.parametrize(
    "address", ["192.0.2.1:9101", "0.0.0.0:9101", "platform.example:443", "", "127.0.0.1.example:1"]
)
def test_a_runner_speaks_to_its_own_machine_only(address):
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(ConfigError, match="this machine only"):
        serve(ClientApp(), address=address, secret=SECRET, stop=stopped)


def test_a_task_in_work_is_heard_of(supernode, monkeypatch):
    monkeypatch.setattr(runner, "HEARTBEAT_SECONDS", 0.05)

    def until() -> list[object]:
        return [record.active_until for record in supernode.state.task_token_store.values()]

    def slow(message: Message) -> Message:
        before = until()
        wait_until(lambda: until() != before, timeout=20)
        return Message(message.content, reply_to=message)

    with serving(App(slow), supernode.address):
        supernode.give(content())
        assert same(supernode.replies(1)[0].content, content())


def test_a_runner_that_loses_supernode_in_the_middle_is_given_the_task_again(supernode, monkeypatch):
    lost = iter([ConnectionError(CANARY)])
    push = runner.push_message

    def loses_the_first(*arguments):
        for error in lost:
            raise error
        push(*arguments)

    monkeypatch.setattr(runner, "push_message", loses_the_first)
    app = App()
    with serving(app, supernode.address):
        supernode.give(content())
        assert same(supernode.replies(1)[0].content, content())
    assert len(app.seen) == 2
