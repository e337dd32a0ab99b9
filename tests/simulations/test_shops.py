"""Checklist: D2, D53.

Orders dealt out to merchants: every one exactly once, evenly, and the same way every time.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from client.orders import read_orders
from pp_model.errors import BadOrdersError, ConfigError
from pp_model.features import FeatureSpec, build_examples
from pp_model.schema import SECONDS_PER_DAY, OrderLog, day_start
from simulations.scenario import OrdersSpec, Scenario, SyntheticSpec
from simulations.shops import Market, holdout, open_market, source_of
from tests.support.examples import CUTOFF, LIVELY, bought, shop_log
from tests.support.orders import row, write_csv

Cell = tuple[str, str, int, str]  # customer, merchant, day of June 2024, event type


def scenario(*, merchants: int = 2, seed: int = 0, **source) -> Scenario:
    return Scenario(name="tiny", merchants=merchants, cutoff=CUTOFF, horizon_days=28, epsilon=3.0, seed=seed, **source)


def of_file(path: str, *, merchants: int = 2, seed: int = 0, **spec) -> Scenario:
    return scenario(merchants=merchants, seed=seed, orders=OrdersSpec(file=path, **spec))


def rows_of(cells: Sequence[Cell]) -> list[dict[str, str]]:
    """A row a cell, each with an amount of its own, by which it is known again."""
    return [
        row(
            customer_id=customer,
            timestamp=f"2024-06-{day:02d} 12:{number:02d}:00",
            amount=str(number + 1) if kind == "purchase" else str(-number - 1) if kind == "return" else "0",
            shop=merchant,
            event_type=kind,
            quantity=str(number + 1),
        )
        for number, (customer, merchant, day, kind) in enumerate(cells)
    ]


def market_of(folder: Path, cells: Sequence[Cell], *, merchants: int, customers_at: str = "each", **more) -> Market:
    path = write_csv(folder / "orders.csv", rows_of(cells))
    return open_market(of_file(path, merchants=merchants, merchant_column="shop", customers_at=customers_at, **more))


def contents(log: OrderLog) -> list[int]:
    """Which rows of the file these are."""
    return sorted((log.quantity - 1).tolist())


cells = st.tuples(
    st.sampled_from(["ann", "bob", "cid", "dee"]),
    st.sampled_from(["bakery", "florist", "grocer", "others together"]),
    st.integers(1, 4),
    st.sampled_from(["purchase", "purchase", "return", "view"]),
)
files = st.lists(cells, min_size=1, max_size=14)


# --- dealt out by a hash


def hashed(folder: Path, *, customers: int, merchants: int, seed: int = 0) -> Market:
    rows = [row(customer_id=f"customer-{i}") for i in range(customers)]
    return open_market(of_file(write_csv(folder / "orders.csv", rows), merchants=merchants, seed=seed))


def test_a_hash_deals_customers_out_evenly(tmp_path):
    """The number of customers at each merchant is binomial; the alarm is shared among the merchants."""
    sizes = [log.num_customers for log in hashed(tmp_path, customers=4_000, merchants=8).shops.values()]
    low, high = stats.binom.interval(1 - 1e-6 / 8, 4_000, 1 / 8)
    assert sum(sizes) == 4_000
    assert all(low <= size <= high for size in sizes)


def test_dealing_out_is_the_same_in_every_process_and_another_for_another_seed(tmp_path):
    one, same, other = (hashed(tmp_path, customers=300, merchants=3, seed=s) for s in (1, 1, 2))
    sizes = [[log.num_customers for log in market.shops.values()] for market in (one, same, other)]
    assert sizes[0] == sizes[1]
    assert sizes[0] == [99, 104, 97]
    assert sizes[0] != sizes[2]
    assert list(one.shops) == ["merchant-01", "merchant-02", "merchant-03"]


def test_a_customer_dealt_out_is_at_one_merchant_with_all_orders(tmp_path):
    rows = [row(customer_id=f"c{i % 40}", quantity=str(i + 1)) for i in range(200)]
    market = open_market(of_file(write_csv(tmp_path / "o.csv", rows), merchants=5))
    homes: dict[int, set[str]] = {}
    for name, log in market.shops.items():
        for number in contents(log):
            homes.setdefault(number % 40, set()).add(name)
    assert len(homes) == 40
    assert all(len(names) == 1 for names in homes.values())
    assert market.num_orders == 200


def test_fewer_customers_than_merchants_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="merchants"):
        hashed(tmp_path, customers=3, merchants=8)


# --- by a column


@settings(max_examples=60)
@given(files, st.integers(1, 4), st.sampled_from(["home", "each"]))
def test_every_order_is_at_exactly_one_merchant(tmp_path_factory, cells, merchants, customers_at):
    known = len({merchant for _, merchant, _, _ in cells})
    folder = tmp_path_factory.mktemp("orders")
    if known < merchants:
        with pytest.raises(ConfigError, match="merchants"):
            market_of(folder, cells, merchants=merchants, customers_at=customers_at)
        return
    market = market_of(folder, cells, merchants=merchants, customers_at=customers_at)
    assert len(market.shops) == merchants
    found = [number for log in market.shops.values() for number in contents(log)]
    assert sorted(found) == list(range(len(cells)))
    for log in market.shops.values():
        assert set(log.customer.tolist()) == set(range(log.num_customers))


def slow_home(cells: Sequence[Cell], customer: str, names: Sequence[str]) -> str:
    """The merchant on most of the customer's purchase days; of equal ones the first in the file."""
    days = {(merchant, day) for who, merchant, day, kind in cells if who == customer and kind == "purchase"}
    visits = Counter(merchant for merchant, _ in days)
    return max(names, key=lambda name: (visits[name], -names.index(name)))


