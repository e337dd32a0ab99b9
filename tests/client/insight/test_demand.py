import datetime as dt

import numpy as np
import pytest
from scipy import stats

from client.insight.data import scores_of
from client.insight.demand import build, new_customers_spend, off_by, within
from client.insight.outlook import LEVELS, Trial, by_level, correction_of, errors_of, month_shares, months_of, spread
from client.insight.outlook import trials_of as past_trials
from client.scoring import HIGH, LOW
from pp_model.schema import SECONDS_PER_DAY, EventType, category_code, day_start
from synthetic.shops import draw_traits, synthetic_shop
from tests.support.insight import CUTOFF, HORIZON, bought, data_of, data_of_log, figures, hand_scores


def steady(*, customers=60, days=200, gap=7):
    """Everybody buys tea for 10.00 and pots for 5.00 every seventh day, up to yesterday."""
    orders = []
    for customer in range(customers):
        for number in range(1 + customer % gap, days, gap):
            orders += [bought(customer, number, 1_000, "tea"), bought(customer, number, 500, "pots")]
    return orders


def trial(forecast, happened, scatter):
    by_category = np.full(len(forecast), scatter)
    levels = {level: by_category if level in ("cell", "category") else by_category.sum() for level in LEVELS}
    return Trial(cutoff=CUTOFF, forecast=np.array(forecast), happened=np.array(happened), scatter=levels)


