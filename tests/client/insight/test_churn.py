import datetime as dt

import pytest

from client.insight.churn import build
from pp_model.schema import EventType
from tests.support.insight import CUTOFF, HORIZON, bought, data_of, figures, hand_scores


def regular(customer, *, gap, last, visits=12):
    """Visits at equal distances, the last one so many days ago."""
    return [bought(customer, last + gap * number) for number in range(visits)]


def build_of(orders, **scores):
    number = 1 + max(order.customer for order in orders)
    return build(data_of(orders, scores=hand_scores(number, **scores)))


def probability_on(orders, day):
    """What the model says of customer 0 on a day, of all that was before it."""
    known = [order for order in orders if order.timestamp < dt.datetime.combine(day, dt.time())]
    (probability,) = data_of(known, cutoff=day).scores["purchase_probability"].to_pylist()
    return probability


def test_who_is_overdue_by_its_own_rhythm_is_warned_of_and_others_are_not():
    weekly_and_silent, weekly, yearly = (
        regular(0, gap=7, last=21),
        regular(1, gap=7, last=6),
        regular(2, gap=90, last=95),
    )

    warned = build(data_of([*weekly_and_silent, *weekly, *yearly])).lists["customers"]

    assert warned["customer_id"].to_pylist() == ["c0"]


def test_the_risk_when_due_is_what_the_model_said_on_that_day_of_what_was_known_then():
    orders = [*regular(0, gap=14, last=30), bought(0, 2, 0, event_type=EventType.VIEW)]

    (row,) = build_of(orders, purchase_probability=[0.05]).lists["customers"].to_pylist()

    due = CUTOFF - dt.timedelta(days=30 - 14)
    assert row["due_churn_risk"] == pytest.approx(1 - probability_on(orders, due), abs=2e-6)


def test_each_customer_is_judged_on_the_day_it_was_due_itself():
    orders = [*regular(0, gap=7, last=20), *regular(1, gap=10, last=17), *regular(2, gap=7, last=20)]

    found = build_of(orders, purchase_probability=[0.01] * 3).lists["customers"].to_pylist()

    risk = {row["customer_id"]: row["due_churn_risk"] for row in found}
    for customer, due in (("c0", 13), ("c1", 7), ("c2", 13)):
        own = [
            bought(0, (CUTOFF - order.timestamp.date()).days) for order in orders if order.customer == int(customer[1])
        ]
        assert risk[customer] == pytest.approx(1 - probability_on(own, CUTOFF - dt.timedelta(days=due)), abs=2e-6)


def test_the_value_at_risk_is_the_drop_times_the_spend_of_a_buyer():
    made = build_of(regular(0, gap=14, last=30), purchase_probability=[0.25], expected_spend_cents=[2_000])

    (row,) = made.lists["customers"].to_pylist()
    drop = 1 - row["due_churn_risk"] - 0.25
    assert row["value_at_risk_cents"] == pytest.approx(drop * 2_000 / 0.25, abs=1)
    assert (row["silent_days"], row["usual_gap_days"], row["visits"]) == (30, 14, 12)


def test_who_is_not_overdue_yet_is_not_warned_of_whatever_the_model_says():
    made = build_of(regular(0, gap=10, last=10), purchase_probability=[0.01])

    assert made.lists["customers"].num_rows == 0
    assert figures(made.report)["churn.figure.warned"] == 0


def test_a_small_drop_is_no_warning():
    orders = regular(0, gap=14, last=16)
    due = probability_on(orders, CUTOFF - dt.timedelta(days=2))

    assert build_of(orders, purchase_probability=[due - 0.09]).lists["customers"].num_rows == 0
    assert build_of(orders, purchase_probability=[due - 0.11]).lists["customers"].num_rows == 1


def test_who_has_left_long_ago_is_counted_and_not_listed():
    orders = [*regular(0, gap=10, last=HORIZON), *regular(1, gap=10, last=HORIZON + 3)]

    made = build_of(orders, purchase_probability=[0.01, 0.01])

    assert made.lists["customers"]["customer_id"].to_pylist() == ["c0"]  # three gaps are thirty days
    assert figures(made.report)["churn.figure.lost"] == 1


def test_a_customer_without_a_rhythm_is_never_warned_of():
    made = build_of(regular(0, gap=10, last=12, visits=2), purchase_probability=[0.01])

    assert made.lists["customers"].num_rows == 0
    assert figures(made.report)["churn.figure.unknown"] == 1


def test_the_most_value_at_risk_is_first_and_the_sums_are_by_tier():
    orders = [line for customer in range(3) for line in regular(customer, gap=7, last=20)]

    made = build_of(
        orders,
        purchase_probability=[0.1, 0.1, 0.1],
        expected_spend_cents=[1_000, 3_000, 2_000],
        tier=["low", "high", "high"],
    )

    assert made.lists["customers"]["customer_id"].to_pylist() == ["c1", "c2", "c0"]
    drop = 0.9 - made.lists["customers"]["due_churn_risk"][0].as_py()
    assert made.report.charts[0].series[0].values == pytest.approx([drop * 10_000, 0, drop * 50_000], rel=1e-4)
    assert figures(made.report)["churn.figure.value"] == pytest.approx(drop * 60_000, rel=1e-4)
    assert figures(made.report)["churn.figure.share"] == pytest.approx(drop * 10, rel=1e-4)
    assert [(row[0].key, row[1], row[2]) for row in made.report.tables[0].rows] == [
        ("insight.tier.high", 2, 2),
        ("insight.tier.middle", 0, 0),
        ("insight.tier.low", 1, 1),
    ]


def test_a_customer_whom_the_model_gives_no_chance_has_a_finite_value_at_risk():
    made = build_of(regular(0, gap=7, last=20), purchase_probability=[0.0], expected_spend_cents=[0])

    assert made.lists["customers"]["value_at_risk_cents"].to_pylist() == [0]
