"""Login, logout and one's own password."""

from __future__ import annotations

from typing import Any

from starlette.responses import RedirectResponse, Response

from server.dashboard.access import EVERYBODY, MEMBERS, Address, Ask
from server.dashboard.accounts import LONGEST_PASSWORD, SHORTEST_PASSWORD, AccountError, checked_password
from server.dashboard.audit import Action
from server.dashboard.pages import page
from web.sessions import COOKIE
from web.site import set_session
from web.words import Phrase, phrase

FREE_OF_A_NAME, FREE_OF_AN_ADDRESS = 5, 20  # attempts without waiting
_LENGTHS = {"shortest": SHORTEST_PASSWORD, "longest": LONGEST_PASSWORD}


def login_page(ask: Ask) -> Response:
    """The form; who is logged in already goes on to the first page."""
    return RedirectResponse("/", 303) if ask.session else _login(ask)


def log_in(ask: Ask) -> Response:
    """A session for who knows the password. Who does not is told the same, whether the name is there or not."""
    name, password = ask.fields.get("name", "").strip()[:80], ask.fields.get("password", "")
    keys = {f"name {name}": FREE_OF_A_NAME, f"address {ask.address}": FREE_OF_AN_ADDRESS}
    # What is typed as a name may be a password: only the names that there are get into the log.
    subject = name if ask.desk.accounts.find(name) else ""
    if wait := ask.desk.throttle.attempt(keys):
        return _login(ask, phrase("login.slow", seconds=wait), status=429)
    account = ask.desk.accounts.verify(name, password)
    if account is None:
        ask.note(Action.LOGIN_FAILED, subject)
        return _login(ask, phrase("login.wrong"), status=401)
    ask.desk.throttle.succeeded(*keys)
    ask.desk.audit.append(Action.LOGIN, who=account.name, address=ask.address)
    answer = RedirectResponse("/", 303)
    token = ask.desk.log_in(account, instead_of=ask.request.cookies.get(COOKIE))
    set_session(answer, token, secure=ask.desk.secure)
    return answer


def log_out(ask: Ask) -> Response:
    """The session is over, and the browser's cookie gone."""
    ask.note(Action.LOGOUT)
    ask.desk.sessions.end(ask.request.cookies.get(COOKIE))
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=ask.desk.secure)
    return answer


def read_account(ask: Ask) -> dict[str, Any]:
    """Who is logged in."""
    account = ask.desk.accounts.find(ask.who)
    return {"account": account, "fault": None, "done": ask.request.query_params.get("done") == "password", **_LENGTHS}


def change_password(ask: Ask) -> Response:
    """A new password for whoever knows the old one; every other browser of the account is logged out."""
    old, new, again = (ask.fields.get(name, "") for name in ("old", "new", "again"))
    keys = {f"name {ask.who}": FREE_OF_A_NAME, f"address {ask.address}": FREE_OF_AN_ADDRESS}
    if wait := ask.desk.throttle.attempt(keys):
        return _account(ask, phrase("login.slow", seconds=wait), status=429)
    if ask.desk.accounts.verify(ask.who, old) is None:
        ask.note(Action.PASSWORD_REFUSED)
        return _account(ask, phrase("account.old_wrong"))
    ask.desk.throttle.succeeded(*keys)
    try:
        checked_password(new, name=ask.who)
    except AccountError:
        return _account(ask, phrase("account.weak", **_LENGTHS))
    if new != again:
        return _account(ask, phrase("account.differ"))
    ask.note(Action.PASSWORD_CHANGED)
    account = ask.desk.accounts.set_password(ask.who, new)
    answer = RedirectResponse("/account?done=password", 303)
    set_session(answer, ask.desk.log_in(account, instead_of=ask.request.cookies.get(COOKIE)), secure=ask.desk.secure)
    return answer


def _login(ask: Ask, fault: Phrase | None = None, *, status: int = 200) -> Response:
    platform = ask.desk.config.name
    return ask.desk.site.page(ask.request, "login.html.j2", status=status, fault=fault, platform=platform)


def _account(ask: Ask, fault: Phrase, *, status: int = 400) -> Response:
    context = {**read_account(ask), "fault": fault, "done": False}
    return ask.desk.site.page(ask.request, "account.html.j2", session=ask.session, status=status, **context)


ADDRESSES = (
    Address(path="/login", roles=EVERYBODY, answer=login_page),
    Address(path="/login", roles=EVERYBODY, answer=log_in, posts=True),
    Address(path="/logout", roles=MEMBERS, answer=log_out, posts=True),
    Address(path="/account", roles=MEMBERS, answer=page("account.html.j2", read_account)),
    Address(path="/account", roles=MEMBERS, answer=change_password, posts=True),
)
