"""From a scenario to the public plan of its run: the noise that its epsilon needs, and every other constant."""

from __future__ import annotations

import math

from client.ledger import Lineage
from client.policy import Policy
from pp_model.accounting import noise_multiplier_for
from pp_model.features import FeatureSpec, training_cutoffs
from pp_model.model import ENCODERS, ModelSpec
from pp_model.plan import DpSgdPlan, ServerPlan, TrainingPlan
from pp_model.serialization import Arrays, fingerprint
from simulations.scenario import Scenario

FINAL_RATE_SHARE = 0.05  # of the learning rate, in the last round
UPDATE_CLIP_NORM = 1e6
ROUND_TIMEOUT_SECONDS = 600.0


def model_of(scenario: Scenario) -> ModelSpec:
    """The model that the scenario trains."""
    recipe = scenario.recipe
    return ModelSpec(encoder=recipe.encoder, hidden=recipe.hidden, trainable=recipe.trainable)


def features_of(scenario: Scenario) -> FeatureSpec:
    """What the model sees of a customer."""
    return FeatureSpec(horizon_days=scenario.horizon_days, sequence_length=scenario.recipe.sequence_length)


def plan_of(scenario: Scenario, init: Arrays) -> TrainingPlan:
    """The plan whose accounting never exceeds the scenario's epsilon at its delta.

    Raises:
        AccountingError: no noise reaches that epsilon.
        ConfigError: a value out of range.
    """
    recipe = scenario.recipe
    dp = DpSgdPlan(
        sample_rate=recipe.sample_rate,
        noise_multiplier=noise_multiplier_for(
            epsilon=scenario.epsilon,
            delta=scenario.delta,
            sample_rate=recipe.sample_rate,
            num_steps=recipe.rounds * recipe.steps_per_round,
        ),
        max_grad_norm=recipe.max_grad_norm,
        num_steps=recipe.steps_per_round,
    )
    return TrainingPlan(
        plan_id=scenario.name,
        algorithm=recipe.algorithm,
        rounds=recipe.rounds,
        dp=dp,
        delta=scenario.delta,
        declared_customers=recipe.declared_customers,
        nominal_batch_size=recipe.sample_rate * recipe.declared_customers,
        local_learning_rate=recipe.local_learning_rate,
        update_clip_norm=UPDATE_CLIP_NORM,
        features=features_of(scenario),
        model=model_of(scenario),
        cutoffs=training_cutoffs(scenario.cutoff, horizon_days=scenario.horizon_days, count=recipe.windows),
        holdout_start=scenario.cutoff,
        server=ServerPlan(
            optimizer=recipe.optimizer,
            aggregation=recipe.aggregation,
            learning_rate=recipe.learning_rate,
            final_learning_rate=recipe.learning_rate * FINAL_RATE_SHARE,
            momentum=recipe.momentum,
            min_completions=math.ceil(scenario.merchants / 2),
            round_timeout_seconds=ROUND_TIMEOUT_SECONDS,
        ),
        init_fingerprint=fingerprint(init),
    )


def policy_of(scenario: Scenario) -> Policy:
    """A merchant who allows exactly what the scenario asks for, once."""
    return Policy(
        epsilon_budget=scenario.epsilon,
        delta=scenario.delta,
        declared_customers=scenario.recipe.declared_customers,
        least_noise_multiplier=0.0,
        longest_horizon_days=scenario.horizon_days,
        longest_sequence=scenario.recipe.sequence_length,
        trust_modes=("local",),
        encoders=ENCODERS,
        approve="automatic",
        approve_under_epsilon=scenario.epsilon,
        allow_no_privacy=not scenario.private,
    )


def lineage_of(merchant: str, scenario: Scenario) -> Lineage:
    """Whose budget a simulated merchant's ledger holds."""
    return Lineage(merchant=merchant, population=scenario.name, period=f"before {scenario.cutoff.isoformat()}")
