"""Models are judged on the same customers, whichever merchant a seed deals them to."""

import datetime as dt

import numpy as np

from benchmarks.judged import customer_codes
from pp_model.features import FeatureSpec, build_examples
from tests.support.shops import tiny_orders

CUTOFF = dt.date(2024, 5, 1)
CUSTOMERS = 12


def dealt(log, shop_of_customer):
    """Two shops, each with its own numbers for its customers."""
    shops = {}
    for name in ("bakery", "florist"):
        part = log.select(shop_of_customer[log.customer] == name)
        known, codes = np.unique(part.customer, return_inverse=True)
        shops[name] = part.with_customers(codes.astype(np.int32), num_customers=len(known))
    return shops


def codes_of(shops):
    return customer_codes(shops, rows_of(shops))


def rows_of(shops):
    return {name: build_examples(log, [CUTOFF], FeatureSpec(horizon_days=28)) for name, log in shops.items()}


def spends_of(shops):
    """What the holdout says of each customer, by its code."""
    spends = np.concatenate([rows.spend_cents for rows in rows_of(shops).values()])
    return dict(zip(codes_of(shops).tolist(), spends.tolist(), strict=True))


def test_a_customer_has_the_same_code_and_outcome_at_whichever_merchant_it_is():
    log = tiny_orders(customers=CUSTOMERS)
    one_way = np.where(np.arange(CUSTOMERS) < 7, "bakery", "florist")
    another = np.where(np.arange(CUSTOMERS) % 2, "florist", "bakery")
    first, second = dealt(log, one_way), dealt(log, another)
    assert list(codes_of(first)) != list(codes_of(second))
    assert spends_of(first) == spends_of(second)
    assert len(spends_of(first)) == CUSTOMERS
