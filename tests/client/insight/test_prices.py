"""Discounts: the truth of shops made by hand, and no more said than can be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from client.insight.elasticity import LEAST_CUSTOMERS, LEAST_LINES, Elasticity, elasticity_of
from client.insight.prices import LEAST_VISITS, build
from pp_model.schema import EventType, Order
from tests.support.insight_shops import day_before, figure, insight_data, notes, rows_of_table


def lines(*, slope: float, customers: int = 200, seed: int = 1, keen: float = 0.0, december: float = 0.0) -> Elasticity:
    """The elasticity found in lines whose pieces follow a price with this slope.

    Args:
        keen: how much deeper the discounts are that big buyers get.
        december: how much more everybody buys in the month of the deepest discounts.
    """
    rng = np.random.default_rng(seed)
    customer = np.repeat(np.arange(customers), 20)
    month = np.tile(np.arange(10), 2 * customers)
    size = rng.normal(0, 1, customers)[customer]
    depth = np.clip(0.2 + keen * size + 0.2 * (month == 9) + rng.normal(0, 0.1, len(customer)), 0, 0.7)
    log_pieces = 8 + size + december * (month == 9) + slope * np.log1p(-depth) + rng.normal(0, 0.3, len(customer))
    quantity = np.maximum(1, np.rint(np.exp(log_pieces))).astype(np.int64)
    return elasticity_of(customer=customer, category=customer * 0, month=month, depth=depth, quantity=quantity)


@pytest.mark.parametrize("slope", [-2.0, -0.5, 0.0])
def test_the_slope_that_was_planted_is_found(slope):
    found = lines(slope=slope).estimate
    assert found.low < slope < found.high
    assert found.high - found.low < 0.3


def test_big_buyers_who_get_deeper_discounts_do_not_make_a_slope():
    found = lines(slope=0.0, keen=0.1).estimate
    assert found.holds(0.0)
    assert abs(found.value) < 0.1


def test_a_month_in_which_everybody_buys_more_does_not_make_a_slope():
    assert lines(slope=0.0, december=1.0).estimate.holds(0.0)


def test_few_lines_or_few_customers_have_no_elasticity():
    def found(customers: int, each: int) -> Elasticity:
        customer = np.repeat(np.arange(customers), each)
        depth = np.tile([0.0, 0.3], len(customer) // 2)
        return elasticity_of(
            customer=customer,
            category=customer * 0,
            month=customer * 0,
            depth=depth,
            quantity=1 + (depth > 0).astype(np.int64),
        )

    assert (
        found(LEAST_CUSTOMERS, LEAST_LINES // LEAST_CUSTOMERS + 1 + LEAST_LINES // LEAST_CUSTOMERS % 2).lines
        >= LEAST_LINES
    )
    assert found(LEAST_CUSTOMERS - 1, 40).estimate.shown is None
    assert found(LEAST_LINES // 2 - 1, 2).estimate.shown is None
    assert found(LEAST_LINES, 2).estimate.value == pytest.approx(math.log(2) / math.log(0.7))


def test_lines_whose_price_never_moved_are_left_out():
    customer = np.repeat(np.arange(50), 10)
    depth = np.where(customer < 25, np.tile([0.0, 0.2], 250), 0.3)
    found = elasticity_of(
        customer=customer, category=customer * 0, month=customer * 0, depth=depth, quantity=np.full(500, 2)
    )
    assert (found.lines, found.customers) == (250, 25)


def bought(customer: int, days: float, cents: int, category: str = "bread", quantity: int = 1) -> Order:
    return Order(customer=customer, timestamp=day_before(days), spend_cents=cents, category=category, quantity=quantity)


def test_shares_at_a_discount_are_of_spend_and_by_category():
    orders = [bought(0, 10, 900), bought(0, 20, 100), bought(1, 5, 500, "cake"), bought(1, 6, 1_500, "cake")]
    made = build(insight_data(orders, discount_cents=[100, 0, 500, 0]))
    assert figure(made, "spend").value == pytest.approx(1_400 / 3_000)
    assert figure(made, "lines").value == 0.5
    assert figure(made, "depth").value == pytest.approx((900 * 0.1 + 500 * 0.5) / 1_400)
    rows = {row["category"]: row for row in rows_of_table(made, "table.categories")}
    assert rows["bread"]["spend_share"] == pytest.approx(0.9)
    assert rows["cake"]["spend_share"] == pytest.approx(0.25)
    assert rows["cake"]["depth"] == pytest.approx(0.5)
    assert list(rows) == ["cake", "bread"]  # the most spend first


def test_returns_views_and_gifts_are_no_lines_of_a_sale():
    orders = [
        bought(0, 9, 1_000),
        bought(0, 8, 1_000),
        Order(customer=0, timestamp=day_before(7), spend_cents=-1_000, event_type=EventType.RETURN),
        Order(customer=0, timestamp=day_before(6), spend_cents=0, event_type=EventType.VIEW),
        bought(0, 5, 0),
    ]
    made = build(insight_data(orders, discount_cents=[1_000, 0, 1_000, 5, 700]))
    assert figure(made, "lines").value == 0.5
    assert figure(made, "spend").value == 0.5


def test_who_buys_only_at_a_discount_is_listed_and_nobody_else():
    orders, discounts = [], []
    for customer, (visits, reduced) in enumerate([(3, 3), (LEAST_VISITS - 1, 9), (5, 4), (4, 4)]):
        for visit in range(visits):
            orders.append(bought(customer, 10 * visit + 1, 100 * (customer + 1)))
            discounts.append(50 if visit < reduced else 0)
    made = build(insight_data(orders, discount_cents=discounts))
    listed = made.lists["only_at_a_discount"].to_pylist()
    assert [(row["customer_id"], row["visits"], row["spend_cents"]) for row in listed] == [
        ("k0003", 4, 1_600),
        ("k0000", 3, 300),
    ]
    assert figure(made, "only").value == 2
    assert set(made.lists["only_at_a_discount"].column_names) == {"customer_id", "tier", "visits", "spend_cents"}


def test_the_depth_of_a_discount_falls_into_its_bar():
    quantities = {0.0: 1, 0.05: 2, 0.1: 2, 0.11: 3, 0.2: 3, 0.25: 4, 0.4: 5, 0.5: 5, 0.6: 6}
    orders, discounts = [], []
    for place, (depth, quantity) in enumerate(quantities.items()):
        orders.append(bought(0, place + 1, round(10_000 * (1 - depth)), quantity=quantity))
        discounts.append(round(10_000 * depth))
    chart = build(insight_data(orders, discount_cents=discounts)).report.charts[2]
    assert chart.series[0].values == (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)


def test_without_a_discount_column_the_report_says_how_to_declare_one():
    made = build(insight_data([bought(0, 1, 100)]))
    assert made.report.empty.key == "prices.empty.undeclared"
    assert not made.lists


def test_a_column_without_any_discount_is_said_to_be_empty():
    assert build(insight_data([bought(0, 1, 100)], discount_cents=[0])).report.empty.key == "prices.empty.none"


def test_it_says_that_discounts_are_not_random_and_refuses_a_price_for_one_person():
    made = build(insight_data([bought(0, 1, 100)], discount_cents=[10]))
    assert {"prices.note.not_random", "prices.note.no_price"} <= notes(made)
