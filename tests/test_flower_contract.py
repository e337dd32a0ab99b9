"""What we rely on in Flower, documented or not. An upgrade that moves one of these fails here."""

import inspect
import logging
import os
import pickle
from importlib.metadata import version

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SType
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy
from flwr.supercore import logger as flower_logger
from flwr.supercore import telemetry, update_check
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import http_grid
from flwr.superlink.grid.http_grid import HttpGrid

import flower_edge  # noqa: F401
from simulations.grid import InProcessGrid


def message(node: int = 7, *, ttl: float = 60.0) -> Message:
    with InProcessGrid(ClientApp(), node_configs={}):
        return Message(RecordDict({"c": ConfigRecord()}), node, MessageType.TRAIN, ttl=ttl, group_id="1")


def test_the_version_is_the_one_that_was_measured():
    assert version("flwr").split(".")[:2] == ["1", "41"]


def test_a_grid_has_these_methods_to_implement():
    assert Grid.__abstractmethods__ == {
        "set_run",
        "run",
        "create_message",
        "get_node_ids",
        "push_messages",
        "pull_messages",
        "send_and_receive",
    }


@pytest.mark.parametrize("method", ["create_message", "push_messages", "pull_messages", "send_and_receive"])
def test_our_grid_takes_what_flowers_takes(method):
    ours, theirs = (inspect.signature(getattr(grid, method)).parameters for grid in (InProcessGrid, Grid))
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]


def test_a_strategy_has_these_methods_to_implement():
    assert Strategy.__abstractmethods__ == {
        "configure_train",
        "aggregate_train",
        "configure_evaluate",
        "aggregate_evaluate",
        "summary",
    }


def test_a_message_takes_its_sender_from_the_task_identity(monkeypatch):
    for field in ("_task_id", "_run_id", "_node_id"):
        assert hasattr(TaskIdentity, field)
        monkeypatch.setattr(TaskIdentity, field, None)
    with pytest.raises(RuntimeError, match="not set"):
        Message(RecordDict(), 7, MessageType.TRAIN)
    TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = 3, 4, 5
    assert (TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id) == (3, 4, 5)
    metadata = Message(RecordDict(), 7, MessageType.TRAIN).metadata
    assert (metadata.run_id, metadata.src_node_id, metadata.src_task_id) == (4, 5, 3)


def test_a_reply_needs_no_task_identity_and_names_its_message(monkeypatch):
    asked = message()
    asked.metadata.__dict__["_message_id"] = "the-id"
    for field in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, field, None)
    for reply in (Message(RecordDict(), reply_to=asked), Message(Error(0), reply_to=asked)):
        assert (reply.metadata.reply_to_message_id, reply.metadata.src_node_id) == ("the-id", 7)


def test_flowers_own_grid_numbers_the_message_objects_that_it_is_given(monkeypatch):
    """`answers_by_node` reads the number off the messages after they were sent."""
    grid = HttpGrid.__new__(HttpGrid)
    grid._run = Run.create_empty(1)
    monkeypatch.setattr(grid, "_check_message", lambda _: None)
    monkeypatch.setattr(grid, "_try_push_messages", lambda _, messages: [m.metadata.message_id for m in messages])
    asked = [message(7), message(8)]
    assert {m.metadata.message_id for m in asked} == {""}
    ids = grid.push_messages(asked)
    assert ids == [m.metadata.message_id for m in asked]
    assert len(set(ids)) == 2
    assert "" not in ids


def test_flowers_own_grid_gives_the_replies_that_came_when_the_time_is_over(monkeypatch):
    grid = HttpGrid.__new__(HttpGrid)
    asked = message()
    asked.metadata.__dict__["_message_id"] = "came"
    replies = iter([[Message(RecordDict(), reply_to=asked)]])
    monkeypatch.setattr(grid, "push_messages", lambda _: ["came", "never-came"])
    monkeypatch.setattr(grid, "pull_messages", lambda _: next(replies, []))
    monkeypatch.setattr(http_grid.time, "sleep", lambda _: None)
    came = grid.send_and_receive([asked], timeout=0.01)
    assert [reply.metadata.reply_to_message_id for reply in came] == ["came"]


