import datetime as dt
from collections import defaultdict

import numpy as np
import pytest

from client.insight import outlook
from client.insight.customers import interests_of
from client.insight.earlier import said_at
from client.insight.outlook import (
    Errors,
    Trial,
    by_level,
    correction_of,
    errors_of,
    month_shares,
    months_of,
    spread,
    trials_of,
)
from client.scoring import new_scorer
from pp_model.schema import category_code, day_start, order_log
from tests.support.insight import CUTOFF, HORIZON, bought
from tests.support.scored import shipped

TEA, POTS = sorted(["tea", "pots"], key=category_code)  # in the order of their codes
CODES = np.array([category_code(TEA), category_code(POTS)], np.int32)


def scorer(cutoff=CUTOFF):
    plan, arrays = shipped("mlp")
    return new_scorer(plan, arrays, cutoff)


def steady(*, customers=60, days=300, gap=7):
    """Everybody buys tea for 10.00 and pots for 5.00 every seventh day, up to yesterday."""
    orders = []
    for customer in range(customers):
        for number in range(1 + customer % gap, days, gap):
            orders += [bought(customer, number, 1_000, TEA), bought(customer, number, 500, POTS)]
    return order_log(orders, num_customers=customers)


def trial(forecast, happened, scatter=0.0):
    by_category = np.full(len(forecast), scatter)
    return Trial(
        cutoff=CUTOFF,
        forecast=np.array(forecast, float),
        happened=np.array(happened, float),
        scatter={
            level: by_category if level in ("cell", "category") else by_category.sum() for level in outlook.LEVELS
        },
    )


def test_the_months_of_a_horizon_cover_its_days():
    names, of_day = months_of(dt.date(2025, 12, 20), 45)

    assert names == ("2025-12", "2026-01", "2026-02")
    assert np.bincount(of_day).tolist() == [12, 31, 2]


def test_months_follow_the_same_days_of_the_year_before():
    cutoff, horizon = dt.date(2025, 7, 1), 62  # July and August
    _, of_day = months_of(cutoff, horizon)
    long_known = [bought(customer, 700, 100) for customer in range(4)]
    july = [bought(n % 4, 364 - n % 31, 3_000) for n in range(1_000)]
    august = [bought(n % 4, 364 - 31 - n % 31, 1_000) for n in range(1_000)]

    shares = month_shares(order_log([*long_known, *july, *august], num_customers=4), cutoff, of_day)

    assert shares == pytest.approx([0.75, 0.25], abs=0.01)
    assert shares.sum() == pytest.approx(1)


def test_months_follow_the_horizon_just_past_where_there_is_no_year():
    _, of_day = months_of(CUTOFF, 62)
    known = [bought(customer, 130, 100) for customer in range(4)]
    fading = [bought(n % 4, 62 - n % 31, 3_000) for n in range(1_000)] + [bought(n % 4, 31, 1) for n in range(4)]

    shares = month_shares(order_log([*known, *fading], num_customers=4), CUTOFF, of_day)

    assert shares == pytest.approx([1, 0], abs=0.05)


def test_months_are_as_long_as_they_are_where_little_is_known():
    _, of_day = months_of(CUTOFF, 62)

    assert month_shares(order_log([bought(0, 3)], num_customers=1), CUTOFF, of_day).tolist() == [0.5, 0.5]


def test_new_customers_do_not_count_for_the_months_of_known_ones():
    _, of_day = months_of(CUTOFF, 62)
    known = [bought(0, 130, 100), *(bought(0, 62 - n, 1_000) for n in range(31))]
    new = [bought(1, 31 - n % 30, 90_000) for n in range(500)]

    shares = month_shares(order_log([*known, *new], num_customers=2), CUTOFF, of_day)

    assert shares[0] > 0.6


def test_what_is_expected_is_spread_over_categories_by_own_spend_and_adds_up():
    log = order_log([bought(0, 1, 300, TEA), bought(0, 1, 100, POTS), bought(1, 1, 50, POTS)], num_customers=3)

    sums, (customer, category, cents) = spread(
        np.array([0, 1, 2]), np.array([4_000.0, 1_000, 500]), interests_of(log, cutoff=CUTOFF), CODES
    )

    assert sums == pytest.approx(np.array([3_000, 2_000]) * 5_500 / 5_000)  # the third spends as the others do
    found = zip(customer.tolist(), category.tolist(), cents.round(6).tolist(), strict=True)
    assert sorted(found) == [(0, 0, 3_000), (0, 1, 1_000), (1, 1, 1_000)]


def test_a_trial_looks_at_nothing_after_its_cutoff_but_to_see_what_happened():
    log = steady()
    (newest, *_) = trials_of(scorer(), log, CODES)
    later = (log.timestamp >= day_start(newest.cutoff)) & (log.category == CODES[0])

    dearer = np.where(later, 10 * log.spend_cents, log.spend_cents)
    (again, *_) = trials_of(scorer(), _with_spend(log, dearer), CODES)

    assert again.forecast.tolist() == newest.forecast.tolist()
    assert again.happened[0].tolist() == (10 * newest.happened[0]).tolist()


def _with_spend(log, spend):
    columns = {
        name: getattr(log, name) for name in ("customer", "timestamp", "order", "quantity", "category", "event_type")
    }
    return type(log)(**columns, spend_cents=spend, num_customers=log.num_customers)


