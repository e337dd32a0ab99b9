"""The outermost application of the HTTP door: who may come in, and how much of a body, how fast."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from client.serving.bearer import Bearer
from client.serving.faults import HTTP_STATUS, RETRY_SECONDS, TRY_AGAIN, Code, ServingError

MOST_BODY_BYTES = 1 << 20
BODY_SECONDS = 5.0
METRICS = "/metrics"
_LOOPBACK_NAME = re.compile(rb"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_LOOPBACK = frozenset({"127.0.0.1", "::1"})
_PROXY_HEADERS = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"})

log = logging.getLogger(__name__)


class Guard:
    """Lets a request through with its whole body, or answers in its place.

    Every request shows the token. On loopback its Host is a loopback name: a page in somebody's browser can point its
    own name here (DNS rebinding). `/metrics` is for this machine alone, which means a peer on loopback and no sign of
    a proxy. Whatever `inner` raises is a typed answer too. Websockets are closed.

    Args:
        loopback: whether the address served is on loopback.
        turned_away: is told of each request that is answered in the place of `inner`.
    """

    def __init__(self, inner: ASGIApp, *, bearer: Bearer, loopback: bool, turned_away: Callable[[Code], None]) -> None:
        self._inner, self._bearer, self._loopback = inner, bearer, loopback
        self._turned_away = turned_away

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI 3."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        begun = _Begun(send)
        try:
            self._check(scope)
            body = await _body(scope, receive)
            await self._inner(scope, _replayed(body, receive), begun)
        except ServingError as error:
            self._turned_away(error.code)
            await answer_with(error, begun)
        except Exception as error:  # a fault of ours; its text may quote the request
            self._turned_away(Code.INTERNAL)
            log.error("a request failed", extra={"error": type(error).__name__}, exc_info=True)
            if not begun.begun:
                await answer_with(ServingError(Code.INTERNAL), begun)

    def _check(self, scope: Scope) -> None:
        hosts = _headers(scope, b"host")
        if self._loopback and not (len(hosts) == 1 and _LOOPBACK_NAME.fullmatch(hosts[0])):
            raise ServingError(Code.FORBIDDEN)
        tokens = _headers(scope, b"authorization")
        if not (len(tokens) == 1 and self._bearer.allows(tokens[0])):
            raise ServingError(Code.UNAUTHORIZED)
        if scope["path"] == METRICS and not _from_this_machine(scope):
            raise ServingError(Code.FORBIDDEN)


class _Begun:
    """`send`, which remembers whether an answer has begun."""

    def __init__(self, send: Send) -> None:
        self._send, self.begun = send, False

    async def __call__(self, message: Message) -> None:
        self.begun = True
        await self._send(message)


async def answer_with(error: ServingError, send: Send) -> None:
    """Sends the error."""
    content = json.dumps(error.to_json()).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        *((name.encode(), value.encode()) for name, value in extra_headers(error).items()),
    ]
    await send({"type": "http.response.start", "status": HTTP_STATUS[error.code], "headers": headers})
    await send({"type": "http.response.body", "body": content})


def extra_headers(error: ServingError) -> dict[str, str]:
    """What belongs to some answers that are none."""
    if error.code in TRY_AGAIN:
        return {"retry-after": str(RETRY_SECONDS)}
    return {"www-authenticate": "Bearer"} if error.code == Code.UNAUTHORIZED else {}


async def _body(scope: Scope, receive: Receive) -> bytes:
    """All of it, bounded in size and time; of a method that has one."""
    if scope["method"] not in {"POST", "PUT", "PATCH"}:
        return b""
    lengths = _headers(scope, b"content-length")
    if lengths and not (len(lengths[0]) < 12 and lengths[0].isdigit() and int(lengths[0]) <= MOST_BODY_BYTES):
        raise ServingError(Code.TOO_LARGE)
    try:
        body = await asyncio.wait_for(_whole(receive), BODY_SECONDS)
    except TimeoutError:
        raise ServingError(Code.TOO_SLOW) from None
    types = _headers(scope, b"content-type")
    if len(types) != 1 or types[0].partition(b";")[0].strip().lower() != b"application/json":
        raise ServingError(Code.WRONG_TYPE)
    return body


async def _whole(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        parts.append(message.get("body", b""))
        size, more = size + len(parts[-1]), message.get("more_body", False)
        if size > MOST_BODY_BYTES:
            raise ServingError(Code.TOO_LARGE)
    return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def _from_this_machine(scope: Scope) -> bool:
    peer: Sequence[str] | None = scope.get("client")
    return peer is not None and peer[0] in _LOOPBACK and not any(name in _PROXY_HEADERS for name, _ in scope["headers"])


def _headers(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]
