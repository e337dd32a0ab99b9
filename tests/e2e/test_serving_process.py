"""pp-client serve as a real process: models swapped under load, signals, slow and endless clients, TLS, memory."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections import Counter

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.models import MODEL_FILE
from client.serving import purchase_power_pb2 as pb
from client.serving.grpc_api import SERVICE
from client.serving.http_door import HEAD_SECONDS, MOST_CONNECTIONS
from tests.support.merchant_home import DAY, TODAY
from tests.support.orders import row
from tests.support.scored import ScoredShop, shipped
from tests.support.serving import COLUMNS, served_shop
from tests.support.serving_process import serving, wait_until
from tests.support.superlink import authority, server_certificate

pytestmark = pytest.mark.e2e
CANARY = "xq-canary-9137"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return served_shop(tmp_path_factory.mktemp("served"), customers=40)


@pytest.fixture
def shop(whole, tmp_path) -> ScoredShop:
    shutil.copytree(whole.config.parent, tmp_path / "shop")
    return ScoredShop(config=tmp_path / "shop" / "merchant.toml")


def test_models_are_swapped_under_load_without_a_lost_request(shop, tmp_path):
    """HTTP and gRPC are asked without a pause while two good models and a bad one come; SIGHUP brings an order."""
    with serving(shop, tmp_path / "log.txt") as served:
        stop, answers, faults = threading.Event(), Counter(), []

        def over_http():
            with served.client() as client:
                while not stop.is_set():
                    response = client.post("/v1/score", json={"customer_id": "customer-1"})
                    answers["http", response.status_code, response.json().get("model_id")] += 1

        def over_grpc():
            metadata = (("authorization", f"Bearer {served.token}"),)
            with served.channel() as channel:
                call = channel.unary_unary(f"/{SERVICE}/ScoreCustomer", response_deserializer=pb.Score.FromString)
                while not stop.is_set():
                    try:
                        found = call(
                            pb.ScoreCustomerRequest(customer_id="customer-1").SerializeToString(), metadata=metadata
                        )
                        answers["grpc", 200, found.model_id] += 1
                    except grpc.RpcError as error:
                        faults.append(error.code())

        askers = [threading.Thread(target=each) for each in (over_http, over_grpc)]
        for each in askers:
            each.start()
        try:
            for model_id, encoder in ((2, "linear"), (3, "gru")):
                shop.keep_model(*shipped(encoder), model_id=model_id)
                wait_until(lambda m=model_id: served.health()["model_id"] == m, served.process, served.log)
            place = shop.keep_model(*shipped("mlp"), model_id=4)
            (place / MODEL_FILE).write_bytes(b"bad")
            wait_until(lambda: served.health()["refused"], served.process, served.log)
            with shop.orders.open("a", encoding="utf-8") as file:
                cells = row("just-came", f"{TODAY - DAY} 09:00:00", "20.00", event_type="purchase")
                file.write(",".join(cells.get(name, "") for name in COLUMNS) + "\n")
            os.kill(served.process.pid, signal.SIGHUP)
            with served.client() as client:
                wait_until(
                    lambda: client.post("/v1/score", json={"customer_id": "just-came"}).json()["known"],
                    served.process,
                    served.log,
                )
            assert [each["what"] for each in served.health()["refused"]] == ["model"]  # its orders came all the same
            assert served.health()["model_id"] == 3
            shutil.rmtree(place)
            wait_until(lambda: not served.health()["refused"], served.process, served.log)
        finally:
            stop.set()
            for each in askers:
                each.join(60)
        assert faults == []
        assert {status for _, status, _ in answers} == {200}
        for door in ("http", "grpc"):
            assert {model for through, _, model in answers if through == door} == {1, 2, 3}
        assert "refused" in served.log.read_text()


def test_sigterm_answers_what_is_in_flight_and_ends_with_0(shop, tmp_path):
    with serving(shop, tmp_path / "log.txt") as served:
        body = json.dumps({"customer_id": "customer-1"}).encode()
        head = (
            f"POST /v1/score HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {served.token}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", served.http_port), timeout=30) as begun:
            begun.sendall(head.encode() + body[:5])
            with served.client() as client:
                client.get("/health")  # the head before it has been read
            served.process.terminate()
            wait_until(lambda: "stopping" in served.log.read_text(), served.process, served.log)
            begun.sendall(body[5:])
            assert begun.recv(65_536).startswith(b"HTTP/1.1 200")
        assert served.process.wait(30) == 0
        assert "Traceback" not in served.log.read_text()


def test_connections_whose_head_does_not_come_are_closed_and_others_are_answered(shop, tmp_path):
    with serving(shop, tmp_path / "log.txt") as served:
        silent = [socket.create_connection(("127.0.0.1", served.http_port), timeout=30) for _ in range(100)]
        try:
            for each in silent[::2]:
                each.sendall(b"POST /v1/score HTTP/1.1\r\nhost: loc")
            began = time.monotonic()
            with served.client(timeout=5.0) as client:
                assert client.post("/v1/score", json={"customer_id": "customer-1"}).status_code == 200
            for each in silent:
                assert ended(each)
            assert turned_away(served, "no_head") == 100
            assert time.monotonic() - began < 4 * HEAD_SECONDS
        finally:
            for each in silent:
                each.close()


def test_a_connection_too_many_is_counted(shop, tmp_path):
    with serving(shop, tmp_path / "log.txt") as served:
        held = [socket.create_connection(("127.0.0.1", served.http_port), timeout=30) for _ in range(MOST_CONNECTIONS)]
        try:
            with served.client(timeout=30.0) as client:
                assert client.get("/health").status_code == 503
        finally:
            for each in held:
                each.close()
        wait_until(lambda: turned_away(served, "too_many_connections") >= 1, served.process, served.log)


def turned_away(served, reason: str) -> float:
    """What the metrics count of it behind the HTTP door; -1 where they are not to be had."""
    with served.client() as client:
        text = client.get("/metrics").text
    found = re.search(rf'pp_serving_turned_away_total{{door="http",reason="{reason}"}} (\S+)', text)
    return float(found[1]) if found else -1.0


def ended(connection: socket.socket) -> bool:
    """Whether the other side ends the connection, by a reset or not, without a word."""
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


def test_what_is_no_http_is_turned_away_and_the_service_goes_on(shop, tmp_path):
    with serving(shop, tmp_path / "log.txt") as served:
        for garbage in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
            b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 70_000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
            b"POST /v1/score HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            b"GET /" + bytes(range(128, 256)) + b" HTTP/1.1\r\n\r\n",
            b"\r\n" * 1000,
            CANARY.encode(),
        ):
            with socket.create_connection(("127.0.0.1", served.http_port), timeout=30) as connection:
                try:
                    connection.sendall(garbage)
                    connection.shutdown(socket.SHUT_WR)
                    said = connection.recv(65_536)
                except (BrokenPipeError, ConnectionResetError):
                    said = b""
            assert said == b"" or said.startswith(b"HTTP/1.1 4")
        assert served.health()["ok"]
        assert turned_away(served, "no_http") >= 5
        assert CANARY not in served.log.read_text()


def test_nothing_asked_is_written_to_any_log(shop, tmp_path):
    with serving(shop, tmp_path / "log.txt") as served, served.client() as client:
        client.post("/v1/score", json={"customer_id": CANARY})
        client.post("/v1/score", json={CANARY: [CANARY]})
        client.get(f"/{CANARY}?{CANARY}", headers={"x-more": CANARY})
    texts = [path.read_text(errors="replace") for path in (shop.config.parent / "log").rglob("*") if path.is_file()]
    assert not any(CANARY in text for text in (*texts, served.log.read_text()))
    assert any("serving" in text for text in texts)


def test_with_a_certificate_both_doors_speak_tls_and_nothing_else(shop, tmp_path):
    issuer = authority()
    certificate, key = server_certificate(tmp_path, issuer)
    key.chmod(0o600)
    ca = tmp_path / "ca.crt"
    ca.write_bytes(issuer.pem)
    arguments = ("--certificate", str(certificate), "--key", str(key))
    with serving(shop, tmp_path / "log.txt", *arguments, "--http", "0.0.0.0:0", "--grpc", "0.0.0.0:0", ca=ca) as served:
        with served.client() as client:
            assert client.post("/v1/score", json={"customer_id": "customer-1"}).status_code == 200
            assert client.get("/health", headers={"authorization": "Bearer x"}).status_code == 401
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{served.http_port}/health", trust_env=False)
        metadata = (("authorization", f"Bearer {served.token}"),)
        with served.channel() as channel:
            health = health_pb2_grpc.HealthStub(channel)
            answer = health.Check(health_pb2.HealthCheckRequest(service=SERVICE), metadata=metadata, timeout=30)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as plain:
            with pytest.raises(grpc.RpcError) as raised:
                health_pb2_grpc.HealthStub(plain).Check(health_pb2.HealthCheckRequest(), metadata=metadata, timeout=5)
            assert raised.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
