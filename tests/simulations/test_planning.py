"""Checklist: D5, D22, D32, D40, D56.

From a scenario to its plan: never over its epsilon, and nothing in it that was counted.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace

import pytest

from client.policy import Policy
from pp_model.accounting import epsilon_spent
from pp_model.errors import ConfigError
from pp_model.model import fresh_arrays
from pp_model.plan import TrainingPlan
from pp_model.serialization import fingerprint
from server.recipe import Recipe
from simulations.planning import features_of, lineage_of, plan_of, policy_of
from simulations.scenario import Scenario, SyntheticSpec, load_scenario, shipped_scenarios


def scenario(*, epsilon: float = 3.0, delta: float = 1e-5, customers: int = 100, **recipe) -> Scenario:
    return Scenario(
        name="tiny",
        synthetic=SyntheticSpec(customers=customers, days=400),
        merchants=3,
        cutoff=dt.date(2024, 6, 1),
        horizon_days=28,
        epsilon=epsilon,
        delta=delta,
        recipe=replace(Recipe(encoder="linear"), **recipe),
    )


def plan_for(asked: Scenario) -> TrainingPlan:
    return plan_of(asked, fresh_arrays(asked.recipe.model, seed=0))


CASES = [
    pytest.param({"epsilon": 0.3}, id="epsilon-0.3"),
    pytest.param({"epsilon": 1.0}, id="epsilon-1"),
    pytest.param({"epsilon": 3.0}, id="epsilon-3"),
    pytest.param({"epsilon": 8.0, "sample_rate": 1.0}, id="everyone-every-round"),
    pytest.param({"epsilon": 1.0, "delta": 1e-7, "sample_rate": 0.05, "rounds": 30}, id="delta-1e-7"),
    pytest.param({"epsilon": 2.0, "algorithm": "fedavg", **Recipe.fedavg()}, id="fedavg"),
]


@pytest.mark.parametrize("case", CASES)
def test_a_plan_never_costs_more_than_its_scenario_allows_and_little_less(case):
    asked = scenario(**case)
    plan = plan_for(asked)
    cost = epsilon_spent(plan.events, delta=plan.delta)
    assert 0.99 * asked.epsilon <= cost <= asked.epsilon


@pytest.mark.parametrize("case", CASES)
def test_what_is_run_costs_what_the_plan_says(case):
    """Round by round, step by step: the ledger is charged one task's event for every round."""
    plan = plan_for(scenario(**case))
    assert sum(e.num_steps for e in plan.events) == plan.rounds * plan.dp.num_steps
    by_round = epsilon_spent([plan.dp.event] * plan.rounds, delta=plan.delta)
    assert by_round == epsilon_spent(plan.events, delta=plan.delta)


def test_an_infinite_epsilon_is_no_noise_and_needs_a_policy_that_says_so():
    free, private = scenario(epsilon=math.inf), scenario()
    assert plan_for(free).dp.noise_multiplier == 0.0
    assert epsilon_spent(plan_for(free).events, delta=1e-5) == math.inf
    assert policy_of(free).allow_no_privacy
    assert not policy_of(private).allow_no_privacy
    with pytest.raises(ConfigError, match="allow_no_privacy"):
        replace(policy_of(free), allow_no_privacy=False)


def test_the_policy_allows_the_scenarios_epsilon_and_not_more():
    policy = policy_of(scenario(epsilon=2.0))
    assert isinstance(policy, Policy)
    assert (policy.epsilon_budget, policy.approve_under_epsilon, policy.delta) == (2.0, 2.0, 1e-5)


@pytest.mark.parametrize("customers", [1, 99, 100, 200])
def test_no_number_of_the_plan_depends_on_how_many_customers_there_are(customers):
    assert plan_for(scenario(customers=customers)).to_json() == plan_for(scenario(customers=100)).to_json()


def test_the_divisor_is_the_declared_number_times_the_sample_rate():
    plan = plan_for(scenario(sample_rate=0.25, declared_customers=400))
    assert plan.nominal_batch_size == 100.0
    assert plan.declared_customers == 400


def test_a_delta_too_large_for_the_declared_customers_is_refused():
    with pytest.raises(ConfigError, match="delta"):
        plan_for(scenario(delta=1e-3, declared_customers=100_000))


def test_training_windows_end_where_the_holdout_starts():
    asked = scenario(windows=4)
    plan = plan_for(asked)
    assert plan.holdout_start == asked.cutoff
    assert [(asked.cutoff - cutoff).days for cutoff in plan.cutoffs] == [28, 56, 84, 112, 364]


def test_a_plan_names_its_starting_point_and_its_model():
    asked = scenario(sequence_length=9, trainable="all", encoder="mlp", hidden=(8, 4))
    init = fresh_arrays(asked.recipe.model, seed=1)
    plan = plan_of(asked, init)
    assert plan.init_fingerprint == fingerprint(init)
    assert plan.model == asked.recipe.model
    assert plan.features == features_of(asked)
    assert (plan.features.sequence_length, plan.model.hidden, plan.model.trainable) == (9, (8, 4), "all")


def test_more_than_half_of_the_merchants_are_waited_for():
    assert plan_for(scenario()).server.min_completions == 2


def test_each_merchant_has_a_budget_of_its_own():
    asked = scenario()
    assert lineage_of("bakery", asked) != lineage_of("florist", asked)
    assert lineage_of("bakery", asked) == lineage_of("bakery", replace(asked, seed=9, epsilon=1.0))


@pytest.mark.parametrize("name", sorted(shipped_scenarios()))
def test_every_shipped_scenario_has_a_plan_within_its_epsilon(name):
    asked = load_scenario(name, {})
    plan = plan_for(asked)
    assert TrainingPlan.from_json(plan.to_json()) == plan
    assert epsilon_spent(plan.events, delta=plan.delta) <= asked.epsilon


@pytest.mark.parametrize("aggregation", ["mean", "trimmed_mean", "median"])
@pytest.mark.parametrize("optimizer", ["scalar_adam", "adam", "momentum"])
def test_the_recipe_chooses_how_the_platform_steps(aggregation, optimizer):
    server = plan_for(scenario(aggregation=aggregation, optimizer=optimizer)).server
    assert (server.aggregation, server.optimizer) == (aggregation, optimizer)
