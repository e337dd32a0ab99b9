"""Checklist: D1, D2, D10, D11, D12, D46, D54, D60.

Features, tokens, anchors and labels against a slow twin; nothing from after a cutoff; nothing of another customer.
"""

from __future__ import annotations

import datetime as dt
import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pp_model.errors import ConfigError
from pp_model.feature_history import CATEGORY_BUCKETS
from pp_model.features import (
    CORE_FEATURES,
    FEATURE_NAMES,
    TOKEN_SIZES,
    Examples,
    FeatureSpec,
    build_examples,
    training_cutoffs,
)
from pp_model.schema import SECONDS_PER_DAY, EventType, OrderLog, concatenate, day_start, order_log
from tests.support.examples import CUTOFF, at, bought, event, order_lists, shop_log
from tests.support.slow_features import slow_row

INPUTS = ("features", "sequence", "log_anchor")
horizons = st.sampled_from([1, 7, 28, 90, 400])


def spec(horizon_days: int = 28, length: int = 6) -> FeatureSpec:
    return FeatureSpec(horizon_days=horizon_days, sequence_length=length)


def rows_of(log: OrderLog, *, horizon_days: int = 28, length: int = 6) -> Examples:
    return build_examples(log, [CUTOFF], spec(horizon_days, length))


def bits(examples: Examples, names=(*INPUTS, "spend_cents")) -> dict[int, tuple[bytes, ...]]:
    """Every customer's rows, bit by bit."""
    return {
        int(c): tuple(getattr(examples, name)[examples.customer == c].tobytes() for name in names)
        for c in np.unique(examples.customer)
    }


def feature(examples: Examples, name: str, row: int = 0) -> float:
    return float(examples.features[row, FEATURE_NAMES.index(name)])


# --- fast against slow


@given(order_lists(), horizons)
def test_every_feature_anchor_token_and_label_is_that_of_the_slow_twin(orders, horizon):
    length = 5
    fast = rows_of(order_log(orders, num_customers=3), horizon_days=horizon, length=length)
    slow = {c: row for c in range(3) if (row := slow_row(orders, c, CUTOFF, horizon))}
    assert fast.customer.tolist() == sorted(slow)
    for number, customer in enumerate(fast.customer.tolist()):
        expected = slow[customer]
        assert set(expected.features) == set(FEATURE_NAMES)
        wanted = [expected.features[name] for name in FEATURE_NAMES]
        np.testing.assert_allclose(fast.features[number], wanted, rtol=1e-5, atol=2e-6)
        assert fast.log_anchor[number] == pytest.approx(expected.log_anchor, rel=1e-6)
        assert fast.spend_cents[number] == expected.spend_cents
        newest = expected.tokens[-length:]
        padding = [(0, 0, 0, 0)] * (length - len(newest))
        assert [tuple(t) for t in fast.sequence[number].tolist()] == padding + newest


def test_several_cutoffs_give_the_rows_of_each_one_after_the_other():
    log = shop_log(20)
    cutoffs = training_cutoffs(CUTOFF, horizon_days=28, count=3)
    together = build_examples(log, cutoffs, spec())
    alone = [build_examples(log, [cutoff], spec()) for cutoff in cutoffs]
    for name in (*INPUTS, "spend_cents", "customer"):
        np.testing.assert_array_equal(getattr(together, name), np.concatenate([getattr(a, name) for a in alone]))


# --- nothing from after a cutoff


@given(order_lists(), order_lists(), horizons)
def test_orders_from_the_cutoff_on_leave_features_sequence_and_anchor_bit_identical(orders, others, horizon):
    before = [order for order in orders if order.timestamp < at(0, 0)]
    after = [order for order in others if order.timestamp >= at(0, 0)]
    one = rows_of(order_log(before, num_customers=3), horizon_days=horizon)
    other = rows_of(order_log([*before, *after], num_customers=3), horizon_days=horizon)
    assert bits(one, INPUTS) == bits(other, INPUTS)


