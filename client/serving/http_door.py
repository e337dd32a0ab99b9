"""The HTTP door's server: few connections, small heads that come at once, nothing said about itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from client.serving.tls import Certificate
from daemons.health import Address, PortError

MOST_CONNECTIONS = 256
HEAD_SECONDS = 5.0  # for the head of a request, from the connection or its first byte on
_KEEP_ALIVE_SECONDS = 15


def listener(address: Address) -> socket.socket:
    """A socket that listens.

    Raises:
        PortError: the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        found = socket.create_server(address, family=family, backlog=MOST_CONNECTIONS)
        # Connections inherit it. asyncio sets it for sockets that name their protocol, and these do not: the body would
        # wait 40 ms for the other side to acknowledge the head.
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found
    except OSError as error:
        raise PortError(address, error.strerror or type(error).__name__) from None


class HttpDoor(uvicorn.Server):
    """Serves an application until `should_exit`; who runs it has the signals."""

    def __init__(self, app: ASGIApp, *, certificate: Certificate | None, grace_seconds: int) -> None:
        files: dict[str, Any] = {}
        if certificate is not None:
            files = {"ssl_certfile": certificate.certificate_file, "ssl_keyfile": certificate.key_file}
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http=_HurriedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS,
            h11_max_incomplete_event_size=16_384,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=grace_seconds,
            **files,
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None."""
        yield


class _HurriedProtocol(H11Protocol):
    """Closes a connection whose head does not come: without this, one that sends a byte an hour has its place."""

    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        self._forget()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # the head is here, and the guard has a clock
            self._forget()
        elif self._due is None:
            self._due = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _forget(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
