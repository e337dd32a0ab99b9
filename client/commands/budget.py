"""`pp-client budget`: what was spent, on what, and what is left."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from client.commands import new_command
from daemons.exit_codes import Exit

if TYPE_CHECKING:
    from client.settings import MerchantSettings
    from client.spending import Spending

_ASSUMPTIONS = """\
Epsilon is of one customer of this merchant, with all orders together; adding or removing that customer is compared.
It is an upper bound of all charges together, by privacy loss distributions; epsilons of single charges do not add up.
Charged is what was reserved before the orders were used; a task that then failed stays charged."""


def add(commands: Any) -> None:
    """Adds the command's parser."""
    parser = new_command(
        commands,
        "budget",
        run,
        about="what was spent in this period, on what, and what is left",
        example="pp-client budget",
    )
    parser.add_argument("--json", action="store_true", help="print as JSON, every charge included")


def run(args: argparse.Namespace) -> int:
    """Prints the ledger, verified."""
    from client.agreements import open_agreements
    from client.settings import load_settings
    from client.spending import read_spending

    settings = load_settings(args.config)
    spending = read_spending(settings)
    plans = {each.offer.plan.fingerprint: each.offer.plan.plan_id for each in open_agreements(settings).all()}
    if args.json:
        sys.stdout.write(json.dumps(budget_mapping(settings, spending, plans), indent=1, allow_nan=False) + "\n")
    else:
        sys.stdout.write(budget_text(settings, spending, plans))
    return Exit.DONE


def budget_mapping(settings: MerchantSettings, spending: Spending, plans: dict[str, str]) -> dict[str, Any]:
    """The budget for programs, charge by charge."""
    from client.statement import ACCOUNTANT, RELATION, UNIT, plain_epsilon
    from pp_model.config import to_mapping

    return {
        "merchant": settings.merchant,
        "population": settings.population,
        "period": to_mapping(settings.period),
        "unit": UNIT,
        "relation": RELATION,
        "accountant": ACCOUNTANT,
        "delta": spending.delta,
        "epsilon_budget": plain_epsilon(spending.budget),
        "epsilon_spent": plain_epsilon(spending.spent),
        "epsilon_left": plain_epsilon(spending.left),
        "plans": [
            {
                "plan_id": plans.get(fingerprint),
                "plan_fingerprint": fingerprint,
                "tasks": len(spending.of(fingerprint)),
                "epsilon_alone": plain_epsilon(_alone(spending, fingerprint)),
            }
            for fingerprint in _fingerprints(spending)
        ],
        "charges": [
            {**to_mapping(charge), "epsilon_after": plain_epsilon(charge.epsilon_after)} for charge in spending.charges
        ],
    }


def budget_text(settings: MerchantSettings, spending: Spending, plans: dict[str, str]) -> str:
    """The budget for a person, plan by plan."""
    from client.statement import epsilon_text

    lines = [
        f"{settings.merchant}: {settings.population}, period {settings.period.name} ({settings.period.starts} to "
        f"{settings.period.ends})",
        "",
        f"  Budget  epsilon {epsilon_text(spending.budget)} at delta {spending.delta:g}",
        f"  Spent   epsilon {epsilon_text(spending.spent)} by {len(spending.charges)} task(s)",
        f"  Left    epsilon {int(spending.left * 100) / 100:.2f}"
        if spending.budget < float("inf")
        else "  Left    any",
        "",
    ]
    for fingerprint in _fingerprints(spending):
        name = plans.get(fingerprint, f"a plan no longer known here ({fingerprint[:12]})")
        alone = epsilon_text(_alone(spending, fingerprint))
        lines.append(f"  {name}: {len(spending.of(fingerprint))} task(s), epsilon {alone} if it were alone")
    return "\n".join([*lines, *([""] if spending.charges else []), _ASSUMPTIONS, ""])


def _fingerprints(spending: Spending) -> list[str]:
    return list(dict.fromkeys(charge.plan for charge in spending.charges))


def _alone(spending: Spending, fingerprint: str) -> float:
    from pp_model.accounting import epsilon_spent

    return epsilon_spent([charge.event for charge in spending.of(fingerprint)], delta=spending.delta)
