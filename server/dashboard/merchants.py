"""The merchants: who is connected, when each was last heard of, with which version, and what it decided."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass
from typing import Any

from server.dashboard.access import MEMBERS, Address, Ask
from server.dashboard.pages import page
from server.dashboard.reading import decided, moment, plan_files, roster_of, status_of
from server.roster import Merchant

SILENT_SECONDS = 86_400  # not heard of for so long: said on the page


@dataclass(frozen=True, kw_only=True)
class Row:
    """A merchant as the page shows it.

    Attributes:
        decisions: how many of the open offers, by "approved", "waiting" and "refused".
        silent: whether it was not heard of for a day.
    """

    merchant: Merchant
    status: str
    seen: dt.datetime | None
    added: dt.date
    decisions: Counter[str]
    silent: bool


def read(ask: Ask) -> dict[str, Any]:
    """All that the page shows."""
    now, nodes = dt.datetime.now(dt.UTC), ask.desk.nodes.now()
    plans = [plan for plan in plan_files(ask.desk, now=now) if plan.state == "open"]
    with roster_of(ask.desk) as roster:
        known = roster.merchants(removed=True)
        said = [decision for each in decided(roster, plans).values() for decision in each]
    rows = []
    for merchant in (merchant for merchant in known if merchant.removed is None):
        seen = moment(merchant.last_seen)
        rows.append(
            Row(
                merchant=merchant,
                status=status_of(merchant, nodes),
                seen=seen,
                added=dt.date.fromisoformat(merchant.added[:10]),
                decisions=Counter(decision.state.value for decision in said if decision.merchant == merchant.name),
                silent=seen is not None and (now - seen).total_seconds() > SILENT_SECONDS,
            )
        )
    removed = [(merchant.name, moment(merchant.removed)) for merchant in known if merchant.removed is not None]
    return {"rows": rows, "removed": removed, "down": nodes is None and ask.desk.nodes.known, "plans": len(plans)}


ADDRESSES = (
    Address(path="/merchants", roles=MEMBERS, answer=page("merchants.html.j2", read)),
    Address(path="/merchants/live", roles=MEMBERS, answer=page("merchants_live.html.j2", read), part=True),
)
