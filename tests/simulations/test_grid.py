import contextlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from simulations.grid import InProcessGrid, TogetherGrid

ROOT = Path(__file__).parents[2]
SECRET = "anna@example.com spent 12.50"


def counting_app() -> ClientApp:
    """Answers with its node, its node's name and how often that node was called; fails where the name is "fail"."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        if context.node_config["name"] == "fail":
            raise RuntimeError(SECRET)
        context.state[f"call-{len(context.state)}"] = ConfigRecord()
        fields = {"node": context.node_id, "name": context.node_config["name"], "calls": len(context.state)}
        return Message(RecordDict({"out": ConfigRecord(fields)}), reply_to=message)

    return app


def messages_to(*nodes: int) -> list[Message]:
    return [Message(RecordDict({"in": ConfigRecord({"to": node})}), node, MessageType.TRAIN) for node in nodes]


def played(*rounds: tuple[int, ...], names=("bakery", "florist", "fail"), **how) -> list[list[Message]]:
    configs = {11 + i: {"name": name} for i, name in enumerate(names)}
    with InProcessGrid(counting_app(), node_configs=configs, **how) as grid:
        return [grid.send_and_receive(messages_to(*nodes)) for nodes in rounds]


def fields(reply: Message) -> tuple:
    return tuple(reply.content["out"].values())


@pytest.mark.parametrize("workers", [1, 4])
def test_replies_come_in_the_order_of_the_messages(workers):
    (replies,) = played((12, 11, 12), workers=workers, names=("bakery", "florist"))
    assert [fields(reply)[:2] for reply in replies] == [(12, "florist"), (11, "bakery"), (12, "florist")]


def test_a_reply_names_the_message_that_it_replies_to():
    seen = []
    played((12, 11), on_round=lambda sent, replies: seen.append((sent, replies)))
    ((sent, replies),) = seen
    assert [r.metadata.reply_to_message_id for r in replies] == [m.metadata.message_id for m in sent]
    assert len({m.metadata.message_id for m in sent}) == 2
    assert [r.metadata.src_node_id for r in replies] == [12, 11]


def test_a_nodes_state_lives_from_round_to_round_and_is_its_own():
    first, second = played((11, 12), (11,))
    assert [fields(reply)[2] for reply in [*first, *second]] == [1, 1, 2]


@pytest.mark.parametrize("workers", [1, 4])
def test_what_a_client_app_raises_becomes_a_code_without_a_text_and_ends_nothing(workers, caplog):
    (replies,) = played((13, 11), workers=workers)
    assert replies[0].has_error()
    assert (replies[0].error.code, replies[0].error.reason) == (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, None)
    assert fields(replies[1]) == (11, "bakery", 1)
    own = [record for record in caplog.records if record.name == "simulations.grid"]
    assert [(record.message, record.error) for record in own] == [("client app failed", "RuntimeError")]
    assert SECRET not in "".join(str(vars(record)) for record in caplog.records)


def test_pushed_messages_are_answered_once():
    with InProcessGrid(counting_app(), node_configs={11: {"name": "bakery"}}) as grid:
        ids = grid.push_messages(messages_to(11))
        assert len(grid.pull_messages(ids)) == 1
        assert grid.pull_messages(ids) == []
        assert grid.pull_messages(["unknown"]) == []


def together(*rounds: tuple[int, ...], log: list[str]) -> list[list[Message]]:
    """Merchants 11 and 12 answer together; `log` is told what is made, taken and over, in order."""

    def answers(messages):
        for message in messages:
            log.append(f"made {message.metadata.dst_node_id}")
            yield RecordDict({"out": ConfigRecord({"to": message.metadata.dst_node_id})})

    def received(nodes):
        for reply in grid.send_and_receive(messages_to(*nodes)):
            log.append(f"taken {reply.metadata.src_node_id}")
            yield reply

    with TogetherGrid([11, 12], answers, on_round=lambda sent: log.append(f"over {len(sent)}")) as grid:
        assert grid.get_node_ids() == [11, 12]
        return [list(received(nodes)) for nodes in rounds]


def test_merchants_that_answer_together_are_answered_for_in_order_and_one_at_a_time():
    log: list[str] = []
    (replies,) = together((12, 11), log=log)
    assert [fields(reply) for reply in replies] == [(12,), (11,)]
    assert log == ["made 12", "taken 12", "made 11", "taken 11", "over 2"]


def test_no_two_messages_of_a_run_have_one_number():
    replies = [reply for round_ in together((12, 11), (12, 11), log=[]) for reply in round_]
    assert len({reply.metadata.reply_to_message_id for reply in replies}) == 4


def test_the_nodes_are_those_of_the_configuration():
    with InProcessGrid(counting_app(), node_configs={7: {}, 5: {}}) as grid:
        assert grid.get_node_ids() == [7, 5]
        assert [node.node_id for node in grid.get_nodes()] == [7, 5]


@pytest.mark.parametrize("crash", [False, True])
def test_flowers_process_wide_state_is_as_before_after_use(crash, monkeypatch):
    identity = {"_task_id": 7, "_run_id": 8, "_node_id": None}
    for field, value in identity.items():
        monkeypatch.setattr(TaskIdentity, field, value)
    flower = logging.getLogger("flwr")
    before = flower.level
    try:
        flower.setLevel(logging.DEBUG)
        with contextlib.suppress(KeyboardInterrupt), InProcessGrid(counting_app(), node_configs={}):
            assert TaskIdentity.node_id is not None
            assert not flower.isEnabledFor(logging.INFO)
            if crash:
                raise KeyboardInterrupt
        assert flower.level == logging.DEBUG
    finally:
        flower.setLevel(before)
    assert {field: getattr(TaskIdentity, field) for field in identity} == identity


ONE_ROUND = """
import socket, sys, tempfile
from pathlib import Path

