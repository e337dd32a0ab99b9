"""The dashboard as one application."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from starlette.applications import Starlette

from server.dashboard import account, merchants, models, overview, plans, runs, trail
from server.dashboard.access import OPERATORS, Declared, Desk
from server.dashboard.accounts import Accounts, accounts_file
from server.dashboard.audit import AuditLog, audit_file
from server.dashboard.kept import CONNECTED_SECONDS, Kept, Nodes, Prices, nodes_of
from server.home import PlatformHome, ServerConfig
from server.registry import Registry
from server.roster import Roster
from web.guard import LOOPBACK_NAMES
from web.site import Place, Site

FOLDER = Path(__file__).parent
PLACES = (
    Place(path="/", text="menu.overview"),
    Place(path="/merchants", text="menu.merchants"),
    Place(path="/runs", text="menu.runs"),
    Place(path="/plans", text="menu.plans"),
    Place(path="/models", text="menu.models"),
    Place(path="/compare", text="menu.compare"),
    Place(path="/audit", text="menu.audit", roles=OPERATORS),
    Place(path="/account", text="menu.account"),
)
ADDRESSES = tuple(
    address for module in (overview, merchants, runs, plans, models, trail, account) for address in module.ADDRESSES
)


def make_desk(
    home: PlatformHome,
    config: ServerConfig,
    *,
    secure: bool = False,
    nodes: Callable[[], Nodes] | None = None,
) -> Desk:
    """All that the pages of one platform need; brings its registry up to date, the last time that it is written here.

    Args:
        secure: whether the pages are served over TLS.
        nodes: who is connected; None asks the platform's SuperLink.
    """
    Registry(home.registry).close()
    Roster(home.registry).close()
    load = nodes or (lambda: nodes_of(home, config))
    return Desk(
        home=home,
        config=config,
        site=Site(name="dashboard.name", templates=FOLDER / "templates", words=FOLDER / "words", places=PLACES),
        accounts=Accounts(accounts_file(home)),
        audit=AuditLog(audit_file(home)),
        nodes=Kept(load, seconds=CONNECTED_SECONDS, first=None),
        prices=Prices(),
        secure=secure,
    )


def make_app(desk: Desk, *, names: re.Pattern[str] = LOOPBACK_NAMES) -> Starlette:
    """The application.

    Args:
        names: hosts under which it may be asked.
    """
    routes = [Declared(address, desk) for address in ADDRESSES]
    return desk.site.app(routes, names=names, session_of=desk.session_of)
