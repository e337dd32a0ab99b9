"""Requests to the platform: to the pinned one and no other, signed, in bounded size and time."""

from __future__ import annotations

import datetime as dt
import json
import os
import ssl
import threading
import time

import pytest

from agreement.node_keys import new_node_key
from agreement.offer import DecisionState, OfferCode
from agreement.signing import SignatureError, SigningKey
from client.platform import PlatformClient, RefusedError, platform_client
from client.preflight import PlatformError, PlatformFault
from pp_model.errors import ConfigError
from tests.support.market import Market, market, market_plan
from tests.support.merchant_home import PLAN_KEY
from tests.support.superlink import authority, server_certificate
from tests.support.tls_server import answers_over_tls, answers_plainly, cuts, health, listening, never_answers


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with market(tmp_path_factory.mktemp("market")) as running:
        yield running


def client_of(place: Market, **changes) -> PlatformClient:
    fields = {
        "address": place.address,
        "ca_pem": place.issuer.pem.decode(),
        "node_key": place.settings.node_key(),
        **changes,
    }
    return PlatformClient(**fields)


def answer(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def test_offers_come_as_they_were_signed_and_decisions_arrive_without_the_reason(place):
    offer = place.offer()
    with platform_client(place.settings) as client:
        assert any(json.loads(data)["document"] == offer.document for data in client.offers())
        client.decide(offer.id, DecisionState.REFUSED, OfferCode.BUDGET)
    assert [(d.state, d.code) for d in place.decisions(offer)] == [(DecisionState.REFUSED, OfferCode.BUDGET)]
    with platform_client(place.settings) as client:
        client.decide(offer.id, DecisionState.APPROVED, None)
    assert [(d.state, d.code) for d in place.decisions(offer)] == [(DecisionState.APPROVED, None)]


def test_a_model_and_its_card_are_the_ones_that_were_signed(place):
    sha256 = place.publish(market_plan(plan_id="client"))
    with platform_client(place.settings) as client:
        manifest = client.models(PLAN_KEY.public)[0]
        assert manifest.sha256 == sha256
        assert client.card(manifest) == b"# A model\n"
        assert len(client.model(manifest)) > 100
        with pytest.raises(SignatureError):
            client.models(SigningKey.generate().public)


def test_a_key_that_is_no_merchants_is_told_what_to_do_and_is_permanent(place):
    with (
        client_of(place, node_key=new_node_key()) as client,
        pytest.raises(RefusedError, match="Send keys") as caught,
    ):
        client.offers()
    assert caught.value.permanent
    assert caught.value.status == 401


def test_a_clock_an_hour_off_is_named_as_the_cause(place):
    def slow() -> dt.datetime:
        return dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)

    with client_of(place, clock=slow) as client, pytest.raises(RefusedError):
        client.offers()
    cert, key = server_certificate(place.registry.parent, place.issuer)
    late = answers_over_tls(cert, key, health("401 Unauthorized", date=slow()))
    with (
        listening(late) as address,
        client_of(place, address=address) as client,
        pytest.raises(PlatformError, match="clock") as caught,
    ):
        client.offers()
    assert caught.value.fault is PlatformFault.CLOCK


@pytest.mark.parametrize(
    ("issuer", "hosts", "ends", "fault"),
    [
        ("another", ("127.0.0.1",), 1, PlatformFault.AUTHORITY),
        ("none", ("127.0.0.1",), 1, PlatformFault.SELF_SIGNED),
        ("ours", ("example.org",), 1, PlatformFault.WRONG_NAME),
        ("ours", ("127.0.0.1",), -0.5, PlatformFault.EXPIRED),
    ],
)
def test_another_certificate_is_refused_and_no_signed_request_is_sent(place, tmp_path, issuer, hosts, ends, fault):
    signer = {"another": authority(), "none": None, "ours": place.issuer}[issuer]
    cert, key = server_certificate(tmp_path, signer, hosts=hosts, not_after=dt.timedelta(days=ends))
    seen: list[bytes] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    def handle(connection):
        with context.wrap_socket(connection, server_side=True) as channel:
            seen.append(channel.recv(4096))

    with (
        listening(handle) as address,
        client_of(place, address=address) as client,
        pytest.raises(PlatformError) as caught,
    ):
        client.offers()
    assert (caught.value.fault, caught.value.permanent) == (fault, True)
    assert b"".join(seen) == b""


def test_a_platform_that_is_away_or_silent_or_cuts_is_a_temporary_fault(place, monkeypatch):
    monkeypatch.setattr("client.platform.TIMEOUT_SECONDS", 0.3)
    with listening(cuts) as address:
        pass
    for handle, faults in ((never_answers, {"silent", "timeout"}), (cuts, {"connection_reset"})):
        with (
            listening(handle) as there,
            client_of(place, address=there) as client,
            pytest.raises(PlatformError) as caught,
        ):
            client.offers()
        assert caught.value.fault.value in faults
        assert not caught.value.permanent
    with client_of(place, address=address) as client, pytest.raises(PlatformError) as caught:
        client.offers()
    assert caught.value.fault is PlatformFault.CLOSED


