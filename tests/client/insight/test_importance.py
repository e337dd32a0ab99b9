"""Global importance: all of it where a model has one thing to look at, the same in every repeat."""

from __future__ import annotations

import numpy as np
import pytest

from client.insight import importance
from client.insight.importance import LEAST_PER_PART, PARTS, agreement_of, build, contributions_of
from client.reasons import GROUPS
from pp_model.baskets import baskets_of
from pp_model.features import FEATURE_NAMES, rows_at
from pp_model.train import predict
from tests.support.insight_shops import CUTOFF, figure, insight_data, regulars, rows_of_table
from tests.support.scored import linear_model, shipped

FREQUENCY_AND_SPEND = {"frequency", "spend"}  # of the customer's own past rate, which every model builds on


def sizes(made: object) -> dict[str, float]:
    return {row["group"].key.rpartition(".")[2]: row["size"] for row in rows_of_table(made, "table")}


@pytest.mark.parametrize(
    ("group", "feature"), [("recency", "log_recency"), ("tenure", "log_tenure"), ("rhythm", "gap_spread")]
)
def test_a_model_that_reads_one_feature_gives_its_group_all_but_the_customers_own_rate(group, feature):
    made = build(insight_data(regulars(120), model=linear_model(**{feature: -1.5})))
    found = sizes(made)
    assert {name for name, size in found.items() if size > 0.01} == {group, *FREQUENCY_AND_SPEND}
    assert found[group] > 1


def test_the_size_is_the_mean_of_what_moves_single_scores():
    plan, arrays = shipped("mlp")
    data = insight_data(regulars(80), model=(plan, arrays))
    found = contributions_of(data, data.scores["customer"].to_numpy())
    examples = rows_at(baskets_of(data.log), CUTOFF, plan.features)
    away = predict(plan.model, arrays, examples).score - predict(plan.model, arrays, data.scorer.average).score
    np.testing.assert_allclose(found.points.sum(axis=1), away, atol=0.01)
    table = sizes(build(data))
    for place, group in enumerate(GROUPS):
        assert table[group] == pytest.approx(np.abs(found.points[:, place]).mean())


def test_groups_stand_in_the_order_of_their_size_in_table_and_charts():
    made = build(insight_data(regulars(120), model=shipped("mlp")))
    order = list(sizes(made))
    assert list(sizes(made).values()) == sorted(sizes(made).values(), reverse=True)
    for chart in made.report.charts:
        assert [category.key.rpartition(".")[2] for category in chart.categories] == order
    assert figure(made, "first").value.key == f"importance.group.{order[0]}"


def test_what_lets_scores_fall_with_silence_pulls_low_tiers_down_and_high_ones_up():
    made = build(insight_data(regulars(200), model=linear_model(log_recency=-3.0)))
    recency = next(row for row in rows_of_table(made, "table") if row["group"].key == "importance.group.recency")
    assert recency["low"] < 0 < recency["high"]
    assert recency["low"] < recency["middle"]
    assert 0 < recency["upward"] < 1


def test_the_same_orders_have_the_same_report():
    first, again = (build(insight_data(regulars(150), model=shipped("mlp"))).report.to_json() for _ in range(2))
    assert first == again


def test_of_many_customers_some_are_drawn_and_say_almost_the_same(monkeypatch):
    whole = sizes(build(insight_data(regulars(600), model=shipped("mlp"))))
    monkeypatch.setattr(importance, "MOST_CUSTOMERS", 300)
    made = build(insight_data(regulars(600), model=shipped("mlp")))
    assert figure(made, "customers").value == 300
    for row in rows_of_table(made, "table"):
        name = row["group"].key.rpartition(".")[2]
        # The true mean lies in an interval of 95 % nineteen times in twenty; twice its length is hardly ever missed.
        assert abs(whole[name] - row["size"]) <= 2 * (row["size_high"] - row["size"]) + 1e-9


def test_parts_of_a_shop_of_one_mind_agree_and_random_ones_do_not():
    rng = np.random.default_rng(1)
    customer = np.arange(1_000)
    clear = importance.Contributions(
        customer=customer, points=rng.normal(0, np.arange(1, len(GROUPS) + 1), (1_000, len(GROUPS)))
    )
    assert agreement_of(clear, rng=rng) > 0.9
    alike = importance.Contributions(customer=customer, points=rng.normal(0, 1, (1_000, len(GROUPS))))
    assert agreement_of(alike, rng=rng) < 0.5


def test_with_too_few_customers_no_agreement_is_claimed():
    few = PARTS * LEAST_PER_PART - 1
    found = importance.Contributions(customer=np.arange(few), points=np.ones((few, len(GROUPS))))
    assert agreement_of(found, rng=np.random.default_rng(1)) is None


def test_the_features_of_this_file_are_those_of_the_model():
    assert {"log_recency", "log_tenure", "gap_spread"} <= set(FEATURE_NAMES)
