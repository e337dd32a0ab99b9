"""One program's pages: templates filled in the reader's language, with the same parts and style on both sides."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from web.charts import Chart, Series
from web.guard import FORM_TOKEN, ForbiddenError, Guard
from web.report import Table
from web.sessions import COOKIE, Session
from web.words import LANGUAGE_NAMES, LANGUAGES, Kind, Language, Phrase, Words, shown

FOLDER = Path(__file__).parent
LANGUAGE_COOKIE = "pp_language"
LANGUAGE_PATH = "/language/{language}"
_YEAR_SECONDS = 365 * 86_400
_LOCAL_PATH = re.compile(r"/(?![/\\])[\x21-\x7e]*")


@dataclass(frozen=True, kw_only=True)
class Place:
    """An entry of the menu.

    Attributes:
        text: key of its name.
        roles: who sees it; empty for everybody.
    """

    path: str
    text: str
    roles: frozenset[str] = frozenset()


class Site:
    """Renders pages.

    Every template may use: `t(key, **values)`, `shown(value, kind)`, `chart(chart)` and `table(table)` (with the macros
    of components.html.j2), `session`, `places`, `language`, `path`, `address` (the path with its query).

    Args:
        name: key of the program's name.
        templates, words: folders of the program's own.
        places: the menu.
    """

    def __init__(self, *, name: str, templates: Path, words: Path | Sequence[Path], places: Sequence[Place]) -> None:
        self.words = Words([words] if isinstance(words, Path) else list(words))
        self._name, self._places = name, tuple(places)
        self._templates = Environment(
            loader=FileSystemLoader([templates, FOLDER / "templates"]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        for each in self._templates.list_templates():
            self._templates.get_template(each)  # compiled before anybody waits for a page

    def page(
        self, request: Request, template: str, *, session: Session | None = None, status: int = 200, **context: Any
    ) -> HTMLResponse:
        """The filled template."""
        language = language_of(request)

        def say(text: str | Phrase, **values: Any) -> str:
            return self.words.say(language, text, **values)

        places = [p for p in self._places if session and (not p.roles or session.role in p.roles)]
        common = {
            "t": say,
            "shown": shown,
            "spoken": lambda value, kind=None: say(value) if isinstance(value, Phrase) else shown(value, kind),
            "chart_data": lambda chart: chart_data(chart, say),
            "chart_table": chart_table,
            "language": language,
            "languages": LANGUAGE_NAMES,
            "path": request.url.path,
            "address": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
            "places": places,
            "program": self._name,
            "session": session,
            "form_token_name": FORM_TOKEN,
            "now": dt.datetime.now(dt.UTC),
        }
        text = self._templates.get_template(template).render({**common, **context})
        return HTMLResponse(text, status)

    def error(self, request: Request, status: int, text: Phrase, *, session: Session | None = None) -> HTMLResponse:
        """A page that says what went wrong and what to do."""
        return self.page(request, "error.html.j2", session=session, status=status, text=text)

    def app(
        self,
        routes: Sequence[BaseRoute],
        *,
        names: re.Pattern[str],
        session_of: Callable[[Request], Session | None],
    ) -> Starlette:
        """The program: these routes, the static files, the choice of language, all behind the guard.

        Args:
            names: see `Guard`.
            session_of: who asks, for the pages that say that something is not there.
        """

        async def missing(request: Request, error: Exception) -> Response:
            status = error.status_code if isinstance(error, HTTPException) else 500
            key = {404: "error.missing", 405: "error.method", 403: "error.forbidden"}.get(status, "error.other")
            return self.error(request, status, Phrase(key=key), session=session_of(request))

        async def forbidden(request: Request, _: Exception) -> Response:
            return self.error(request, 403, Phrase(key="error.form"), session=session_of(request))

        def fault(request: Request) -> Response:
            return self.error(request, 500, Phrase(key="error.fault"), session=None)

        return Starlette(
            routes=[
                *routes,
                Route(LANGUAGE_PATH, _choose_language, methods=["GET"]),
                Mount("/static", StaticFiles(directory=FOLDER / "static"), name="static"),
            ],
            middleware=[Middleware(Guard, names=names, fault=fault)],
            exception_handlers={HTTPException: missing, ForbiddenError: forbidden},
        )


def language_of(request: Request) -> Language:
    """The one chosen here before; else the first of the browser's that we have; else English."""
    chosen = request.cookies.get(LANGUAGE_COOKIE, "")
    wanted = [
        chosen,
        *(part.split(";")[0].strip()[:2] for part in request.headers.get("accept-language", "").split(",")),
    ]
    return next((language for name in wanted for language in get_args(Language) if name.lower() == language), "en")


async def _choose_language(request: Request) -> Response:
    language, back = request.path_params["language"], request.query_params.get("back", "/")
    if language not in LANGUAGES:
        raise HTTPException(404)
    answer = RedirectResponse(back if _LOCAL_PATH.fullmatch(back) else "/", 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(LANGUAGE_COOKIE, language, max_age=_YEAR_SECONDS, httponly=True, samesite="strict", secure=secure)
    return answer


def set_session(answer: Response, token: str, *, secure: bool) -> None:
    """Gives the browser its session; no script can read it, and no other page can use it.

    Args:
        secure: whether it may travel over TLS alone; false on loopback, where there is none.
    """
    answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure, path="/")


def chart_data(chart: Chart, say: Callable[[Phrase], str]) -> Markup:
    """What charts.js draws from, as JSON that cannot end the element it stands in."""

    def said(value: Any) -> Any:
        if isinstance(value, Mapping) and set(value) == {"key", "values"}:
            return say(Phrase.from_json(value))
        if isinstance(value, Mapping):
            return {name: said(each) for name, each in value.items()}
        return [said(each) for each in value] if isinstance(value, list) else value

    text = json.dumps(said(chart.to_json()), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def chart_table(chart: Chart) -> list[tuple[str | Phrase, list[tuple[float | None, Kind]]]]:
    """The chart's rows for who cannot see it: a heading and a value for each series; of a scatter, points in turn."""
    if chart.kind == "scatter":
        return [
            (shown(x, chart.kind_of_x), [(y, chart.kind_of_value)])
            for series in chart.series
            for x, y in zip(series.x, series.values, strict=True)
        ]
    values = [list(series.values) for series in chart.series]
    return [(name, [(of[at], chart.kind_of_value) for of in values]) for at, name in enumerate(chart.categories)]


__all__ = ["Chart", "Place", "Series", "Site", "Table", "chart_data", "chart_table", "language_of", "set_session"]
