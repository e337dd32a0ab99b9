"""Blocks of customers and packed keys give what the plainest numpy gives for all customers at once."""

from __future__ import annotations

import datetime as dt
import tracemalloc
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pp_model import baskets, features
from pp_model.baskets import basket_blocks, baskets_of, order_by
from pp_model.features import Examples, FeatureSpec, build_examples, training_cutoffs
from pp_model.schema import SECONDS_PER_DAY, EventType, OrderLog, day_start
from tests.support.examples import CUTOFF
from tests.support.plain_features import plain_baskets, plain_examples

COLUMNS = ("customer", "timestamp", "spend_cents", "quantity", "lines", "category", "event_type")
SPEC = FeatureSpec(horizon_days=28, sequence_length=8)


def random_log(
    lines: int, *, customers: int, days: int = 400, seconds: int = SECONDS_PER_DAY, orders: int = 2**62, seed: int = 0
) -> OrderLog:
    """Lines of every kind around the cutoff; few `seconds` make times tie, few `orders` make baskets of many lines."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(list(EventType), lines, p=[0.7, 0.1, 0.1, 0.05, 0.05]).astype(np.int8)
    sign = np.array([1, -1, 0, 0, 0])[kind]
    day = rng.integers(-days, 90, lines) + day_start(CUTOFF) // SECONDS_PER_DAY
    return OrderLog(
        customer=rng.integers(0, customers, lines).astype(np.int32),
        timestamp=day * SECONDS_PER_DAY + rng.integers(0, seconds, lines),
        order=rng.integers(-orders, orders, lines),
        spend_cents=rng.integers(0, 20_000, lines) * sign,
        quantity=rng.integers(0, 9, lines).astype(np.int32),
        category=rng.integers(-1, 40, lines).astype(np.int32),
        event_type=kind,
        num_customers=customers + 5,
    )


def assert_same(fast: Examples, plain: Examples) -> None:
    for name in ("customer", "spend_cents", "sequence"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(plain, name))
    for name in ("features", "log_anchor"):
        np.testing.assert_allclose(getattr(fast, name), getattr(plain, name), rtol=1e-6, atol=1e-6)
    assert fast.num_customers == plain.num_customers


SHOPS = {
    "usual": {"lines": 4_000, "customers": 200},
    "times that tie": {"lines": 4_000, "customers": 50, "days": 30, "seconds": 2},
    "dates without a time": {"lines": 4_000, "customers": 50, "seconds": 1},
    "orders of many lines": {"lines": 4_000, "customers": 100, "days": 20, "orders": 3},
    "newcomers": {"lines": 300, "customers": 2_000},
    "one customer": {"lines": 3_000, "customers": 1},
    "one line": {"lines": 1, "customers": 1},
    "nothing": {"lines": 0, "customers": 1},
}


@pytest.mark.parametrize("lines_per_block", [40, 700, 1_000_000])
@pytest.mark.parametrize("shop", SHOPS.values(), ids=SHOPS)
def test_blocks_of_customers_give_the_rows_of_the_plain_computation(shop, lines_per_block, monkeypatch):
    monkeypatch.setattr(baskets, "LINES_AT_ONCE", lines_per_block)
    monkeypatch.setattr(features, "basket_blocks", partial(basket_blocks, lines_per_block=lines_per_block))
    log = random_log(**shop)
    cutoffs = [*training_cutoffs(CUTOFF, horizon_days=28, count=4), CUTOFF, dt.date(1999, 1, 1), dt.date(2030, 1, 1)]
    assert_same(build_examples(log, cutoffs, SPEC), plain_examples(log, cutoffs, SPEC))


@given(
    st.integers(0, 120),
    st.sampled_from([1, 2, 9]),
    st.sampled_from([2, 100]),
    st.sampled_from([1, 60, SECONDS_PER_DAY]),
    st.sampled_from([1, 4, 2**62]),
    st.integers(0, 2**32),
)
def test_baskets_of_any_log_are_those_of_the_plain_computation(lines, customers, days, seconds, orders, seed):
    log = random_log(lines, customers=customers, days=days, seconds=seconds, orders=orders, seed=seed)
    fast, plain = baskets_of(log), plain_baskets(log)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(fast, name), getattr(plain, name))


def test_a_time_that_no_shop_has_changes_only_the_speed():
    """Year 9999 and year 1 in one log, and then later still: the keys do not fit in one integer."""
    log = random_log(2_000, customers=40)
    for times in ([253_402_300_799, -62_135_596_800, 0], [253_402_300_799, -62_135_596_800, 2**62]):
        log.timestamp[:3] = times
        assert_same(build_examples(log, [CUTOFF], SPEC), plain_examples(log, [CUTOFF], SPEC))


@pytest.mark.parametrize("largest", [2**30, 2**37, 2**62])
def test_spend_that_no_shop_has_changes_only_the_speed(largest):
    """Up to there time and spend fit in one integer, and from there on they do not."""
    log = random_log(2_000, customers=40)
    log.spend_cents[:4] = [largest, -largest, largest - 1, 1 - largest]
    fast, plain = baskets_of(log), plain_baskets(log)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(fast, name), getattr(plain, name))


def test_negative_quantities_and_categories_next_to_each_other_stay_as_they_are():
    log = random_log(500, customers=40)
    log.quantity[:] = np.random.default_rng(1).integers(-(2**31), 2**31, len(log))
    fast, plain = baskets_of(log), plain_baskets(log)
    for name in ("quantity", "category"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(plain, name))


@pytest.mark.parametrize("days", [200, 300, 70_000])
def test_a_customer_of_more_visits_than_a_byte_counts_has_all_of_them(days):
    one = random_log(1, customers=1).select(np.zeros(days, np.intp))
    columns = {name: getattr(one, name) for name in one.__slots__}
    columns["timestamp"] = day_start(CUTOFF) - SECONDS_PER_DAY * np.arange(1, days + 1)
    log = OrderLog(**{**columns, "order": np.arange(days), "event_type": np.zeros(days, np.int8)})
    assert_same(build_examples(log, [CUTOFF], SPEC), plain_examples(log, [CUTOFF], SPEC))


integers = st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1))


@given(st.lists(st.tuples(integers, integers, st.integers(0, 4)), max_size=30))
def test_rows_are_ordered_by_all_keys_and_ties_stay_in_place(rows):
    keys = [np.array([row[i] for row in rows], np.int64) for i in range(3)]
    np.testing.assert_array_equal(order_by(*keys), np.lexsort(keys[::-1]))


@settings(max_examples=20)
@given(st.integers(1, 50))
def test_every_customer_is_in_one_block(lines_per_block):
    log = random_log(300, customers=30)
    blocks = [set(block.customer.tolist()) for block in basket_blocks(log, lines_per_block=lines_per_block)]
    assert sum(map(len, blocks)) == len(set(log.customer.tolist()))


@pytest.mark.slow
def test_a_large_log_gives_the_rows_of_the_plain_computation():
    log = random_log(600_000, customers=20_000, days=700)
    cutoffs = training_cutoffs(CUTOFF, horizon_days=28, count=2)
    assert_same(build_examples(log, cutoffs, SPEC), plain_examples(log, cutoffs, SPEC))


@pytest.mark.slow
def test_memory_beside_the_log_and_the_rows_is_that_of_the_sort_and_not_of_the_features():
    """A plain computation holds several dozen columns of 8 bytes a line at a time."""
    log = random_log(1_000_000, customers=25_000)
    tracemalloc.start()
    rows = build_examples(log, [CUTOFF], SPEC)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    result = sum(getattr(rows, name).nbytes for name in ("features", "sequence", "log_anchor", "spend_cents"))
    assert peak < 60 * len(log) + 2.2 * result
