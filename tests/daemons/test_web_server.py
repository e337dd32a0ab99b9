"""Listening, and serving within bounds."""

from __future__ import annotations

import socket
import ssl
import threading

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from daemons.web_server import PortError, bounded, listening
from tests.support.superlink import authority, server_certificate


def who_asks(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.client.host if request.client else "nobody")


@pytest.fixture
def listener():
    with listening(("127.0.0.1", 0), backlog=8) as found:
        yield found


@pytest.fixture
def origin(listener):
    server = uvicorn.Server(
        bounded(Starlette(routes=[Route("/", who_asks)]), most_connections=8, keep_alive_seconds=5, grace_seconds=1)
    )
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def test_what_comes_in_waits_for_no_acknowledgement(listener):
    with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_taken_address_is_named_with_what_to_do(listener):
    port = listener.getsockname()[1]
    with pytest.raises(PortError, match=rf"127.0.0.1:{port}: .*choose another port"):
        listening(("127.0.0.1", port), backlog=8)


def test_it_says_nothing_about_itself_and_believes_no_header_about_the_peer(origin, monkeypatch):
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    answer = httpx.get(origin, headers={"x-forwarded-for": "203.0.113.9"}, trust_env=False)
    assert answer.text == "127.0.0.1"
    assert "server" not in answer.headers


def test_a_head_without_end_is_cut_off(origin):
    host, port = origin.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nx: " + b"a" * 20_000)
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")


def test_old_tls_is_not_spoken(tmp_path):
    certificate = server_certificate(tmp_path, authority())
    config = bounded(Starlette(), most_connections=8, keep_alive_seconds=5, grace_seconds=1, certificate=certificate)
    config.load()
    assert config.ssl is not None
    assert config.ssl.minimum_version is ssl.TLSVersion.TLSv1_2
