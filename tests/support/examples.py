"""Small order logs and examples for tests; a test names only what it is about."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from pp_model.features import FEATURE_NAMES, TOKEN_SIZES, Examples
from pp_model.model import fresh_arrays
from pp_model.model_spec import ModelSpec
from pp_model.schema import EventType, Order, OrderLog
from pp_model.serialization import Arrays
from synthetic.shops import ShopTraits, synthetic_shop

CUTOFF = dt.date(2024, 6, 1)
_NOON = 43_200

PLAIN_TRAITS = ShopTraits(
    visits_per_year=12.0,
    rate_shape=1.5,
    rhythm_shape=1.0,
    lifetime_days=1e9,
    lifetime_spread=0.5,
    one_time_share=0.0,
    leave_after_visit=0.0,
    pause_chance=0.0,
    pause_factor=3.0,
    old_share=0.0,
    growth=0.0,
    season=0.0,
    season_peak_day=0.0,
    peak=0.0,
    weekend=1.0,
    mean_basket_cents=2_000.0,
    spend_between=0.5,
    spend_within=0.5,
    rate_spend_correlation=0.0,
    bulk_share=0.0,
    lines_per_basket=1.0,
    quantity_per_line=1.0,
    categories=0,
    return_chance=0.0,
    browsing=0.0,
)


def at(day: int, second: int = _NOON) -> dt.datetime:
    """`day` days after the cutoff (before it where negative), at a second of that day."""
    return dt.datetime.combine(CUTOFF, dt.time()) + dt.timedelta(days=day, seconds=second)


def bought(day: int, cents: int = 1_000, *, customer: int = 0, second: int = _NOON, **fields: str | int) -> Order:
    """A purchase."""
    return Order(customer=customer, timestamp=at(day, second), spend_cents=cents, **fields)  # type: ignore[arg-type]


def event(kind: EventType, day: int, cents: int = 0, *, customer: int = 0, second: int = _NOON) -> Order:
    """Anything but a purchase."""
    return Order(customer=customer, timestamp=at(day, second), spend_cents=cents, event_type=kind)


@st.composite
def order_lists(
    draw: st.DrawFn, *, customers: int = 3, largest_cents: int = 200_000, least_cents: int = 0, max_size: int = 14
) -> list[Order]:
    """Orders around the cutoff: returns, browsing, several lines an order, several baskets a day, newcomers.

    Order ids are the customer's own, as an order has one customer.
    """
    days = st.one_of(st.sampled_from([-1, 0, -7, -28]), st.integers(-40, 40), st.integers(-900, 200))
    seconds = st.one_of(st.sampled_from([0, 1, _NOON, 86_399]), st.integers(0, 86_399))
    kinds = st.sampled_from([EventType.PURCHASE] * 4 + [EventType.RETURN] * 2 + list(EventType)[2:])
    orders = []
    for _ in range(draw(st.integers(0, max_size))):
        customer, kind = draw(st.integers(0, customers - 1)), draw(kinds)
        cents = draw(st.integers(least_cents, largest_cents))
        order_id, when = draw(st.sampled_from(["", "", "a", "b"])), at(draw(days), draw(seconds))
        if orders and draw(st.booleans()):  # one more line of the last order, at the same time or a day later
            customer, order_id = orders[-1].customer, orders[-1].order_id[-1:]
            when = orders[-1].timestamp + dt.timedelta(seconds=draw(st.sampled_from([0, 0, 60, 86_400])))
        orders.append(
            Order(
                customer=customer,
                timestamp=when,
                spend_cents={EventType.PURCHASE: cents, EventType.RETURN: -cents}.get(kind, 0),
                order_id=f"{customer}{order_id}" if order_id else "",
                quantity=draw(st.integers(0, 60)),
                category=draw(st.sampled_from(["", "milk", "bread", "tea", "coffee"])),
                event_type=kind,
            )
        )
    return orders


def changed_traits(**changes: float) -> ShopTraits:
    """Poisson visits at individual rates all year round, for ever, with `changes`."""
    return replace(PLAIN_TRAITS, **changes)  # type: ignore[arg-type]


LIVELY = changed_traits(
    return_chance=0.2, browsing=1.0, categories=5, lines_per_basket=3.0, season=0.3, one_time_share=0.2, old_share=0.3
)


def shop_log(num_customers: int, *, seed: int = 0, num_days: int = 700) -> OrderLog:
    """A synthetic shop of every kind of event; it closes 60 days after the cutoff."""
    first = CUTOFF - dt.timedelta(days=num_days - 60)
    rng = np.random.default_rng(seed)
    return synthetic_shop(LIVELY, num_customers=num_customers, first_day=first, num_days=num_days, rng=rng).log


def random_examples(windows: Sequence[int], *, seed: int = 0, length: int = 4) -> Examples:
    """Rows of nobody: customer i has `windows[i]` of them, in an order that mixes customers."""
    rng, rows = np.random.default_rng(seed), int(sum(windows))
    customer = rng.permutation(np.repeat(np.arange(len(windows)), windows))
    present = np.arange(length)[None, :] >= rng.integers(0, length, (rows, 1))
    tokens = np.stack([rng.integers(1, size, (rows, length)) for size in TOKEN_SIZES], axis=-1)
    return Examples(
        features=np.clip(rng.normal(0, 2, (rows, len(FEATURE_NAMES))), -6, 6).astype(np.float32),
        sequence=(tokens * present[..., None]).astype(np.uint8),
        log_anchor=rng.normal(8, 1, rows).astype(np.float32),
        spend_cents=(rng.lognormal(8, 1, rows) * (rng.random(rows) < 0.6)).astype(np.int64),
        customer=customer.astype(np.int64),
        num_customers=len(windows),
    )


def random_arrays(spec: ModelSpec, *, seed: int = 0, scale: float = 0.3) -> Arrays:
    """A model whose every array is random: with the readout at zero, the encoder would have no gradient."""
    rng = np.random.default_rng(seed)
    return {
        name: (array + scale * rng.standard_normal(array.shape)).astype(np.float32)
        for name, array in fresh_arrays(spec, seed=seed).items()
    }
