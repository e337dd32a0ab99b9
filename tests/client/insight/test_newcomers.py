import datetime as dt

import numpy as np
import pytest

from client.insight.newcomers import build, cohorts_of
from pp_model.schema import EventType
from tests.support.insight import CUTOFF, bought, data_of, figures, hand_scores

JAN = (CUTOFF - dt.date(2025, 1, 10)).days  # days ago
FEB = (CUTOFF - dt.date(2025, 2, 20)).days
JUN = (CUTOFF - dt.date(2025, 6, 25)).days


def shop(**scores):
    """Two joined in January, one in February, one a week ago; the cutoff is the first of July."""
    orders = [
        bought(0, JAN, 1_000, "tea"),
        bought(0, JAN - 29, 500),  # within thirty days
        bought(0, JAN - 30, 700),  # not within them
        bought(1, JAN + 5, 3_000),
        bought(1, JAN + 5, 200),  # the same day: no second visit
        bought(2, FEB, 2_000),
        bought(2, FEB - 100, -500),
        bought(3, JUN, 900),
    ]
    columns = {
        "expected_spend_cents": [400, 600, 300, 800],
        "newcomer": [False, True, True, True],
    }
    return data_of(orders, scores=hand_scores(4, **{**columns, **scores}))


def test_the_value_of_a_cohort_is_the_mean_of_what_its_customers_spent_in_their_first_days():
    cohorts = cohorts_of(shop())

    assert cohorts.months == ("2025-06", "2025-02", "2025-01")
    assert cohorts.customers.tolist() == [1, 1, 2]
    assert cohorts.value[30][1:].tolist() == [2_000, (1_500 + 3_200) / 2]
    assert cohorts.value[90][1:].tolist() == [2_000, (2_200 + 3_200) / 2]


def test_there_is_no_value_before_everybody_of_a_cohort_has_had_the_days():
    cohorts = cohorts_of(shop())

    assert np.isnan(cohorts.value[30][0])
    assert np.isnan(cohorts.value[180]).all()  # the last of January joined on the 31st: 151 days
    assert np.isnan(cohorts.value[365]).all()
    assert np.isnan(cohorts.came_back[0])


def test_returns_are_taken_off_when_they_come():
    data = data_of([bought(0, 200, 2_000), bought(0, 150, -500)], scores=hand_scores(1))

    cohorts = cohorts_of(data)

    assert (cohorts.value[30][0], cohorts.value[90][0]) == (2_000, 1_500)


def test_who_comes_back_comes_on_another_day():
    cohorts = cohorts_of(shop())

    assert cohorts.came_back[1:].tolist() == [0, 0.5]


def test_the_newcomers_are_listed_with_what_is_expected_of_them():
    made = build(shop())

    new = made.lists["customers"]
    assert new["customer_id"].to_pylist() == ["c3", "c1", "c2"]
    assert new["spend_so_far_cents"].to_pylist() == [900, 3_200, 1_500]
    assert figures(made.report)["newcomers.figure.number"] == 3
    assert figures(made.report)["newcomers.figure.expected"] == 1_700
    assert figures(made.report)["newcomers.figure.each"] == pytest.approx(1_700 / 3)


def test_small_cohorts_are_shown_and_marked():
    made = build(shop())

    table = made.report.tables[0]
    assert [row[-1].key for row in table.rows] == ["newcomers.few"] * 3
    assert {"insight.few", "newcomers.note.little"} <= {note.key for note in made.report.notes}


def test_the_recent_value_weighs_cohorts_by_their_customers():
    assert figures(build(shop()).report)["newcomers.figure.value"] == pytest.approx((2 * 2_700 + 2_000) / 3)


def test_the_chart_goes_from_old_to_new_with_an_interval_where_there_are_several_customers():
    chart = build(shop()).report.charts[0]

    (series,) = chart.series
    assert chart.categories == ("2025-01", "2025-02", "2025-06")
    assert series.values == (2_700, 2_000, None)
    low, high = series.band[0]
    spread = np.std([2_200, 3_200], ddof=1)
    assert high - low == pytest.approx(2 * 1.2816 * spread / np.sqrt(2), rel=1e-4)
    assert series.band[1] == (None, None)


def test_the_list_of_cohorts_has_all_of_them():
    cohorts = build(shop()).lists["cohorts"].to_pylist()

    assert [row["month"] for row in cohorts] == ["2025-06", "2025-02", "2025-01"]
    assert [row["value_30_days_cents"] for row in cohorts] == [None, 2_000, 2_350]
    assert [row["expected_spend_cents"] for row in cohorts] == [800, 300, 500]


def test_a_shop_where_nobody_bought_has_an_empty_report():
    assert build(data_of([bought(0, 3, 0, event_type=EventType.VIEW)], scores=hand_scores(1))).report.empty is not None
