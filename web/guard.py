"""What stands before every page: names that it may be asked under, headers that bind the browser, bounded bodies.

A page of somebody else in the same browser can send requests here. It cannot read answers, and what changes anything
asks for three things that it does not have: our cookie (SameSite=Strict), our origin, and the form's token.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pp_model.errors import PurchasePowerError
from web.sessions import Session

LOOPBACK_NAMES = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)
MOST_BODY_BYTES = 65_536
FORM_TOKEN = "form_token"
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    # Not "no-referrer": a browser then sends our own forms with the origin "null".
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

log = logging.getLogger(__name__)


class ForbiddenError(PurchasePowerError):
    """A form that did not come from a page of ours."""


class Guard:
    """ASGI middleware: refuses unknown hosts and bodies that are too long, and sets the headers on every answer.

    Args:
        names: what a request's Host may be, in full; against DNS rebinding.
        cached: beginning of the paths whose answers a browser may keep; all others are never stored.
        fault: the answer where the program failed; it gets the headers too.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        names: re.Pattern[str],
        fault: Callable[[Request], Response],
        most_body_bytes: int = MOST_BODY_BYTES,
        cached: str = "/static/",
    ) -> None:
        self._app, self._names, self._fault, self._most, self._cached = app, names, fault, most_body_bytes, cached

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        keep, started = scope["path"].startswith(self._cached), False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                out = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    out[name] = value
                out["Cache-Control"] = "public, max-age=3600" if keep and message["status"] == 200 else "no-store"
            await send(message)

        if not self._names.fullmatch(headers.get("host", "")):
            await PlainTextResponse("this page is not known under that name\n", 421)(scope, receive, guarded)
            return
        body = await _body(receive, headers, self._most) if scope["method"] not in ("GET", "HEAD") else b""
        if body is None:
            await PlainTextResponse("the request is too large\n", 413)(scope, receive, guarded)
            return
        try:
            await self._app(scope, _replayed(body, receive), guarded)
        except Exception:
            log.exception("a page failed", extra={"path": scope["path"]})
            if started:
                raise
            await self._fault(Request(scope))(scope, receive, guarded)


async def _body(receive: Receive, headers: Headers, most: int) -> bytes | None:
    if headers.get("content-length", "0").isdigit() and int(headers.get("content-length", "0")) > most:
        return None
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body
        piece: bytes = message.get("body", b"")
        body += piece
        if len(body) > most:
            return None
        if not message.get("more_body", False):
            return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def check_origin(request: Request) -> None:
    """Returns if the request comes from a page of ours, as far as browsers say.

    Raises:
        ForbiddenError: it comes from elsewhere.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site not in (None, "same-origin") or (origin and urlsplit(origin).netloc != request.headers.get("host")):
        raise ForbiddenError("this request came from another page; open ours and try again")


async def checked_form(request: Request, session: Session) -> dict[str, str]:
    """The fields of a form that a page of ours showed to this session; of a name that is there twice, the last.

    Raises:
        ForbiddenError: another page sent it, or it is of an earlier login.
    """
    check_origin(request)
    async with request.form(max_files=0, max_fields=100) as form:
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
    if not session.allows_form(fields.pop(FORM_TOKEN, "")):
        raise ForbiddenError("this form is of an earlier login; open the page again and repeat it")
    return fields