def test_customers_who_buy_the_same_every_week_are_expected_to_go_on():
    made = build(data_of(steady()))

    true = 60 * (HORIZON // 7) * 1_500
    total = made.report.figures[0]
    assert total.value == pytest.approx(true, rel=0.02)
    assert total.band[0] < true < total.band[1]
    by_category = {row[0]: row[1] for row in made.report.tables[0].rows}
    assert by_category["tea"] == pytest.approx(2 * by_category["pots"], rel=0.01)


def test_the_list_has_every_category_and_month_and_adds_up_to_the_total():
    cutoff = CUTOFF - dt.timedelta(days=10)  # so that the horizon touches two months
    orders = [order for order in steady() if order.timestamp < dt.datetime.combine(cutoff, dt.time())]
    made = build(data_of(orders, cutoff=cutoff))

    listed = made.lists["categories"].to_pylist()
    assert [(row["category"], row["month"]) for row in listed] == [
        ("tea", "2025-06"),
        ("tea", "2025-07"),
        ("pots", "2025-06"),
        ("pots", "2025-07"),
    ]
    assert sum(row["expected_spend_cents"] for row in listed) == pytest.approx(made.report.figures[0].value, abs=4)
    assert all(row["spend_low_cents"] <= row["expected_spend_cents"] <= row["spend_high_cents"] for row in listed)
    assert sum(made.report.charts[0].series[0].values) == pytest.approx(made.report.figures[0].value)


def test_a_shop_with_little_past_has_a_forecast_without_an_interval_and_says_so():
    made = build(data_of(steady(days=40)))

    assert made.report.figures[0].band is None
    assert made.lists["categories"].column_names == ["category", "month", "expected_spend_cents"]
    assert "demand.note.no_trial" in {note.key for note in made.report.notes}


def test_the_newest_trial_is_printed_with_its_error():
    made = build(data_of(steady()))

    found = figures(made.report)
    assert abs(found["demand.figure.off_total"]) < 0.05
    assert found["demand.figure.off_cells"] < 0.05
    trials = made.report.tables[1]
    assert trials.title.key == "demand.table.trials"
    assert trials.rows[0][0] == CUTOFF - dt.timedelta(days=HORIZON)


def test_how_far_a_forecast_was_off():
    one = trial([[100.0], [100.0]], [[50.0], [200.0]], 0.0)

    assert off_by(one, 1.0) == pytest.approx((200 / 250 - 1, (50 + 100) / 250))
    assert off_by(one, 2.0) == pytest.approx((400 / 250 - 1, (150 + 0) / 250))


def test_the_share_within_the_interval_is_judged_by_the_trials_before_it():
    old = [trial([[100.0], [100.0]], [[100.0], [100.0]], 100.0)] * 3

    assert within((trial([[100.0], [100.0]], [[101.0], [180.0]], 0.0), *old)) == 0.5
    assert within((old[0],)) is None


def test_what_new_customers_spent_stands_beside_the_forecast():
    orders = [*steady(), bought(60, 3, 7_000, "tea"), bought(61, HORIZON + 1, 9_000, "tea")]

    data = data_of(orders)

    codes = np.array(sorted([category_code("tea"), category_code("pots")]), np.int32)
    assert new_customers_spend(data, codes).sum() == 7_000
    assert figures(build(data).report)["demand.figure.new"] == 7_000


def test_a_shop_without_money_has_an_empty_report():
    made = build(data_of([bought(0, 3, 0, event_type=EventType.VIEW)], scores=hand_scores(1)))

    assert made.report.empty.key == "demand.empty"


SHOPS = 60
FALSE_ALARM = 1e-4
# Cells of one shop err together, so shops are counted as the independent ones, not cells.
LEAST_HELD = float(stats.binom.ppf(FALSE_ALARM, SHOPS, HIGH - LOW)) / SHOPS


@pytest.fixture(scope="module")
def outcomes():
    """By level, of each synthetic shop: the forecast, its interval, and what then happened."""
    found = {level: [] for level in LEVELS}
    for seed in range(SHOPS):
        for level, outcome in _outcomes(seed).items():
            found[level].append(outcome)
    return found


def held(outcomes, *, width):
    """The mean over shops of the share of figures within the interval, made so many times as wide."""
    shares = []
    for forecast, _, high, happened in outcomes:
        half = width * (high - forecast)
        inside = (np.maximum(forecast - half, 0) <= happened) & (happened <= forecast + half)
        shares.append(float(inside[forecast > 0].mean()))
    return float(np.mean(shares))


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("level", LEVELS)
def test_the_intervals_hold_what_they_promise_on_synthetic_shops(level, outcomes):
    assert len(outcomes[level]) > 0.9 * SHOPS
    assert LEAST_HELD <= held(outcomes[level], width=1) < 0.97


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("level", LEVELS)
def test_intervals_a_quarter_as_wide_would_be_noticed(level, outcomes):
    assert held(outcomes[level], width=0.25) < LEAST_HELD


def _outcomes(seed):
    rng = np.random.default_rng(seed)
    num_days = 700
    first = CUTOFF + dt.timedelta(days=HORIZON - num_days)
    shop = synthetic_shop(draw_traits(rng), num_customers=600, first_day=first, num_days=num_days, rng=rng)
    log, now = shop.log, day_start(CUTOFF)
    past = data_of_log(log.select(log.timestamp < now))
    codes = np.unique(log.category[log.spend_cents != 0])
    trials = past_trials(past.scorer, past.log, codes)
    errors = errors_of(trials)
    if errors is None:
        return {}
    names, of_day = months_of(CUTOFF, HORIZON)
    expected = past.scores["expected_spend_cents"].to_numpy().astype(float)
    sums, _ = spread(past.scores["customer"].to_numpy(), expected, past.interests, codes)
    cells = correction_of(trials) * np.outer(sums, month_shares(past.log, CUTOFF, of_day))
    known = np.zeros(log.num_customers, np.bool_)
    known[past.log.customer] = True
    rows = np.flatnonzero((log.timestamp >= now) & known[log.customer])
    month = of_day[(log.timestamp[rows] - now) // SECONDS_PER_DAY]
    place = np.searchsorted(codes, log.category[rows]).clip(max=len(codes) - 1)
    true = np.bincount(place * len(names) + month, weights=log.spend_cents[rows], minlength=cells.size)
    found = {}
    for level in LEVELS:
        forecast = by_level(cells, level)
        found[level] = (forecast, *errors.interval(forecast, level), by_level(true.reshape(cells.shape), level))
    return found


def test_the_scores_of_a_log_are_those_that_are_scored():
    data = data_of(steady(days=60))

    again = scores_of(data.scorer, data.log, ids=data.customer_ids)

    assert again.equals(data.scores)


def test_no_category_is_a_row_of_its_own_in_the_words_of_the_page():
    made = build(data_of([*steady(), *(bought(customer, 2, 900) for customer in range(60))]))

    names = [row[0] for row in made.report.tables[0].rows]
    assert [name.key for name in names if not isinstance(name, str)] == ["insight.no_category"]
