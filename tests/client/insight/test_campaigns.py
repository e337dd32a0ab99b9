import numpy as np
import pytest

from client.insight.campaigns import affordable, build, chosen
from client.insight.options import CampaignOptions, InsightOptions
from tests.support.insight import bought, data_of, figures, hand_scores, rows

LOW, MIDDLE, HIGH = 0, 1, 2


def build_of(options, **scores):
    number = len(scores["expected_spend_cents"])
    orders = [bought(customer, 5) for customer in range(number)]
    return build(data_of(orders, scores=hand_scores(number, **scores), options=InsightOptions(campaigns=options)))


def options(**changes):
    return CampaignOptions(**{"budget": 1.0, "cost_per_contact": 0.5, "margin": 0.5, **changes})


def test_without_a_stated_uplift_nobody_is_chosen_and_no_return_is_made_up():
    made = build_of(options(), expected_spend_cents=[10_000, 2_000], purchase_probability=[0.9, 0.9])

    assert made.lists["customers"]["contact"].to_pylist() == [False, False]
    assert made.lists["customers"]["expected_return_cents"].to_pylist() == [None, None]
    assert "campaigns.figure.return" not in figures(made.report)
    assert "campaigns.note.no_uplift" in {note.key for note in made.report.notes}


def test_the_uplift_that_pays_for_an_audience_is_its_cost_by_the_margin_of_its_spend():
    made = build_of(options(), expected_spend_cents=[10_000, 2_000], purchase_probability=[0.9, 0.9])

    ((_, band, customers, expected, cost, break_even, uplift, contacts, gain),) = made.report.tables[0].rows
    assert (band.key, customers, expected, cost) == ("insight.churn.low", 2, 12_000, 100)
    assert break_even == pytest.approx(100 / (0.5 * 12_000))
    assert (uplift, contacts, gain) == (None, None, None)


def test_the_expected_return_is_uplift_times_margin_times_spend_less_the_cost():
    made = build_of(options(budget=0.5, uplift={"low": 0.1}), expected_spend_cents=[10_000], purchase_probability=[0.9])

    assert rows(made.lists["customers"])["c0"]["expected_return_cents"] == 0.1 * 0.5 * 10_000 - 50
    assert figures(made.report)["campaigns.figure.return"] == 450
    assert figures(made.report)["campaigns.figure.spent"] == 50


def test_the_budget_goes_to_the_best_audience_first_and_within_the_last_to_the_best_customers():
    expected = np.array([5_000.0, 8_000, 20_000, 1_200, 30_000])
    tier, band = np.array([1, 1, 2, 1, 2]), np.array([LOW, LOW, HIGH, LOW, HIGH])
    stated = options(budget=1.5, uplift={"low": 0.5, "high": 0.02})

    choice = chosen(expected, tier, band, stated)

    # The middle tier of low risk gains (1200 + 1950 + 250) / 3 a contact; the high tier of high risk 200 on average.
    assert choice.contacted.tolist() == [True, True, False, True, False]
    assert chosen(expected, tier, band, options(budget=1.0, uplift=stated.uplift)).contacted.tolist() == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_nobody_is_contacted_at_a_loss_however_large_the_budget():
    expected = np.array([100.0, 100_000])

    choice = chosen(expected, np.array([0, 0]), np.array([LOW, LOW]), options(budget=1e6, uplift={"low": 0.01}))

    assert choice.contacted.tolist() == [False, True]


def test_of_an_audience_without_a_stated_uplift_nobody_is_chosen():
    expected = np.array([50_000.0, 50_000])

    choice = chosen(expected, np.array([2, 2]), np.array([LOW, HIGH]), options(budget=1e6, uplift={"high": 0.05}))

    assert choice.contacted.tolist() == [False, True]
    assert np.isnan(choice.expected_return[0])


def test_the_chosen_are_first_in_the_list_and_never_more_than_the_budget_pays_for():
    made = build_of(
        options(budget=1.0, uplift={"low": 0.1, "middle": 0.1, "high": 0.1}),
        expected_spend_cents=[5_000, 9_000, 6_000, 20],
        purchase_probability=[0.9, 0.9, 0.2, 0.9],
    )

    assert made.lists["customers"]["contact"].to_pylist() == [True, True, False, False]
    assert made.lists["customers"]["customer_id"].to_pylist()[0] == "c1"


@pytest.mark.parametrize(("budget", "cost", "contacts"), [(1.0, 0.1, 10), (0.3, 0.1, 3), (0.29, 0.1, 2), (5, 7, 0)])
def test_a_budget_pays_for_whole_contacts(budget, cost, contacts):
    assert affordable(CampaignOptions(budget=budget, cost_per_contact=cost)) == contacts
