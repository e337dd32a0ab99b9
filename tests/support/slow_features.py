"""What a person would compute from a customer's orders with a pencil: the twin of `features`, order by order."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev

from pp_model.schema import EventType, Order, category_code, fingerprint64

Tokens = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Basket:
    """Lines of one customer, day, order and event type."""

    when: dt.datetime
    spend: int
    quantity: int
    lines: int
    category: int
    kind: EventType


@dataclass(frozen=True, kw_only=True)
class SlowRow:
    """One customer at one cutoff."""

    features: dict[str, float]
    tokens: list[Tokens]
    log_anchor: float
    spend_cents: int


def slow_baskets(orders: Sequence[Order], customer: int) -> list[Basket]:
    """A customer's baskets in time order; ties in the order of the order's fingerprint, then of the event type."""
    groups: dict[tuple[dt.date, int, EventType], list[Order]] = {}
    for number, order in enumerate(orders):
        if order.customer == customer:
            key = fingerprint64(order.order_id) if order.order_id else -1 - number
            groups.setdefault((order.timestamp.date(), key, order.event_type), []).append(order)
    baskets = []
    for (_, key, kind), lines in groups.items():
        when = min(line.timestamp for line in lines)
        _, category = max((abs(line.spend_cents), category_code(line.category)) for line in lines)
        spend, quantity = sum(line.spend_cents for line in lines), sum(line.quantity for line in lines)
        basket = Basket(when=when, spend=spend, quantity=quantity, lines=len(lines), category=category, kind=kind)
        baskets.append(((when, key, kind), basket))
    return [basket for _, basket in sorted(baskets, key=lambda pair: pair[0])]


def slow_row(orders: Sequence[Order], customer: int, cutoff: dt.date, horizon: int) -> SlowRow | None:
    """The customer's row, or None where nothing happened before the cutoff."""
    midnight = dt.datetime.combine(cutoff, dt.time())
    everything = slow_baskets(orders, customer)
    past = [b for b in everything if b.when < midnight]
    if not past:
        return None
    end = midnight + dt.timedelta(days=horizon)
    label = sum(b.spend for b in everything if midnight <= b.when < end)

    def age(b: Basket) -> float:
        return (midnight - b.when).total_seconds() / 86_400

    buys = [b for b in past if b.kind == EventType.PURCHASE]
    returns = [b for b in past if b.kind == EventType.RETURN]
    first_of_day: dict[dt.date, Basket] = {}
    for b in buys:
        first_of_day.setdefault(b.when.date(), b)
    visits = list(first_of_day.values())
    gross = sum(b.spend for b in buys)
    refunds = -sum(b.spend for b in returns)
    spend = gross - refunds
    tenure = max(1.0, max(age(b) for b in past))
    recency = age(visits[-1]) if visits else tenure
    mean_visit = max(50.0, max(spend, 0.25 * gross) / len(visits)) if visits else 3_000.0
    expected = len(visits) * horizon / (tenure + 0.5 * horizon)
    rate = max(expected, 1e-3)
    named = [b.category % 8 for b in buys if b.category >= 0]

    f: dict[str, float] = {
        "log_recency": math.log((recency + 0.5) / horizon),
        "recency": min(recency / horizon, 8) / 2,
        "log_tenure": math.log((tenure + 0.5) / horizon),
        "log_visits": math.log(1 + len(visits)),
        "log_expected_visits": math.log(expected + 0.02),
        "buying_probability_at_own_rate": 2 * (1 - math.exp(-expected)) - 1,
        "no_visit": float(len(visits) == 0),
        "one_visit": float(len(visits) == 1),
        "two_visits": float(len(visits) == 2),
        "log_mean_visit": math.log(mean_visit / 3_000) / 2,
        "log_baskets_per_visit": math.log((len(buys) + 0.1) / (len(visits) + 0.1)),
        "weekend_share": (sum(b.when.weekday() >= 5 for b in visits) / len(visits) if visits else 0.0) - 2 / 7,
        "returns_per_basket": min(len(returns) / max(len(buys), 1), 2.0),
        "returned_share": 2 * min(refunds / max(gross, 50), 1.0),
        "log_lines": math.log((sum(b.lines for b in buys) + 1) / (max(len(buys), 1) + 1)) / 2,
        "log_quantity": math.log((sum(b.quantity for b in buys) + 1) / (max(len(buys), 1) + 1)) / 2,
    }
    for share in (0.125, 0.25, 0.5, 1, 2, 4, 8):
        recent = sum(age(b) <= share * horizon for b in visits)
        f[f"log_visits_last_{share:g}"] = math.log(1 + recent)
        if share >= 1:
            f[f"visit_trend_{share:g}"] = math.log((recent + 0.3) / (expected * share + 0.3))
    for share in (2, 4):
        lately = max(0, sum(b.spend for b in buys + returns if age(b) <= share * horizon))
        usual = max(spend, 50) / (tenure + 0.5 * horizon) * share * horizon
        f[f"spend_trend_{share:g}"] = math.log((lately + 0.3 * mean_visit) / (usual + 0.3 * mean_visit))
    for share in (0.125, 1):
        browsed = [b for b in past if b.kind in (EventType.VIEW, EventType.CART, EventType.SEARCH)]
        f[f"log_browsing_last_{share:g}"] = math.log(1 + sum(age(b) <= share * horizon for b in browsed)) / 2
    for bucket in range(8):
        f[f"category_share_{bucket}"] = named.count(bucket) / len(named) if named else 0.0
    f |= _gaps([age(b) for b in visits], recency, horizon)
    f |= _spends([b.spend for b in buys], mean_visit)
    f |= _season(midnight, [age(b) for b in visits], tenure, expected, horizon)
    return SlowRow(
        features={name: min(6.0, max(-6.0, value)) for name, value in f.items()},
        tokens=_tokens(past, mean_visit, horizon),
        log_anchor=math.log(mean_visit * rate / (1 - math.exp(-rate))),
        spend_cents=max(label, 0),
    )


