"""The gRPC door: the same answers as behind the HTTP door, the same token, health, reflection, deadlines and bounds."""

from __future__ import annotations

import asyncio
import json
import threading

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from client.serving import purchase_power_pb2 as pb
from client.serving.faults import Code
from client.serving.grpc_api import SERVICE, STATUS, GrpcDoor, plain
from tests.support.serving import (
    BEARER,
    SHOWN,
    Caller,
    behind,
    items,
    keeper_of,
    order_rows,
    posted,
    served_shop,
    shown,
)

ROWS = order_rows(120)
TOKEN = (("authorization", SHOWN["authorization"]),)
CANARY = "xq-canary-9137"
HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    keeper = keeper_of(served_shop(tmp_path_factory.mktemp("served")))
    keeper.load_first()
    return behind(keeper)


def told(whole, *calls, serving: bool = True):
    """What each of the calls (coroutines of a channel) gave: an answer, or the error that it ended with."""

    async def life():
        door = GrpcDoor(whole.desk, bearer=BEARER)
        port = await door.start(("127.0.0.1", 0), None)
        if serving:
            await door.tell(serving=True)
        found = []
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for call in calls:
                try:
                    found.append(await call(channel))
                except grpc.aio.AioRpcError as error:
                    found.append(error)
        await door.stop(1)
        return found

    return asyncio.run(life())


def asked(name: str, message, *, metadata=TOKEN, timeout: float = 30):
    """A call that sends the message, or bytes."""

    async def call(channel):
        path = name if name.startswith("/") else f"/{SERVICE}/{name}"
        method = channel.unary_unary(path)
        data = message if isinstance(message, bytes) else message.SerializeToString()
        return await method(data, metadata=metadata, timeout=timeout)

    return call


REQUESTS = {
    "/v1/score": ("ScoreCustomer", pb.ScoreCustomerRequest(customer_id="customer-1"), pb.Score),
    "/v1/score-orders": ("ScoreOrders", pb.ScoreOrdersRequest(orders=posted(ROWS, "customer-5")), pb.Score),
    "/v1/rerank": (
        "Rerank",
        pb.RerankRequest(customer_id="customer-2", items=items(("a", 0.0, 0, ""), ("b", 0.5, 900, "tea")), weight=0.0),
        pb.RerankAnswer,
    ),
    "/v1/portrait": ("Portrait", pb.PortraitRequest(customer_id="customer-1"), pb.PortraitAnswer),
}


