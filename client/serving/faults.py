"""Why a request has no answer: a fixed list of codes, the same behind both doors. No text of it quotes a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pp_model.errors import PurchasePowerError

MOST_PROBLEMS = 20  # of one request that are told
RETRY_SECONDS = 1


class Code(StrEnum):
    """What is wrong, for programs."""

    NOT_JSON = "not_json"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    UNKNOWN_CUSTOMER = "unknown_customer"
    WRONG_METHOD = "wrong_method"
    TOO_SLOW = "too_slow"
    TOO_LARGE = "too_large"
    WRONG_TYPE = "wrong_type"
    INVALID = "invalid"
    BUSY = "busy"
    INTERNAL = "internal"
    NOT_READY = "not_ready"
    TIMEOUT = "timeout"


class Unheard(StrEnum):
    """Why a connection to the HTTP door never had a request."""

    NO_HEAD = "no_head"  # none came in time
    NO_HTTP = "no_http"
    TOO_MANY = "too_many_connections"


HTTP_STATUS: Mapping[Code, int] = {
    Code.NOT_JSON: 400,
    Code.UNAUTHORIZED: 401,
    Code.FORBIDDEN: 403,
    Code.NOT_FOUND: 404,
    Code.UNKNOWN_CUSTOMER: 404,
    Code.WRONG_METHOD: 405,
    Code.TOO_SLOW: 408,
    Code.TOO_LARGE: 413,
    Code.WRONG_TYPE: 415,
    Code.INVALID: 422,
    Code.BUSY: 429,
    Code.INTERNAL: 500,
    Code.NOT_READY: 503,
    Code.TIMEOUT: 504,
}
WORDS: Mapping[Code, str] = {
    Code.NOT_JSON: "the body is not JSON in UTF-8, or is nested too deeply; send one JSON object",
    Code.UNAUTHORIZED: "the bearer token is missing or wrong; send the header authorization: Bearer TOKEN, once",
    Code.FORBIDDEN: "not allowed from here or under this host name; ask 127.0.0.1 or localhost",
    Code.NOT_FOUND: "there is no such path; see /openapi.json",
    Code.UNKNOWN_CUSTOMER: "this customer did nothing before the cutoff, so there is nothing to portray",
    Code.WRONG_METHOD: "this path has another method; see /openapi.json",
    Code.TOO_SLOW: "the body did not come in time; send it at once",
    Code.TOO_LARGE: "the body is too large; send fewer orders or items",
    Code.WRONG_TYPE: "the content type is not application/json; set that header",
    Code.INVALID: "the request is not as /openapi.json has it; correct the fields that are named",
    Code.BUSY: "all waiting places are taken; try again later",
    Code.INTERNAL: "this program failed; its log says of what kind and where",
    Code.NOT_READY: "orders and model are being loaded; try again later",
    Code.TIMEOUT: "the answer was not there in time; try again, or send fewer orders or items",
}
TRY_AGAIN = frozenset({Code.BUSY, Code.NOT_READY})


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong with one field.

    Attributes:
        field: such as "orders[3].amount_cents"; a name that the API has not is "?".
    """

    field: str
    problem: str


class ServingError(PurchasePowerError):
    """A request without an answer."""

    def __init__(self, code: Code, problems: Sequence[Problem] = ()) -> None:
        self.code, self.problems = code, tuple(problems)
        named = "".join(f"; {each.field}: {each.problem}" for each in self.problems)
        super().__init__(WORDS[code] + named)

    def to_json(self) -> dict[str, Any]:
        """The body of the answer behind the HTTP door."""
        fields = [{"field": each.field, "problem": each.problem} for each in self.problems]
        return {"error": {"code": self.code.value, "what": WORDS[self.code], "fields": fields}}


def invalid(errors: Sequence[Mapping[str, Any]], known: frozenset[str], *, skip: int = 0) -> ServingError:
    """What Pydantic's errors say, without what was sent: neither values nor names of fields that we do not have.

    Args:
        known: names of all fields of the API.
        skip: leading parts of each location that are not the body's.
    """
    problems = [
        Problem(field=_path(each["loc"][skip:], known), problem=str(each["msg"])) for each in errors[:MOST_PROBLEMS]
    ]
    return ServingError(Code.INVALID, problems)


def _path(location: Sequence[str | int], known: frozenset[str]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part if part in known else '?'}"
    return path.lstrip(".") or "body"
