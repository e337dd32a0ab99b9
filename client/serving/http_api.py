"""The HTTP door: paths, the OpenAPI document, and errors as `faults` has them. `Guard` stands before all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from client.serving.desk import Desk
from client.serving.faults import HTTP_STATUS, WORDS, Code, ServingError, invalid
from client.serving.http_guard import METRICS, extra_headers
from client.serving.schemas import (
    FIELDS,
    Asked,
    AskPortrait,
    ErrorAnswer,
    Health,
    Portrait,
    Rerank,
    Reranked,
    Score,
    ScoreCustomer,
    ScoreOrders,
)

JSON = "application/json"
VERSION = "1"
ABOUT = """Purchase power of this shop's customers, on this shop's own machine. Nothing that is asked or answered leaves
it, or is written down. Ids of customers are in bodies alone, never in a path.

**Refused uses.** The figures were made to serve customers better, and were never tested for anything else. It is not
allowed to use them

- to decide on credit, instalments, insurance or employment;
- to accuse or suspect a customer of fraud;
- to set the price, or the conditions, of one person automatically. Re-ranking orders what is shown: it changes no
  price and leaves no item out, and the relevance of each item stays in the answer.
"""


def _answers(*codes: Code) -> dict[int | str, dict[str, Any]]:
    by_status: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        words = by_status.setdefault(HTTP_STATUS[code], {"model": ErrorAnswer, "description": ""})
        words["description"] += ("; or: " if words["description"] else "") + WORDS[code]
    return by_status


_ALWAYS = (Code.UNAUTHORIZED, Code.FORBIDDEN, Code.INTERNAL)
_ASKED = (
    *(Code.NOT_JSON, *_ALWAYS, Code.TOO_SLOW, Code.TOO_LARGE, Code.WRONG_TYPE, Code.INVALID),
    *(Code.BUSY, Code.NOT_READY, Code.TIMEOUT),
)


def make_app(desk: Desk, health: Callable[[], Health]) -> FastAPI:
    """The application, without its guard.

    Args:
        health: quick; how the service is.
    """
    app = FastAPI(
        title="Purchase power",
        description=ABOUT,
        version=VERSION,
        docs_url=None,  # its page comes from a CDN
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Security(HTTPBearer(auto_error=False, description="the token in secrets/serving"))],
    )

    async def refused(_: Request, error: Exception) -> Response:
        found, allow = _told(error), None
        if isinstance(error, RequestValidationError | HTTPException):  # the others are counted by the desk or the guard
            desk.metrics.turned_away("http", found.code)
            allow = (getattr(error, "headers", None) or {}).get("Allow")
        return _said(found, allow)

    for kind in (ServingError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, refused)

    async def answered(asked: Asked) -> Response:
        return Response((await desk.answer("http", asked)).model_dump_json(), media_type=JSON)

    @app.post("/v1/score", response_model=Score, responses=_answers(*_ASKED))
    async def score(asked: ScoreCustomer) -> Response:
        """Score a customer by its id; whoever is not known gets a newcomer's score, and is told so."""
        return await answered(asked)

    @app.post("/v1/score-orders", response_model=Score, responses=_answers(*_ASKED))
    async def score_orders(asked: ScoreOrders) -> Response:
        """Score posted orders, which are forgotten with the answer; with none it is a newcomer's score."""
        return await answered(asked)

    @app.post("/v1/rerank", response_model=Reranked, responses=_answers(*_ASKED))
    async def rerank(asked: Rerank) -> Response:
        """Order candidates by relevance and by how well price and category fit the customer."""
        return await answered(asked)

    @app.post("/v1/portrait", response_model=Portrait, responses=_answers(*_ASKED, Code.UNKNOWN_CUSTOMER))
    async def portrait(asked: AskPortrait) -> Response:
        """What is expected of a customer, what it did, and what it buys."""
        return await answered(asked)

    @app.get("/health", response_model=Health, responses=_answers(*_ALWAYS) | {503: {"model": Health}})
    async def healthy() -> Response:
        """Whether a model serves, which, and what was refused."""
        found = health()
        return Response(found.model_dump_json(), status_code=200 if found.ok else 503, media_type=JSON)

    @app.get(METRICS, include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(desk.metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})

    return app


def _told(error: Exception) -> ServingError:
    """Any error as one of ours; of what is not expected nothing is told."""
    match error:
        case ServingError():
            return error
        case RequestValidationError():
            errors = list(error.errors())
            broken = any(each["type"] == "json_invalid" for each in errors)
            return ServingError(Code.NOT_JSON) if broken else invalid(errors, FIELDS, skip=1)
        case HTTPException():  # no such path, another method, or a body that the parser gives up on
            return ServingError({404: Code.NOT_FOUND, 405: Code.WRONG_METHOD}.get(error.status_code, Code.NOT_JSON))
    return ServingError(Code.INTERNAL)


def _said(error: ServingError, allow: str | None) -> Response:
    found = extra_headers(error) | ({} if allow is None else {"Allow": allow})
    return JSONResponse(error.to_json(), status_code=HTTP_STATUS[error.code], headers=found)
