"""A web server with bounds: few connections, small heads, nothing said about itself."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from pp_model.errors import PurchasePowerError

Address = tuple[str, int]  # host and port; port 0 lets the kernel choose
_HEAD_BYTES = 16_384


class PortError(PurchasePowerError):
    """An address that cannot be listened on."""

    def __init__(self, address: Address, why: str) -> None:
        super().__init__(
            f"Cannot listen on {address[0]}:{address[1]}: {why}. Stop the other program there, or choose another port."
        )


def listening(address: Address, *, backlog: int) -> socket.socket:
    """A socket that listens.

    Raises:
        PortError: the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        found = socket.create_server(address, family=family, backlog=backlog)
    except OSError as error:
        raise PortError(address, error.strerror or type(error).__name__) from None
    # Connections inherit it. asyncio sets it for sockets that name their protocol, and these do not: the body would
    # wait 40 ms for the other side to acknowledge the head.
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


def bounded(
    app: ASGIApp,
    *,
    most_connections: int,
    keep_alive_seconds: int,
    grace_seconds: int,
    protocol: type[asyncio.Protocol] = H11Protocol,
    certificate: tuple[Path, Path] | None = None,
) -> uvicorn.Config:
    """How to serve an application; it logs as this process does, and addresses nowhere.

    Args:
        keep_alive_seconds: for the next request of a connection.
        grace_seconds: for requests at work when it stops.
        protocol: reads requests; uvicorn's own by default.
        certificate: PEM files of the certificate and its key; None: plain HTTP.
    """
    tls: dict[str, Any] = {}
    if certificate is not None:
        files = {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]}
        tls = {**files, "ssl_context_factory": _modern_tls}
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # an address is the peer's own, whatever a header or the environment says
        limit_concurrency=most_connections,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        timeout_keep_alive=keep_alive_seconds,
        timeout_graceful_shutdown=grace_seconds,
        **tls,
    )


def _modern_tls(_: object, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    context = make()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
