"""An offered plan as a person reads it before saying yes: what is computed, what it costs, until when."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from typing import Any

from agreement.offer import DecisionState
from client.agreements import Agreement
from client.peers import roster_fingerprint
from client.policy import epsilon_by_merchants
from client.spending import Spending
from client.statement import epsilon_text, plain_epsilon
from pp_model.config import to_mapping
from pp_model.integer_sum import secure_epsilons
from pp_model.plan import SecureSumPlan, TrainingPlan

MOST_NAMES = 12

_STATES = {
    DecisionState.WAITING: "waits for you",
    DecisionState.APPROVED: "approved",
    DecisionState.REFUSED: "refused",
}


def plan_mapping(found: Agreement, spending: Spending, *, now: dt.datetime) -> dict[str, Any]:
    """The offer for programs; every epsilon stands beside its delta."""
    offer, plan = found.offer, found.offer.plan
    prices = epsilon_by_merchants(plan.events, delta=plan.delta)
    return {
        "id": offer.id,
        "plan_id": plan.plan_id,
        "plan_fingerprint": plan.fingerprint,
        "serial": offer.serial,
        "state": found.state.value,
        "code": found.code.value if found.code else None,
        "reason": found.reason,
        "by": found.by,
        "decided": found.decided.isoformat(),
        "not_before": offer.not_before.isoformat(),
        "expires": offer.expires.isoformat(),
        "valid_now": offer.not_before <= now < offer.expires,
        "rounds": plan.rounds,
        "rounds_charged": len(spending.of(plan.fingerprint)),
        "price": {"delta": plan.delta, "epsilon": {str(k): plain_epsilon(e) for k, e in prices.items()}},
        "secure_sum": _sum_mapping(plan),
        "ledger": {
            "delta": spending.delta,
            "epsilon_spent": plain_epsilon(spending.spent),
            "epsilon_after": plain_epsilon(spending.after(plan)),
            "epsilon_budget": plain_epsilon(spending.budget),
        },
        "plan": to_mapping(plan),
    }


def plan_text(found: Agreement, spending: Spending, *, now: dt.datetime) -> str:
    """The same for a person, in a few lines."""
    offer, plan = found.offer, found.offer.plan
    facts = {
        "Costs": price_text(plan),
        "Budget": _budget_text(plan, spending),
        **({"Sum": _sum_text(plan.secure_sum, plan)} if plan.secure_sum else {}),
        "Computes": _computed(plan),
        "Takes": f"{plan.rounds} rounds of {plan.dp.num_steps} step(s){_done(plan, spending)}",
        "Valid": f"{offer.not_before:%Y-%m-%d %H:%M} to {offer.expires:%Y-%m-%d %H:%M} UTC{_now(found, now)}",
        "State": _state(found),
    }
    return "\n".join([f"{offer.id}  {plan.plan_id}", *(f"  {name + ':':<10}{text}" for name, text in facts.items())])


def price_text(plan: TrainingPlan) -> str:
    """What the whole run costs one customer."""
    if not plan.dp.noise_multiplier > 0:
        return "ALL PRIVACY: the plan adds no noise, and epsilon is infinite at any delta"
    prices: Mapping[int, float] = epsilon_by_merchants(plan.events, delta=plan.delta)
    return (
        f"for one customer of this shop epsilon {epsilon_text(prices[1])} at delta {plan.delta:g}; for a person of two "
        f"such shops epsilon {epsilon_text(prices[2])} at the same delta"
    )


def _budget_text(plan: TrainingPlan, spending: Spending) -> str:
    after = spending.after(plan)
    left = max(0.0, spending.budget - after) if math.isfinite(after) else 0.0
    return (
        f"spent so far epsilon {epsilon_text(spending.spent)}, after it {epsilon_text(after)} of "
        f"{epsilon_text(spending.budget)} at delta {spending.delta:g} (left {math.floor(left * 100) / 100:.2f})"
    )


def _sum_mapping(plan: TrainingPlan) -> dict[str, Any] | None:
    if plan.secure_sum is None:
        return None
    return {
        "merchants": [peer.name for peer in plan.secure_sum.roster],
        "roster": roster_fingerprint(plan.secure_sum),
        "fewest_survivors": plan.server.min_completions,
        "dishonest": plan.secure_sum.dishonest,
        "delta": plan.delta,
        "epsilon": {name: plain_epsilon(epsilon) for name, epsilon in secure_epsilons(plan).items()},
    }


def _sum_text(sums: SecureSumPlan, plan: TrainingPlan) -> str:
    alone, helped, own = (epsilon_text(epsilon) for epsilon in secure_epsilons(plan).values())
    names = [peer.name for peer in sums.roster]
    shown = ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")
    return (
        f"the platform sees only the sum over {len(names)} merchants ({shown}), of at least "
        f"{plan.server.min_completions} of them in each round. Roster {roster_fingerprint(sums)}: ask another of them, "
        "by telephone, whether it sees the same. At delta "
        f"{plan.delta:g}, epsilon is {alone} against a platform that no merchant helps, {helped} (the price above) "
        f"against one that {sums.dishonest} of them help, and {own} if all the others do"
    )


def _computed(plan: TrainingPlan) -> str:
    trained = "the last layer of" if plan.model.trainable == "readout" else "all of"
    cutoffs = ", ".join(cutoff.isoformat() for cutoff in plan.cutoffs)
    return (
        f"{trained} a {plan.model.encoder} model of who buys how much within {plan.features.horizon_days} days, from "
        f"up to {plan.features.sequence_length} events of each customer; windows cut at {cutoffs}; orders from "
        f"{plan.holdout_start} on are not looked at"
    )


def _done(plan: TrainingPlan, spending: Spending) -> str:
    done = len(spending.of(plan.fingerprint))
    return f", {done} of them charged here" if done else ""


def _now(found: Agreement, now: dt.datetime) -> str:
    if now < found.offer.not_before:
        return " (not yet)"
    return "" if now < found.offer.expires else " (over)"


def _state(found: Agreement) -> str:
    why = f" ({found.code.value}): {found.reason}" if found.code else ""
    what_to_do = f"; to take part: pp-client approve {found.offer.id[:6]}" * (found.state is DecisionState.WAITING)
    return f"{_STATES[found.state]}{why}{what_to_do}"