def test_trials_are_one_horizon_apart_and_end_where_the_orders_do():
    cutoffs = [trial.cutoff for trial in trials_of(scorer(), steady(days=110), CODES)]

    assert cutoffs == [CUTOFF - dt.timedelta(days=HORIZON * number) for number in (1, 2)]
    assert trials_of(scorer(), steady(days=50), CODES) == ()
    assert trials_of(scorer(), steady(customers=10), CODES) == ()


def test_the_scatter_of_a_trial_is_the_sum_of_squared_deviations_of_single_customers():
    log = steady(customers=40)
    (newest, *_) = trials_of(scorer(), log, CODES)

    assert newest.scatter["total"] >= 0
    assert newest.scatter["category"].sum() >= newest.scatter["total"] / 2  # by Cauchy and Schwarz, of two categories
    slow = _slow_scatter(log, newest)
    for level in outlook.LEVELS:
        assert newest.scatter[level] == pytest.approx(slow[level], rel=1e-6)


def _slow_scatter(log, newest):
    """The same, one row at a time."""
    said = said_at(scorer(), log, newest.cutoff)
    customer, expected = said.customer, said.expected_spend_cents
    now = day_start(newest.cutoff)
    interests = interests_of(log.select(log.timestamp < now), cutoff=newest.cutoff)
    names, of_day = months_of(newest.cutoff, HORIZON)
    shares = month_shares(log, newest.cutoff, of_day)
    of = dict(zip(customer.tolist(), expected.tolist(), strict=True))
    ratio = newest.happened.sum() / expected.sum()
    apart = defaultdict(float)
    for who, category, share in zip(interests.customer, interests.category, interests.share, strict=True):
        for month in range(len(names)):
            code = interests.codes[category]
            apart[who, CODES.tolist().index(code), month] -= ratio * of[who] * share * shares[month]
    for who, when, cents, category in zip(log.customer, log.timestamp, log.spend_cents, log.category, strict=True):
        if when >= now and when < now + HORIZON * 86_400:
            apart[who, CODES.tolist().index(category), of_day[(when - now) // 86_400]] += cents
    return {level: _squares(apart, level) for level in outlook.LEVELS}


def _squares(apart, level):
    sums = defaultdict(float)
    for (who, category, month), cents in apart.items():
        key = {"cell": (who, category, month), "category": (who, category), "month": (who, month), "total": (who,)}
        sums[key[level]] += cents
    if level not in ("cell", "category"):
        return sum(value**2 for value in sums.values())
    return [sum(value**2 for key, value in sums.items() if key[1] == place) for place in range(len(CODES))]


def test_the_correction_is_what_was_spent_by_what_was_forecast_in_the_newest_trials():
    trials = [trial([[100.0]], [[150.0]]), trial([[100.0]], [[50.0]]), trial([[200.0]], [[400.0]])]

    assert correction_of(trials) == 600 / 400
    assert correction_of([*trials, trial([[1e6]], [[0.0]])]) == 600 / 400
    assert correction_of([]) == 1.0


def test_without_drift_the_interval_is_that_of_scattered_customers():
    trials = [trial([[100.0]], [[100.0]], scatter=4.0)] * 4

    errors = errors_of(trials)

    assert errors.drift == dict.fromkeys(outlook.LEVELS, 0.0)
    low, high = errors.interval(np.array(100.0), "total")
    assert high - 100 == pytest.approx(1.6377 * np.sqrt(0.04 * 100), rel=1e-3)  # t of 3 degrees of freedom
    assert 100 - low == pytest.approx(high - 100)


def test_drift_is_what_scatter_does_not_explain_after_the_correction_known_by_then():
    older = [trial([[100.0]], [[200.0]]), trial([[100.0]], [[200.0]])]

    errors = errors_of([trial([[100.0]], [[240.0]]), *older])

    # The newest was forecast 200 and the one before it 200: off by 40 and by 0, of 400.
    assert errors.drift["total"] == pytest.approx(np.sqrt((40**2 / 200 + 0) / 400))
    assert errors.correction == pytest.approx(640 / 300)
    assert errors.trials == 2


def test_one_trial_alone_gives_a_wide_interval_and_none_gives_none():
    errors = errors_of([trial([[100.0]], [[130.0]])])

    low, high = errors.interval(np.array(130.0), "total")
    assert high - low > 130
    assert errors_of([]) is None


def test_no_interval_goes_below_nothing():
    errors = Errors(correction=1.0, scatter={"category": np.array([1e6, 1.0])}, drift={"category": 0.5}, trials=3)

    low, _ = errors.interval(np.array([10.0, 10_000.0]), "category")

    assert low[0] == 0
    assert low[1] > 0


def test_sums_by_level():
    cells = np.array([[1.0, 2.0], [3.0, 4.0]])

    assert by_level(cells, "cell").tolist() == cells.tolist()
    assert by_level(cells, "category").tolist() == [3, 7]
    assert by_level(cells, "month").tolist() == [4, 6]
    assert by_level(cells, "total").tolist() == 10


def test_a_trial_of_many_customers_looks_at_some(monkeypatch):
    log = steady(customers=80)
    (whole, *_) = trials_of(scorer(), log, CODES)
    monkeypatch.setattr(outlook, "MOST_SAMPLED", 40)

    (some, *_) = trials_of(scorer(), log, CODES)

    assert some.happened.sum() == pytest.approx(whole.happened.sum() / 2)  # everybody buys alike
