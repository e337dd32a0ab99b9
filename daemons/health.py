"""Whether a daemon is well: HTTP `/health` and `/metrics`, and the gRPC health protocol."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
import uvicorn
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from daemons.web_server import Address, PortError, bounded, listening

MOST_CONNECTIONS = 32
LOOPBACK_NAME = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_GRPC_EVERY_SECONDS = 0.5
_GRACE_SECONDS = 2


@dataclass(frozen=True, kw_only=True)
class Status:
    """How a daemon is.

    Attributes:
        parts: whether each part, a child for example, serves; their names are the gRPC services.
        details: more for people, of what JSON can hold. Whoever can log in on this machine reads it.
    """

    parts: Mapping[str, bool]
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """All parts serve."""
        return all(self.parts.values())


class HealthServer:
    """Answers on two ports, in background threads, from `start` to `stop`; also as a context manager.

    `/health` is 200 or 503 with {"ok", "parts", "details"}; `/metrics` is the Prometheus text format. The gRPC service
    "" is the whole, every part has its own. Requests whose Host is no loopback name are refused: a page in somebody's
    browser can point its own name here (DNS rebinding).

    Args:
        status: quick, callable from any thread. If it raises, the daemon is not well.
        http, grpc: host and port; port 0 lets the kernel choose, see `http_port` and `grpc_port`.
        routes: more HTTP endpoints.

    Raises (`start`):
        PortError: the address is taken or not ours.
    """

    def __init__(
        self,
        *,
        status: Callable[[], Status],
        registry: CollectorRegistry,
        http: Address = ("127.0.0.1", 0),
        grpc: Address | None = None,
        routes: Sequence[BaseRoute] = (),
    ) -> None:
        self._status, self._registry = status, registry
        self._http, self._grpc = http, grpc
        self.http_port = self.grpc_port = 0
        own = [Route("/health", self._health), Route("/metrics", self._metrics)]
        app = Starlette(routes=[*own, *routes], middleware=[Middleware(_LoopbackNamesOnly)])
        self._web = uvicorn.Server(
            bounded(app, most_connections=MOST_CONNECTIONS, keep_alive_seconds=5, grace_seconds=_GRACE_SECONDS)
        )
        self._stopping = threading.Event()
        self._stops: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listens on all addresses or, if it cannot, on none."""
        try:
            if self._grpc is not None:
                self._start_grpc(self._grpc)
            self._start_http()
        except PortError:
            self.stop()
            raise

    def stop(self) -> None:
        """Closes the ports and ends the threads; does not wait for a `status` that hangs."""
        self._stopping.set()
        while self._stops:
            self._stops.pop()()

    def _start_http(self) -> None:
        listener = listening(self._http, backlog=MOST_CONNECTIONS)
        self.http_port = int(listener.getsockname()[1])
        thread = threading.Thread(target=self._web.run, args=([listener],), name="health-http", daemon=True)
        thread.start()

        def stop() -> None:
            self._web.should_exit = True
            thread.join(2 * _GRACE_SECONDS)
            listener.close()

        self._stops.append(stop)

    def _start_grpc(self, address: Address) -> None:
        host, port = address
        server = grpc.server(
            ThreadPoolExecutor(max_workers=2, thread_name_prefix="health-grpc"),
            maximum_concurrent_rpcs=MOST_CONNECTIONS,
            options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 4096)),  # 0: not shared with another
        )
        try:
            self.grpc_port = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError:
            raise PortError(address, "the address is in use or not of this machine") from None
        servicer = HealthServicer()
        self._tell(servicer)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        server.start()
        thread = threading.Thread(target=self._keep_telling, args=(servicer,), name="health-status", daemon=True)
        thread.start()

        def stop() -> None:
            servicer.enter_graceful_shutdown()
            server.stop(grace=_GRACE_SECONDS).wait()
            thread.join(2 * _GRACE_SECONDS)

        self._stops.append(stop)

    def _keep_telling(self, servicer: Any) -> None:
        while not self._stopping.wait(_GRPC_EVERY_SECONDS):
            self._tell(servicer)

    def _tell(self, servicer: Any) -> None:
        status = self._safe_status()
        for service, serves in {**status.parts, "": status.ok}.items():
            answer = health_pb2.HealthCheckResponse
            servicer.set(service, answer.SERVING if serves else answer.NOT_SERVING)

    def _safe_status(self) -> Status:
        try:
            return self._status()
        except Exception as error:
            return Status(parts={"status": False}, details={"error": type(error).__name__})

    def _health(self, _request: Request) -> Response:
        status = self._safe_status()
        shown = {"ok": status.ok, "parts": dict(status.parts), "details": dict(status.details)}
        return JSONResponse(shown, status_code=200 if status.ok else 503)

    def _metrics(self, _request: Request) -> Response:
        return Response(generate_latest(self._registry), headers={"content-type": CONTENT_TYPE_LATEST})


class _LoopbackNamesOnly:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) == 1 and LOOPBACK_NAME.fullmatch(hosts[0]):
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse("Ask for localhost.\n", status_code=403)(scope, receive, send)
