"""The endpoints over real sockets, with the clients that operators use."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from daemons.health import HealthServer, Status
from daemons.web_server import PortError

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def server(parts: dict[str, bool], **changes: object) -> HealthServer:
    """Parts that the test may change while the server runs."""

    def status() -> Status:
        return Status(parts=dict(parts), details={"rounds": 3})

    return HealthServer(**{"status": status, "registry": CollectorRegistry(), **changes})  # type: ignore[arg-type]


def get(running: HealthServer, path: str, **headers: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{running.http_port}{path}", headers=headers, trust_env=False)


def wait_until(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def grpc_status(port: int, service: str) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=(("grpc.enable_http_proxy", 0),)) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status)


@pytest.fixture(scope="module")
def any_server() -> Iterator[HealthServer]:
    with server({}) as running:
        yield running


def test_health_is_200_while_all_parts_serve_and_503_while_one_does_not():
    parts = {"supernode": True, "runner": True}
    with server(parts) as running:
        answer = get(running, "/health")
        assert answer.status_code == 200
        assert answer.json() == {"ok": True, "parts": parts, "details": {"rounds": 3}}
        parts["runner"] = False
        answer = get(running, "/health")
        assert (answer.status_code, answer.json()["ok"]) == (503, False)


def test_a_status_that_raises_is_not_well_and_says_no_more_than_the_kind():
    def status() -> Status:
        raise ValueError("ada@example.org")

    with server({}, status=status, grpc=("127.0.0.1", 0)) as running:
        answer = get(running, "/health")
        assert answer.status_code == 503
        assert answer.json()["details"] == {"error": "ValueError"}
        assert grpc_status(running.grpc_port, "") == NOT_SERVING


def test_grpc_health_follows_every_part_and_the_whole():
    parts = {"supernode": True, "runner": True}
    with server(parts, grpc=("127.0.0.1", 0)) as running:

        def ask() -> list[int]:
            return [grpc_status(running.grpc_port, name) for name in ("", "supernode", "runner")]

        assert ask() == [SERVING, SERVING, SERVING]
        parts["runner"] = False
        wait_until(lambda: ask() == [NOT_SERVING, SERVING, NOT_SERVING])
        parts["runner"] = True
        wait_until(lambda: ask() == [SERVING, SERVING, SERVING])
        with pytest.raises(grpc.RpcError) as unknown:
            grpc_status(running.grpc_port, "nobody")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_metrics_are_of_the_given_registry_and_no_other():
    registry = CollectorRegistry()
    Gauge("epsilon_spent", "Epsilon spent.", ["period"], registry=registry).labels("2024").set(1.25)
    with server({}, registry=registry) as running:
        answer = get(running, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    assert [(sample.name, sample.labels, sample.value) for sample in samples] == [
        ("epsilon_spent", {"period": "2024"}, 1.25)
    ]


def test_more_routes_are_served_beside():
    more = Route("/statement", lambda _: PlainTextResponse("spent"))
    with server({}, routes=[more]) as running:
        assert get(running, "/statement").text == "spent"
        assert get(running, "/docs").status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.", "localhost:x", "", "[::2]"])
@pytest.mark.parametrize("path", ["/health", "/metrics", "/nothing"])
def test_another_hosts_name_is_refused(any_server, host, path):
    answer = get(any_server, path, host=host)
    assert (answer.status_code, answer.text) == (403, "Ask for localhost.\n")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]", "[::1]:9000"])
def test_a_loopback_name_is_served(any_server, host):
    assert get(any_server, "/health", host=host).status_code == 200


def test_both_ports_are_on_loopback_alone_unless_told():
    with server({}) as running, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", running.http_port), timeout=5)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_taken_port_is_an_error_with_a_remedy_and_leaves_nothing_open(protocol):
    threads = threading.active_count()
    with server({}, grpc=("127.0.0.1", 0)) as first:
        taken = ("127.0.0.1", getattr(first, f"{protocol}_port"))
        other = server({}, **{"grpc": ("127.0.0.1", 0), protocol: taken})
        with pytest.raises(PortError, match=rf"Cannot listen on 127.0.0.1:{taken[1]}: .*choose another port"):
            other.start()
    wait_until(lambda: threading.active_count() == threads)


def test_stopping_frees_the_ports_and_ends_the_threads():
    threads = threading.active_count()
    running = server({}, grpc=("127.0.0.1", 0))
    running.start()
    assert get(running, "/health").status_code == 200
    assert grpc_status(running.grpc_port, "") == SERVING
    running.stop()
    running.stop()
    with socket.create_server(("127.0.0.1", running.http_port)), socket.create_server(("127.0.0.1", running.grpc_port)):
        pass
    wait_until(lambda: threading.active_count() == threads)


def test_a_server_stopped_at_once_is_stopped():
    running = server({})
    running.start()
    running.stop()
    with pytest.raises(httpx.ConnectError):
        get(running, "/health")


def test_a_status_that_hangs_does_not_hold_up_the_stop(monkeypatch):
    monkeypatch.setattr("daemons.health._GRACE_SECONDS", 0.1)
    hang, go_on = threading.Event(), threading.Event()
    asked = threading.Semaphore(0)

    def status() -> Status:
        if hang.is_set():
            asked.release()
            go_on.wait(30)
        return Status(parts={})

    running = server({}, status=status, grpc=("127.0.0.1", 0))
    running.start()
    hang.set()
    with socket.create_connection(("127.0.0.1", running.http_port)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert all(asked.acquire(timeout=10) for _ in ("http", "grpc"))
        began = time.monotonic()
        running.stop()
        took = time.monotonic() - began
        go_on.set()
    assert took < 5.0


def test_no_more_connections_are_served_than_the_bound():
    with server({}) as running:
        held = [socket.create_connection(("127.0.0.1", running.http_port)) for _ in range(40)]
        wait_until(lambda: get(running, "/health").status_code == 503)
        for connection in held:
            connection.close()
        wait_until(lambda: get(running, "/health").status_code == 200)


def test_a_head_without_end_is_refused():
    with server({}) as running, socket.create_connection(("127.0.0.1", running.http_port), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nx: " + b"a" * 20_000)
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
