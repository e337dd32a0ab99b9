"""The HTTP door's server: few connections, small heads that come at once, nothing said about itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from client.serving.faults import Unheard
from client.serving.tls import Certificate
from daemons.web_server import bounded

MOST_CONNECTIONS = 256
HEAD_SECONDS = 5.0  # for the head of a request, from the connection or its first byte on
_KEEP_ALIVE_SECONDS = 15


class HttpDoor(uvicorn.Server):
    """Serves an application until `should_exit`; who runs it has the signals.

    Args:
        turned_away: is told of each connection that is refused before it has a request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        certificate: Certificate | None,
        grace_seconds: int,
        turned_away: Callable[[Unheard], None],
    ) -> None:
        class Told(_HurriedProtocol):
            tell = staticmethod(turned_away)

        config = bounded(
            app,
            most_connections=MOST_CONNECTIONS,
            keep_alive_seconds=_KEEP_ALIVE_SECONDS,
            grace_seconds=grace_seconds,
            protocol=Told,
            certificate=None if certificate is None else (certificate.certificate_file, certificate.key_file),
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None."""
        yield


class _HurriedProtocol(H11Protocol):
    """Closes a connection whose head does not come: without this, one that sends a byte an hour has its place."""

    tell: Callable[[Unheard], None]
    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        before, full = self.cycle, len(self.connections) >= MOST_CONNECTIONS  # as uvicorn decides
        super().data_received(data)
        if full and self.cycle is not before:
            self.tell(Unheard.TOO_MANY)
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """See H11Protocol."""
        self.tell(Unheard.NO_HTTP)
        super().send_400_response(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        self._forget()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # the head is here, and the guard has a clock
            self._forget()
        elif self._due is None:
            self._due = self.loop.call_later(HEAD_SECONDS, self._end)

    def _end(self) -> None:
        self.tell(Unheard.NO_HEAD)
        self.transport.abort()

    def _forget(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
