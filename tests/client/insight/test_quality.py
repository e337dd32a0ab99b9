"""The model's quality on the shop's own orders: the model's own figures, of the right window, with a fair warning."""

from __future__ import annotations

import dataclasses
import datetime as dt

import numpy as np
import pytest

from client.insight.backtest import LEAST_CUSTOMERS, backtest
from client.insight.quality import build, log_losses
from pp_model.features import FeatureSpec, build_examples
from pp_model.metrics import evaluate
from pp_model.schema import order_log
from pp_model.train import predict
from tests.support.insight_shops import CUTOFF, day_before, figure, insight_data, notes, regulars, rows_of_table
from tests.support.scored import linear_model, shipped

HORIZON = dt.timedelta(days=28)


@pytest.mark.parametrize("model", [linear_model(log_recency=-2.0), shipped("mlp")], ids=["linear", "mlp"])
def test_the_figures_are_the_models_one_horizon_ago(model):
    plan, arrays = model
    orders = regulars(120)
    examples = build_examples(order_log(orders, num_customers=120), [CUTOFF - HORIZON], plan.features)
    said = predict(plan.model, arrays, examples)
    truth = evaluate(
        spend_cents=examples.spend_cents,
        expected_cents=said.expected_spend_cents,
        buying_probability=said.buying_probability,
    )
    made = build(insight_data(orders, model=model))
    for name, value in (
        ("auc", truth.auc),
        ("gini", truth.gini),
        ("log_loss", truth.log_loss),
        ("mae", truth.mae * 100),
    ):
        assert figure(made, name).value == pytest.approx(value, rel=1e-5)
        low, high = figure(made, name).band
        assert low < value < high
    assert figure(made, "customers").value == truth.customers


def test_what_happened_is_counted_from_the_cutoff_less_a_horizon_to_the_cutoff():
    test = backtest(insight_data(regulars(60)))
    assert (test.cutoff, test.ends) == (CUTOFF - HORIZON, CUTOFF)
    log = insight_data(regulars(60)).log
    since = np.datetime64(test.cutoff, "s").astype(np.int64)
    spent = np.bincount(log.customer[log.timestamp >= since], log.spend_cents[log.timestamp >= since], minlength=60)
    np.testing.assert_array_equal(test.spend_cents, spent[test.customer].astype(np.int64))


def test_where_orders_end_early_the_test_ends_with_them():
    orders = [order for order in regulars(60) if order.timestamp < day_before(20)]
    test = backtest(insight_data(orders))
    newest = max(order.timestamp for order in orders).date()
    assert test.ends == newest + dt.timedelta(days=1)
    assert test.cutoff == test.ends - HORIZON
    assert test.bought.mean() > 0.2


def test_the_test_is_of_the_published_model_and_not_of_the_own_readout_which_was_fitted_to_what_is_tested():
    data, other = insight_data(regulars(60)), insight_data(regulars(60), model=linear_model(log_recency=+2.0)).scorer
    own_differs, published_differs = dataclasses.replace(data, scorer=other), dataclasses.replace(data, shared=other)
    said = backtest(data).probability
    np.testing.assert_array_equal(backtest(own_differs).probability, said)
    assert build(own_differs) == build(data)
    assert not np.allclose(backtest(published_differs).probability, said)


@pytest.mark.parametrize(
    ("holdout", "seen"),
    [(CUTOFF - HORIZON, False), (CUTOFF - HORIZON + dt.timedelta(days=1), True), (CUTOFF, True)],
    ids=["trained up to the test", "trained a day into it", "trained on all of it"],
)
def test_it_says_whether_the_training_may_have_seen_the_window(holdout, seen):
    plan, arrays = linear_model(log_recency=-2.0)
    plan = dataclasses.replace(plan, holdout_start=holdout)
    made = build(insight_data(regulars(60), model=(plan, arrays)))
    assert figure(made, "seen").warning == seen
    assert figure(made, "seen").value.key == f"quality.seen.{'yes' if seen else 'no'}"
    assert ("quality.note.seen" in notes(made)) == seen
    assert ("quality.note.fresh" in notes(made)) == (not seen)
    if seen:
        said = next(note for note in made.report.notes if note.key == "quality.note.seen")
        fair = said.values["fair"]
        later = build(insight_data(regulars(60, cutoff=fair), model=(plan, arrays), cutoff=fair))
        assert not figure(later, "seen").warning


def test_the_tenths_hold_everybody_and_what_was_spent():
    data = insight_data(regulars(125))
    made, test = build(data), backtest(data)
    rows = rows_of_table(made, "table.deciles")
    assert sum(row["customers"] for row in rows) == len(test)
    assert sum(row["actual"] * row["customers"] for row in rows) == pytest.approx(test.spend_cents.sum())
    assert [row["predicted"] for row in rows] == sorted(row["predicted"] for row in rows)
    deciles, calibration = made.report.charts
    assert deciles.series[1].values == tuple(row["actual"] for row in rows)
    assert calibration.diagonal
    assert all(
        low <= share <= high
        for share, (low, high) in zip(calibration.series[0].values, calibration.series[0].band, strict=True)
    )


def test_a_model_worse_than_saying_the_same_of_everybody_is_a_warning():
    wrong = build(insight_data(regulars(120), model=linear_model(log_recency=2.0)))
    right = build(insight_data(regulars(120), model=linear_model(log_recency=-1.0)))
    assert figure(wrong, "log_loss").warning
    assert not figure(right, "log_loss").warning


def test_a_shop_too_young_to_look_back_has_an_empty_report():
    few = [order for order in regulars(60) if order.timestamp > day_before(25)]
    made = build(insight_data(few))
    assert made.report.empty.key == "quality.empty"
    assert made.report.empty.values == {"least": LEAST_CUSTOMERS, "days": 28}


def test_a_horizon_beyond_the_first_order_is_no_reason_to_fail():
    plan, arrays = linear_model()
    long = dataclasses.replace(
        plan, features=FeatureSpec(horizon_days=730, sequence_length=4), cutoffs=(dt.date(2022, 6, 1),)
    )
    assert build(insight_data(regulars(40), model=(long, arrays))).report.empty is not None


def test_certainty_that_proves_wrong_costs_something_finite():
    costs = log_losses(np.array([True, False]), np.array([0.0, 0.5]))
    assert costs == pytest.approx([-np.log(1e-7), np.log(2)])


def test_the_same_orders_have_the_same_report():
    first, again = (build(insight_data(regulars(80))).report.to_json() for _ in range(2))
    assert first == again
