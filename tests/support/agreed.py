"""Offers that a merchant looks at, and what it says to them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from client.agreements import Agreement, Agreements
from pp_model.errors import BudgetExceededError, ExpiredError, NotApprovedError
from pp_model.plan import TrainingPlan
from tests.support.offers import KEY, NOON, US, signed
from tests.support.shops import raiser, tiny_policy

STARTS, ENDS = dt.date(2026, 1, 1), dt.date(2026, 12, 31)
AUTOMATIC = tiny_policy()
ASK = tiny_policy(approve="ask")


def affordable(plan: TrainingPlan) -> None:
    """Everything fits."""


TOO_DEAR = raiser(BudgetExceededError(spent=1.0, needed=9.0, budget=3.0))


def opened(folder: Path, **changes) -> Agreements:
    """The agreements of this folder, addressed to `offers.US`, for a whole year."""
    fields = {"key": KEY.public, "addressee": US, "starts": STARTS, "ends": ENDS, **changes}
    return Agreements(folder / "agreements.sqlite", **fields)


def considered(store: Agreements, offer, *, policy=AUTOMATIC, afford=affordable, now=NOON, key=KEY) -> Agreement:
    """What becomes of an offer that comes in."""
    return store.consider(signed(offer, key), policy=policy, afford=afford, now=now)


def approved(store: Agreements, offer, *, policy=ASK, afford=affordable, now=NOON) -> Agreement:
    """What becomes of it when a person says yes."""
    return store.approve(offer.id, policy=policy, afford=afford, by="ann", now=now)


def agreed(store: Agreements, offer, *, now=NOON) -> bool:
    """Whether its plan may be trained."""
    try:
        store.agreed(offer.plan, now=now)
    except (NotApprovedError, ExpiredError):
        return False
    return True


def stands(found: Agreement) -> tuple[str, str]:
    """State and refusal code, as they are kept."""
    return found.state.value, found.code.value if found.code else ""
