"""Lines of one order into baskets, against a slow twin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pp_model.baskets import baskets_of
from pp_model.schema import EventType, order_log
from tests.support.examples import bought, event, order_lists
from tests.support.slow_features import slow_baskets

COLUMNS = ("customer", "timestamp", "spend_cents", "quantity", "lines", "category", "event_type")


def seconds(baskets):
    return [int(t) for t in baskets.timestamp]


@given(order_lists())
def test_baskets_are_those_that_a_person_would_write_down(orders):
    fast = baskets_of(order_log(orders, num_customers=3))
    slow = [(c, b) for c in range(3) for b in slow_baskets(orders, c)]
    epoch = np.datetime64("1970-01-01")
    expected = [
        (c, int((np.datetime64(b.when) - epoch) / np.timedelta64(1, "s")), b.spend, b.quantity, b.lines, b.category)
        for c, b in slow
    ]
    found = list(zip(*(getattr(fast, name).tolist() for name in COLUMNS[:6]), strict=True))
    assert found == expected
    assert fast.event_type.tolist() == [int(b.kind) for _, b in slow]


@given(order_lists(), st.randoms(use_true_random=False))
def test_the_order_of_rows_has_no_meaning(orders, random):
    log = order_log(orders, num_customers=3)
    places = list(range(len(log)))
    random.shuffle(places)
    one, other = baskets_of(log), baskets_of(log.select(np.array(places, np.intp)))
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@given(order_lists())
def test_no_line_is_lost_or_counted_twice(orders):
    baskets = baskets_of(order_log(orders, num_customers=3))
    assert int(baskets.lines.sum()) == len(orders)
    assert int(baskets.spend_cents.sum()) == sum(order.spend_cents for order in orders)
    assert int(baskets.quantity.sum()) == sum(order.quantity for order in orders)


def test_lines_of_one_order_are_one_basket_at_the_time_of_the_first():
    lines = [bought(-3, 500, second=90, order_id="x"), bought(-3, 700, second=30, order_id="x", category="tea")]
    baskets = baskets_of(order_log(lines, num_customers=1))
    assert baskets.spend_cents.tolist() == [1_200]
    assert baskets.timestamp[0] % 86_400 == 30
    assert baskets.lines.tolist() == [2]


def test_an_order_continued_after_midnight_is_two_baskets():
    lines = [bought(-1, 500, second=86_399, order_id="x"), bought(0, 700, second=0, order_id="x")]
    assert baskets_of(order_log(lines, num_customers=1)).spend_cents.tolist() == [500, 700]


def test_goods_bought_and_goods_returned_under_one_order_id_are_two_baskets():
    log = order_log([bought(-3, 500), event(EventType.RETURN, -3, -200)], num_customers=1)
    same_order = log.select(np.arange(2))
    same_order.order[:] = 7
    assert sorted(baskets_of(same_order).spend_cents.tolist()) == [-200, 500]


def test_one_order_id_of_two_customers_is_two_baskets():
    lines = [bought(-3, 500, order_id="1001"), bought(-3, 900, customer=1, order_id="1001")]
    assert baskets_of(order_log(lines, num_customers=2)).spend_cents.tolist() == [500, 900]


def test_lines_of_two_days_that_take_turns_in_price_are_two_baskets():
    lines = [bought(-1, 500, order_id="x"), bought(0, 700, order_id="x"), bought(-1, 900, order_id="x")]
    assert baskets_of(order_log(lines, num_customers=1)).spend_cents.tolist() == [1_400, 700]


@pytest.mark.parametrize("places", [[0, 1], [1, 0]])
def test_a_basket_has_the_category_of_its_most_expensive_line(places):
    lines = [bought(-3, 500, order_id="x", category="tea"), bought(-3, 900, order_id="x", category="milk")]
    alone = baskets_of(order_log([lines[1]], num_customers=1))
    both = baskets_of(order_log([lines[place] for place in places], num_customers=1))
    assert both.category.tolist() == alone.category.tolist()


def test_a_shop_without_orders_has_no_baskets():
    baskets = baskets_of(order_log([], num_customers=4))
    assert (len(baskets.customer), baskets.num_customers) == (0, 4)
