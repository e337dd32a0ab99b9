"""The merchant's own rules: what each chooses, what for, and whom it found last."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from client.insight.rules import FILE, Condition, Rule, read_rules
from client.insight.rules_run import OUTCOMES_FILE, RuleOutcome
from client.insight.store import cutoff_folder, cutoffs_in
from client.pages.app import Pages
from client.pages.faults import attempt
from client.settings import MerchantSettings
from daemons.files import check_private
from pp_model.config import from_mapping
from pp_model.errors import ConfigError
from web.sessions import Session
from web.words import Phrase, phrase


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One rule.

    Attributes:
        conditions: in words.
        outcome: of the newest cutoff; None where the rule was not applied there.
    """

    rule: Rule
    conditions: tuple[Phrase, ...]
    outcome: RuleOutcome | None


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What came of the rules at one cutoff, by their names."""

    cutoff: dt.date
    by_name: Mapping[str, RuleOutcome]


def routes(pages: Pages) -> list[Route]:
    """The page."""

    def show(request: Request, session: Session) -> Response:
        settings = pages.merchant.settings
        outcomes = attempt(lambda: newest_outcomes(settings))
        rules = attempt(lambda: rules_of(settings, outcomes.value))
        return pages.page(request, session, "rules.html.j2", rules=rules, outcomes=outcomes, file=FILE)

    return [pages.shows("/rules", show)]


def rules_of(settings: MerchantSettings, outcomes: Outcomes | None) -> list[Shown]:
    """Every rule of the merchant's file, with what came of it.

    Raises:
        ConfigError: the file of rules is wrong.
    """
    found = read_rules(settings.home / FILE, slices=tuple(settings.orders.contract.slices))
    return [
        Shown(
            rule=rule,
            conditions=tuple(_words(each) for each in rule.when),
            outcome=outcomes.by_name.get(rule.name) if outcomes else None,
        )
        for rule in found
    ]


def newest_outcomes(settings: MerchantSettings) -> Outcomes | None:
    """What the rules found last; None where they were never applied.

    Raises:
        ConfigError: what was kept of it cannot be read.
    """
    for cutoff in cutoffs_in(settings.paths.insight):
        if outcomes := outcomes_at(settings, cutoff):
            return Outcomes(cutoff=cutoff, by_name={each.name: each for each in outcomes})
    return None


def outcomes_at(settings: MerchantSettings, cutoff: dt.date) -> tuple[RuleOutcome, ...]:
    """What the rules found at a cutoff; () where they were not applied.

    Raises:
        ConfigError: what was kept of it cannot be read.
    """
    path = cutoff_folder(settings.paths.insight, cutoff) / OUTCOMES_FILE
    if not path.exists():
        return ()
    check_private(path)
    try:
        return tuple(from_mapping(RuleOutcome, each) for each in json.loads(path.read_bytes()))
    except (ValueError, TypeError, ConfigError):
        raise ConfigError(f"{path} cannot be read; apply the rules again with pp-client insight") from None


def _words(condition: Condition) -> Phrase:
    column = phrase(f"rules.column_{condition.column}") if condition.column in _NAMED else condition.column
    if condition.one_of:
        return phrase("rules.one_of", column=column, values=", ".join(str(each) for each in condition.one_of))
    if condition.at_most == math.inf:
        return phrase("rules.at_least", column=column, low=f"{condition.at_least:g}")
    if condition.at_least == -math.inf:
        return phrase("rules.at_most", column=column, high=f"{condition.at_most:g}")
    return phrase("rules.between", column=column, low=f"{condition.at_least:g}", high=f"{condition.at_most:g}")


_NAMED = (
    *("tier", "score", "churn_risk", "purchase_probability", "expected_spend_cents", "change", "orders_seen"),
    "newcomer",
)
