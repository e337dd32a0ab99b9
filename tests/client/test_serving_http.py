"""The HTTP door: who comes in, what is answered to hostile input, and that no error quotes what was sent."""

from __future__ import annotations

import asyncio
import json
import logging
import threading

import pytest

from client.serving import http_guard
from client.serving.faults import Code
from client.serving.http_guard import MOST_BODY_BYTES, Guard
from daemons.logs import JsonFormatter
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

CANARY = "xq-canary-9137"
ROWS = order_rows(120)
PATHS = ("/v1/score", "/v1/score-orders", "/v1/rerank", "/v1/portrait")
ORDER = {"timestamp": "2026-01-02T03:04:05", "amount_cents": 100}
GOOD = {
    "/v1/score": {"customer_id": "customer-1"},
    "/v1/score-orders": {"orders": posted(ROWS, "customer-1")},
    "/v1/rerank": {"customer_id": "customer-1", "items": items(("a", 0.5, 100, "tea"), ("b", 0.6, 900, ""))},
    "/v1/portrait": {"customer_id": "customer-1"},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    keeper = keeper_of(served_shop(tmp_path_factory.mktemp("served")))
    keeper.load_first()
    return behind(keeper)


@pytest.fixture(scope="module")
def client(whole):
    return Caller(app=whole.app())


def code_of(response) -> str:
    return response.json()["error"]["code"]


def sent(client, path: str, body: bytes, **headers: str):
    return client.post(path, content=body, headers={"content-type": "application/json", **headers})


@pytest.mark.parametrize("path", PATHS)
def test_what_is_right_is_answered(client, path):
    response = client.post(path, json=GOOD[path])
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")


def test_ids_are_answered_as_the_service_does(client, whole):
    from client.serving.schemas import ScoreCustomer

    told = client.post("/v1/score", json={"customer_id": " customer-1 "}).json()
    assert told == json.loads(
        whole.desk.service.score_customer(ScoreCustomer(customer_id="customer-1")).model_dump_json()
    )


def test_the_document_says_what_is_refused_and_every_path_has_its_errors(client):
    document = client.get("/openapi.json").json()
    for words in ("credit", "fraud", "price", "Refused uses"):
        assert words in document["info"]["description"]
    for path in PATHS:
        assert {"200", "400", "401", "403", "408", "413", "415", "422", "429", "500", "503", "504"} <= set(
            document["paths"][path]["post"]["responses"]
        )
    assert client.get("/docs").status_code == 404  # it would ask a CDN


def every_route(client) -> list[tuple[str, str]]:
    document = client.get("/openapi.json").json()
    paths = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    return [*paths, ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/nothing")]


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"authorization": "Bearer " + "t" * 42},
        {"authorization": "Bearer " + "t" * 44},
        {"authorization": "Basic " + "t" * 43},
        {"authorization": "bearer"},
        {"authorization": ""},
    ],
    ids=["none", "shorter", "longer", "basic", "word", "empty"],
)
def test_no_route_answers_without_the_token(client, whole, shown):
    stranger = Caller(app=whole.app(), headers=shown)
    routes = every_route(client)
    assert len(routes) >= 8
    for method, path in routes:
        response = stranger.request(method, path, json={} if method == "POST" else None)
        assert (response.status_code, code_of(response)) == (401, "unauthorized"), path
        assert response.headers["www-authenticate"] == "Bearer"


def test_two_tokens_are_none(whole):
    stranger = Caller(app=whole.app(), headers={})
    response = stranger.get("/health", headers=[("authorization", SHOWN["authorization"])] * 2)
    assert response.status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "10.0.0.1", ""])
def test_on_loopback_a_foreign_host_name_is_refused(client, host):
    response = client.get("/health", headers={"host": host})
    assert (response.status_code, code_of(response)) == (403, "forbidden")


@pytest.mark.parametrize("host", ["127.0.0.1:8480", "localhost", "[::1]:8480", "LOCALHOST:1"])
def test_on_loopback_its_own_names_are_answered(client, host):
    assert client.get("/health", headers={"host": host}).status_code == 200


def test_on_another_address_any_host_name_is_answered_but_metrics_stay_at_home(whole):
    def from_there(peer: str) -> Caller:
        return Caller(app=whole.app(loopback=False), base_url="https://shop.example", peer=peer)

    assert from_there("10.1.2.3").get("/health").status_code == 200
    assert from_there("10.1.2.3").get("/metrics").status_code == 403
    assert from_there("127.0.0.1").get("/metrics").status_code == 200
    proxied = from_there("127.0.0.1").get("/metrics", headers={"x-forwarded-for": "10.1.2.3"})
    assert proxied.status_code == 403


