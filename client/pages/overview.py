"""The first page: what is left of the budget, what is to be done next, and how the daemon is."""

from __future__ import annotations

import datetime as dt
import http.client
import json
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agreement.offer import DecisionState
from client.agreements import Agreement
from client.drift import STALE_DAYS
from client.pages.app import Pages
from client.pages.budget import Budget, budget_of, charge_days, left_words
from client.pages.faults import Part, attempt
from client.pages.insight import newest_cutoff
from client.pages.merchant import Merchant
from client.preflight import split_address
from client.settings import MerchantSettings
from client.shop_status import ShopStatus, read_status
from web.sessions import Session
from web.words import Phrase, phrase

_HEALTH_SECONDS = 0.5
_MOST_BYTES = 100_000
_NEARLY = 0.05  # of the budget


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """The daemon as its status page says; `running` is false where nothing answers there."""

    running: bool
    ok: bool = False
    parts: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing to do next, and where.

    Attributes:
        tone: of its mark: "bad", "warning" or "".
    """

    text: Phrase
    path: str
    link: str
    tone: str = ""


def routes(pages: Pages) -> list[Route]:
    """The page."""

    def show(request: Request, session: Session) -> Response:
        merchant, now = pages.merchant, dt.datetime.now(dt.UTC)
        settings = merchant.settings
        agreements = attempt(merchant.agreements)
        budget = attempt(
            lambda: budget_of(
                merchant.spending(), agreements.value or [], days=charge_days(settings.paths.log), now=now
            )
        )
        daemon, status = ask_daemon(settings), read_status(merchant.state)
        return pages.page(
            request,
            session,
            "overview.html.j2",
            settings=settings,
            budget=budget,
            left_words=left_words(budget.value) if budget.value else None,
            agreements=agreements,
            daemon=daemon,
            runner=status if daemon.running else None,
            steps=next_steps(merchant, budget, agreements, daemon, status, now=now),
        )

    return [pages.shows("/", show)]


def ask_daemon(settings: MerchantSettings) -> Daemon:
    """What the daemon's own status page on this machine says."""
    host, port = split_address(settings.local.health_http)
    connection = http.client.HTTPConnection(host, port, timeout=_HEALTH_SECONDS)
    try:
        connection.request("GET", "/health")
        told: Any = json.loads(connection.getresponse().read(_MOST_BYTES))
        parts = {str(name): serves is True for name, serves in told["parts"].items()}
        return Daemon(running=True, ok=told["ok"] is True, parts=parts)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError):
        return Daemon(running=False)
    finally:
        connection.close()


def next_steps(
    merchant: Merchant,
    budget: Part[Budget],
    agreements: Part[list[Agreement]],
    daemon: Daemon,
    status: ShopStatus | None,
    *,
    now: dt.datetime,
) -> list[Step]:
    """What a person should do, the most pressing first."""
    settings, steps = merchant.settings, list[Step]()
    waiting = [
        each for each in agreements.value or [] if each.state is DecisionState.WAITING and now < each.offer.expires
    ]
    if waiting:
        steps.append(
            Step(
                text=phrase("next.waiting", count=len(waiting)), path="/plans", link="next.waiting_link", tone="warning"
            )
        )
    if budget.fault:
        steps.append(Step(text=phrase("next.ledger"), path="/data", link="next.data_link", tone="bad"))
    steps += _of_period(settings, now.date())
    if not daemon.running:
        steps.append(Step(text=phrase("next.daemon"), path="", link="", tone="bad"))
    if budget.value and budget.value.private and budget.value.share(budget.value.left) < _NEARLY:
        steps.append(Step(text=phrase("next.budget", ends=settings.period.ends), path="", link="", tone="warning"))
    if status and status.fault and daemon.running:
        steps.append(Step(text=phrase("next.orders"), path="/data", link="next.data_link", tone="bad"))
    elif age := _age(status, now.date()):
        steps.append(Step(text=phrase("next.stale", days=age), path="/data", link="next.data_link", tone="warning"))
    if not merchant.model_folders():
        steps.append(Step(text=phrase("next.model"), path="/jobs", link="next.model_link"))
    elif newest_cutoff(settings) is None:
        steps.append(Step(text=phrase("next.insight"), path="/jobs", link="next.insight_link"))
    return steps


def _of_period(settings: MerchantSettings, today: dt.date) -> list[Step]:
    period = settings.period
    if period.contains(today):
        return []
    key = "next.period_over" if today > period.ends else "next.period_early"
    text = phrase(key, name=period.name, starts=period.starts, ends=period.ends)
    return [Step(text=text, path="", link="", tone="bad")]


def _age(status: ShopStatus | None, today: dt.date) -> int:
    """Days since the newest order that the runner saw, where they are too many; else 0."""
    if status is None or not status.newest_order:
        return 0
    days = (today - dt.date.fromisoformat(status.newest_order)).days
    return days if days > STALE_DAYS else 0