@pytest.mark.parametrize("path", REQUESTS)
def test_both_doors_give_the_same_answer(whole, path):
    name, message, kind = REQUESTS[path]
    (data,) = told(whole, asked(name, message))
    over_http = Caller(app=whole.app()).post(path, json=plain(message)).json()
    over_grpc = MessageToDict(
        kind.FromString(data), preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    assert without_missing(whole_numbers(over_grpc)) == without_missing(over_http)


def whole_numbers(value):
    """ProtoJSON writes 64-bit integers as text."""
    if isinstance(value, dict):
        return {key: whole_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [whole_numbers(each) for each in value]
    return int(value) if isinstance(value, str) and value.lstrip("-").isdigit() else value


def without_missing(value):
    if isinstance(value, dict):
        return {key: without_missing(each) for key, each in value.items() if each is not None}
    return [without_missing(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "metadata",
    [(), (("authorization", "Bearer x"),), TOKEN + TOKEN, (("authorization", "t" * 43),)],
    ids=["none", "wrong", "two", "no bearer"],
)
def test_no_call_is_answered_without_the_token(whole, metadata):
    calls = [asked(name, message, metadata=metadata) for name, message, _ in REQUESTS.values()]
    others = [
        asked(HEALTH, b"", metadata=metadata),
        asked("/nothing/There", b"", metadata=metadata),
        reflected(metadata),
    ]
    for error in told(whole, *calls, *others):
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED


def reflected(metadata):
    async def call(channel):
        method = channel.stream_stream(
            REFLECTION,
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        stream = method(metadata=metadata, timeout=30)
        await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await stream.done_writing()
        return await stream.read()

    return call


def test_reflection_lists_the_service(whole):
    (answer,) = told(whole, reflected(TOKEN))
    assert SERVICE in {each.name for each in answer.list_services_response.service}


@pytest.mark.parametrize("serving", [True, False])
def test_health_is_serving_once_the_model_is_loaded_and_not_before(whole, serving):
    kinds = health_pb2.HealthCheckResponse
    services = [health_pb2.HealthCheckRequest(service=name) for name in ("", SERVICE)]
    for data in told(whole, *(asked(HEALTH, each) for each in services), serving=serving):
        assert kinds.FromString(data).status == (kinds.SERVING if serving else kinds.NOT_SERVING)


HOSTILE = {
    "bytes that are no message": ("ScoreCustomer", b"\xff\xff\xff\xff"),
    "text that is not UTF-8": ("ScoreCustomer", b"\x0a\x03\xff\xfe\xfd"),
    "no id": ("ScoreCustomer", b""),
    "a control character": ("ScoreCustomer", pb.ScoreCustomerRequest(customer_id=f"\x00{CANARY}")),
    "an event of no kind": (
        "ScoreOrders",
        pb.ScoreOrdersRequest(orders=[{"timestamp": CANARY, "amount_cents": -1, "event_type": CANARY}]),
    ),
    "no relevance": ("Rerank", pb.RerankRequest(items=[{"item_id": CANARY, "price_cents": 1}])),
    "not a number": ("Rerank", pb.RerankRequest(items=[{"item_id": "a", "relevance": float("nan"), "price_cents": 1}])),
    "no item": ("Rerank", pb.RerankRequest()),
    "a cutoff that is none": ("ScoreOrders", pb.ScoreOrdersRequest(cutoff=CANARY)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_messages_are_invalid_arguments_and_are_not_quoted(whole, name):
    (error,) = told(whole, asked(*HOSTILE[name]))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert dict(error.trailing_metadata())["pp-code"] == "invalid"
    assert CANARY not in error.details()


def test_a_field_that_is_wrong_is_named(whole):
    order = {"timestamp": "2026-01-01", "amount_cents": -1}
    (error,) = told(whole, asked("ScoreOrders", pb.ScoreOrdersRequest(orders=[order])))
    assert "orders[0].amount_cents" in error.details()


def test_an_unknown_customer_has_no_portrait_and_too_large_a_message_no_answer(whole):
    unknown, large = told(
        whole,
        asked("Portrait", pb.PortraitRequest(customer_id=CANARY)),
        asked("ScoreCustomer", b"\x0a" * ((1 << 20) + 1)),
    )
    assert (unknown.code(), dict(unknown.trailing_metadata())["pp-code"]) == (
        grpc.StatusCode.NOT_FOUND,
        "unknown_customer",
    )
    assert large.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(large.trailing_metadata())["pp-code"] == "too_large"


TURNED_AWAY = {
    "unauthorized": ("ScoreCustomer", CANARY.encode(), {"metadata": (("authorization", f"Bearer {CANARY}"),)}),
    "not_found": (f"/{CANARY}/{CANARY}", b"", {}),
    "invalid": ("ScoreCustomer", b"\xff" + CANARY.encode(), {}),
    "too_large": ("ScoreCustomer", b"\x0a" * ((1 << 20) + 1), {}),
}


@pytest.mark.parametrize("reason", TURNED_AWAY)
def test_what_is_turned_away_before_the_desk_is_counted_once_by_its_reason(whole, reason):
    fresh = behind(whole.keeper)
    name, message, given = TURNED_AWAY[reason]
    (error,) = told(fresh, asked(name, message, **given))
    assert isinstance(error, grpc.aio.AioRpcError)
    text, counts = shown(fresh)
    assert counts == {("pp_serving_turned_away_total", "grpc", reason): 1.0}
    assert CANARY not in text


def test_a_stranger_is_refused_before_its_message_has_come(whole):
    async def call(channel):
        stream = channel.stream_unary(f"/{SERVICE}/ScoreCustomer")(metadata=(), timeout=30)
        return await stream  # nothing was sent, and nothing is said to be over

    fresh = behind(whole.keeper)
    (error,) = told(fresh, call)
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert shown(fresh)[1] == {("pp_serving_turned_away_total", "grpc", "unauthorized"): 1.0}


class Slow:
    """A service that waits for the test."""

    def __init__(self) -> None:
        self.go, self.begun = threading.Event(), 0

    def score_customer(self, asked):
        self.begun += 1
        self.go.wait(30)


def test_a_deadline_is_kept_and_a_full_queue_says_when_to_come_again(whole):
    slow = Slow()
    full = behind(whole.keeper, workers=1, waiting=0, seconds=30, service=slow)
    request = pb.ScoreCustomerRequest(customer_id="a")
    try:
        late, turned_away = told(full, asked("ScoreCustomer", request, timeout=0.3), asked("ScoreCustomer", request))
    finally:
        slow.go.set()
    assert late.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert (turned_away.code(), slow.begun) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 1)
    assert dict(turned_away.trailing_metadata())["retry-after"] == "1"
    assert shown(full)[1][("pp_serving_answers_total", "grpc", "busy")] == 1.0


def test_every_code_has_a_status():
    assert set(STATUS) == set(Code)


def test_what_is_set_is_told_apart_from_what_is_not():
    message = pb.RerankRequest(items=[{"item_id": "a", "relevance": 0.0, "price_cents": 0}])
    assert plain(message) == {"items": [{"item_id": "a", "relevance": 0.0, "price_cents": 0}]}
    assert json.dumps(plain(pb.ScoreOrdersRequest())) == "{}"
