"""Synthetic shops with known truth: customers who join, buy in their own rhythm, pause, leave, return goods, browse.

Visits are a gamma renewal process with individual rates (Poisson where the shape is 1) and exponential lifetimes, as
in the Pareto/NBD model (Schmittlein, Morrison and Colombo 1987; Fader, Hardie and Lee 2005, "Counting your customers
the easy way", for the chance of leaving after each purchase); regular rhythms as in Platzer and Reutterer 2016
("Ticking away the moments", Marketing Science 35(5)); spend per visit as in the gamma-gamma model with lognormal
heterogeneity for heavy tails (Fader, Hardie and Lee 2005, "RFM and CLV"). No parameter was fitted to any real orders:
the ranges below are wide on purpose, so that a model trained on them has seen every kind of shop.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pp_model.schema import NO_CATEGORY, SECONDS_PER_DAY, EventType, OrderLog, category_code, concatenate, day_start

Floats = NDArray[np.float64]
MAX_VISITS = 1_500
_ONE_TIME_FACTOR = 30.0  # how much longer a one-time customer stays away than others


@dataclass(frozen=True, kw_only=True)
class ShopTraits:
    """What makes one synthetic merchant differ from another. Days, cents, probabilities."""

    visits_per_year: float  # mean over customers who are active
    rate_shape: float  # gamma shape of the rates: below 1, a few customers make most visits
    rhythm_shape: float  # mean gamma shape of the gaps: 1 is Poisson, above 1 regular
    lifetime_days: float  # median
    lifetime_spread: float
    one_time_share: float  # customers who come once and hardly ever again
    leave_after_visit: float
    pause_chance: float  # per gap
    pause_factor: float
    old_share: float  # customers who joined before the first day on record
    growth: float  # how much denser joins are at the end than at the start, log
    season: float  # amplitude of the yearly wave
    season_peak_day: float
    peak: float  # height of a short yearly peak over the wave
    weekend: float  # relative weight of the last two of each seven days, counted from the first day on record
    mean_basket_cents: float
    spend_between: float  # standard deviation of log mean basket between customers
    spend_within: float  # the same between one customer's baskets
    rate_spend_correlation: float
    bulk_share: float  # customers who buy for a business
    lines_per_basket: float
    quantity_per_line: float
    categories: int  # 0 for shops that record none
    return_chance: float
    browsing: float  # views per visit; 0 for shops that record none


def draw_traits(rng: np.random.Generator) -> ShopTraits:
    """A merchant out of the wide prior that the pre-trained model is trained on."""
    return ShopTraits(
        visits_per_year=float(np.exp(rng.uniform(np.log(0.7), np.log(80)))),
        rate_shape=float(np.exp(rng.uniform(np.log(0.4), np.log(4)))),
        rhythm_shape=float(np.exp(rng.uniform(0, np.log(4)))) if rng.random() < 0.3 else 1.0,
        lifetime_days=float(np.exp(rng.uniform(np.log(300), np.log(20_000)))),
        lifetime_spread=float(rng.uniform(0.5, 1.8)),
        one_time_share=float(rng.beta(1.2, 5)),
        leave_after_visit=float(rng.beta(1, 30)) if rng.random() < 0.25 else 0.0,
        pause_chance=float(rng.beta(1, 12)),
        pause_factor=float(np.exp(rng.uniform(np.log(3), np.log(40)))),
        old_share=float(rng.uniform(0, 0.8)),
        growth=float(rng.normal(0, 0.3)),
        season=float(rng.beta(1.2, 8)) if rng.random() < 0.5 else 0.0,
        season_peak_day=float(rng.uniform(0, 365)),
        peak=float(rng.gamma(1, 0.2)) if rng.random() < 0.5 else 0.0,
        weekend=float(np.exp(rng.normal(0, 0.5))),
        mean_basket_cents=float(np.exp(rng.uniform(np.log(300), np.log(60_000)))),
        spend_between=float(rng.uniform(0.2, 1.2)),
        spend_within=float(rng.uniform(0.2, 1.1)),
        rate_spend_correlation=float(rng.uniform(-0.2, 0.6)),
        bulk_share=float(rng.beta(1, 20)),
        lines_per_basket=float(np.exp(rng.uniform(0, np.log(60)))) if rng.random() < 0.5 else 1.0,
        quantity_per_line=float(np.exp(rng.uniform(0, np.log(100)))) if rng.random() < 0.5 else 1.0,
        categories=int(rng.integers(1, 20)) if rng.random() < 0.5 else 0,
        return_chance=float(rng.beta(1, 15)) if rng.random() < 0.6 else 0.0,
        browsing=float(np.exp(rng.uniform(np.log(0.5), np.log(8)))) if rng.random() < 0.4 else 0.0,
    )


@dataclass(frozen=True, kw_only=True)
class SyntheticShop:
    """A shop's orders and the truth behind them.

    Attributes:
        log: events from the first to the last day on record.
        visits_per_day: [customers], the true rate of an active customer between pauses, over a whole year.
        active_until: [customers], days since the first day on record at which the customer leaves for good.
        mean_basket_cents: [customers], the true mean spend of a visit.
    """

    log: OrderLog
    visits_per_day: Floats
    active_until: Floats
    mean_basket_cents: Floats


def synthetic_shop(
    traits: ShopTraits, *, num_customers: int, first_day: dt.date, num_days: int, rng: np.random.Generator
) -> SyntheticShop:
    """One shop. Equal arguments and an equally seeded `rng` give equal orders."""
    n = num_customers
    correlated = rng.standard_normal((2, n))
    rho = traits.rate_spend_correlation
    spend_normal = rho * correlated[0] + np.sqrt(1 - rho**2) * correlated[1]
    rate = _gamma_with_normal(traits.rate_shape, correlated[0], rng) * traits.visits_per_year / 365.25
    rate = np.clip(rate, 1e-4, 1.5)
    lifetime = traits.lifetime_days * np.exp(traits.lifetime_spread * rng.standard_normal(n))
    join = _join_days(traits, n, num_days, rng)
    bulk = rng.random(n) < traits.bulk_share
    basket = traits.mean_basket_cents * np.exp(traits.spend_between * spend_normal - 0.5 * traits.spend_between**2)
    basket *= np.where(bulk, np.exp(rng.normal(1.8, 0.7, n)), 1.0)
    once = rng.random(n) < traits.one_time_share
    customer, day, left = _visits(traits, rate, join, join + lifetime, once, num_days, rng)
    log = _events(traits, customer, day, basket, n, first_day, num_days, rng)
    return SyntheticShop(
        log=log,
        visits_per_day=np.where(once, rate / _ONE_TIME_FACTOR, rate),
        active_until=np.minimum(join + lifetime, left),
        mean_basket_cents=basket,
    )


def _gamma_with_normal(shape: float, normal: Floats, rng: np.random.Generator) -> Floats:
    """Gamma numbers of mean 1 that rise with `normal`: a gamma sample, put in the order of the normal numbers."""
    sample = np.sort(rng.gamma(shape, 1 / shape, len(normal)))
    out = np.empty(len(normal))
    out[np.argsort(normal, kind="stable")] = sample
    return out


def _join_days(traits: ShopTraits, n: int, num_days: int, rng: np.random.Generator) -> Floats:
    old = rng.random(n) < traits.old_share
    u = rng.random(n)
    growth = traits.growth if abs(traits.growth) > 1e-3 else 1e-3
    later = np.log1p(u * np.expm1(growth)) / growth * num_days  # density proportional to exp(growth * t)
    return np.where(old, -rng.exponential(min(traits.lifetime_days, 2_000.0) / 2, n), later)


def _season_clock(traits: ShopTraits, num_days: int, before: int) -> tuple[Floats, Floats]:
    """Days, and the running integral of the seasonal and weekly intensity over them."""
    days = np.arange(-before, num_days + 1, dtype=np.float64)
    angle = 2 * np.pi * (days - traits.season_peak_day) / 365.25
    wave = 1 + traits.season * np.cos(angle) + traits.peak * np.exp(-((np.sin(angle / 2) / 0.08) ** 2) / 2)
    weekly = np.where((days % 7) >= 5, traits.weekend, 1.0)
    return days, np.concatenate([[0.0], np.cumsum((wave * weekly)[:-1] / (wave * weekly).mean())])


def _visits(
    traits: ShopTraits,
    rate: Floats,
    join: Floats,
    leave: Floats,
    once: NDArray[np.bool_],
    num_days: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Customer and day of every visit on record, and the day each customer left because of a visit (else infinity)."""
    before = int(min(max(0.0, -join.min()) + 1, 20 * 365)) if len(join) else 1
    days, clock = _season_clock(traits, num_days, before)
    shape = np.maximum(1.0, 1 + (traits.rhythm_shape - 1) * rng.gamma(2, 0.5, len(rate)))
    left = np.full(len(rate), np.inf)
    active = np.arange(len(rate))
    now = np.interp(np.maximum(join, -before), days, clock)
    customers, times = [], []
    for number in range(MAX_VISITS):
        # The first visit is what makes a customer: it happens on joining.
        if number:
            gap = rng.gamma(shape[active]) / shape[active] / rate[active]
            pause = rng.random(len(active)) < traits.pause_chance
            gap *= np.where(pause, traits.pause_factor * rng.exponential(1.0, len(active)), 1.0)
            gap *= np.where(once[active], _ONE_TIME_FACTOR, 1.0)
            now = now + gap
        day = np.interp(now, clock, days, right=np.inf)
        stays = (day < num_days) & (day < leave[active])
        active, now, day = active[stays], now[stays], day[stays]
        if not len(active):
            break
        on_record = day >= 0
        customers.append(active[on_record])
        times.append(day[on_record])
        leaves = rng.random(len(active)) < traits.leave_after_visit
        left[active[leaves]] = day[leaves]
        active, now = active[~leaves], now[~leaves]
    if not customers:
        return np.empty(0, np.int64), np.empty(0), left
    return np.concatenate(customers).astype(np.int64), np.concatenate(times), left