def refuse(*args, **_):
    sys.stderr.write(f"LOOKED UP {args[0]!r}")
    sys.stderr.flush()
    raise SystemExit("a host was looked up")

socket.getaddrinfo = socket.create_connection = socket.gethostbyname = socket.socket.connect = refuse
sys.path.insert(0, ROOT)
import numpy as np
from server.app import ServerSettings, make_server_app
from simulations.grid import InProcessGrid, TogetherGrid
from tests.support.fake_merchants import TRAINABLE, filled, merchants_app
from tests.support.plans import tiny_plan
from pp_model.protocol import Release
from pp_model.serialization import fingerprint

folder = Path(tempfile.mkdtemp(dir=sys.argv[1]))
settings = ServerSettings(
    plan=tiny_plan(rounds=1, init_fingerprint=fingerprint(filled(0.0))), initial=filled(0.0), trainable=TRAINABLE,
    directory=folder, registry=folder / "registry.sqlite", public_check=False,
)
def answer(task, node):
    return Release(task=task.fingerprint, update=filled(1.0)).to_wire()
with InProcessGrid(merchants_app(answer), node_configs={11: {}}) as grid:
    make_server_app(lambda _: settings)(grid, grid.server_context())
assert (folder / "model.safetensors").exists()

# Would the refusal have been seen? And is the reporting that Flower's commands do at their start and end off?
from flwr.supercore import telemetry
from flwr.supercore.telemetry import EventType
assert telemetry.event(EventType.PING).result(timeout=60) == "disabled"
from flwr.supercore.update_check import warn_if_flwr_update_available
warn_if_flwr_update_available(process_name="flower-superlink")
"""


def test_a_round_in_a_fresh_process_looks_no_host_up_and_prints_nothing(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FLWR_")}
    done = subprocess.run(
        [sys.executable, "-c", ONE_ROUND.replace("ROOT", repr(str(ROOT))), str(tmp_path)],
        env={**environment, "FLWR_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