def test_a_message_that_failed_has_an_error_and_no_content():
    reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION), reply_to=message())
    assert (reply.has_error(), reply.has_content(), reply.error.reason) == (True, False, None)


def test_a_message_keeps_its_time_to_live_and_group():
    metadata = message(ttl=12.5).metadata
    assert (metadata.ttl, metadata.group_id, metadata.dst_node_id) == (12.5, "1", 7)


def test_flower_writes_an_array_in_numpys_own_format():
    array = Array(np.arange(3, dtype=np.float32))
    assert (array.dtype, array.shape, array.stype) == ("float32", (3,), SType.NUMPY)
    assert array.data.startswith(b"\x93NUMPY\x01\x00")


def test_flower_reads_an_array_without_pickle():
    hostile = Array("float32", (1,), SType.NUMPY, pickle.dumps(print))
    with pytest.raises(ValueError, match="pickle"):
        hostile.numpy()


def test_a_record_dict_holds_records_by_name():
    record = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(1))}), "scalars": ConfigRecord({"a": 1})})
    assert set(record) == {"arrays", "scalars"}
    assert isinstance(record["arrays"], ArrayRecord)
    assert isinstance(record["scalars"], ConfigRecord)
    assert dict(record["arrays"].items()).keys() == {"w"}


def test_a_context_says_node_and_configuration():
    context = Context(run_id=1, node_id=2, node_config={"a": 3}, state=RecordDict(), run_config={"b": 4})
    assert (context.run_id, context.node_id, context.node_config, context.run_config) == (1, 2, {"a": 3}, {"b": 4})


def test_apps_are_called_with_what_our_grid_gives_them():
    client, server, seen = ClientApp(), ServerApp(), []

    @client.train()
    def train(message, context):
        return Message(RecordDict(), reply_to=message)

    @server.main()
    def main(grid, context):
        seen.append((grid, context))

    context = Context(1, 2, {}, RecordDict(), {})
    assert client(message(), context).has_content()
    server("grid", context)
    assert seen == [("grid", context)]


def test_an_exception_of_a_client_app_reaches_its_caller():
    app = ClientApp()

    @app.train()
    def train(message, context):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        app(message(), Context(1, 2, {}, RecordDict(), {}))


def test_flowers_reporting_is_off_in_this_process_and_those_it_starts(monkeypatch):
    assert telemetry.FLWR_TELEMETRY_ENABLED == "0"
    assert (os.environ["FLWR_TELEMETRY_ENABLED"], os.environ["FLWR_DISABLE_UPDATE_CHECK"]) == ("0", "1")

    def sends(*_, **__):
        raise AssertionError("sent")

    monkeypatch.setattr(telemetry.urllib.request, "urlopen", sends)
    assert telemetry.create_event(telemetry.EventType.PING, None) == "disabled"
    monkeypatch.setattr(telemetry, "FLWR_TELEMETRY_ENABLED", "1")
    with pytest.raises(AssertionError, match="sent"):
        telemetry.create_event(telemetry.EventType.PING, None)


def test_flowers_update_check_is_off(monkeypatch):
    refreshed = []
    monkeypatch.setattr(update_check, "_read_flwr_update_check_cache", lambda: None)
    monkeypatch.setattr(update_check, "_start_flwr_update_check_refresh_thread", refreshed.append)
    update_check.warn_if_flwr_update_available("flower-superlink")
    assert refreshed == []
    monkeypatch.delenv("FLWR_DISABLE_UPDATE_CHECK")
    update_check.warn_if_flwr_update_available("flower-superlink")
    assert refreshed == ["flower-superlink"]


def test_flowers_log_goes_through_one_logger_by_name():
    assert flower_logger.LOGGER_NAME == "flwr"
    assert logging.getLogger("flwr") is flower_logger.FLOWER_LOGGER
