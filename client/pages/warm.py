"""What the first page would otherwise wait for."""

from __future__ import annotations

import datetime as dt
from contextlib import suppress

from client.pages.budget import budget_of, charge_days
from client.pages.merchant import Merchant
from client.pages.plans import plan_view
from pp_model.errors import PurchasePowerError


def warm(merchant: Merchant) -> None:
    """Prices what the first pages show, so that it is at hand. A fault is for the page to tell."""
    with suppress(PurchasePowerError, OSError):
        now, spending, agreements = dt.datetime.now(dt.UTC), merchant.spending(), merchant.agreements()
        budget_of(spending, agreements, days=charge_days(merchant.settings.paths.log), now=now)
        for found in agreements[:10]:
            plan_view(found, spending, now=now)