def test_lines_of_one_order_after_the_midnight_of_the_cutoff_stay_unseen():
    first = bought(-1, 500, second=86_399, order_id="x")
    continued = [bought(0, 90_000, second=0, order_id="x"), bought(0, 70_000, second=5, order_id="x", category="tea")]
    one = rows_of(order_log([first], num_customers=1))
    other = rows_of(order_log([first, *continued], num_customers=1))
    assert bits(one, INPUTS) == bits(other, INPUTS)
    assert (one.spend_cents.tolist(), other.spend_cents.tolist()) == ([0], [160_000])


@given(order_lists(), horizons)
def test_a_label_counts_exactly_the_horizon(orders, horizon):
    inside = [o for o in orders if at(0, 0) <= o.timestamp < at(horizon, 0)]
    kept = [o for o in orders if o in inside or o.timestamp < at(0, 0)]
    log, only = order_log(orders, num_customers=3), order_log(kept, num_customers=3)
    assert bits(rows_of(log, horizon_days=horizon)) == bits(rows_of(only, horizon_days=horizon))


def test_the_first_second_of_a_window_counts_and_the_first_one_after_it_does_not():
    log = order_log(
        [bought(-5), bought(0, 100, second=0), bought(27, 20, second=86_399), bought(28, 3, second=0)], num_customers=1
    )
    assert rows_of(log).spend_cents.tolist() == [120]


def test_a_customer_who_returns_more_than_it_buys_spends_nothing():
    log = order_log([bought(-5), bought(1, 300), event(EventType.RETURN, 2, -1_000)], num_customers=1)
    assert rows_of(log).spend_cents.tolist() == [0]


def test_a_customer_who_first_comes_after_the_cutoff_has_no_row():
    log = order_log([bought(0, second=0), bought(-1, customer=1)], num_customers=2)
    assert rows_of(log).customer.tolist() == [1]


@given(st.integers(1, 730), st.integers(1, 24))
def test_the_newest_training_windows_follow_one_another_up_to_the_holdout(horizon, count):
    cutoffs = training_cutoffs(CUTOFF, horizon_days=horizon, count=count)[:count]
    ends = [cutoff + dt.timedelta(days=horizon) for cutoff in cutoffs]
    assert ends == [CUTOFF, *cutoffs[:-1]]


@given(st.integers(1, 730), st.integers(1, 24))
def test_no_training_window_reaches_the_holdout_and_none_comes_twice(horizon, count):
    cutoffs = training_cutoffs(CUTOFF, horizon_days=horizon, count=count)
    assert max(cutoffs) + dt.timedelta(days=horizon) <= CUTOFF
    assert sorted(set(cutoffs), reverse=True) == list(cutoffs)


@pytest.mark.parametrize(
    ("horizon", "count", "days_before"),
    [(28, 1, [28, 364]), (90, 2, [90, 180, 364]), (28, 13, [28 * k for k in range(1, 14)]), (364, 1, [364])],
)
def test_the_season_of_the_holdout_is_seen_a_year_before_it(horizon, count, days_before):
    cutoffs = training_cutoffs(CUTOFF, horizon_days=horizon, count=count)
    assert [(CUTOFF - cutoff).days for cutoff in cutoffs] == days_before


def test_orders_of_the_holdout_leave_every_training_row_as_it_is():
    log = shop_log(30)
    cutoffs = training_cutoffs(CUTOFF, horizon_days=28, count=3)
    known = log.select(log.timestamp < day_start(CUTOFF))
    assert len(known) < len(log)
    assert bits(build_examples(log, cutoffs, spec())) == bits(build_examples(known, cutoffs, spec()))


# --- nothing of another customer


@example(orders=[bought(-1, customer=1)], hers=[event(EventType.RETURN, -1)], horizon=28)
@given(orders=order_lists(customers=4), hers=order_lists(customers=1, largest_cents=10**12), horizon=horizons)
def test_whatever_one_customer_does_leaves_all_others_bit_identical(orders, hers, horizon):
    others = [order for order in orders if order.customer != 0]
    without = rows_of(order_log(others, num_customers=4), horizon_days=horizon)
    changed = rows_of(order_log([*hers, *others], num_customers=4), horizon_days=horizon)
    assert {c: row for c, row in bits(changed).items() if c != 0} == bits(without)


