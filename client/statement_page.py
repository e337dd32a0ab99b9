"""One merchant's privacy statement, for its customers, its lawyers and auditors: as text, JSON and one HTML page.

The page asks for nothing: no network, no script, no font, no image.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from agreement.offer import DecisionState
from client.agreements import Agreement
from client.settings import MerchantSettings, Period
from client.spending import Spending
from client.statement import PrivacyStatement, epsilon_text, plain_epsilon, privacy_statement
from pp_model.accounting import epsilon_spent
from pp_model.config import to_mapping
from pp_model.errors import ConfigError
from pp_model.plan import TrainingPlan


@dataclass(frozen=True, kw_only=True)
class MerchantStatement:
    """What is promised for a plan, by whom, and what was really charged.

    Attributes:
        made: day (UTC) on which it was true.
        charged_rounds: rounds of the plan in the ledger.
        charged_epsilon: what these cost together, at the plan's delta, for a customer of this merchant.
        budget, delta: of the ledger, for the period.
        spent: of all charges of the period, at that delta.
    """

    merchant: str
    population: str
    platform: str
    period: Period
    made: dt.date
    promise: PrivacyStatement
    charged_rounds: int
    charged_epsilon: float
    budget: float
    delta: float
    spent: float

    def paragraphs(self) -> list[tuple[str, str]]:
        """Those of the promise, with what was charged after what was promised."""
        at = next(i for i, (heading, _) in enumerate(self.promise.paragraphs()) if heading == "What these numbers mean")
        found = self.promise.paragraphs()
        return [*found[:at], _what_was_charged(self), *found[at:]]

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite epsilon is the text "inf"."""
        return {
            **{name: getattr(self, name) for name in ("merchant", "population", "platform", "charged_rounds", "delta")},
            "period": to_mapping(self.period),
            "made": self.made.isoformat(),
            "charged_epsilon": plain_epsilon(self.charged_epsilon),
            "epsilon_budget": plain_epsilon(self.budget),
            "epsilon_spent": plain_epsilon(self.spent),
            "promise": self.promise.to_mapping(),
            "paragraphs": [{"heading": heading, "text": text} for heading, text in self.paragraphs()],
        }


def latest_plan(offered: Sequence[Agreement], spending: Spending) -> TrainingPlan:
    """The plan charged last; before the first charge, the one approved last; before that, the one offered last.

    Args:
        offered: every agreement, in the order in which the offers came.

    Raises:
        ConfigError: no plan was offered yet, or the one charged last is not among them.
    """
    plans = {found.offer.plan.fingerprint: found.offer.plan for found in offered}
    approved = [found.offer.plan for found in offered if found.state is DecisionState.APPROVED]
    if spending.charges:
        fingerprint = spending.charges[-1].plan
        if fingerprint not in plans:
            raise ConfigError(
                f"the plan charged last ({fingerprint[:12]}) is not among the offers known here; put "
                "state/agreements.sqlite back, or name another plan with --plan ID"
            )
        return plans[fingerprint]
    for known in (approved, list(plans.values())):
        if known:
            return known[-1]
    raise ConfigError("no plan was offered yet, and nothing was charged; ask with pp-client plans")


def merchant_statement(settings: MerchantSettings, plan: TrainingPlan, spending: Spending) -> MerchantStatement:
    """The statement of the configured merchant about `plan`, true today."""
    charged = spending.of(plan.fingerprint)
    return MerchantStatement(
        merchant=settings.merchant,
        population=settings.population,
        platform=settings.platform.name,
        period=settings.period,
        made=dt.datetime.now(dt.UTC).date(),
        promise=privacy_statement(plan, spent_events=[charge.event for charge in spending.charges]),
        charged_rounds=len(charged),
        charged_epsilon=epsilon_spent([charge.event for charge in charged], delta=plan.delta),
        budget=spending.budget,
        delta=spending.delta,
        spent=spending.spent,
    )


def statement_text(statement: MerchantStatement) -> str:
    """For a terminal or a letter."""
    period = statement.period
    head = (
        f"Privacy statement of {statement.merchant} ({statement.population})\n"
        f"Period {period.name}, {period.starts} to {period.ends}; as of {statement.made}\n"
    )
    return head + "".join(f"\n{heading}\n{text}\n" for heading, text in statement.paragraphs())


def statement_html(statement: MerchantStatement) -> str:
    """One page, complete in itself."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    promise = statement.promise
    share = min(1.0, statement.spent / statement.budget) if 0 < statement.budget < math.inf else 0.0
    return environment.get_template("statement.html.j2").render(
        statement=statement,
        promise=promise,
        paragraphs=statement.paragraphs(),
        promised=epsilon_text(promise.plan_epsilon[1]),
        charged=epsilon_text(statement.charged_epsilon),
        spent=epsilon_text(statement.spent),
        budget=epsilon_text(statement.budget),
        share=math.ceil(100 * share),
        shops=[
            (count, epsilon_text(epsilon), epsilon_text(promise.spent_epsilon[count]))
            for count, epsilon in promise.plan_epsilon.items()
        ],
        mechanism=[
            ("Delta", f"{promise.delta:g}"),
            ("Noise multiplier", f"{promise.noise_multiplier:g}"),
            ("Clip norm of one customer", f"{promise.max_grad_norm:g}"),
            ("Sample rate", f"{promise.sample_rate:g}"),
            ("Rounds, and steps in each", f"{promise.rounds:,} and {promise.steps_per_round:,}"),
            ("Customers declared, at least", f"{promise.declared_customers:,}"),
        ],
    )


def _what_was_charged(s: MerchantStatement) -> tuple[str, str]:
    rounds = f"{s.charged_rounds} of the plan's {s.promise.rounds} rounds"
    costs = (
        f"were charged so far: epsilon {epsilon_text(s.charged_epsilon)} at delta {s.promise.delta:g} for a customer "
        "of this shop"
        if s.charged_rounds
        else "were charged so far: nothing has left for this plan yet"
    )
    return "What was really charged", (
        f"{rounds} {costs}. All charges of the period {s.period.name} together, of this plan and any other, come to "
        f"epsilon {epsilon_text(s.spent)} of a budget of {epsilon_text(s.budget)}, at the ledger's delta {s.delta:g}. "
        "When the budget is used up, the merchant takes part in nothing more until the period ends."
    )