@settings(max_examples=60)
@given(files)
def test_a_customer_is_at_home_where_it_shops_most(tmp_path_factory, cells):
    names = list(dict.fromkeys(merchant for _, merchant, _, _ in cells))
    folder = tmp_path_factory.mktemp("orders")
    market = market_of(folder, cells, merchants=len(names), customers_at="home")
    place = {number: name for name, log in market.shops.items() for number in contents(log)}
    for number, (customer, _, _, _) in enumerate(cells):
        if any(who == customer and k == "purchase" for who, _, _, k in cells):
            assert place[number] == slow_home(cells, customer, names)


@settings(max_examples=40)
@given(files)
def test_where_customers_are_each_merchants_own_an_order_stays_where_it_was(tmp_path_factory, cells):
    names = {merchant for _, merchant, _, _ in cells}
    market = market_of(tmp_path_factory.mktemp("orders"), cells, merchants=len(names))
    for name, log in market.shops.items():
        assert {cells[number][1] for number in contents(log)} == {name}
        assert log.num_customers == len({who for who, merchant, _, _ in cells if merchant == name})


def test_the_largest_merchants_stay_and_the_small_ones_become_one(tmp_path):
    sizes = {"a": 1, "b": 5, "c": 2, "d": 4}
    cells = [(f"{name}{i}", name, 1, "purchase") for name, size in sizes.items() for i in range(size)]
    market = market_of(tmp_path, cells, merchants=3)
    assert {name: log.num_customers for name, log in market.shops.items()} == {"b": 5, "d": 4, "others together": 3}


def test_a_merchant_who_is_called_like_the_rest_keeps_its_orders(tmp_path):
    sizes = {"others together": 3, "a": 1, "b": 1}
    cells = [(f"{name}{i}", name, 1, "purchase") for name, size in sizes.items() for i in range(size)]
    market = market_of(tmp_path, cells, merchants=2)
    assert [log.num_customers for log in market.shops.values()] == [3, 2]


