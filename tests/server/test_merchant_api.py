"""Checklist: D36.

The merchant API: nothing for strangers, and for a merchant its own offers, its own decision, and the models.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sqlite3

import httpx
import pytest

from agreement.node_keys import new_node_key, public_text
from agreement.offer import EVERYBODY, DecisionState, Offer, OfferCode, sign_offer
from agreement.requests import (
    DECISIONS_PATH,
    MARKET_PATH,
    MODELS_PATH,
    OFFERS_PATH,
    VERSION_HEADER,
    sign_request,
)
from agreement.signing import SigningKey
from server.merchant_api import MOST_BODY_BYTES, make_merchant_api
from server.registry import Registry
from server.roster import Roster
from tests.support.plans import tiny_plan

KEY = SigningKey.generate()
NODE, OTHER_NODE, STRANGER = new_node_key(), new_node_key(), new_node_key()
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ROUTES = [
    ("GET", OFFERS_PATH),
    ("POST", DECISIONS_PATH),
    ("GET", MODELS_PATH),
    ("GET", f"{MODELS_PATH}/{'0' * 64}"),
    ("GET", f"{MODELS_PATH}/{'0' * 64}/card"),
    ("GET", MARKET_PATH),
    ("GET", "/pp/v1/anything"),
    ("DELETE", OFFERS_PATH),
]


def offer(serial: int = 1, *, audience: tuple[str, ...] = EVERYBODY) -> Offer:
    return Offer(
        platform="fair",
        serial=serial,
        issued=NOW,
        not_before=NOW,
        expires=NOW + dt.timedelta(days=9),
        audience=audience,
        plan=tiny_plan(),
    )


class Client:
    """The application in this process, one request at a time."""

    def __init__(self, app) -> None:
        self._transport = httpx.ASGITransport(app)

    def request(self, method, path, **parts):
        async def once():
            async with httpx.AsyncClient(transport=self._transport, base_url="https://platform") as client:
                return await client.request(method, path, **parts)

        return asyncio.run(once())


@pytest.fixture
def registry(tmp_path):
    path = tmp_path / "registry.sqlite"
    with Roster(path) as roster:
        roster.add("bakery", public_text(NODE.public_key()))
        roster.add("florist", public_text(OTHER_NODE.public_key()))
    return path


@pytest.fixture
def client(registry):
    return Client(make_merchant_api(registry))


def ask(client, method, path, *, key=NODE, body=b"", now=None, sent_body=None, sent_path=None):
    headers = sign_request(key, method=method, path=path, body=body, now=now or dt.datetime.now(dt.UTC))
    return client.request(method, sent_path or path, headers=headers, content=body if sent_body is None else sent_body)


def decision(offer_id: str, state: str = "approved", code: str | None = None) -> bytes:
    return json.dumps({"offer": offer_id, "state": state, "code": code}).encode()


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_strangers_get_401_on_every_route(client, method, path):
    assert client.request(method, path).status_code == 401
    assert ask(client, method, path, key=STRANGER).status_code == 401
    late = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=61)
    assert ask(client, method, path, now=late).status_code == 401
    assert ask(client, method, path, sent_path=path + "?x=1").status_code == 401


def test_a_removed_merchant_is_a_stranger(client, registry):
    assert ask(client, "GET", OFFERS_PATH).status_code == 200
    with Roster(registry) as roster:
        roster.remove("bakery")
    assert ask(client, "GET", OFFERS_PATH).status_code == 401


def test_a_merchant_reads_the_offers_that_are_for_it(client, registry):
    with Roster(registry) as roster:
        mine, theirs = (roster.merchants()[number].fingerprint for number in (0, 1))
        offers = [offer(1), offer(2, audience=(mine,)), offer(3, audience=(theirs,))]
        for one in offers:
            roster.open_offer(sign_offer(one, KEY), one)
    texts = [sign_offer(one, KEY).decode() for one in offers]
    assert ask(client, "GET", OFFERS_PATH).json() == {"offers": texts[:2]}
    assert ask(client, "GET", OFFERS_PATH, key=OTHER_NODE).json() == {"offers": [texts[0], texts[2]]}


def test_a_decision_is_kept_under_the_name_of_who_signed_it(client, registry):
    one = offer()
    with Roster(registry) as roster:
        roster.open_offer(sign_offer(one, KEY), one)
    assert ask(client, "POST", DECISIONS_PATH, body=decision(one.id, "refused", "budget")).status_code == 204
    assert ask(client, "POST", DECISIONS_PATH, body=decision(one.id), key=OTHER_NODE).status_code == 204
    with Roster(registry) as roster:
        said = {d.merchant: (d.state, d.code) for d in roster.decisions(one.id)}
    assert said == {
        "bakery": (DecisionState.REFUSED, OfferCode.BUDGET),
        "florist": (DecisionState.APPROVED, None),
    }


def test_a_decision_whose_body_was_changed_on_the_way_is_refused(client, registry):
    one = offer()
    with Roster(registry) as roster:
        roster.open_offer(sign_offer(one, KEY), one)
    refused = decision(one.id, "refused", "rejected")
    assert ask(client, "POST", DECISIONS_PATH, body=refused, sent_body=decision(one.id)).status_code == 401
    with Roster(registry) as roster:
        assert roster.decisions(one.id) == []


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"[" * 2000, id="deep"),
        pytest.param(b"\xff\xfe", id="not-text"),
        pytest.param(decision("f" * 16), id="unknown-offer"),
        pytest.param(decision("x", "approved", "budget"), id="approved-with-a-code"),
        pytest.param(decision("x", "refused"), id="refused-without-a-code"),
        pytest.param(decision("x", "refused", "because of c1"), id="a-code-of-its-own"),
        pytest.param(decision("x", "perhaps"), id="a-state-of-its-own"),
        pytest.param(b'{"offer": 7, "state": "approved", "code": null}', id="a-number-for-an-offer"),
    ],
)
def test_a_decision_that_makes_no_sense_is_a_400_with_a_reason(client, body):
    answer = ask(client, "POST", DECISIONS_PATH, body=body)
    assert answer.status_code == 400
    assert answer.json()["detail"]


def test_a_longer_body_than_any_we_read_is_a_413(client):
    assert ask(client, "POST", DECISIONS_PATH, body=b"x" * (MOST_BODY_BYTES + 1)).status_code == 413


def test_a_merchant_is_told_that_a_route_or_model_is_not_there(client):
    for path in ("/pp/v1/anything", f"{MODELS_PATH}/{'0' * 64}", f"{MODELS_PATH}/{'0' * 64}/card"):
        assert ask(client, "GET", path).status_code == 404
    assert ask(client, "GET", MODELS_PATH).json() == {"models": []}


def test_a_registry_that_cannot_be_read_is_a_503_without_its_path(client, registry):
    registry.write_bytes(b"not a database" * 100)
    answer = ask(client, "GET", OFFERS_PATH)
    assert answer.status_code == 503
    assert str(registry) not in answer.text


def seen(registry) -> dict[str, tuple[str | None, str]]:
    with Roster(registry) as roster:
        return {merchant.name: (merchant.last_seen, merchant.version) for merchant in roster.merchants()}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_signed_request_for_anything_is_a_sign_of_life_of_who_signed_it_alone(client, registry, method, path):
    before = dt.datetime.now(dt.UTC)
    ask(client, method, path)
    states = seen(registry)
    assert before - dt.timedelta(seconds=1) <= dt.datetime.fromisoformat(states["bakery"][0])
    assert states["florist"] == (None, "")


def test_strangers_and_late_requests_are_no_sign_of_life(client, registry):
    late = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=61)
    client.request("GET", OFFERS_PATH)
    ask(client, "GET", OFFERS_PATH, key=STRANGER)
    ask(client, "GET", OFFERS_PATH, now=late)
    ask(client, "GET", OFFERS_PATH, sent_path=MODELS_PATH)
    assert set(seen(registry).values()) == {(None, "")}


@pytest.mark.parametrize(("stated", "kept"), [("0.1.0", "0.1.0"), ("<script>", ""), ("9" * 33, "")])
def test_the_version_that_a_program_states_is_kept_where_it_is_one(client, registry, stated, kept):
    headers = sign_request(NODE, method="GET", path=OFFERS_PATH, body=b"", now=dt.datetime.now(dt.UTC))
    assert client.request("GET", OFFERS_PATH, headers={**headers, VERSION_HEADER: stated}).status_code == 200
    assert seen(registry)["bakery"][1] == kept


def test_of_many_requests_in_a_minute_the_first_is_written_down(client, registry):
    for version in ("1.0", "2.0", "3.0"):
        headers = sign_request(NODE, method="GET", path=OFFERS_PATH, body=b"", now=dt.datetime.now(dt.UTC))
        client.request("GET", OFFERS_PATH, headers={**headers, VERSION_HEADER: version})
    assert seen(registry)["bakery"][1] == "1.0"


def test_who_reads_is_answered_though_its_sign_of_life_cannot_be_written(client, registry, monkeypatch):
    def full(*_, **__):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Roster, "seen", full)
    assert ask(client, "GET", OFFERS_PATH).status_code == 200


def test_a_merchant_gets_the_quantiles_that_were_published_last(client, registry):
    assert ask(client, "GET", MARKET_PATH).json() == {"markets": []}
    with Registry(registry) as known:
        known.publish_market(b"older")
        known.publish_market(b"newer")
    assert ask(client, "GET", MARKET_PATH).json() == {"markets": ["newer"]}