def _events(
    traits: ShopTraits,
    customer: NDArray[np.int64],
    day: Floats,
    basket: Floats,
    num_customers: int,
    first_day: dt.date,
    num_days: int,
    rng: np.random.Generator,
) -> OrderLog:
    n = len(customer)
    start = day_start(first_day)
    hour = np.clip(rng.normal(14, 3.5, n), 0, 23.9)
    when = start + np.floor(day).astype(np.int64) * SECONDS_PER_DAY + (hour * 3600).astype(np.int64)
    within = traits.spend_within
    spend = basket[customer] * np.exp(within * rng.standard_normal(n) - 0.5 * within**2)
    cents = np.clip(np.round(spend), 1, 50_000_000).astype(np.int64)
    category = _categories(traits, customer, num_customers, rng)
    lines = 1 + rng.poisson(np.maximum(traits.lines_per_basket - 1, 0) * rng.gamma(2, 0.5, n))
    pieces = np.maximum(np.round(lines * traits.quantity_per_line * rng.gamma(2, 0.5, n)), 1).astype(np.int64)
    bought = _columns(customer, when, cents, pieces, category, EventType.PURCHASE, num_customers, order=np.arange(n))
    parts = [bought]
    back = np.flatnonzero(rng.random(n) < traits.return_chance)
    if len(back):
        later = when[back] + (rng.exponential(12.0, len(back)) * SECONDS_PER_DAY).astype(np.int64)
        share = np.where(rng.random(len(back)) < 0.5, 1.0, rng.random(len(back)))
        refund = -np.maximum(1, (cents[back] * share).astype(np.int64))
        goods = _columns(customer[back], later, refund, pieces[back], category[back], EventType.RETURN, num_customers)
        parts.append(goods.select(later < start + num_days * SECONDS_PER_DAY))
    if traits.browsing > 0:
        views = np.repeat(np.arange(n), rng.poisson(traits.browsing, n))
        earlier = when[views] - (rng.exponential(4.0, len(views)) * SECONDS_PER_DAY).astype(np.int64)
        zero = np.zeros(len(views), np.int64)
        kind = rng.choice([EventType.VIEW, EventType.CART, EventType.SEARCH], len(views), p=[0.75, 0.15, 0.1])
        seen = _columns(customer[views], earlier, zero, zero, category[views], kind, num_customers)
        parts.append(seen.select(earlier >= start))
    return concatenate(parts, num_customers=num_customers)


