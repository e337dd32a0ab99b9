"""Webhooks over real TLS: signed, bounded in time and tries, never redirected, and a failure loses no list."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from client.insight import alerts
from client.insight.alerts import SIGNATURE_HEADER, Alert, AlertError, send
from client.insight.rules_run import run_rules
from daemons.files import write_private
from tests.support.insight_shops import insight_data, regulars
from tests.support.superlink import Authority, authority, server_certificate
from tests.support.tls_server import Handle, cuts, drips, listening, never_answers

pytestmark = pytest.mark.e2e

KEY = b"0123456789abcdef0123456789abcdef"
BODY = {"id": "a1", "rule": "Keep the best", "customers": 3}


@dataclass(kw_only=True)
class Receiver:
    """Somebody's webhook: gives the answers in their order, the last one for ever after, and keeps what came."""

    answers: list[bytes]
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def over_tls(self, cert: Path, key: Path) -> Handle:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)

        def handle(connection: socket.socket) -> None:
            with context.wrap_socket(connection, server_side=True) as channel:
                self._answer(channel)

        return handle

    def plainly(self, connection: socket.socket) -> None:
        self._answer(connection)

    def _answer(self, channel: socket.socket) -> None:
        received = b""
        while b"\r\n\r\n" not in received and (part := channel.recv(4096)):
            received += part
        head, _, body = received.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        while len(body) < int(headers["content-length"]) and (part := channel.recv(4096)):
            body += part
        self.requests.append((headers | {"": lines[0]}, body))
        channel.sendall(self.answers[min(len(self.requests), len(self.answers)) - 1])


def answer(status: str, *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status}", "Content-Length: 0", "Connection: close", *headers)
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


@dataclass(frozen=True, kw_only=True)
class Place:
    """A merchant's folder with the key and an authority, and what answers at `address`."""

    home: Path
    address: str

    def alert(self, **changes: Any) -> Alert:
        fields = {"webhook": f"https://{self.address}/hook", "token_file": "key", "ca_file": "ca.crt", **changes}
        return Alert(**fields)


@contextmanager
def place(folder: Path, handle: Handle, issuer: Authority) -> Iterator[Place]:
    write_private(folder / "key", KEY + b"\n")
    (folder / "ca.crt").write_bytes(issuer.pem)
    with listening(handle) as address:
        yield Place(home=folder, address=address)


@pytest.fixture
def issuer() -> Authority:
    return authority()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "PAUSES_SECONDS", (0.01, 0.01))


def test_a_webhook_gets_one_signed_request(tmp_path, issuer):
    receiver = Receiver(answers=[answer("204 No Content")])
    handle = receiver.over_tls(*server_certificate(tmp_path, issuer))
    with place(tmp_path, handle, issuer) as at:
        send(at.alert(), BODY, home=at.home)
    ((headers, body),) = receiver.requests
    assert headers[""] == "POST /hook HTTP/1.1"
    assert json.loads(body) == BODY
    assert headers["idempotency-key"] == "a1"
    stamp, _, said = headers[SIGNATURE_HEADER].partition(",v1=")
    second = stamp.removeprefix("t=")
    assert abs(int(second) - time.time()) < 60
    assert hmac.compare_digest(said, hmac.new(KEY, f"{second}.".encode() + body, hashlib.sha256).hexdigest())
    assert KEY not in repr(headers).encode() + body


@pytest.mark.parametrize(
    ("statuses", "tries", "delivered"),
    [
        (["503 Busy", "500 Oh", "200 OK"], 3, True),
        (["429 Slow down", "200 OK"], 2, True),
        (["503 Busy"], 3, False),
        (["401 No"], 1, False),
        (["404 Not here"], 1, False),
    ],
)
def test_what_may_pass_is_tried_again_and_what_will_not_is_not(tmp_path, issuer, statuses, tries, delivered):
    receiver = Receiver(answers=[answer(status) for status in statuses])
    handle = receiver.over_tls(*server_certificate(tmp_path, issuer))
    with place(tmp_path, handle, issuer) as at:
        if delivered:
            send(at.alert(), BODY, home=at.home)
        else:
            with pytest.raises(AlertError, match=statuses[-1].split()[0]) as error:
                send(at.alert(), BODY, home=at.home)
            assert "/hook" not in str(error.value)  # an address may hold a secret
    assert len(receiver.requests) == tries
    assert len({headers["idempotency-key"] for headers, _ in receiver.requests}) == 1


@pytest.mark.parametrize("status", ["301 Moved", "307 Temporary Redirect"])
def test_a_redirect_is_not_followed(tmp_path, issuer, status):
    second = Receiver(answers=[answer("200 OK")])
    with listening(second.plainly) as elsewhere:
        first = Receiver(answers=[answer(status, f"Location: http://{elsewhere}/stolen")])
        handle = first.over_tls(*server_certificate(tmp_path, issuer))
        with place(tmp_path, handle, issuer) as at, pytest.raises(AlertError, match="is not followed"):
            send(at.alert(), BODY, home=at.home)
    assert (len(first.requests), len(second.requests)) == (1, 0)