HOSTILE = {
    "not json": b"{",
    "empty": b"",
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000,
    "deep and closed": b'{"orders":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "a list": b"[]",
    "null": b"null",
    "a number": b"1e999",
    "not utf-8": b'{"customer_id": "\xff\xfe\xfd"}',
    "utf-16 cut short": b"\xff\xfe{",
    "half a character": b'{"customer_id": "\\ud800"}',
    "a NUL": b'{"customer_id": "a\\u0000b"}',
    "control characters": b'{"customer_id": "a\\u001b[2Jb"}',
    "raw control characters": b'{"customer_id": "a\x01b"}',
    "too long an id": b'{"customer_id": "' + b"x" * 201 + b'"}',
    "no id": b'{"customer_id": "  "}',
    "an unknown field": b'{"customer_id": "a", "more": 1}',
    "a number as an id": b'{"customer_id": 17}',
    "an object as an id": b'{"customer_id": {"$gt": ""}}',
    "a huge integer": b'{"customer_id": ' + b"9" * 100_000 + b"}",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bodies_get_a_typed_4xx(client, body):
    response = sent(client, "/v1/score", body)
    assert (response.status_code, code_of(response)) in [(400, "not_json"), (422, "invalid")]


def order(**changes) -> dict:
    return {"orders": [{**ORDER, **changes}]}


HOSTILE_ORDERS = {
    "not a number": b'{"orders": [{"timestamp": "2026-01-01", "amount_cents": NaN}]}',
    "infinite": b'{"orders": [{"timestamp": "2026-01-01", "amount_cents": Infinity}]}',
    "negative": order(amount_cents=-1),
    "beyond every order": order(amount_cents=10**12 + 1),
    "a huge amount": order(amount_cents=10**400),
    "a fraction": order(amount_cents=1.5),
    "a truth": order(amount_cents=True),
    "text": order(amount_cents="100"),
    "no time": {"orders": [{"amount_cents": 1}]},
    "a number as time": order(timestamp=1_700_000_000),
    "a time before our era": order(timestamp="1899-12-31T23:59:59"),
    "a time after it": order(timestamp="2200-01-01T00:00:00"),
    "the end of the calendar": order(timestamp="9999-12-31T23:59:59-12:00"),
    "its start": order(timestamp="0001-01-01T00:00:00+14:00"),
    "no such day": order(timestamp="2026-02-30"),
    "words as time": order(timestamp="yesterday"),
    "an event of no kind": order(event_type="refund"),
    "a huge quantity": order(quantity=2**31),
    "too many": {"orders": [ORDER] * 1_001},
    "not a list": {"orders": {"0": ORDER}},
    "a cutoff that is none": {"orders": [], "cutoff": "2026-13-01"},
    "a cutoff long ago": {"orders": [], "cutoff": "1066-10-14"},
}


@pytest.mark.parametrize("body", HOSTILE_ORDERS.values(), ids=HOSTILE_ORDERS.keys())
def test_hostile_orders_get_a_typed_4xx(client, body):
    response = sent(client, "/v1/score-orders", body if isinstance(body, bytes) else json.dumps(body).encode())
    assert (response.status_code, code_of(response)) == (422, "invalid")
    assert response.json()["error"]["fields"]


def candidate(**changes) -> dict:
    return {"items": [{"item_id": "a", "relevance": 0.5, "price_cents": 1, **changes}]}


HOSTILE_ITEMS = {
    "a relevance beyond 1": candidate(relevance=1.0001),
    "a negative one": candidate(relevance=-1e-9),
    "a relevance that is no number": b'{"items": [{"item_id": "a", "relevance": NaN, "price_cents": 1}]}',
    "a negative price": candidate(price_cents=-1),
    "no item": {"items": []},
    "too many": {"items": candidate()["items"] * 501},
    "a weight beyond 1": {**candidate(), "weight": 2},
    "two customers": {**candidate(), "customer_id": "a", "orders": []},
    "an item without an id": candidate(item_id=""),
}


@pytest.mark.parametrize("body", HOSTILE_ITEMS.values(), ids=HOSTILE_ITEMS.keys())
def test_hostile_candidates_get_a_typed_4xx(client, body):
    response = sent(client, "/v1/rerank", body if isinstance(body, bytes) else json.dumps(body).encode())
    assert (response.status_code, code_of(response)) == (422, "invalid")


@pytest.mark.parametrize(
    "body",
    [
        {"customer_id": f"\x00{CANARY}"},
        {"customer_id": [CANARY]},
        {CANARY: 1},
        {"orders": [{**ORDER, CANARY: 1}]},
        {"orders": [{**ORDER, "event_type": CANARY}]},
        {"orders": [{**ORDER, "timestamp": CANARY}]},
        {"orders": [{**ORDER, "category": CANARY * 20}]},
        {"orders": CANARY},
        {"items": [{"item_id": CANARY, "relevance": CANARY, "price_cents": CANARY}], "weight": CANARY},
        CANARY,
    ],
    ids=lambda body: json.dumps(body)[:40],
)
@pytest.mark.parametrize("path", PATHS)
def test_no_error_quotes_what_was_sent(client, path, body):
    response = client.post(path, json=body)
    assert response.status_code in {400, 422}
    assert CANARY not in response.text


def test_a_field_that_is_wrong_is_named_with_what_is_allowed(client):
    response = client.post("/v1/score-orders", json={"orders": [ORDER, {**ORDER, "amount_cents": -1, CANARY: 1}]})
    fields = {each["field"]: each["problem"] for each in response.json()["error"]["fields"]}
    assert "greater than or equal to 0" in fields["orders[1].amount_cents"]
    assert set(fields) == {"orders[1].amount_cents", "orders[1].?"}


@pytest.mark.parametrize("path", PATHS)
def test_another_content_type_is_415(client, path):
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", ""):
        response = client.post(path, content=b"a=b", headers={"content-type": kind})
        assert (response.status_code, code_of(response)) == (415, "wrong_type")


def test_too_large_a_body_is_413_whether_it_says_so_or_not(client):
    async def chunks():
        for _ in range(3):
            yield b" " * (MOST_BODY_BYTES // 2)

    whole = sent(client, "/v1/score", b" " * (MOST_BODY_BYTES + 1))
    told = sent(client, "/v1/score", b"{}", **{"content-length": "9" * 30})
    for response in (whole, told, sent(client, "/v1/score", chunks())):
        assert (response.status_code, code_of(response)) == (413, "too_large")


def test_paths_and_methods_that_are_not_there_are_typed_too(client):
    assert code_of(client.get(f"/{CANARY}")) == "not_found"
    assert CANARY not in client.get(f"/{CANARY}").text
    response = client.get("/v1/score")
    assert (response.status_code, code_of(response), response.headers["allow"]) == (405, "wrong_method", "POST")


def test_nothing_known_is_404_for_a_portrait_alone(client):
    assert code_of(client.post("/v1/portrait", json={"customer_id": CANARY})) == "unknown_customer"
    assert client.post("/v1/score", json={"customer_id": CANARY}).status_code == 200


class Slow:
    """A service that waits for the test."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def score_customer(self, asked):
        self.go.wait(30)
        raise RuntimeError(CANARY)


def test_beyond_the_waiting_places_it_is_429_and_too_long_is_504(whole):
    slow = Slow()
    full = behind(whole.keeper, workers=1, waiting=0, seconds=0.2, service=slow)
    try:
        client = Caller(app=full.app())
        late = client.post("/v1/score", json={"customer_id": "a"})
        turned_away = client.post("/v1/score", json={"customer_id": "a"})
        assert (late.status_code, code_of(late)) == (504, "timeout")
        assert (turned_away.status_code, code_of(turned_away)) == (429, "busy")  # the first still has its place
        assert shown(full)[1][("pp_serving_answers_total", "http", "busy")] == 1.0
        assert turned_away.headers["retry-after"] == "1"
    finally:
        slow.go.set()


def test_a_fault_of_ours_is_a_500_that_tells_nothing_of_it(whole, caplog):
    broken = Slow()
    broken.go.set()
    with caplog.at_level(logging.ERROR):
        response = Caller(app=behind(whole.keeper, service=broken).app()).post("/v1/score", json={"customer_id": "a"})
    assert (response.status_code, code_of(response)) == (500, "internal")
    assert CANARY not in response.text
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert any("RuntimeError" in line and "score_customer" in line for line in lines)
    assert not any(CANARY in line for line in lines)


def test_before_a_model_is_loaded_it_is_503_and_says_when_to_come_again(tmp_path):
    empty = behind(keeper_of(served_shop(tmp_path, customers=10)))
    client = Caller(app=empty.app())
    response, health = client.post("/v1/score", json={"customer_id": "a"}), client.get("/health")
    assert (response.status_code, code_of(response), response.headers["retry-after"]) == (503, "not_ready", "1")
    assert (health.status_code, health.json()["ok"]) == (503, False)


def test_health_says_which_model_serves(client, whole):
    shop = whole.keeper.current
    told = client.get("/health").json()
    assert (told["ok"], told["model_id"], told["model"]) == (True, 1, shop.data.model)
    assert (told["cutoff"], told["newest_order"]) == (str(shop.data.cutoff), str(shop.newest_order))
    assert told["refused"] == []


def test_a_body_that_drips_is_408(monkeypatch):
    monkeypatch.setattr(http_guard, "BODY_SECONDS", 0.05)
    told, counted = asked_by_hand(drips=True)
    assert (told[0]["status"], counted) == (408, [Code.TOO_SLOW])


def test_what_an_inner_application_raises_is_a_typed_500():
    async def broken(scope, receive, send):
        raise RuntimeError(CANARY)

    told, counted = asked_by_hand(inner=broken)
    assert (told[0]["status"], counted) == (500, [Code.INTERNAL])
    assert CANARY.encode() not in told[1]["body"]


def asked_by_hand(*, inner=None, drips: bool = False) -> tuple[list[dict], list[Code]]:
    """What the guard sends for one POST, and what it has counted."""
    told: list[dict] = []
    counted: list[Code] = []

    async def send(message):
        told.append(message)

    async def receive():
        if drips:
            await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": drips}

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    headers.append((b"authorization", SHOWN["authorization"].encode()))
    scope = {"type": "http", "method": "POST", "path": "/v1/score", "headers": headers, "client": ("127.0.0.1", 1)}
    guard = Guard(inner, bearer=BEARER, loopback=True, turned_away=counted.append)
    asyncio.run(asyncio.wait_for(guard(scope, receive, send), 30))
    return told, counted
