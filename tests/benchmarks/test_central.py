"""BG/NBD and LightGBM on everybody's orders: likelihoods right, and nothing after the cutoff looked at."""

import datetime as dt
import sys

import numpy as np
import pytest
from scipy import stats

from benchmarks.central import Histories, bgnbd_buying, fitted_bgnbd, histories, joined, lightgbm_buying
from pp_model.features import FeatureSpec, build_examples
from pp_model.schema import EventType, Order, concatenate, order_log
from tests.support.shops import tiny_orders

CUTOFF = dt.date(2024, 5, 1)
PARAMETERS = np.array([0.7, 4.0, 0.8, 2.5])
HORIZON_DAYS = 28
FALSE_ALARM = 1e-6


def history(repeats, last, age):
    return Histories(repeats=np.array([repeats], float), last=np.array([last], float), age=np.array([age], float))


def lives(*, customers, weeks, seed=0):
    """Customers of BG/NBD: (histories of `weeks`, who purchases in the HORIZON_DAYS after)."""
    rng = np.random.default_rng(seed)
    r, alpha, a, b = PARAMETERS
    repeats, last, buys = np.zeros(customers), np.zeros(customers), np.zeros(customers, bool)
    for customer in range(customers):
        rate, loss, now = rng.gamma(r, 1 / alpha), rng.beta(a, b), 0.0
        while True:
            now += rng.exponential(1 / rate)
            if now > weeks:
                buys[customer] = now <= weeks + HORIZON_DAYS / 7
                break
            repeats[customer] += 1
            last[customer] = now
            if rng.random() < loss:
                break
    return Histories(repeats=repeats, last=last, age=np.full(customers, float(weeks))), buys


def buying_by_kinds(seen, *, horizon_days, kinds=1_000):
    """The probability of buying of one customer, over a thousand rates times as many probabilities of being lost."""
    (x,), (last,), (age,) = seen.repeats, seen.last, seen.age
    r, alpha, a, b = PARAMETERS
    levels = (np.arange(kinds) + 0.5) / kinds
    rate, loss = stats.gamma.ppf(levels, r, scale=1 / alpha)[:, None], stats.beta.ppf(levels, a, b)[None, :]
    unlost = (1 - loss) ** x * rate**x
    lost = loss * (1 - loss) ** (x - 1) * rate**x * np.exp(-rate * last)
    now, later = (np.mean(unlost * np.exp(-rate * until) + lost) for until in (age, age + horizon_days / 7))
    return 1 - later / now


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(history(1, 5, 8), id="one repeat"),
        pytest.param(history(6, 9, 20), id="long silent"),
        pytest.param(history(6, 19, 20), id="just seen"),
    ],
)
def test_the_probability_is_that_of_a_mixture_of_all_kinds_of_customers(seen):
    quick = bgnbd_buying(PARAMETERS, seen, horizon_days=HORIZON_DAYS)
    assert quick[0] == pytest.approx(buying_by_kinds(seen, horizon_days=HORIZON_DAYS), rel=2e-3)


def test_who_never_came_again_is_not_lost_and_buys_by_the_rates_alone():
    r, alpha, _, _ = PARAMETERS
    quick = bgnbd_buying(PARAMETERS, history(0, 0, 10), horizon_days=HORIZON_DAYS)
    assert quick[0] == pytest.approx(1 - ((alpha + 10) / (alpha + 14)) ** r)


def test_fitted_to_customers_of_its_own_kind_it_says_how_many_buy():
    """How many do is a sum of independent draws with these chances, near enough normal for 4,000 of them."""
    seen, buys = lives(customers=4_000, weeks=40)
    said = bgnbd_buying(fitted_bgnbd(seen), seen, horizon_days=HORIZON_DAYS)
    away = (buys.sum() - said.sum()) / np.sqrt((said * (1 - said)).sum())
    assert abs(away) < stats.norm.ppf(1 - FALSE_ALARM / 2)


def test_the_fitted_parameters_are_at_least_as_likely_as_the_true_ones_and_near_them():
    seen, _ = lives(customers=4_000, weeks=40)
    said = bgnbd_buying(fitted_bgnbd(seen), seen, horizon_days=HORIZON_DAYS)
    truly = bgnbd_buying(PARAMETERS, seen, horizon_days=HORIZON_DAYS)
    assert np.corrcoef(said, truly)[0, 1] > 0.99
    assert np.abs(said - truly).mean() < 0.02


def order(customer, day, event_type=EventType.PURCHASE, spend_cents=100):
    timestamp = dt.datetime.combine(dt.date(2024, 1, 1), dt.time(12)) + dt.timedelta(days=day)
    return Order(customer=customer, timestamp=timestamp, event_type=event_type, spend_cents=spend_cents)


def test_a_history_counts_days_with_a_purchase_before_the_cutoff():
    log = order_log(
        [
            *(order(0, day) for day in (0, 0, 7, 21, 200)),
            order(0, 3, EventType.RETURN, -100),
            order(1, 14, EventType.VIEW, 0),
        ],
        num_customers=2,
    )
    seen = histories(log, np.array([1, 0]), cutoff=dt.date(2024, 1, 1) + dt.timedelta(days=28))
    np.testing.assert_array_equal(seen.repeats, [0, 2])
    np.testing.assert_array_equal(seen.last, [0, 3])
    np.testing.assert_array_equal(seen.age, [2, 4])


def test_histories_of_several_merchants_come_one_after_the_other():
    together = joined([history(1, 2, 3), history(4, 5, 6)])
    np.testing.assert_array_equal([together.repeats, together.last, together.age], [[1, 4], [2, 5], [3, 6]])


def test_without_lightgbm_nothing_is_said_in_its_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)  # as Python marks what cannot be imported
    log, features = tiny_orders(), FeatureSpec(horizon_days=HORIZON_DAYS)
    rows = build_examples(log, [CUTOFF], features)
    assert lightgbm_buying({"bakery": log}, rows, cutoff=CUTOFF, features=features) is None


def test_what_happens_from_the_cutoff_on_changes_nothing_that_the_trees_say():
    pytest.importorskip("lightgbm")
    log, features = tiny_orders(customers=300), FeatureSpec(horizon_days=HORIZON_DAYS)
    before = log.select(log.timestamp < dt.datetime(2024, 5, 1, tzinfo=dt.UTC).timestamp())
    later = order_log([order(customer, 125) for customer in range(0, 300, 2)], num_customers=300)
    said = [
        lightgbm_buying({"bakery": each}, build_examples(each, [CUTOFF], features), cutoff=CUTOFF, features=features)
        for each in (before, concatenate([before, later], num_customers=300))
    ]
    assert len(np.unique(said[0])) > 1
    np.testing.assert_array_equal(*said)