def _gaps(ages: list[float], recency: float, horizon: int) -> dict[str, float]:
    gaps = [before - after for before, after in pairwise(ages)]
    usual = fmean(gaps) if gaps else horizon
    logs = [math.log(gap + 0.5) for gap in gaps]
    longest, latest = (max(gaps), gaps[-1]) if gaps else (0.0, 0.0)
    longer = sum(gap > recency for gap in gaps)
    return {
        "log_usual_gap": math.log((usual + 0.5) / horizon),
        "log_silence_in_gaps": math.log((recency + 0.5) / (usual + 0.5)),
        "log_silence_in_typical_gaps": (math.log(recency + 0.5) - fmean(logs)) / 2 if gaps else 0.0,
        "gap_spread": stdev(logs) if len(gaps) > 1 else 1.0,
        "log_longest_gap": math.log((longest + 0.5) / (usual + 0.5)) if gaps else 0.0,
        "log_latest_gap": math.log((latest + 0.5) / (usual + 0.5)) if gaps else 0.0,
        "silence_rank": 2 * (longer + 0.5) / (len(gaps) + 1) - 1 if gaps else 0.0,
        "log_silence_in_longest_gap": math.log((recency + 0.5) / (longest + 0.5)) / 2 if gaps else 0.0,
    }


def _spends(spends: list[int], mean_visit: float) -> dict[str, float]:
    logs = [math.log(max(cents, 50)) for cents in spends]
    return {
        "basket_spread": stdev(logs) if len(logs) > 1 else 0.7,
        "log_typical_basket": fmean(logs) - math.log(mean_visit) if logs else 0.0,
        "log_latest_basket": logs[-1] - math.log(mean_visit) if logs else 0.0,
        "log_largest_basket": math.log((max(spends, default=0) + mean_visit) / (2 * mean_visit)),
    }


def _season(midnight: dt.datetime, ages: list[float], tenure: float, expected: float, horizon: int) -> dict[str, float]:
    middle = (midnight - dt.datetime(1970, 1, 1)).days + horizon / 2
    strength = max(0.0, 1 - horizon / 365.25)
    last_year = sum(365.25 - horizon < age <= 365.25 for age in ages)
    known = min(1.0, max(0.0, (tenure - 365.25) / horizon + 1))
    return {
        "season_cosine": strength * math.cos(2 * math.pi * middle / 365.25),
        "season_sine": strength * math.sin(2 * math.pi * middle / 365.25),
        "log_visits_same_season": math.log((last_year + 0.3) / (expected + 0.3)) * known,
        "same_season_known": known,
    }


def _tokens(past: list[Basket], mean_visit: float, horizon: int) -> list[Tokens]:
    tokens = []
    for number, b in enumerate(past):
        pause = (b.when - past[number - 1].when).total_seconds() / 86_400 if number else 0.0
        amount = round(2 * math.log2(abs(b.spend) / mean_visit + 1e-9)) + 9 if b.spend else 0
        gap = round(1.5 * math.log2((pause + 0.05) / horizon)) + 12
        tokens.append(
            (
                b.category % 8 + 2 if b.category >= 0 else 1,
                min(15, max(2, amount)) if b.spend else 1,
                min(15, max(1, gap)),
                b.kind + 1,
            )
        )
    return tokens
