import datetime as dt
from collections import defaultdict
from itertools import pairwise
from statistics import median

import numpy as np
import pytest

from client.insight.customers import HALF_LIFE_DAYS, NEVER, as_date, facts_of, interests_of
from pp_model.schema import EventType, category_code, order_log
from tests.support.insight import CUTOFF, bought

TODAY = (CUTOFF - dt.date(1970, 1, 1)).days
KINDS = [EventType.PURCHASE, EventType.PURCHASE, EventType.PURCHASE, EventType.RETURN, EventType.VIEW]


def random_orders(*, seed, customers=40, number=600):
    """Orders of every kind; the last customers have none."""
    rng = np.random.default_rng(seed)
    orders = []
    for _ in range(number):
        kind = KINDS[rng.integers(len(KINDS))]
        cents = int(rng.integers(1, 5_000)) * {EventType.RETURN: -1, EventType.VIEW: 0}.get(kind, 1)
        category = str(rng.choice(["tea", "pots", "cups", ""]))
        customer = int(rng.integers(customers - 5))
        orders.append(bought(customer, int(rng.integers(1, 400)), cents, category, event_type=kind))
    return orders, order_log(orders, num_customers=customers)


@pytest.mark.parametrize("seed", range(5))
def test_facts_are_those_of_one_customer_at_a_time(seed):
    orders, log = random_orders(seed=seed)

    facts = facts_of(log)

    for customer in range(log.num_customers):
        own = [order for order in orders if order.customer == customer]
        days = sorted({(o.timestamp.date() - dt.date(1970, 1, 1)).days for o in own if o.event_type == 0})
        gaps = [after - before for before, after in pairwise(days)]
        assert facts.visits[customer] == len(days)
        assert facts.spend_cents[customer] == sum(o.spend_cents for o in own)
        assert facts.first_day[customer] == (days[0] if days else NEVER)
        assert facts.last_day[customer] == (days[-1] if days else NEVER)
        assert facts.usual_gap_days[customer] == median(gaps) if gaps else np.isnan(facts.usual_gap_days[customer])


@pytest.mark.parametrize("seed", range(5))
def test_interests_are_those_of_one_customer_at_a_time(seed):
    orders, log = random_orders(seed=seed)

    interests = interests_of(log, cutoff=CUTOFF)

    for customer in range(log.num_customers):
        spent = defaultdict(float)
        for order in orders:
            if order.customer == customer:
                age = (CUTOFF - order.timestamp.date()).days
                spent[category_code(order.category)] += order.spend_cents * 0.5 ** (age / HALF_LIFE_DAYS)
        liked = {code: value for code, value in spent.items() if value > 0}
        rows = slice(interests.starts[customer], interests.starts[customer + 1])
        found = dict(zip(interests.codes[interests.category[rows]].tolist(), interests.share[rows], strict=True))
        assert found == pytest.approx({code: value / sum(liked.values()) for code, value in liked.items()})
        assert sorted(interests.share[rows], reverse=True) == interests.share[rows].tolist()


def test_the_top_categories_leave_out_what_is_spent_in_none():
    orders = [bought(0, 1, 900), bought(0, 1, 300, "tea"), bought(0, 1, 100, "pots"), bought(1, 1, 500)]

    interests = interests_of(order_log(orders, num_customers=3), cutoff=CUTOFF)

    codes, shares = interests.top(0)
    assert (codes[0], shares[0]) == (category_code("tea"), pytest.approx(300 / 1300))
    assert codes.tolist()[1:] == [-1, -1]
    assert np.isnan(shares[1:]).all()
    assert interests.top(1)[0].tolist() == [category_code("pots"), -1, -1]
    assert interests.top(2)[0].tolist() == [-1, -1, -1]


def test_half_a_year_counts_half():
    old, new = bought(0, 360, 4_000, "pots"), bought(0, 180, 6_000, "tea")

    interests = interests_of(order_log([old, new], num_customers=1), cutoff=CUTOFF)

    assert interests.share == pytest.approx([0.75, 0.25])


def test_a_shop_without_an_order_has_facts_and_no_interest():
    log = order_log([], num_customers=2)

    assert facts_of(log).visits.tolist() == [0, 0]
    assert interests_of(log, cutoff=CUTOFF).top(0)[0].tolist() == [-1, -1]


def test_a_day_is_a_date_and_never_is_none():
    assert as_date(TODAY) == CUTOFF
    assert as_date(NEVER) is None
