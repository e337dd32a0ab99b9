import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.common.constant import SType

from client.app import make_client_app
from client.shop import Shop
from client.task import answer
from flower_edge.records import to_record
from pp_model.model import trainable_shapes
from pp_model.protocol import RefusalCode
from simulations.grid import InProcessGrid
from tests.support.ledgers import entries
from tests.support.shops import CANARIES, CANARY_TEXT, WatchedSource, bytes_of, raiser, tiny_shop, tiny_task

NODE = 11


def asked(shop_for: Callable[[Any], Shop], *contents: RecordDict, kind: str = MessageType.TRAIN) -> list[Message]:
    """The replies to the contents, each in a message of its own, one after the other."""
    app = make_client_app(shop_for)
    with InProcessGrid(app, node_configs={NODE: {"merchant": "bakery"}}) as grid:
        return [reply for content in contents for reply in grid.send_and_receive([Message(content, NODE, kind)])]


def said(reply: Message) -> tuple[dict[str, Any], list[str]]:
    """A reply's scalars and the names of its arrays; there are no other records."""
    assert not reply.has_error()
    assert set(reply.content) == {"arrays", "scalars"}
    scalars, arrays = reply.content["scalars"], reply.content["arrays"]
    assert isinstance(scalars, ConfigRecord)
    assert isinstance(arrays, ArrayRecord)
    return dict(scalars), sorted(arrays)


def refusal(code: RefusalCode, task: str = "") -> tuple[dict[str, Any], list[str]]:
    return {"version": 1, "kind": "refusal", "task": task, "code": code.value}, []


def test_a_task_is_answered_by_a_release_of_two_records(tmp_path):
    task = tiny_task()
    (reply,) = asked(lambda _: tiny_shop(tmp_path), to_record(task.to_wire()))
    trainable = sorted(trainable_shapes(task.plan.model))
    assert said(reply) == ({"version": 1, "kind": "release", "task": task.fingerprint}, trainable)


def test_the_merchant_is_found_by_its_own_node_configuration(tmp_path):
    seen = []
    asked(lambda context: seen.append(context.node_config) or tiny_shop(tmp_path), to_record(tiny_task().to_wire()))
    assert seen == [{"merchant": "bakery"}]


def test_a_message_carries_what_the_answer_says_and_nothing_more(tmp_path):
    (tmp_path / "twin").mkdir()
    task = tiny_task()
    (reply,) = asked(lambda _: tiny_shop(tmp_path), to_record(task.to_wire()))
    twin = to_record(answer(task.to_wire(), tiny_shop(tmp_path / "twin")).to_wire())
    assert bytes_of(reply.content) == bytes_of(twin)


def record(**changes: object) -> RecordDict:
    good = to_record(tiny_task().to_wire())
    return RecordDict({key: value for key, value in {**good, **changes}.items() if value is not None})


def arrays_with(array: Array) -> ArrayRecord:
    return ArrayRecord({**record()["arrays"], "readout.linear.bias": array})


def scalars_with(**changes: Any) -> ConfigRecord:
    return ConfigRecord({**record()["scalars"], **changes})


GARBAGE = {
    "nothing": RecordDict(),
    "no-arrays": record(arrays=None),
    "no-scalars": record(scalars=None),
    "a-record-too-many": record(metrics=MetricRecord({"loss": 0.1})),
    "arrays-that-are-metrics": record(arrays=MetricRecord({"loss": 0.1})),
    "scalars-that-are-arrays": record(scalars=record()["arrays"]),
    "empty-records": RecordDict({"arrays": ArrayRecord(), "scalars": ConfigRecord()}),
    "a-pickle": record(arrays=arrays_with(Array("float32", (3,), SType.NUMPY, b"\x80\x04cos\nsystem\n."))),
    "cut-off": record(arrays=arrays_with(Array("float32", (3,), SType.NUMPY, b"\x93NUMPY\x01\x00"))),
    "no-bytes": record(arrays=arrays_with(Array("float32", (3,), SType.NUMPY, b""))),
    "another-format": record(arrays=arrays_with(Array("float32", (3,), "torch", b"PK\x03\x04"))),
    "whole-numbers": record(arrays=arrays_with(Array(np.zeros(3, np.int64)))),
    "nan": record(arrays=arrays_with(Array(np.full(3, np.nan, np.float32)))),
    "another-shape": record(arrays=arrays_with(Array(np.zeros((3, 3), np.float32)))),
    "another-version": record(scalars=scalars_with(version=99)),
    "bytes-for-a-plan": record(scalars=scalars_with(plan=b"\xff\xfe")),
    "lists-for-a-round": record(scalars=scalars_with(round=[1, 2])),
    "a-plan-that-is-no-json": record(scalars=scalars_with(plan="\x00 not json")),
    "a-plan-of-a-megabyte": record(scalars=scalars_with(plan="[" * 2**20)),
    "a-round-beyond-every-integer": record(scalars=scalars_with(round=2**63 - 1)),
    "a-word-too-many": record(scalars=scalars_with(seed=42)),
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_any_garbage_is_refused_by_a_code_and_nothing_is_charged_or_read(tmp_path, content):
    source = WatchedSource()
    shop = tiny_shop(tmp_path, source=source)
    before = entries(tmp_path / "ledger.sqlite")
    (reply,) = asked(lambda _: shop, content)
    scalars, arrays = said(reply)
    assert ({**scalars, "task": ""}, arrays) == refusal(RefusalCode.BAD_TASK)
    assert (source.windows, entries(tmp_path / "ledger.sqlite")) == ([], before)


def test_a_message_without_content_is_refused_by_a_code(tmp_path):
    app = make_client_app(lambda _: tiny_shop(tmp_path))
    with InProcessGrid(app, node_configs={NODE: {}}):
        failed = Message(Error(0, CANARY_TEXT), reply_to=Message(RecordDict(), NODE, MessageType.TRAIN))
        context = Context(run_id=1, node_id=NODE, node_config={}, state=RecordDict(), run_config={})
        assert said(app(failed, context)) == refusal(RefusalCode.UNAVAILABLE)


@pytest.mark.parametrize("error", [KeyError(CANARY_TEXT), RecursionError(CANARY_TEXT), MemoryError()])
def test_a_merchant_that_cannot_be_opened_is_a_code_and_its_text_stays(error, caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        (reply,) = asked(raiser(error), to_record(tiny_task().to_wire()))
    assert said(reply) == refusal(RefusalCode.UNAVAILABLE)
    heard = str(reply.content) + repr([vars(r) for r in caplog.records]) + "".join(capfd.readouterr())
    assert [canary for canary in CANARIES if canary in heard] == []


@pytest.mark.parametrize("kind", [MessageType.EVALUATE, MessageType.QUERY, "train.metrics"])
def test_nothing_but_training_is_ever_answered(tmp_path, kind):
    source = WatchedSource()
    shop = tiny_shop(tmp_path, source=source)
    before = entries(tmp_path / "ledger.sqlite")
    (reply,) = asked(lambda _: shop, to_record(tiny_task().to_wire()), kind=kind)
    assert reply.has_error()
    assert (source.windows, entries(tmp_path / "ledger.sqlite")) == ([], before)


def test_garbage_ends_nothing_the_next_task_is_answered(tmp_path):
    shop = tiny_shop(tmp_path)
    *_, reply = asked(lambda _: shop, *GARBAGE.values(), to_record(tiny_task().to_wire()))
    assert said(reply)[0]["kind"] == "release"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_process_that_is_being_stopped_sends_nothing(stop):
    with pytest.raises(stop):
        asked(raiser(stop()), to_record(tiny_task().to_wire()))