def test_nothing_is_sent_to_a_server_of_another_authority(tmp_path, issuer):
    receiver = Receiver(answers=[answer("200 OK")])
    handle = receiver.over_tls(*server_certificate(tmp_path, authority("somebody else")))
    with place(tmp_path, handle, issuer) as at:
        for changes in ({}, {"ca_file": ""}):  # nor to one whose authority this machine does not know
            with pytest.raises(AlertError, match="certificate that is not trusted"):
                send(at.alert(**changes), BODY, home=at.home)
    assert receiver.requests == []


@pytest.mark.parametrize("kind", ["dripping", "silent", "cut"])
def test_a_server_that_never_ends_its_answer_is_given_up_in_time(tmp_path, issuer, kind, monkeypatch):
    monkeypatch.setattr(alerts, "TRY_SECONDS", 0.6)
    cert, key = server_certificate(tmp_path, issuer)
    handle = {"dripping": drips(cert, key), "silent": never_answers, "cut": cuts}[kind]
    with place(tmp_path, handle, issuer) as at:
        began = time.monotonic()
        with pytest.raises(AlertError, match=r"did not answer|was not reached"):
            send(at.alert(), BODY, home=at.home)
        assert time.monotonic() - began < 3 * 0.6 + 3


def test_a_proxy_of_the_environment_is_not_asked(tmp_path, issuer, monkeypatch):
    proxy = Receiver(answers=[answer("200 OK")])
    receiver = Receiver(answers=[answer("200 OK")])
    with listening(proxy.plainly) as elsewhere:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{elsewhere}")
        handle = receiver.over_tls(*server_certificate(tmp_path, issuer))
        with place(tmp_path, handle, issuer) as at:
            send(at.alert(), BODY, home=at.home)
    assert (len(proxy.requests), len(receiver.requests)) == (0, 1)


def test_http_on_this_machine_is_enough(tmp_path, issuer):
    receiver = Receiver(answers=[answer("200 OK")])
    with place(tmp_path, receiver.plainly, issuer) as at:
        send(at.alert(webhook=f"http://{at.address}/hook", ca_file=""), BODY, home=at.home)
    assert len(receiver.requests) == 1


def rules_with(place_: Place, **changes: Any) -> None:
    alert = {"webhook": f"https://{place_.address}/hook", "token_file": "key", "ca_file": "ca.crt"}
    rule = {
        "name": "Keep",
        "when": [{"column": "tier", "equals": "high"}],
        "then": "list",
        "purpose": "retention",
        "alert": alert,
        **changes,
    }
    (place_.home / "rules.toml").write_text(tomli_w.dumps({"rule": [rule]}))


def test_a_rule_that_fires_tells_the_webhook_how_many_and_nobody_who(tmp_path, issuer):
    data, receiver = insight_data(regulars(80)), Receiver(answers=[answer("200 OK")])
    handle = receiver.over_tls(*server_certificate(tmp_path, issuer))
    with place(tmp_path, handle, issuer) as at:
        rules_with(at)
        (outcome,) = run_rules(data, home=at.home, folder=at.home / "insight" / "2024-09-01")
    ((_, body),) = receiver.requests
    assert json.loads(body)["customers"] == outcome.customers > 0
    assert not any(row["customer_id"].encode() in body for row in data.scores.to_pylist())


def test_with_customers_named_in_the_rule_the_webhook_gets_them(tmp_path, issuer):
    data, receiver = insight_data(regulars(80)), Receiver(answers=[answer("200 OK")])
    handle = receiver.over_tls(*server_certificate(tmp_path, issuer))
    with place(tmp_path, handle, issuer) as at:
        rules_with(at, include_customers=True)
        (outcome,) = run_rules(data, home=at.home, folder=at.home / "insight" / "2024-09-01")
    assert len(json.loads(receiver.requests[0][1])["customer_ids"]) == outcome.customers


def test_a_webhook_that_is_down_loses_no_list_and_is_said(tmp_path, issuer):
    data, receiver = insight_data(regulars(80)), Receiver(answers=[answer("500 Oh")])
    handle = receiver.over_tls(*server_certificate(tmp_path, issuer))
    with place(tmp_path, handle, issuer) as at:
        rules_with(at)
        (outcome,) = run_rules(data, home=at.home, folder=at.home / "insight" / "2024-09-01")
    assert outcome.alert == "failed"
    assert "HTTP 500" in outcome.fault
    rows = (tmp_path / "insight" / "2024-09-01" / "rules.keep.csv").read_text().splitlines()
    assert len(rows) == 1 + outcome.customers > 1
