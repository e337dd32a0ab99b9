"""Plans that are offered, priced in plain words; a person's yes or no to each."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from agreement.offer import DecisionState
from client.agreements import Agreement, Event, open_agreements
from client.decisions import approve_offer, local_user, reject_offer, tell_platform
from client.pages.app import Pages
from client.pages.faults import attempt
from client.pages.numbers import small, up
from client.peers import roster_fingerprint
from client.plan_view import MOST_NAMES
from client.policy import epsilon_by_merchants
from client.spending import Spending
from pp_model.errors import ConfigError
from pp_model.integer_sum import secure_epsilons
from pp_model.plan import TrainingPlan
from web.charts import Chart, Series
from web.sessions import Session
from web.words import Phrase, phrase

SAID = ("approved", "approved_untold", "rejected", "rejected_untold")


@dataclass(frozen=True, kw_only=True)
class SumView:
    """A secure sum before a person says yes.

    Attributes:
        names: of the first merchants on the roster; `more` is how many there are besides.
        roster: its fingerprint, to be compared by telephone.
        epsilon: against a platform alone, helped by the `dishonest` of them, helped by all others.
        changed: merchants whose key is another one than before.
    """

    merchants: int
    names: tuple[str, ...]
    more: int
    fewest: int
    dishonest: int
    roster: str
    epsilon: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PlanView:
    """One offer in numbers that a template can say.

    Attributes:
        tone: of its state's badge.
        prices: epsilon as text, by the number of shops a person is a customer of.
        before, share, over: of the budget, 0 to 1: spent, what the plan would add, and whether that does not fit.
        valid_now: "yes", "early" or "over".
    """

    found: Agreement
    tone: str
    private: bool
    prices: dict[int, str]
    spent: str
    after: str
    budget: str
    before: float
    share: float
    over: bool
    rounds_charged: int
    valid_now: str
    sums: SumView | None

    @property
    def plan(self) -> TrainingPlan:
        """The plan."""
        return self.found.offer.plan

    @property
    def open(self) -> bool:
        """Whether a person's yes would change something."""
        return self.found.state is not DecisionState.APPROVED and self.valid_now != "over"

    @property
    def why(self) -> Phrase | None:
        """Why it is refused, in plain words."""
        return phrase(f"offer.{self.found.code.value}") if self.found.code else None


def plan_view(found: Agreement, spending: Spending, *, now: dt.datetime, changed: tuple[str, ...] = ()) -> PlanView:
    """The offer against the budget as it is now.

    Args:
        changed: of `Agreements.changed_keys`.
    """
    offer, plan = found.offer, found.offer.plan
    private, after = plan.dp.noise_multiplier > 0, spending.after(plan)
    prices = epsilon_by_merchants(plan.events, delta=plan.delta) if private else {}
    whole = spending.budget if 0 < spending.budget < math.inf else math.inf
    before = min(1.0, spending.spent / whole)
    share = min(1.0 - before, max(0.0, (after - spending.spent) / whole)) if math.isfinite(after) else 1.0 - before
    return PlanView(
        found=found,
        tone={DecisionState.WAITING: "warning", DecisionState.APPROVED: "good"}.get(found.state, "bad"),
        private=private,
        prices={count: up(epsilon) for count, epsilon in prices.items()},
        spent=up(spending.spent),
        after=up(after),
        budget=up(spending.budget),
        before=before,
        share=share,
        over=not after <= spending.budget,
        rounds_charged=len(spending.of(plan.fingerprint)),
        valid_now="early" if now < offer.not_before else "yes" if now < offer.expires else "over",
        sums=_sum_view(plan, changed),
    )


def routes(pages: Pages) -> list[Route]:
    """The list, one plan, and what a person decides about it."""

    def show_all(request: Request, session: Session) -> Response:
        now = dt.datetime.now(dt.UTC)

        def read() -> list[PlanView]:
            spending = pages.merchant.spending()
            return [plan_view(found, spending, now=now) for found in pages.merchant.agreements()]

        return pages.page(request, session, "plans.html.j2", plans=attempt(read))

    def show_one(request: Request, session: Session) -> Response:
        return pages.page(request, session, "plan.html.j2", **_one(pages, request), said=_said(request))

    def approve(request: Request, _session: Session, form: dict[str, str]) -> Response:
        settings, offer_id = pages.merchant.settings, request.path_params["offer"]
        changed = [name.removeprefix("changed:") for name in form if name.startswith("changed:")]
        now = dt.datetime.now(dt.UTC)
        with pages.deciding:
            found = approve_offer(settings, offer_id, by=local_user(), now=now, changed_keys=changed)
        return _decided(pages, found, "approved")

    def reject(request: Request, _session: Session, _form: dict[str, str]) -> Response:
        settings, now = pages.merchant.settings, dt.datetime.now(dt.UTC)
        with pages.deciding:
            found = reject_offer(settings, request.path_params["offer"], by=local_user(), now=now)
        return _decided(pages, found, "rejected")

    return [
        pages.shows("/plans", show_all),
        pages.shows("/plans/{offer:str}", show_one),
        pages.acts("/plans/{offer:str}/approve", approve),
        pages.acts("/plans/{offer:str}/reject", reject),
    ]


def _one(pages: Pages, request: Request) -> dict[str, Any]:
    merchant, offer_id = pages.merchant, request.path_params["offer"]
    agreements = open_agreements(merchant.settings)
    try:
        found = merchant.agreement(offer_id)
    except ConfigError:
        raise HTTPException(404) from None
    changed = tuple(agreements.changed_keys(offer_id))
    view = plan_view(found, merchant.spending(), now=dt.datetime.now(dt.UTC), changed=changed)
    history: list[Event] = agreements.history(offer_id)
    return {"view": view, "history": history, "price_chart": _price_chart(view)}


def _decided(pages: Pages, found: Agreement, what: str) -> Response:
    untold = "_untold" if tell_platform(pages.merchant.settings, found) else ""
    return RedirectResponse(f"/plans/{found.offer.id}?said={what}{untold}", 303)


def _said(request: Request) -> str | None:
    said = request.query_params.get("said", "")
    return said if said in SAID else None


def _price_chart(view: PlanView) -> Chart | None:
    if not view.private:
        return None
    prices = epsilon_by_merchants(view.plan.events, delta=view.plan.delta)
    return Chart(
        kind="bar",
        title=phrase("plan.price_chart", delta=small(view.plan.delta)),
        x=phrase("plan.shops"),
        y=phrase("budget.epsilon"),
        categories=tuple(str(count) for count in prices),
        series=(Series(label=phrase("budget.epsilon"), values=tuple(prices.values())),),
        kind_of_value="epsilon",
    )


def _sum_view(plan: TrainingPlan, changed: tuple[str, ...]) -> SumView | None:
    sums = plan.secure_sum
    if sums is None:
        return None
    names = tuple(peer.name for peer in sums.roster)
    return SumView(
        merchants=len(names),
        names=names[:MOST_NAMES],
        more=max(0, len(names) - MOST_NAMES),
        fewest=plan.server.min_completions,
        dishonest=sums.dishonest,
        roster=roster_fingerprint(sums),
        epsilon=tuple(up(epsilon) for epsilon in secure_epsilons(plan).values()),
        changed=changed,
    )
