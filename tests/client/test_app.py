import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, MetricRecord, RecordDict

from client.app import make_client_app
from client.shop import Shop
from client.task import answer
from flower_edge.records import BLOB, anchor_from_record, arrays_to_record, to_record, wire_from_record, with_anchor
from pp_model.model import trainable_shapes
from pp_model.protocol import PROTOCOL_VERSION, RefusalCode
from pp_model.serialization import to_safetensors
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
    """A reply's scalars and the names of its arrays; beside them is at most an anchor."""
    assert not reply.has_error()
    assert set(reply.content) - {"anchor"} == {"arrays", "scalars"}
    wire = wire_from_record(reply.content)
    return dict(wire.scalars), sorted(wire.arrays)


def refusal(code: RefusalCode, task: str = "") -> tuple[dict[str, Any], list[str]]:
    return {"version": PROTOCOL_VERSION, "kind": "refusal", "task": task, "code": code.value}, []


def test_a_task_is_answered_by_a_release_of_two_records_and_the_ledgers_anchor(tmp_path):
    task, shop = tiny_task(), tiny_shop(tmp_path)
    (reply,) = asked(lambda _: shop, to_record(task.to_wire()))
    trainable = sorted(trainable_shapes(task.plan.model))
    assert said(reply) == ({"version": PROTOCOL_VERSION, "kind": "release", "task": task.fingerprint}, trainable)
    assert set(reply.content) == {"anchor", "arrays", "scalars"}
    assert (anchor_from_record(reply.content), shop.ledger.anchor.seq) == (shop.ledger.anchor, 2)


def test_the_merchant_is_found_by_its_own_node_configuration(tmp_path):
    seen = []
    asked(lambda context: seen.append(context.node_config) or tiny_shop(tmp_path), to_record(tiny_task().to_wire()))
    assert seen == [{"merchant": "bakery"}]


def test_a_message_carries_what_the_answer_says_and_nothing_more(tmp_path):
    (tmp_path / "twin").mkdir()
    task = tiny_task()
    (reply,) = asked(lambda _: tiny_shop(tmp_path), to_record(task.to_wire()))
    shop = tiny_shop(tmp_path / "twin")
    twin = to_record(answer(task.to_wire(), shop).to_wire())
    assert bytes_of(reply.content) == bytes_of(with_anchor(twin, shop.ledger.anchor))


# What the platform knows of the ledger


def test_a_ledger_that_the_platform_knows_goes_on(tmp_path):
    shop = tiny_shop(tmp_path)
    (first,) = asked(lambda _: shop, to_record(tiny_task().to_wire()))
    known = anchor_from_record(first.content)
    (second,) = asked(lambda _: shop, with_anchor(to_record(tiny_task(round=2).to_wire()), known))
    assert said(second)[0]["kind"] == "release"
    assert anchor_from_record(second.content) == shop.ledger.anchor != known


def test_a_ledger_that_contradicts_the_platforms_anchor_is_a_code_and_gives_no_anchor_of_its_own(tmp_path):
    shop, task = tiny_shop(tmp_path), tiny_task()
    known = replace(shop.ledger.anchor, seq=7)
    (reply,) = asked(lambda _: shop, with_anchor(to_record(task.to_wire()), known))
    assert said(reply) == refusal(RefusalCode.LEDGER, task.fingerprint)
    assert set(reply.content) == {"arrays", "scalars"}  # the platform must not forget what it knows for it
    assert shop.ledger.charges() == []


def test_a_refusal_carries_the_anchor_of_a_ledger_that_can_be_read_and_of_no_other(tmp_path):
    shop = tiny_shop(tmp_path, encoders=("linear",))
    (reply,) = asked(lambda _: shop, to_record(tiny_task().to_wire()))
    assert said(reply) == refusal(RefusalCode.POLICY, tiny_task().fingerprint)
    assert anchor_from_record(reply.content) == shop.ledger.anchor
    shop.ledger.close()
    (reply,) = asked(lambda _: shop, to_record(tiny_task().to_wire()))
    assert said(reply) == refusal(RefusalCode.LEDGER, tiny_task().fingerprint)
    assert "anchor" not in reply.content


def record(**changes: object) -> RecordDict:
    good = to_record(tiny_task().to_wire())
    return RecordDict({key: value for key, value in {**good, **changes}.items() if value is not None})


def blob(data: bytes, *, dtype: str = "uint8", stype: str = BLOB, name: str = BLOB) -> ArrayRecord:
    return ArrayRecord({name: Array(dtype, (len(data),), stype, data)})


def bias_of(values: np.ndarray) -> ArrayRecord:
    return arrays_to_record({**tiny_task().arrays, "readout.linear.bias": values})


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
    "a-pickle": record(arrays=blob(b"\x80\x04cos\nsystem\n.")),
    "cut-off": record(arrays=blob(to_safetensors(tiny_task().arrays, {})[:-1])),
    "no-bytes": record(arrays=blob(b"")),
    "another-format": record(arrays=blob(b"PK\x03\x04", stype="torch")),
    "flowers-own-format": record(arrays=ArrayRecord({"readout.linear.bias": Array(np.zeros(3, np.float32))})),
    "another-name": record(arrays=blob(to_safetensors(tiny_task().arrays, {}), name="pickle")),
    "nan": record(arrays=bias_of(np.full(3, np.nan, np.float32))),
    "another-shape": record(arrays=bias_of(np.zeros((3, 3), np.float32))),
    "another-version": record(scalars=scalars_with(version=99)),
    "bytes-for-a-plan": record(scalars=scalars_with(plan=b"\xff\xfe")),
    "lists-for-a-round": record(scalars=scalars_with(round=[1, 2])),
    "a-plan-that-is-no-json": record(scalars=scalars_with(plan="\x00 not json")),
    "a-plan-of-a-megabyte": record(scalars=scalars_with(plan="[" * 2**20)),
    "a-round-beyond-every-integer": record(scalars=scalars_with(round=2**63 - 1)),
    "an-anchor-that-is-arrays": record(anchor=ArrayRecord()),
    "an-anchor-without-a-hash": record(anchor=ConfigRecord({"ledger": "0" * 64, "seq": 1})),
    "an-anchor-before-the-first": record(anchor=ConfigRecord({"ledger": "0" * 64, "seq": -1, "hash": "0" * 64})),
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
