"""What the HTTP door counts: answers at the desk, and by reason whoever is turned away before it."""

from __future__ import annotations

import pytest

from client.serving.faults import Code, Unheard
from client.serving.http_api import JSON
from client.serving.http_guard import MOST_BODY_BYTES
from tests.support.serving import (
    Caller,
    behind,
    keeper_of,
    samples,
    served_shop,
    shown,
)

CANARY = "xq-canary-9137"


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


def test_metrics_count_answers_and_name_no_customer(client):
    client.post("/v1/score", json={"customer_id": CANARY})
    text = client.get("/metrics").text
    assert 'pp_serving_answers_total{call="score_customer",code="ok",door="http"}' in text
    assert "pp_serving_ready 1.0" in text
    assert CANARY not in text


def sent_json(body: bytes, **headers: str) -> dict:
    return {"method": "POST", "path": "/v1/score", "content": body, "headers": {"content-type": JSON, **headers}}


TURNED_AWAY = {
    "unauthorized": {"method": "GET", "path": "/health", "headers": {"authorization": f"Bearer {CANARY}"}},
    "forbidden": {"method": "GET", "path": "/health", "headers": {"host": f"{CANARY}.example"}},
    "not_found": {"method": "GET", "path": f"/{CANARY}"},
    "wrong_method": {"method": "PUT", "path": "/v1/score", "json": {CANARY: CANARY}},
    "too_large": sent_json(b" " * (MOST_BODY_BYTES + 1)),
    "wrong_type": sent_json(CANARY.encode(), **{"content-type": CANARY}),
    "not_json": sent_json(CANARY.encode()),
    "invalid": {"method": "POST", "path": "/v1/score", "json": {CANARY: CANARY}},
}


@pytest.mark.parametrize("reason", TURNED_AWAY)
def test_what_is_turned_away_before_the_desk_is_counted_once_by_its_reason(whole, reason):
    fresh = behind(whole.keeper)
    response = Caller(app=fresh.app()).request(**TURNED_AWAY[reason])
    assert code_of(response) == reason
    text, counts = shown(fresh)
    assert counts == {("pp_serving_turned_away_total", "http", reason): 1.0}
    assert CANARY not in text


def test_what_the_desk_answers_or_refuses_is_counted_there_and_not_as_turned_away(whole):
    fresh = behind(whole.keeper)
    client = Caller(app=fresh.app())
    client.post("/v1/score", json={"customer_id": "customer-1"})
    client.post("/v1/portrait", json={"customer_id": CANARY})
    assert shown(fresh)[1] == {
        ("pp_serving_answers_total", "http", "ok"): 1.0,
        ("pp_serving_answers_total", "http", "unknown_customer"): 1.0,
    }


def test_the_reasons_are_a_list_of_ours_and_there_from_the_start(whole):
    shown_at_once = {
        (sample.labels["door"], sample.labels["reason"])
        for sample in samples(behind(whole.keeper))
        if sample.name == "pp_serving_turned_away_total"
    }
    assert shown_at_once == {
        *((door, code.value) for door in ("http", "grpc") for code in Code),
        *(("http", each.value) for each in Unheard),
    }
