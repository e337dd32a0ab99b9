"""Who may ask for what: every address of the dashboard declares its roles, and nothing is answered before they are
checked."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from pp_model.errors import PurchasePowerError
from server.dashboard.accounts import Account, Accounts
from server.dashboard.audit import Action, AuditLog
from server.dashboard.kept import Kept, Nodes, Prices
from server.dashboard.throttle import Throttle
from server.home import PlatformHome, ServerConfig
from web.guard import check_origin, checked_form
from web.sessions import COOKIE, Session, Sessions
from web.site import Site
from web.words import phrase

NOBODY, VIEWER, OPERATOR = "nobody", "viewer", "operator"
EVERYBODY = frozenset({NOBODY, VIEWER, OPERATOR})
MEMBERS = frozenset({VIEWER, OPERATOR})
OPERATORS = frozenset({OPERATOR})

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Desk:
    """All that the pages work with.

    Attributes:
        secure: whether cookies travel over TLS alone.
        stamps: of each account, as it was at its last login here.
    """

    home: PlatformHome
    config: ServerConfig
    site: Site
    accounts: Accounts
    audit: AuditLog
    nodes: Kept[Nodes]
    prices: Prices
    sessions: Sessions = field(default_factory=Sessions)
    throttle: Throttle = field(default_factory=Throttle)
    secure: bool = False
    stamps: dict[str, str] = field(default_factory=dict)

    def log_in(self, account: Account, *, instead_of: str | None) -> str:
        """The token of a new session; the browser's old one, and all of an earlier password, are over."""
        self.sessions.end(instead_of)
        if self.stamps.get(account.name) != account.stamp:
            self.sessions.end_user(account.name)
            self.stamps[account.name] = account.stamp
        return self.sessions.begin(account.name, account.role)[0]

    def session_of(self, request: Request, *, in_use: bool = True) -> Session | None:
        """Who asks; None where nobody is logged in, or the account has changed since.

        Args:
            in_use: whether a person asks, which keeps the session from ending, or the page by itself.
        """
        session = self.sessions.find(request.cookies.get(COOKIE), in_use=in_use)
        if session is None:
            return None
        account = self.accounts.find(session.user)
        if account is None or (account.stamp, account.role) != (self.stamps.get(session.user), session.role):
            self.sessions.end_user(session.user)
            return None
        return session


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request of somebody who may make it.

    Attributes:
        fields: of the form, where one was sent.
    """

    request: Request
    session: Session | None
    desk: Desk
    fields: Mapping[str, str]

    @property
    def who(self) -> str:
        """The account's name; "" for nobody."""
        return self.session.user if self.session else ""

    @property
    def address(self) -> str:
        """Where the request came from, by the connection itself: no header says otherwise."""
        return self.request.client.host if self.request.client else ""

    def note(self, action: Action, subject: str = "") -> None:
        """Writes it down in the audit log, before it is done."""
        self.desk.audit.append(action, who=self.who, subject=subject, address=self.address)


@dataclass(frozen=True, kw_only=True)
class Address:
    """One address of the dashboard.

    Attributes:
        roles: who gets an answer.
        posts: whether it is asked by a form, and may change something.
        part: whether a page asks for it by itself; who may not gets a status, and no other page.
    """

    path: str
    roles: frozenset[str]
    answer: Callable[[Ask], Response]
    posts: bool = False
    part: bool = False


class Declared(Route):
    """A route that knows who may use it."""

    def __init__(self, address: Address, desk: Desk) -> None:
        async def endpoint(request: Request) -> Response:
            return await _answered(address, desk, request)

        super().__init__(address.path, endpoint, methods=["POST" if address.posts else "GET"])
        self.roles = address.roles


async def _answered(address: Address, desk: Desk, request: Request) -> Response:
    session = await run_in_threadpool(desk.session_of, request, in_use=not address.part)
    fields: Mapping[str, str] = {}
    if (session.role if session else NOBODY) not in address.roles:
        return await run_in_threadpool(_refused, address, Ask(request=request, session=session, desk=desk, fields={}))
    if address.posts:
        if session is None or NOBODY in address.roles:
            fields = await _open_form(request)
        else:
            fields = await checked_form(request, session)
    ask = Ask(request=request, session=session, desk=desk, fields=fields)
    try:
        return await run_in_threadpool(address.answer, ask)
    except sqlite3.Error as error:
        log.error("a file cannot be read", extra={"path": address.path, "error": type(error).__name__})
        return desk.site.error(request, 503, phrase("fault.files"), session=session)
    except PurchasePowerError as error:
        return desk.site.error(request, 409, phrase("fault.said", text=str(error)), session=session)


def _refused(address: Address, ask: Ask) -> Response:
    if ask.session is None:
        return PlainTextResponse("log in first\n", 401) if address.part else RedirectResponse("/login", 303)
    ask.note(Action.DENIED, ask.request.url.path[:120])
    raise HTTPException(403)


async def _open_form(request: Request) -> dict[str, str]:
    """The fields of a form that nobody needs a session for; a page of somebody else cannot send it all the same."""
    check_origin(request)
    async with request.form(max_files=0, max_fields=10) as form:
        return {name: value for name, value in form.items() if isinstance(value, str)}
