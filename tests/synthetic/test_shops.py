"""Synthetic shops: repeatable, within their record, and with the truth that they state.

The seeds are fixed, so that a failure repeats; every tolerance is derived as if they were not.
"""

from __future__ import annotations

import datetime as dt
import math
import time

import numpy as np
import pytest
from scipy import stats

from pp_model.schema import COLUMNS, NO_CATEGORY, SECONDS_PER_DAY, EventType, day_start
from synthetic.shops import ShopTraits, SyntheticShop, draw_traits, synthetic_shop
from tests.support.examples import LIVELY, changed_traits

FALSE_ALARM = 1e-6
FIRST = dt.date(2023, 1, 1)


def shop_of(traits: ShopTraits, *, customers: int = 400, days: int = 500, seed: int = 1) -> SyntheticShop:
    return synthetic_shop(
        traits, num_customers=customers, first_day=FIRST, num_days=days, rng=np.random.default_rng(seed)
    )


def days_of(shop: SyntheticShop, kind: EventType = EventType.PURCHASE) -> tuple[np.ndarray, np.ndarray]:
    """Customer and day on record of every event of a kind."""
    rows = shop.log.event_type == kind
    return shop.log.customer[rows], (shop.log.timestamp[rows] - day_start(FIRST)) // SECONDS_PER_DAY


def wild(seed: int) -> ShopTraits:
    return draw_traits(np.random.default_rng(seed))


def fits_binomial(count: int, size: int, probability: float) -> bool:
    low, high = stats.binom.interval(1 - FALSE_ALARM, size, probability)
    return bool(low <= count <= high)


@pytest.mark.parametrize("seed", range(5))
def test_an_equal_seed_gives_equal_orders_and_another_seed_others(seed):
    one, same, other = (shop_of(wild(seed), seed=s).log for s in (seed, seed, seed + 1))
    for name, dtype in COLUMNS.items():
        assert getattr(one, name).tobytes() == getattr(same, name).tobytes()
        assert getattr(one, name).dtype == dtype
    assert one.timestamp.tobytes() != other.timestamp.tobytes()


@pytest.mark.parametrize("seed", range(30))
def test_every_event_is_on_record_and_has_the_money_of_its_kind(seed):
    log = shop_of(wild(seed), customers=60, days=200 + 30 * seed, seed=seed).log
    start = day_start(FIRST)
    assert ((log.timestamp >= start) & (log.timestamp < start + (200 + 30 * seed) * SECONDS_PER_DAY)).all()
    assert ((log.customer >= 0) & (log.customer < 60)).all()
    kind, cents = log.event_type, log.spend_cents
    assert (cents[kind == EventType.PURCHASE] > 0).all()
    assert (cents[kind == EventType.RETURN] < 0).all()
    assert (cents[kind > EventType.RETURN] == 0).all()
    assert (log.quantity[kind <= EventType.RETURN] >= 1).all()


@pytest.mark.parametrize("seed", range(30))
def test_nobody_buys_after_leaving_for_good(seed):
    shop = shop_of(wild(seed), customers=200, seed=seed)
    customer, day = days_of(shop)
    assert (day <= shop.active_until[customer]).all()


def test_nobody_returns_more_than_was_bought():
    log = shop_of(changed_traits(return_chance=1.0)).log
    sold = np.bincount(log.customer, np.maximum(log.spend_cents, 0))
    back = np.bincount(log.customer, np.maximum(-log.spend_cents, 0))
    assert (back <= sold).all()
    assert back.sum() > 0


# --- the truth


def expected_visits(shop: SyntheticShop, days: int) -> float:
    """Poisson visits of customers who have been there for long, and stay."""
    return float(shop.visits_per_day.sum() * days)


def poisson_fits(count: int, expected: float) -> bool:
    low, high = stats.poisson.interval(1 - FALSE_ALARM, expected)
    return bool(low <= count <= high)


OLD = {"old_share": 1.0, "lifetime_days": 1e9, "visits_per_year": 12.0}


def test_customers_of_old_visit_at_their_true_rate():
    shop = shop_of(changed_traits(**OLD), customers=2_000)
    assert poisson_fits(len(days_of(shop)[0]), expected_visits(shop, 500))


def test_the_rate_check_would_notice_rates_a_sixteenth_too_high():
    shop = shop_of(changed_traits(**OLD), customers=2_000)
    assert not poisson_fits(len(days_of(shop)[0]), 17 / 16 * expected_visits(shop, 500))


def test_each_customers_visits_are_poisson_at_its_own_rate():
    """The sum over customers of (visits - expected) ** 2 / expected is about chi-square."""
    shop = shop_of(changed_traits(**OLD, rate_shape=4.0), customers=2_000)
    visits = np.bincount(days_of(shop)[0], minlength=2_000)
    expected = shop.visits_per_day * 500
    busy = expected >= 5
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], df=busy.sum())
    # A sum of squares of Poisson numbers has a fourth moment above the normal's, by 1 / expected.
    slack = 1 + 3 * math.sqrt(float((1 / expected[busy]).sum())) / busy.sum()
    assert low / slack <= ((visits - expected)[busy] ** 2 / expected[busy]).sum() <= high * slack


def test_one_time_customers_are_stated_at_the_rate_at_which_they_come_back():
    shop = shop_of(changed_traits(**OLD, one_time_share=1.0), customers=4_000, days=1_000)
    assert poisson_fits(len(days_of(shop)[0]), expected_visits(shop, 1_000))


