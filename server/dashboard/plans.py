"""The plans: what is to be trained, what it costs in privacy, and who decided what."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from typing import Any

from starlette.exceptions import HTTPException

from agreement.offer import EVERYBODY
from server.dashboard.access import MEMBERS, Address, Ask
from server.dashboard.kept import Price
from server.dashboard.pages import page
from server.dashboard.reading import PlanFile, decided, moment, plan_files, registry_of, roster_of, run_view


def read_all(ask: Ask) -> dict[str, Any]:
    """All plans with their prices, the newest first."""
    plans = plan_files(ask.desk, now=dt.datetime.now(dt.UTC))
    with roster_of(ask.desk) as roster:
        said = decided(roster, plans)
    rows = [
        (plan, _price(ask, plan), Counter(decision.state.value for decision in said.get(plan.name, [])))
        for plan in plans
    ]
    return {"rows": rows, "pricing": any(plan.plan and price is None for plan, price, _ in rows)}


def read_one(ask: Ask) -> dict[str, Any]:
    """One plan, its price, its decisions and its runs."""
    now, wanted = dt.datetime.now(dt.UTC), ask.request.path_params["plan"]
    found = next((plan for plan in plan_files(ask.desk, now=now) if plan.name == wanted), None)
    if found is None or found.plan is None:
        raise HTTPException(404)
    with roster_of(ask.desk) as roster:
        decisions = decided(roster, [found]).get(found.name, [])
        names = {merchant.fingerprint: merchant.name for merchant in roster.merchants()}
    with registry_of(ask.desk) as registry:
        fingerprint = found.plan.fingerprint
        runs = [
            run_view(registry, run, now=now) for run in registry.run_records() if run.plan_fingerprint == fingerprint
        ]
        cost = next((model for model in registry.models() if model.plan_fingerprint == fingerprint), None)
    audience = found.offer.audience if found.offer else ()
    asked = sorted(names.values()) if audience == EVERYBODY else sorted(names[key] for key in audience if key in names)
    return {
        "file": found,
        "plan": found.plan,
        "price": (price := _price(ask, found)),
        "no_privacy": price is not None and price.one == math.inf,
        "decisions": [(decision, moment(decision.time)) for decision in decisions],
        "silent": [name for name in asked if name not in {decision.merchant for decision in decisions}],
        "runs": runs[::-1],
        "model": cost,
    }


def _price(ask: Ask, plan: PlanFile) -> Price | None:
    return None if plan.plan is None else ask.desk.prices.of(plan.plan)


ADDRESSES = (
    Address(path="/plans", roles=MEMBERS, answer=page("plans.html.j2", read_all)),
    Address(path="/plans/live", roles=MEMBERS, answer=page("plans_live.html.j2", read_all), part=True),
    Address(path="/plans/of/{plan}", roles=MEMBERS, answer=page("plan.html.j2", read_one)),
    Address(path="/plans/of/{plan}/live", roles=MEMBERS, answer=page("plan_live.html.j2", read_one), part=True),
)
