"""Servers on loopback that are a platform, or something that must not be taken for one."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import struct
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import format_datetime
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from server.guard import Guard
from server.merchant_api import make_merchant_api
from tests.support.superlink import Authority, server_certificate

Handle = Callable[[socket.socket], None]


@contextmanager
def listening(handle: Handle) -> Iterator[str]:
    """The address of a server that gives each connection to `handle`, in a thread, and then closes it."""
    stop = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(10)
            handle(connection)

    def accept() -> None:
        while not stop.is_set():
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def answers_over_tls(cert: Path, key: Path, answer: bytes, *, newest: ssl.TLSVersion | None = None) -> Handle:
    """Gives `answer` to every request, over TLS; of no later version than `newest`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if newest is not None:
        context.set_ciphers("ALL:@SECLEVEL=0")  # else OpenSSL itself refuses old versions
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = newest

    def handle(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as channel:
            _read_request(channel)
            channel.sendall(answer)

    return handle


def answers_plainly(connection: socket.socket) -> None:
    """An HTTP server without TLS."""
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


def never_answers(connection: socket.socket) -> None:
    """Reads until the other side gives up."""
    while connection.recv(4096):
        pass


def cuts(connection: socket.socket) -> None:
    """Answers with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def drips(cert: Path, key: Path) -> Handle:
    """Speaks TLS, and then gives one byte of its answer every 0.2 s."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    def handle(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as channel:
            _read_request(channel)
            for byte in b"HTTP/1.1 200 OK\r\nx: " + b"x" * 100:
                channel.sendall(bytes([byte]))
                time.sleep(0.2)

    return handle


def health(status: str = "200 OK", *, date: dt.datetime | None = None) -> bytes:
    """What GET /health gives on a platform whose clock says `date`."""
    said = format_datetime(date or dt.datetime.now(dt.UTC), usegmt=True)
    return f"HTTP/1.1 {status}\r\nDate: {said}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode()


@contextmanager
def running_platform(folder: Path, issuer: Authority) -> Iterator[str]:
    """The address of our guard and merchant API over `folder`/registry.sqlite, with a health route, over TLS.

    There is no SuperLink behind it: nothing can be trained.
    """
    cert, key = server_certificate(folder, issuer, not_after=dt.timedelta(days=365))

    async def healthy(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    inner = Starlette(routes=[Route("/health", healthy)])
    app = Guard(inner, operator_secret="x" * 32, merchant_api=make_merchant_api(folder / "registry.sqlite"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, ssl_certfile=cert, ssl_keyfile=str(key), log_level="error", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def _read_request(channel: ssl.SSLSocket) -> None:
    received = b""
    while b"\r\n\r\n" not in received and (part := channel.recv(4096)):
        received += part
