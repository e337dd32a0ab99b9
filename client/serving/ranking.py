"""Candidates in the order of relevance and of how well they fit a customer: what it pays, and what it buys.

The value of an item depends on the item and the customer alone, never on the other candidates. With relevance r, fit f
and weight w, all between 0 and 1,

    value = (1 - w') r + w' f,   w' = w n / (n + ENOUGH_PURCHASES),   f = (p + c) / 2,

where n counts the lines that the customer bought: of a customer of whom nothing is known the order is that of
relevance. The price fit p is 1 at the customer's usual price u, or at what it is expected to spend when it buys, m,
where that is less, and falls on both sides:

    p = exp(-(ln(price / min(u, m)) / s)^2 / 2) min(1, m / price),

with s the spread of the logarithms of what it paid for a piece. The category interest c is the share of its own spend
in the item's category over that in its first one; `NEITHER` for an item, or a customer, without a category.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

DEFAULT_WEIGHT = 0.3
ENOUGH_PURCHASES = 5.0  # lines bought at which fit has half of its weight
USUAL_SPREAD = math.log(2)  # of prices, until the customer's own is known
NEITHER = 0.5
_USUAL = math.log(1.5)  # a price within this of the usual one is called so
_FIRST_HALF = 0.5


@dataclass(frozen=True, kw_only=True)
class Taste:
    """What is known of a customer's purchases.

    Attributes:
        purchases: lines bought.
        price_cents: the geometric mean of what it paid for a piece; at least 1.
        spread: of the logarithms of these; at least some of `USUAL_SPREAD`.
        means_cents: what the model expects it to spend when it buys; at least 1.
        interest: by category code, its share of spend over that of its first category.
    """

    purchases: int
    price_cents: float
    spread: float
    means_cents: float
    interest: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An item; relevance from 0 to 1, category a code or `schema.NO_CATEGORY`."""

    relevance: float
    price_cents: int
    category: int


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How well an item fits a customer, each from 0 to 1, and why, in codes."""

    price: float
    category: float
    why: tuple[str, ...]

    @property
    def total(self) -> float:
        """The mean of both."""
        return (self.price + self.category) / 2


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """An item in its place.

    Attributes:
        candidate: its place among the candidates as they came.
        relevance_place: its place by relevance alone, from 0 on.
        fit: None where nothing of the customer is known.
    """

    candidate: int
    relevance_place: int
    value: float
    fit: Fit | None


def ranked(candidates: Sequence[Candidate], taste: Taste | None, *, weight: float) -> list[Ranked]:
    """All candidates, the largest value first; of equal ones the more relevant first, then as they came."""
    used = weight_used(taste, weight)
    fits = [None if taste is None else fit(taste, each.price_cents, each.category) for each in candidates]
    values = [
        each.relevance if found is None else (1 - used) * each.relevance + used * found.total
        for each, found in zip(candidates, fits, strict=True)
    ]
    numbers = range(len(candidates))
    by_relevance = sorted(numbers, key=lambda i: -candidates[i].relevance)
    relevance_place = {number: place for place, number in enumerate(by_relevance)}
    return [
        Ranked(candidate=i, relevance_place=relevance_place[i], value=values[i], fit=fits[i])
        for i in sorted(numbers, key=lambda i: (-values[i], -candidates[i].relevance))
    ]


def weight_used(taste: Taste | None, weight: float) -> float:
    """The weight of the fit, less where little is known: 0 without a purchase."""
    purchases = 0 if taste is None else taste.purchases
    return weight * purchases / (purchases + ENOUGH_PURCHASES)


def fit(taste: Taste, price_cents: int, category: int) -> Fit:
    """How well an item fits."""
    interest, said = _interest(taste, category)
    price, also_said = _price_fit(taste, max(price_cents, 1))
    return Fit(price=price, category=interest, why=(*also_said, said))


def _price_fit(taste: Taste, price: int) -> tuple[float, tuple[str, ...]]:
    best = min(taste.price_cents, taste.means_cents)
    away = math.log(price / best)
    found = math.exp(-0.5 * (away / taste.spread) ** 2) * min(1.0, taste.means_cents / price)
    usual = math.log(price / taste.price_cents)
    said = "price:usual" if abs(usual) <= _USUAL else "price:above_usual" if usual > 0 else "price:below_usual"
    return found, (said, "price:beyond_expected_spend") if price > taste.means_cents else (said,)


def _interest(taste: Taste, category: int) -> tuple[float, str]:
    if category < 0 or not taste.interest:
        return NEITHER, "category:none"
    found = taste.interest.get(category, 0.0)
    if found == 0:
        return found, "category:not_bought"
    return found, "category:favourite" if found >= _FIRST_HALF else "category:bought"
