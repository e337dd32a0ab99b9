"""Who may reach which route of the SuperLink. The outermost application of the platform's one TLS port."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping
from typing import Literal

from starlette.types import ASGIApp, Receive, Scope, Send

OPERATOR_HEADER = "pp-operator"
MERCHANT_API = "/pp/v1/"
LOOPBACK = frozenset({"127.0.0.1", "::1"})  # not all of 127.0.0.0/8

MOST_BODY_BYTES = 16 * 2**20  # Flower sends arrays in chunks of 5 MiB

Area = Literal["fleet", "health", "merchant", "runtime", "control"]

# A path has one spelling: nothing encoded, no empty, dotted or trailing part. What we judge is then what is routed.
_PATH = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
# Flower's node authentication reads the path out of a URL that is made with this header.
_HOST = re.compile(rb"[A-Za-z0-9._\-:\[\]]+")
_PROXY_HEADERS = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"})
_PREFIXES: Mapping[str, Area] = {
    "/v1/fleet/": "fleet",
    "/v1/runtime/": "runtime",
    "/v1/control/": "control",
    MERCHANT_API: "merchant",
}


class Guard:
    """An ASGI application that lets a request through to `inner` or answers 403.

    Anyone reaches Flower's fleet routes, which authenticate nodes themselves, with a bounded body, and `/health`. The
    runtime routes are for this host, which means a peer address in `LOOPBACK` and no sign of a proxy. The control
    routes are for this host and the bearer of the operator secret. `/pp/v1/` is `merchant_api`'s, which authenticates
    every request itself; without it, and for everything else, the answer is 403. A refusal says nothing about why.
    Websockets are closed.

    Args:
        operator_secret: what the header `pp-operator` must hold; compared in constant time.
    """

    def __init__(self, inner: ASGIApp, *, operator_secret: str, merchant_api: ASGIApp | None = None) -> None:
        self._inner, self._merchant_api = inner, merchant_api
        self._secret = operator_secret.encode("ascii")
        if not self._secret:
            raise ValueError("the operator secret is empty")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI 3."""
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
        elif scope["type"] == "http" and self._allowed(scope):
            app = self._merchant_api if _area(scope) == "merchant" else self._inner
            assert app is not None
            await app(scope, receive, send)
        elif scope["type"] == "http":
            await _refuse(send, body=scope["method"] != "HEAD")
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _allowed(self, scope: Scope) -> bool:
        match _area(scope):
            case "health":
                return scope["method"] in {"GET", "HEAD"}
            case "fleet":
                return scope["method"] == "POST" and _bounded(scope)
            case "merchant":
                return self._merchant_api is not None
            case "runtime":
                return scope["method"] == "POST" and _from_this_host(scope)
            case "control":
                return scope["method"] == "POST" and _from_this_host(scope) and self._is_operator(scope)
            case None:
                return False

    def _is_operator(self, scope: Scope) -> bool:
        given = _headers(scope, OPERATOR_HEADER.encode())
        return len(given) == 1 and hmac.compare_digest(given[0], self._secret)


def _area(scope: Scope) -> Area | None:
    path = scope["path"]
    sent = scope.get("raw_path", path.encode()).partition(b"?")[0]
    hosts = _headers(scope, b"host")
    if not _PATH.fullmatch(path) or sent != path.encode() or len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        return None
    if path == "/health":
        return "health"
    return next((area for prefix, area in _PREFIXES.items() if path.startswith(prefix)), None)


def _bounded(scope: Scope) -> bool:
    """Whether the body's length is said and small: Flower reads it whole before it knows who sent it."""
    lengths = _headers(scope, b"content-length")
    return len(lengths) == 1 and lengths[0].isdigit() and len(lengths[0]) < 12 and int(lengths[0]) <= MOST_BODY_BYTES


def _from_this_host(scope: Scope) -> bool:
    peer = scope.get("client")
    return peer is not None and peer[0] in LOOPBACK and not any(name in _PROXY_HEADERS for name, _ in scope["headers"])


def _headers(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


async def _refuse(send: Send, *, body: bool) -> None:
    content = json.dumps({"detail": "forbidden"}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": content if body else b""})
