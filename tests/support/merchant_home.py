"""A merchant's folder as pp-client init makes it, for a platform of the test's choice."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

from agreement.invitation import Invitation
from agreement.signing import SigningKey
from client.merchant_toml import Answers
from client.new_merchant import NewMerchant, make_merchant
from tests.support.orders import row, write_csv
from tests.support.superlink import authority

TODAY = dt.datetime.now(dt.UTC).date()
DAY = dt.timedelta(days=1)
PLAN_KEY = SigningKey.generate()


def invitation(
    address: str = "pp.example.org:8443",
    *,
    ca_pem: bytes = b"",
    key: SigningKey = PLAN_KEY,
    platform: str = "Fair Prices",
) -> Invitation:
    """What a platform sends to its merchants."""
    pem = (ca_pem or authority().pem).decode()
    return Invitation(platform=platform, address=address, plan_key=key.public.to_text(), ca_certificate=pem)


def complete_answers(**changes: Any) -> Answers:
    """Answers that leave no blank."""
    answers = Answers(
        merchant="bakery",
        invitation=invitation(),
        population="customers of the web shop",
        file="orders.csv",
        columns={"customer_id": "customer_id", "timestamp": "timestamp", "amount": "amount"},
        epsilon=3.0,
        delta=1e-5,
        declared_customers=250,
        period="2026-h1",
        starts=TODAY - 30 * DAY,
        ends=TODAY + 100 * DAY,
    )
    return replace(answers, **changes)


def new_shop(folder: Path, **changes: Any) -> NewMerchant:
    """A folder in which all is well, with orders of 300 customers up to yesterday."""
    made = make_merchant(folder, complete_answers(**changes))
    write_csv(folder / "orders.csv", [_order(number) for number in range(600)])
    return made


def _order(number: int) -> dict[str, str]:
    day = TODAY - (1 + number % 100) * DAY
    return row(f"customer-{number % 300}", f"{day} 10:00:{number % 60:02d}", f"{number % 90}.50")
