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
from client.statement import (
    WORDS,
    Paragraph,
    PrivacyStatement,
    epsilon_phrase,
    epsilon_text,
    heading,
    paragraph,
    plain_epsilon,
    privacy_statement,
    said,
)
from pp_model.accounting import epsilon_spent
from pp_model.config import to_mapping
from pp_model.errors import ConfigError
from pp_model.plan import TrainingPlan
from web.words import Language, Phrase, phrase


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

    def paragraphs(self, language: Language = "en") -> list[tuple[str, str]]:
        """Those of the promise, with what was charged after what was promised."""
        found = self.promise.phrases()
        at = next(i for i, (title, _) in enumerate(found) if title == heading("meaning"))
        return said([*found[:at], _what_was_charged(self), *found[at:]], language)

    def to_mapping(self, language: Language = "en") -> dict[str, Any]:
        """Plain values for JSON, the paragraphs in that language; an infinite epsilon is the text "inf"."""
        return {
            **{name: getattr(self, name) for name in ("merchant", "population", "platform", "charged_rounds", "delta")},
            "period": to_mapping(self.period),
            "made": self.made.isoformat(),
            "charged_epsilon": plain_epsilon(self.charged_epsilon),
            "epsilon_budget": plain_epsilon(self.budget),
            "epsilon_spent": plain_epsilon(self.spent),
            "promise": self.promise.to_mapping(),
            "paragraphs": [{"heading": title, "text": text} for title, text in self.paragraphs(language)],
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


def statement_text(statement: MerchantStatement, language: Language = "en") -> str:
    """For a terminal or a letter."""
    period = statement.period
    of = phrase("statement.of", merchant=statement.merchant, population=statement.population)
    span = phrase("statement.span", period=period.name, starts=period.starts, ends=period.ends, made=statement.made)
    head = "".join(f"{WORDS.say(language, each)}\n" for each in (of, span))
    return head + "".join(f"\n{title}\n{text}\n" for title, text in statement.paragraphs(language))


def statement_html(statement: MerchantStatement, language: Language = "en") -> str:
    """One page, complete in itself."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def say(text: str | Phrase, **values: Any) -> str:
        return WORDS.say(language, text if isinstance(text, Phrase) else f"statement.page.{text}", **values)

    promise = statement.promise
    share = min(1.0, statement.spent / statement.budget) if 0 < statement.budget < math.inf else 0.0
    return environment.get_template("statement.html.j2").render(
        t=say,
        language=language,
        statement=statement,
        promise=promise,
        paragraphs=statement.paragraphs(language),
        title=phrase("statement.title"),
        epsilon=lambda value: epsilon_text(value, language),
        share=math.ceil(100 * share),
        mechanism=[
            ("delta", f"{promise.delta:g}"),
            ("noise", f"{promise.noise_multiplier:g}"),
            ("clip", f"{promise.max_grad_norm:g}"),
            ("rate", f"{promise.sample_rate:g}"),
            ("rounds", say("rounds_value", rounds=promise.rounds, steps=promise.steps_per_round)),
            ("declared", f"{promise.declared_customers:,}"),
        ],
    )


def _what_was_charged(s: MerchantStatement) -> Paragraph:
    rounds = phrase(
        f"statement.charged.{'some' if s.charged_rounds else 'none'}",
        charged=str(s.charged_rounds),
        rounds=str(s.promise.rounds),
        epsilon=epsilon_phrase(s.charged_epsilon),
        delta=f"{s.promise.delta:g}",
    )
    budget = phrase(
        "statement.charged.budget",
        period=s.period.name,
        spent=epsilon_phrase(s.spent),
        budget=epsilon_phrase(s.budget),
        delta=f"{s.delta:g}",
    )
    return paragraph("charged", rounds, budget)
