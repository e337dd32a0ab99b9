"""The merchant's pages put together: login, the menu, and the few ways in which a request may be answered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from client.pages.faults import Fault, fault_of
from client.pages.jobs import Jobs
from client.pages.login import COOKIE, Login
from client.pages.merchant import Merchant
from client.pages.numbers import small
from pp_model.errors import PurchasePowerError
from web.guard import LOOPBACK_NAMES, ForbiddenError, check_origin, checked_form
from web.sessions import Session
from web.site import Place, Site

FOLDER = Path(__file__).parent
INSIGHT = FOLDER.parent / "insight"
PLACES = (
    Place(path="/", text="place.overview"),
    Place(path="/plans", text="place.plans"),
    Place(path="/data", text="place.data"),
    Place(path="/model", text="place.model"),
    Place(path="/insight", text="place.insight"),
    Place(path="/customer", text="place.customer"),
    Place(path="/rules", text="place.rules"),
    Place(path="/jobs", text="place.work"),
    Place(path="/privacy", text="place.privacy"),
)
_LOGIN_BYTES = 200

log = logging.getLogger(__name__)

Show = Callable[[Request, Session], Response]
Act = Callable[[Request, Session, dict[str, str]], Response]


@dataclass(frozen=True, kw_only=True)
class Pages:
    """What every page is made with."""

    merchant: Merchant
    jobs: Jobs
    login: Login
    site: Site
    deciding: threading.Lock

    def session(self, request: Request) -> Session | None:
        """Whose browser asks."""
        return self.login.session(request.cookies.get(COOKIE))

    def page(self, request: Request, session: Session, template: str, *, status: int = 200, **context: Any) -> Response:
        """The filled template; it has `merchant`, `job` (what is at work) and `small` too."""
        common = {"merchant": self.merchant.settings.merchant, "job": self.jobs.current, "small": small}
        return self.site.page(request, template, session=session, status=status, **{**common, **context})

    def trouble(self, request: Request, session: Session, fault: Fault, *, status: int) -> Response:
        """A page that says what went wrong."""
        return self.site.page(request, "trouble.html.j2", session=session, status=status, fault=fault)

    def shows(self, path: str, show: Show) -> Route:
        """A page for who is logged in. It changes nothing."""

        def endpoint(request: Request) -> Response:
            session = self.session(request)
            if session is None:
                return self._logged_out(request)
            try:
                return show(request, session)
            except PurchasePowerError as error:
                return self.trouble(request, session, fault_of(error), status=500)

        return Route(path, endpoint, methods=["GET"])

    def acts(self, path: str, act: Act) -> Route:
        """A form of a page of ours, sent by who is logged in."""

        async def endpoint(request: Request) -> Response:
            session = self.session(request)
            if session is None:
                return self._logged_out(request)
            form = await checked_form(request, session)
            try:
                return await run_in_threadpool(act, request, session, form)
            except PurchasePowerError as error:
                return await run_in_threadpool(
                    lambda fault: self.trouble(request, session, fault, status=409), fault_of(error)
                )

        return Route(path, endpoint, methods=["POST"])

    def _logged_out(self, request: Request) -> Response:
        return self.site.page(request, "login.html.j2", status=401, token=None, failed=False)


def merchant_app(merchant: Merchant, *, jobs: Jobs, login: Login) -> Starlette:
    """The pages of one merchant, as an ASGI program for a loopback address."""
    from client.pages import customer, data, insight, model, overview, plans, privacy, rules, work

    site = Site(
        name="program.name",
        templates=FOLDER / "templates",
        words=[FOLDER / "words", *sorted(path.parent for path in INSIGHT.glob("words*/en.toml"))],
        places=PLACES,
    )
    pages = Pages(merchant=merchant, jobs=jobs, login=login, site=site, deciding=threading.Lock())
    modules = (overview, plans, data, model, insight, customer, rules, work, privacy)
    routes: Sequence[BaseRoute] = [*_login_routes(pages), *(route for each in modules for route in each.routes(pages))]
    return site.app(routes, names=LOOPBACK_NAMES, session_of=pages.session)


def _login_routes(pages: Pages) -> list[Route]:
    def ask(request: Request) -> Response:
        """A link may be looked at by a program that fetches ahead; so it is the form behind it that logs in."""
        token = request.query_params.get("token", "")[:_LOGIN_BYTES]
        return pages.site.page(request, "login.html.j2", token=token or None, failed=False)

    async def enter(request: Request) -> Response:
        check_origin(request)
        async with request.form(max_files=0, max_fields=4) as form:
            token = str(form.get("token", ""))[:_LOGIN_BYTES]
        cookie = pages.login.use(token)
        if cookie is None:
            return pages.site.page(request, "login.html.j2", status=403, token=None, failed=True)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, cookie, httponly=True, samesite="strict", path="/")
        return answer

    async def leave(request: Request) -> Response:
        session = pages.session(request)
        if session is None:
            raise ForbiddenError("nobody is logged in here")
        await checked_form(request, session)
        pages.login.sessions.end(request.cookies.get(COOKIE))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict", path="/")
        return answer

    return [
        Route("/login", ask, methods=["GET"]),
        Route("/login", enter, methods=["POST"]),
        Route("/logout", leave, methods=["POST"]),
    ]


__all__ = ["PLACES", "Pages", "merchant_app"]