def test_new_customers_come_on_the_day_they_join():
    """Without growth, joining is uniform over the record: Kolmogorov's distance of first days."""
    shop = shop_of(changed_traits(visits_per_year=1e-9, old_share=0.0), customers=2_000, days=1_000)
    customer, day = days_of(shop)
    first = np.full(2_000, 10_000)
    np.minimum.at(first, customer, day)
    assert (first < 1_000).all()
    assert stats.kstest((first + 0.5) / 1_000, "uniform").pvalue > FALSE_ALARM


def test_regular_rhythms_have_more_even_gaps():
    """Gaps of gamma shape k vary by 1 / sqrt(k) of their mean; days are rounded, so the rates are slow."""

    def variation(rhythm: float) -> float:
        traits = changed_traits(**{**OLD, "visits_per_year": 20.0}, rate_shape=1e4, rhythm_shape=rhythm)
        customer, day = days_of(shop_of(traits, customers=500, days=3_000))
        order = np.lexsort((day, customer))
        gap = np.diff(day[order])[np.diff(customer[order]) == 0]
        return float(gap.std() / gap.mean())

    assert variation(1.0) == pytest.approx(1.0, abs=0.05)
    assert variation(40.0) < 0.4


def test_mean_spend_of_a_visit_is_the_stated_one():
    """The mean of n lognormal baskets is about normal, by n; its deviation is known from within and between."""
    shop = shop_of(changed_traits(**OLD, spend_within=0.5), customers=2_000)
    bought = shop.log.event_type == EventType.PURCHASE
    ratio = shop.log.spend_cents[bought] / shop.mean_basket_cents[shop.log.customer[bought]]
    error = stats.norm.isf(FALSE_ALARM / 2) * math.sqrt(math.expm1(0.25) / len(ratio))
    assert abs(ratio.mean() - 1) < error + 1e-3  # cents are rounded
    assert abs(1.03 * ratio.mean() - 1) > error + 1e-3  # three in a hundred would be noticed


def returns_fit(claimed: float) -> bool:
    """Each purchase is sent back with one probability, some of them after the record: a sum of unequal coins."""
    shop = shop_of(changed_traits(return_chance=0.2, **OLD), customers=1_500, days=1_000)
    left = 1_000 - (shop.log.timestamp[shop.log.event_type == EventType.PURCHASE] - day_start(FIRST)) / SECONDS_PER_DAY
    chance = -claimed * np.expm1(-left / 12.0)
    error = stats.norm.isf(FALSE_ALARM / 2) * math.sqrt(float((chance * (1 - chance)).sum()))
    return bool(abs(len(days_of(shop, EventType.RETURN)[0]) - chance.sum()) < error)


def test_purchases_are_sent_back_with_their_probability():
    assert returns_fit(0.2)


def test_the_return_check_would_notice_a_sixteenth_more():
    assert not returns_fit(0.2 * 17 / 16)


def test_seasons_lift_their_own_part_of_the_year():
    traits = changed_traits(**OLD, season=0.8, season_peak_day=100.0)
    _, day = days_of(shop_of(traits, customers=2_000, days=1_461))
    near = np.cos(2 * np.pi * (day + 0.5 - 100) / 365.25) > 0
    share = 0.5 + 0.8 / math.pi  # the half year around the peak of 1 + 0.8 cos
    low, high = stats.binom.interval(1 - FALSE_ALARM, len(day), share)
    assert 0.995 * low <= near.sum() <= 1.005 * high  # whole days: the half year has 182 or 183 of them


def test_strong_days_are_the_last_two_of_each_seven_on_record():
    _, day = days_of(shop_of(changed_traits(**OLD, weekend=3.0), customers=2_000, days=700))
    assert fits_binomial(int((day % 7 >= 5).sum()), len(day), 6 / 11)


@pytest.mark.parametrize("categories", [0, 1, 7])
def test_a_shop_has_the_categories_it_says(categories):
    log = shop_of(changed_traits(**OLD, categories=categories), customers=300).log
    named = set(log.category[log.category != NO_CATEGORY].tolist())
    assert len(named) == categories
    assert bool(categories) == (log.category != NO_CATEGORY).all()


def test_a_customer_who_may_leave_after_a_visit_does_so_with_its_probability():
    """Of customers who just joined, the number of visits is geometric where time does not run out."""
    traits = changed_traits(leave_after_visit=0.5, visits_per_year=365.0, rate_shape=1e4, growth=-60.0)
    shop = shop_of(traits, customers=3_000, days=900)
    visits = np.bincount(days_of(shop)[0], minlength=3_000)
    assert fits_binomial(int((visits == 1).sum()), 3_000, 0.5)
    assert fits_binomial(int((visits > 3).sum()), 3_000, 0.125)


@pytest.mark.parametrize("customers", [0, 1])
def test_a_shop_may_have_one_customer_or_none(customers):
    shop = shop_of(LIVELY, customers=customers)
    assert shop.log.num_customers == customers
    assert len(shop.visits_per_day) == customers


def test_the_prior_is_wide_and_within_what_makes_sense():
    many = [wild(seed) for seed in range(300)]
    for traits in many:
        chances = (traits.one_time_share, traits.leave_after_visit, traits.pause_chance, traits.old_share)
        assert all(0 <= p <= 1 for p in (*chances, traits.bulk_share, traits.return_chance))
        assert abs(traits.rate_spend_correlation) < 1
    rates = [traits.visits_per_year for traits in many]
    assert min(rates) < 1.5
    assert max(rates) > 40


@pytest.mark.slow
def test_a_million_customers_take_less_than_a_minute():
    started = time.monotonic()
    shop = shop_of(changed_traits(visits_per_year=4.0, old_share=0.3), customers=1_000_000, days=730)
    assert time.monotonic() - started < 60
    assert len(np.unique(shop.log.customer)) > 900_000
