import datetime as dt

import pytest

from client.insight.portraits import build, portrait_of
from tests.support.insight import CUTOFF, bought, data_of, figures, hand_scores, rows


def shop(**changes):
    """Three customers: one loyal to tea, one of a single order a month ago, one who sent everything back."""
    orders = [
        *(bought(0, days, 2_000, "tea") for days in (10, 20, 50)),
        bought(0, 10, 1_000, "pots"),
        bought(1, 30, 500, "cups"),
        bought(2, 9, 700, "pots"),
        bought(2, 5, -700, "pots"),
    ]
    scores = hand_scores(
        3,
        expected_spend_cents=[9_000, 400, 0],
        purchase_probability=[0.9, 0.5, 0.1],
        tier=["high", "middle", "low"],
        newcomer=[False, True, True],
    )
    return data_of(orders, scores=scores, **changes)


def test_a_portrait_says_who_a_customer_is():
    list_of_all = build(shop()).lists["customers"]

    loyal = rows(list_of_all)["c0"]
    assert (loyal["category_1"], loyal["category_2"], loyal["category_3"]) == ("tea", "pots", None)
    assert loyal["share_1"] + loyal["share_2"] == pytest.approx(1, abs=1e-3)
    assert loyal["share_1"] > 0.8
    assert loyal["spend_so_far_cents"] == 7_000
    assert loyal["last_order"] == CUTOFF - dt.timedelta(days=10)
    assert loyal["first_order"] == CUTOFF - dt.timedelta(days=50)
    assert loyal["usual_gap_days"] == 20
    assert (loyal["expected_spend_cents"], loyal["tier"], loyal["reason_1"]) == (9_000, "high", "recency:+")


def test_who_sent_everything_back_has_no_interest_and_who_came_once_has_no_gap():
    found = rows(build(shop()).lists["customers"])

    assert (found["c2"]["category_1"], found["c2"]["spend_so_far_cents"]) == (None, 0)
    assert (found["c1"]["usual_gap_days"], found["c1"]["category_1"]) == (None, "cups")


def test_the_list_has_everybody_once_the_highest_expected_spend_first():
    assert build(shop()).lists["customers"]["customer_id"].to_pylist() == ["c0", "c1", "c2"]


def test_one_portrait_alone_is_that_of_the_list():
    data = shop()
    listed = rows(build(data).lists["customers"])

    assert [portrait_of(data, code) for code in range(3)] == [listed["c0"], listed["c1"], listed["c2"]]


def test_there_is_no_portrait_of_a_stranger():
    data = shop()

    assert portrait_of(data, 3) is None
    assert portrait_of(data, -1) is None


def test_the_report_counts_by_tier_and_churn_risk():
    report = build(shop()).report

    matrix = report.tables[0]
    assert [(row[0].key, *row[1:]) for row in matrix.rows] == [
        ("insight.tier.high", 1, 9_000, 0, 0, 0, 0),
        ("insight.tier.middle", 0, 0, 1, 400, 0, 0),
        ("insight.tier.low", 0, 0, 0, 0, 1, 0),
    ]
    assert figures(report)["portraits.figure.customers"] == 3
    assert figures(report)["portraits.figure.expected"] == 9_400
    assert figures(report)["portraits.figure.newcomers"] == 2


def test_the_chart_of_interests_has_the_mean_shares_of_each_tier():
    chart = build(shop()).report.charts[1]

    high = dict(zip(chart.categories, chart.series[2].values, strict=True))
    assert set(high) == {"tea", "pots", "cups"}
    assert high["tea"] + high["pots"] == pytest.approx(1)
    assert high["cups"] == 0
    assert dict(zip(chart.categories, chart.series[1].values, strict=True))["cups"] == 1


def test_a_shop_without_categories_has_portraits_without_interests():
    made = build(data_of([bought(0, 3), bought(1, 5)]))

    assert len(made.report.charts) == 1
    assert made.lists["customers"]["category_1"].to_pylist() == [None, None]