def test_more_merchants_than_the_column_has_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="2 merchants, 5 are asked for"):
        market_of(tmp_path, [("ann", "a", 1, "purchase"), ("bob", "b", 1, "purchase")], merchants=5)


def test_a_file_without_orders_is_refused(tmp_path):
    path = write_csv(tmp_path / "orders.csv", [row()])
    Path(path).write_text(Path(path).read_text().splitlines()[0] + "\n")
    with pytest.raises(BadOrdersError):
        open_market(of_file(path))


# --- synthetic


def test_synthetic_merchants_repeat_with_their_seed_and_differ_in_size_and_price():
    def sizes(seed: int) -> list[tuple[int, int]]:
        spec = SyntheticSpec(customers=600, days=200)
        market = open_market(scenario(merchants=4, seed=seed, synthetic=spec))
        assert market.synthetic
        return [(log.num_customers, int(log.spend_cents.sum())) for log in market.shops.values()]

    assert sizes(3) == sizes(3)
    assert sizes(3) != sizes(4)
    assert len(set(sizes(3))) == 4
    assert abs(sum(size for size, _ in sizes(3)) - 600) <= 4


# --- holdout


def market(**shops: OrderLog) -> Market:
    return Market(shops=shops, skipped={}, synthetic=True)


def test_the_holdout_is_the_cutoffs_rows_of_every_merchant():
    one, two = shop_log(20), shop_log(30, seed=2)
    spec = FeatureSpec(horizon_days=28, sequence_length=4)
    rows = holdout(market(one=one, two=two), scenario(synthetic=SyntheticSpec(customers=1, days=1)), spec)
    assert list(rows) == ["one", "two"]
    np.testing.assert_array_equal(rows["two"].features, build_examples(two, [CUTOFF], spec).features)


@pytest.mark.parametrize(("shift", "advice"), [(-9_000, "later --cutoff"), (9_000, "earlier --cutoff")])
def test_a_cutoff_before_or_after_all_orders_is_refused_with_advice(shift, advice):
    asked = scenario(synthetic=SyntheticSpec(customers=1, days=1))
    moved = Scenario(
        **{name: getattr(asked, name) for name in asked.__dataclass_fields__ if name != "cutoff"},
        cutoff=CUTOFF + dt.timedelta(days=shift),
    )
    with pytest.raises(ConfigError, match=advice):
        holdout(market(one=shop_log(5)), moved, FeatureSpec(horizon_days=28))


def test_orders_that_begin_within_one_horizon_of_the_cutoff_leave_nothing_to_train_on():
    log = shop_log(200)
    asked = scenario(synthetic=SyntheticSpec(customers=1, days=1))
    newest = day_start(CUTOFF) - 28 * SECONDS_PER_DAY
    late = log.select(log.timestamp >= newest)
    with pytest.raises(ConfigError, match="nothing to train on"):
        holdout(market(one=late), asked, FeatureSpec(horizon_days=28))
    just_enough = log.select(log.timestamp >= newest - 7 * SECONDS_PER_DAY)
    assert just_enough.timestamp.min() < newest
    assert holdout(market(one=just_enough), asked, FeatureSpec(horizon_days=28))["one"].spend_cents.sum() > 0


# --- the shop as the merchant's daemon reads it


def test_a_shop_read_through_its_source_is_the_same_shop():
    log = shop_log(25)
    assert LIVELY.browsing > 0
    orders = read_orders(source_of(log, name="bakery"), window=None)
    spec = FeatureSpec(horizon_days=28, sequence_length=8)
    mine, theirs = build_examples(log, [CUTOFF], spec), build_examples(orders.log, [CUTOFF], spec)
    by_id = np.argsort([int(orders.customer_ids[c]) for c in theirs.customer])
    for name in ("features", "sequence", "spend_cents"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name)[by_id])
    assert len(orders.log) == len(log)
    assert bought(0).customer == 0
