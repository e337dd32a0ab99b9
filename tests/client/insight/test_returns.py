"""Returns: rates shrunk towards the shop's, in the order of what may come back, and called no accusation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from client.insight.returns import Prior, build, prior_of
from pp_model.schema import EventType, Order
from tests.support.insight_shops import day_before, figure, insight_data, notes, rows_of_table


def drawn(*, returned: float, kept: float, customers: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    baskets = rng.integers(1, 30, customers)
    rates = rng.beta(returned, kept, customers)
    return rng.binomial(baskets, rates), baskets, rates


@pytest.mark.parametrize(("returned", "kept"), [(1.0, 9.0), (4.0, 16.0)])
def test_the_prior_of_many_customers_is_the_one_they_were_drawn_from(returned, kept):
    back, baskets, _ = drawn(returned=returned, kept=kept, customers=20_000)
    found = prior_of(back, baskets)
    assert found.mean == pytest.approx(returned / (returned + kept), rel=0.03)
    assert found.returned + found.kept == pytest.approx(returned + kept, rel=0.1)


def test_no_other_prior_makes_the_returns_more_likely():
    back, baskets, _ = drawn(returned=2.0, kept=10.0, customers=500)

    def likelihood(a: float, b: float) -> float:
        return float((special.betaln(a + back, b + baskets - back) - special.betaln(a, b)).sum())

    found = prior_of(back, baskets)
    best = likelihood(found.returned, found.kept)
    for a in (0.9, 1.0, 1.1):
        for b in (0.9, 1.0, 1.1):
            assert likelihood(a * found.returned, b * found.kept) <= best + 1e-3


@pytest.mark.statistical
def test_the_interval_holds_the_true_rate_as_often_as_it_says():
    back, baskets, rates = drawn(returned=1.5, kept=8.0, customers=4_000, seed=3)
    _, low, high = prior_of(back, baskets).rate(back, baskets)
    hits = int(((low <= rates) & (rates <= high)).sum())
    least, most = stats.binom.ppf([5e-7, 1 - 5e-7], len(rates), 0.95)
    assert least <= hits <= most


def test_a_customer_with_one_basket_is_judged_by_the_shop_and_one_with_many_by_itself():
    rate, low, high = Prior(returned=1.0, kept=9.0).rate(np.array([1, 50, 0]), np.array([1, 100, 0]))
    assert rate == pytest.approx([2 / 11, 51 / 110, 0.1])
    assert low[1] > 0.35
    assert high[2] - low[2] > 0.25


def test_customers_alike_are_all_given_the_shops_rate():
    found = prior_of(np.full(500, 2), np.full(500, 20))
    rate, _, _ = found.rate(np.array([0, 2, 4]), np.array([20, 20, 20]))
    assert rate == pytest.approx([0.1, 0.1, 0.1], abs=0.002)


def purchase(customer: int, days: float, cents: int = 1_000, category: str = "shoes") -> Order:
    return Order(customer=customer, timestamp=day_before(days), spend_cents=cents, category=category)


def sent_back(customer: int, days: float, cents: int = 1_000, category: str = "shoes") -> Order:
    return Order(
        customer=customer,
        timestamp=day_before(days),
        spend_cents=-cents,
        category=category,
        event_type=EventType.RETURN,
    )


def shop() -> list[Order]:
    """40 customers with ten baskets each; the first four send half of them back, in full."""
    orders = [purchase(customer, 5 + 20 * visit) for customer in range(40) for visit in range(10)]
    return orders + [sent_back(customer, 3 + 20 * visit) for customer in range(4) for visit in range(5)]


def test_the_list_begins_with_what_is_expected_to_come_back_most():
    made = build(insight_data(shop()))
    rows = made.lists["customers"].to_pylist()
    assert {row["customer_id"] for row in rows[:4]} == {"k0000", "k0001", "k0002", "k0003"}
    assert rows[0]["returned_baskets"] == 5
    assert 0.3 < rows[0]["rate"] < 0.5
    assert rows[0]["value_share"] == 0.5
    assert all(row["rate_low"] < row["rate"] < row["rate_high"] for row in rows)
    values = [row["expected_returned_cents"] for row in rows]
    assert values == sorted(values, reverse=True)


def test_of_a_net_spend_half_returned_as_much_again_comes_back():
    data = insight_data(shop())
    rows = {row["customer_id"]: row for row in build(data).lists["customers"].to_pylist()}
    scores = {row["customer_id"]: row for row in data.scores.to_pylist()}
    for name in ("k0000", "k0020"):
        rate, net = rows[name]["rate"], scores[name]["expected_spend_cents"]
        assert rows[name]["expected_returned_cents"] == pytest.approx(net * rate / (1 - rate), abs=1.5)


def test_baskets_of_which_a_part_came_back_count_with_that_part():
    whole = build(insight_data(shop()))
    parts = [sent_back(o.customer, 4, 200) if o.spend_cents < 0 else o for o in shop()]
    partly = build(insight_data(parts))
    assert figure(whole, "value").value == pytest.approx(20 / 400)
    assert figure(partly, "value").value < 0.02


def test_more_returns_than_baskets_count_as_all_of_them():
    orders = [*shop(), purchase(40, 30), *(sent_back(40, day) for day in (20, 21, 22))]
    rows = {row["customer_id"]: row for row in build(insight_data(orders)).lists["customers"].to_pylist()}
    assert (rows["k0040"]["baskets"], rows["k0040"]["returned_baskets"]) == (1, 1)
    assert rows["k0040"]["value_share"] == 1.0


def test_categories_stand_in_the_order_of_what_came_back():
    orders = [*shop(), *(purchase(0, day, category="hats") for day in (40, 41)), sent_back(0, 30, category="hats")]
    rows = rows_of_table(build(insight_data(orders)), "table.categories")
    assert [row["category"] for row in rows] == ["shoes", "hats"]
    assert rows[1]["rate"] == 0.5
    assert rows[0]["rate"] == pytest.approx(20 / 400)


def test_without_returns_the_report_is_empty_and_says_what_to_export():
    assert build(insight_data([purchase(0, 5)])).report.empty.key == "returns.empty"


def test_it_says_that_it_is_no_accusation():
    assert "returns.note.no_accusation" in notes(build(insight_data(shop())))