def _categories(
    traits: ShopTraits, customer: NDArray[np.int64], num_customers: int, rng: np.random.Generator
) -> NDArray[np.int32]:
    n = len(customer)
    if not traits.categories:
        return np.full(n, NO_CATEGORY, np.int32)
    names = np.array([category_code(f"category {k}") for k in range(traits.categories)], np.int32)
    favourite = rng.integers(0, traits.categories, num_customers)
    loyal = rng.random(n) < 0.6
    return names[np.where(loyal, favourite[customer], rng.integers(0, traits.categories, n))]


def _columns(
    customer: NDArray[np.int64],
    when: NDArray[np.int64],
    cents: NDArray[np.int64],
    quantity: NDArray[np.int64],
    category: NDArray[np.int32],
    kind: NDArray[np.int64] | EventType,
    num_customers: int,
    *,
    order: NDArray[np.int64] | None = None,
) -> OrderLog:
    n = len(customer)
    return OrderLog(
        customer=customer.astype(np.int32),
        timestamp=when,
        order=order if order is not None else -1 - np.arange(n),
        spend_cents=cents,
        quantity=quantity.astype(np.int32),
        category=category if n else np.full(0, NO_CATEGORY, np.int32),
        event_type=np.full(n, kind, np.int8) if isinstance(kind, EventType) else kind.astype(np.int8),
        num_customers=num_customers,
    )
