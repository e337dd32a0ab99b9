"""What merchants ask the platform for, outside Flower, each request signed: offers, decisions, models, quantiles."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from agreement.offer import DecisionState, OfferCode
from agreement.requests import (
    DECISIONS_PATH,
    MARKET_PATH,
    MODELS_PATH,
    OFFERS_PATH,
    RequestError,
    stated_version,
    verify_request,
)
from server.registry import Registry
from server.roster import Merchant, Roster, RosterError

MOST_BODY_BYTES = 4096

log = logging.getLogger(__name__)

_Answer = Callable[[Merchant, Roster, bytes, dict[str, Any]], Response]


class BadRequestError(Exception):
    """A signed request that makes no sense."""


def make_merchant_api(registry: Path) -> ASGIApp:
    """The routes below `/pp/v1/`. Who is not a merchant gets 401 and nothing else, whatever the route."""

    def endpoint(answer: _Answer) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            body = await _body(request)
            if body is None:
                return JSONResponse({"detail": f"a body has at most {MOST_BODY_BYTES} bytes"}, 413)
            return await run_in_threadpool(_handled, answer, request, body, registry)

        return handle

    def models(merchant: Merchant, roster: Roster, body: bytes, params: dict[str, Any]) -> Response:
        del merchant, roster, body, params
        with closing(Registry(registry)) as known:
            return JSONResponse({"models": [manifest.decode() for manifest in known.manifests()]})

    def model(merchant: Merchant, roster: Roster, body: bytes, params: dict[str, Any]) -> Response:
        del merchant, roster, body
        return _file(registry, params["sha256"], "model", "application/octet-stream")

    def card(merchant: Merchant, roster: Roster, body: bytes, params: dict[str, Any]) -> Response:
        del merchant, roster, body
        return _file(registry, params["sha256"], "card", "text/markdown")

    def market(merchant: Merchant, roster: Roster, body: bytes, params: dict[str, Any]) -> Response:
        del merchant, roster, body, params
        with closing(Registry(registry)) as known:
            data = known.market()
        return JSONResponse({"markets": [] if data is None else [data.decode()]})

    async def elsewhere(request: Request, _: Exception) -> Response:
        return await run_in_threadpool(_handled, _nothing, request, b"", registry)

    return Starlette(
        exception_handlers={404: elsewhere, 405: elsewhere},
        routes=[
            Route(OFFERS_PATH, endpoint(_offers), methods=["GET"]),
            Route(DECISIONS_PATH, endpoint(_decide), methods=["POST"]),
            Route(MODELS_PATH, endpoint(models), methods=["GET"]),
            Route(MODELS_PATH + "/{sha256}", endpoint(model), methods=["GET"]),
            Route(MODELS_PATH + "/{sha256}/card", endpoint(card), methods=["GET"]),
            Route(MARKET_PATH, endpoint(market), methods=["GET"]),
        ],
    )


def _handled(answer: _Answer, request: Request, body: bytes, registry: Path) -> Response:
    now = dt.datetime.now(dt.UTC)
    query = request.scope["query_string"].decode("latin-1")
    path = request.scope["path"] + (f"?{query}" if query else "")
    try:
        fingerprint = verify_request(request.headers, method=request.method, path=path, body=body, now=now)
        with Roster(registry) as roster:
            merchant = roster.by_fingerprint(fingerprint)
            if merchant is None:
                raise RequestError("this key is no merchant's; send keys/node.pub to the platform")
            _keep_sign_of_life(merchant, roster, request, now)
            return answer(merchant, roster, body, dict(request.path_params))
    except RequestError as error:
        return JSONResponse({"detail": str(error)}, 401)
    except (BadRequestError, RosterError) as error:
        return JSONResponse({"detail": str(error)}, 400)
    except (sqlite3.Error, OSError) as error:
        log.error("merchant api failed", extra={"route": request.scope["path"], "error": type(error).__name__})
        return JSONResponse({"detail": "the platform cannot answer now; try again later"}, 503)


def _keep_sign_of_life(merchant: Merchant, roster: Roster, request: Request, now: dt.datetime) -> None:
    try:
        roster.seen(merchant, now=now, version=stated_version(request.headers))
    except sqlite3.OperationalError as error:  # a full disk, say: who only reads is answered all the same
        log.warning("sign of life not kept", extra={"merchant": merchant.name, "error": type(error).__name__})


def _offers(merchant: Merchant, roster: Roster, body: bytes, params: dict[str, Any]) -> Response:
    del body, params
    return JSONResponse({"offers": [data.decode() for data in roster.offers_for(merchant.fingerprint)]})


def _decide(merchant: Merchant, roster: Roster, body: bytes, params: dict[str, Any]) -> Response:
    del params
    try:
        table = json.loads(body)
        offer, state, code = table["offer"], DecisionState(table["state"]), table["code"]
        code = None if code is None else OfferCode(code)
        if not isinstance(offer, str) or (code is None) == (state is DecisionState.REFUSED):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BadRequestError("a decision has offer, state and code, and a code exactly if it is refused") from None
    roster.decide(offer, merchant.name, state, code)
    log.info("decision", extra={"merchant": merchant.name, "offer": offer, "state": state.value, "code": code})
    return Response(status_code=204)


def _nothing(merchant: Merchant, roster: Roster, body: bytes, params: dict[str, Any]) -> Response:
    del merchant, roster, body, params
    return JSONResponse({"detail": "no such route; pp-client may be newer than the platform"}, 404)


def _file(registry: Path, sha256: str, which: str, media_type: str) -> Response:
    with closing(Registry(registry)) as known:
        path = known.published_file(sha256, which)
    if path is None or not path.exists():
        return JSONResponse({"detail": "no such model"}, 404)
    return Response(path.read_bytes(), media_type=media_type)


async def _body(request: Request) -> bytes | None:
    """The request's body; None where it is longer than any that we read."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BODY_BYTES:
                return None
    except ClientDisconnect:
        return None
    return body