@pytest.mark.parametrize("leavers", [1, 7, 333])
def test_customers_leaving_a_large_shop_leave_the_rest_bit_identical(leavers):
    log = shop_log(1_500)
    gone = np.arange(1_500) % (1_500 // leavers) == 0
    stayed = rows_of(log.select(~gone[log.customer]), length=8)
    everyone = rows_of(log, length=8)
    kept = everyone.select(~gone[everyone.customer])
    for name in (*INPUTS, "spend_cents", "customer"):
        assert getattr(kept, name).tobytes() == getattr(stayed, name).tobytes()


def test_an_absurd_customer_leaves_a_large_shop_bit_identical():
    log = shop_log(300)
    absurd = [bought(-d % 900 - 900, 10**12, customer=300, quantity=2**31 - 1) for d in range(500)]
    both = concatenate([log, order_log(absurd, num_customers=301)], num_customers=301)
    seen = bits(rows_of(both))
    seen.pop(300)
    assert seen == bits(rows_of(log))


@given(order_lists(), horizons, st.randoms(use_true_random=False))
def test_the_order_of_rows_has_no_meaning(orders, horizon, random):
    log = order_log(orders, num_customers=3)
    places = list(range(len(log)))
    random.shuffle(places)
    shuffled = log.select(np.array(places, np.intp))
    assert bits(rows_of(log, horizon_days=horizon)) == bits(rows_of(shuffled, horizon_days=horizon))


@given(order_lists(customers=3), st.permutations(range(3)))
def test_customer_codes_have_no_meaning(orders, codes):
    log = order_log(orders, num_customers=3)
    renamed = log.with_customers(np.array(codes, np.int32)[log.customer], num_customers=3)
    assert {codes[c]: row for c, row in bits(rows_of(log)).items()} == bits(rows_of(renamed))


# --- bounded, whatever happens


@given(order_lists(customers=2, largest_cents=10**15), horizons, st.integers(0, 2**31 - 1))
def test_every_feature_and_anchor_is_finite_and_bounded_and_every_token_is_known(orders, horizon, quantity):
    log = order_log(orders, num_customers=2)
    log.quantity[::2] = quantity
    rows = rows_of(log, horizon_days=horizon)
    assert np.isfinite(rows.log_anchor).all()
    assert (np.abs(rows.features) <= 6).all()
    assert (rows.sequence < np.array(TOKEN_SIZES)).all()
    assert ((rows.sequence > 0).all(axis=2) | (rows.sequence == 0).all(axis=2)).all()


def test_a_customer_of_fifty_years_and_thousands_of_orders_is_bounded():
    start = dt.date(1970, 1, 1)
    days = np.linspace(day_start(start) - 10 * 365 * SECONDS_PER_DAY, day_start(CUTOFF) - 1, 6_000).astype(np.int64)
    one = order_log([bought(-1)], num_customers=1).select(np.zeros(6_000, np.intp))
    log = OrderLog(**{**{n: getattr(one, n) for n in one.__slots__}, "timestamp": days, "order": np.arange(6_000)})
    rows = rows_of(log)
    assert np.isfinite(rows.features).all()
    assert (np.abs(rows.features) <= 6).all()


@given(order_lists(least_cents=10_000, largest_cents=10**7), horizons)
def test_ten_times_the_prices_move_the_anchor_by_log_ten_and_no_feature_but_the_absolute_basket(orders, horizon):
    log = order_log(orders, num_customers=3)
    dear = order_log([_ten_times(order) for order in orders], num_customers=3)
    one, ten = rows_of(log, horizon_days=horizon), rows_of(dear, horizon_days=horizon)
    buyers = one.features[:, FEATURE_NAMES.index("no_visit")] == 0
    assume(buyers.any())
    net = {c: sum(o.spend_cents for o in orders if o.customer == c and o.timestamp < at(0, 0)) for c in range(3)}
    assume(all(net[int(c)] >= 50 for c in one.customer[buyers]))
    np.testing.assert_allclose(ten.log_anchor[buyers] - one.log_anchor[buyers], math.log(10), rtol=1e-5)
    absolute = FEATURE_NAMES.index("log_mean_visit")
    rest = np.arange(len(FEATURE_NAMES)) != absolute
    np.testing.assert_allclose(ten.features[buyers][:, rest], one.features[buyers][:, rest], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(
        ten.features[buyers, absolute] - one.features[buyers, absolute], math.log(10) / 2, rtol=1e-5
    )
    np.testing.assert_array_equal(ten.sequence[buyers], one.sequence[buyers])


def _ten_times(order):
    return bought(0, order.spend_cents * 10).__class__(
        **{name: getattr(order, name) for name in order.__slots__ if name != "spend_cents"},
        spend_cents=order.spend_cents * 10,
    )


# --- by hand


def test_two_baskets_on_one_day_are_one_visit():
    log = order_log([bought(-10, second=100), bought(-10, second=900), bought(-4)], num_customers=1)
    rows = rows_of(log)
    assert feature(rows, "two_visits") == 1.0
    assert feature(rows, "log_visits") == pytest.approx(math.log(3))


def test_a_customer_who_only_looked_is_a_newcomer_with_the_newcomers_anchor():
    rows = rows_of(order_log([event(EventType.VIEW, -3)], num_customers=1))
    assert feature(rows, "no_visit") == 1.0
    rate = 1e-3
    assert rows.log_anchor[0] == pytest.approx(math.log(3_000 * rate / (1 - math.exp(-rate))))


def test_a_regular_customer_is_expected_at_its_own_rate():
    """28 visits in 280 days: 10 in the coming hundred, whose first days are shared with a prior of half a horizon."""
    rows = rows_of(order_log([bought(-10 * k) for k in range(1, 29)], num_customers=1), horizon_days=100)
    expected = 28 * 100 / (279.5 + 50)
    assert feature(rows, "log_expected_visits") == pytest.approx(math.log(expected + 0.02), rel=1e-5)
    assert feature(rows, "log_usual_gap") == pytest.approx(math.log(10.5 / 100), rel=1e-5)
    assert feature(rows, "gap_spread") == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("value", [0, 731])
def test_an_impossible_horizon_or_length_is_refused_by_name(value):
    with pytest.raises(ConfigError, match=r"features\.horizon_days"):
        FeatureSpec(horizon_days=value)
    with pytest.raises(ConfigError, match=r"features\.sequence_length"):
        FeatureSpec(horizon_days=28, sequence_length=value)


def test_names_are_unique_and_the_core_comes_first():
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)
    assert FEATURE_NAMES[: len(CORE_FEATURES)] == CORE_FEATURES


def test_no_feature_is_an_id_a_text_or_a_product():
    """Hashed public category buckets are the only names that are looked at (D46, D54)."""
    named = [name for name in FEATURE_NAMES if "category" in name]
    assert named == [f"category_share_{bucket}" for bucket in range(CATEGORY_BUCKETS)]


def test_a_shop_without_orders_has_no_rows():
    rows = rows_of(order_log([], num_customers=3))
    assert (len(rows), rows.num_customers) == (0, 3)
    assert rows.features.shape == (0, len(FEATURE_NAMES))


@settings(max_examples=20)
@given(order_lists())
def test_dtypes_are_those_of_the_contract(orders):
    rows = rows_of(order_log(orders, num_customers=3))
    found = {name: getattr(rows, name).dtype.name for name in (*INPUTS, "spend_cents", "customer")}
    assert found == {
        "features": "float32",
        "sequence": "uint8",
        "log_anchor": "float32",
        "spend_cents": "int64",
        "customer": "int64",
    }