def test_what_speaks_no_tls_is_told_as_that(place):
    with (
        listening(answers_plainly) as address,
        client_of(place, address=address) as client,
        pytest.raises(PlatformError) as caught,
    ):
        client.offers()
    assert caught.value.fault is PlatformFault.NOT_TLS


def test_an_answer_that_drips_ends_by_the_deadline(place, monkeypatch):
    monkeypatch.setattr("client.platform.LONGEST_SECONDS", 0.5)
    cert, key = server_certificate(place.registry.parent, place.issuer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    done = threading.Event()

    def drip(connection):
        with context.wrap_socket(connection, server_side=True) as channel:
            channel.recv(4096)
            channel.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not done.wait(0.1):
                channel.sendall(b"x")

    begun = time.monotonic()
    with listening(drip) as address, client_of(place, address=address) as client:
        with pytest.raises(PlatformError) as caught:
            client.offers()
        done.set()
    assert caught.value.fault is PlatformFault.SILENT
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"null", b'{"offers": 1}', b'{"offers": [1]}', b'{"offers": ["\\u00e9"]}', b"[" * 100_000],
    ids=repr,
)
def test_a_list_that_cannot_be_read_is_told_as_that(place, body):
    cert, key = server_certificate(place.registry.parent, place.issuer)
    with (
        listening(answers_over_tls(cert, key, answer(body))) as address,
        client_of(place, address=address) as client,
        pytest.raises(RefusedError, match="cannot be read"),
    ):
        client.offers()


def test_an_endless_answer_is_cut(place, monkeypatch):
    monkeypatch.setattr("client.platform.MOST_LIST_BYTES", 10_000)
    cert, key = server_certificate(place.registry.parent, place.issuer)
    large = answers_over_tls(cert, key, answer(b"x" * 20_000))
    with (
        listening(large) as address,
        client_of(place, address=address) as client,
        pytest.raises(RefusedError, match="too large"),
    ):
        client.offers()


def test_no_redirect_is_followed(place):
    cert, key = server_certificate(place.registry.parent, place.issuer)
    asked = threading.Event()

    def elsewhere(connection):
        asked.set()

    with listening(elsewhere) as other:
        moved = answer(b"", "307 Temporary Redirect", f"Location: https://{other}/\r\n")
        with (
            listening(answers_over_tls(cert, key, moved)) as address,
            client_of(place, address=address) as client,
            pytest.raises(RefusedError, match="HTTP 307"),
        ):
            client.offers()
        assert not asked.is_set()


@pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Service Unavailable", "429 Too Many Requests"])
def test_a_platform_in_trouble_is_tried_again(place, status):
    cert, key = server_certificate(place.registry.parent, place.issuer)
    with (
        listening(answers_over_tls(cert, key, answer(b"", status))) as address,
        client_of(place, address=address) as client,
        pytest.raises(PlatformError) as caught,
    ):
        client.offers()
    assert not caught.value.permanent


def test_neither_proxies_nor_authorities_nor_key_logs_of_the_environment_are_used(place, monkeypatch, tmp_path):
    asked = threading.Event()
    with listening(lambda _: asked.set()) as proxy:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://{proxy}")
        other = tmp_path / "other.pem"
        other.write_bytes(authority().pem)
        monkeypatch.setenv("SSL_CERT_FILE", str(other))
        monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
        assert "HTTPS_PROXY" in os.environ
        with client_of(place) as client:
            client.offers()
        assert not asked.is_set()
    assert not (tmp_path / "keys.log").exists()


def test_one_authority_is_trusted_and_none_of_the_system(place):
    with client_of(place) as client:
        context = client._http._transport._pool._ssl_context
        assert [(len(context.get_ca_certs()), context.verify_mode, context.check_hostname)] == [
            (1, ssl.CERT_REQUIRED, True)
        ]


def test_a_certificate_file_that_is_gone_or_empty_is_told(place, tmp_path):
    settings = place.settings
    settings.paths.ca.rename(tmp_path / "ca")
    try:
        with pytest.raises(ConfigError, match="invitation"):
            platform_client(settings)
    finally:
        (tmp_path / "ca").rename(settings.paths.ca)
    with pytest.raises(ConfigError, match="invitation"):
        client_of(place, ca_pem="nothing")


@pytest.mark.parametrize("seconds", [0, -45, 45, 3600])
def test_how_far_the_clocks_are_apart_is_known_from_every_answer_also_from_a_refusal(place, seconds):
    def clock() -> dt.datetime:
        return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)

    with client_of(place, clock=clock) as client:
        assert client.clock_apart is None
        if abs(seconds) < 60:
            client.offers()
        else:
            with pytest.raises(RefusedError):
                client.offers()
        assert abs(client.clock_apart - seconds) < 5


@pytest.mark.parametrize("header", ["", "Date: soon\r\n", "Date: Mon, 32 Jan 2026 00:00:00 GMT\r\n"])
def test_an_answer_without_a_time_says_nothing_about_the_clock(place, header):
    cert, key = server_certificate(place.registry.parent, place.issuer)
    with (
        listening(answers_over_tls(cert, key, answer(b'{"offers": []}', headers=header))) as address,
        client_of(place, address=address) as client,
    ):
        assert client.offers() == []
        assert client.clock_apart is None
