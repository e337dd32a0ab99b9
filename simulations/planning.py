"""From a scenario to the public plan of its run, and to merchants that allow exactly this."""

from __future__ import annotations

import math

from client.ledger import Lineage
from client.policy import Policy
from pp_model.features import FeatureSpec
from pp_model.model_spec import ENCODERS
from pp_model.plan import TrainingPlan
from pp_model.serialization import Arrays
from server.recipe import fewest_survivors, make_plan
from simulations.identities import roster
from simulations.scenario import Scenario

ROUND_TIMEOUT_SECONDS = 600.0


def features_of(scenario: Scenario) -> FeatureSpec:
    """What the model sees of a customer."""
    return FeatureSpec(horizon_days=scenario.horizon_days, sequence_length=scenario.recipe.sequence_length)


def plan_of(scenario: Scenario, init: Arrays) -> TrainingPlan:
    """The plan whose accounting never exceeds the scenario's epsilon at its delta.

    Raises:
        AccountingError: no noise reaches that epsilon.
        ConfigError: a value out of range.
    """
    return make_plan(
        scenario.recipe,
        init,
        plan_id=scenario.name,
        epsilon=scenario.epsilon,
        delta=scenario.delta,
        horizon_days=scenario.horizon_days,
        holdout_start=scenario.cutoff,
        min_completions=_least_merchants(scenario),
        round_timeout_seconds=ROUND_TIMEOUT_SECONDS,
        answer_every_seconds=0.0,
        roster=roster(scenario) if scenario.recipe.trust == "secure_sum" else (),
    )


def _least_merchants(scenario: Scenario) -> int:
    if scenario.recipe.trust == "secure_sum":
        return fewest_survivors(scenario.merchants, dishonest=scenario.recipe.dishonest)
    return math.ceil(scenario.merchants / 2)


def policy_of(scenario: Scenario) -> Policy:
    """A merchant who allows exactly what the scenario asks for, once."""
    return Policy(
        epsilon_budget=scenario.epsilon,
        delta=scenario.delta,
        declared_customers=scenario.recipe.declared_customers,
        least_noise_multiplier=0.0,
        longest_horizon_days=scenario.horizon_days,
        longest_sequence=scenario.recipe.sequence_length,
        trust_modes=("local", "secure_sum"),
        encoders=ENCODERS,
        approve="automatic",
        approve_under_epsilon=scenario.epsilon,
        allow_no_privacy=not scenario.private,
    )


def lineage_of(merchant: str, scenario: Scenario) -> Lineage:
    """Whose budget a simulated merchant's ledger holds."""
    return Lineage(merchant=merchant, population=scenario.name, period=f"before {scenario.cutoff.isoformat()}")
