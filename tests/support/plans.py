"""Small valid plans for tests; a test names only what it is about."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

from pp_model.features import FeatureSpec
from pp_model.model_spec import ModelSpec
from pp_model.plan import DpSgdPlan, ServerPlan, TrainingPlan

_DP = DpSgdPlan(sample_rate=0.5, noise_multiplier=1.0, max_grad_norm=1.0, num_steps=1)

_SERVER = ServerPlan(
    optimizer="momentum",
    learning_rate=1.0,
    final_learning_rate=1.0,
    momentum=0.0,
    aggregation="mean",
    averaging=0.0,
    min_completions=1,
    round_timeout_seconds=5.0,
)

_PLAN = TrainingPlan(
    plan_id="tiny",
    algorithm="fedsgd",
    rounds=3,
    dp=_DP,
    delta=1e-3,
    declared_customers=100,
    nominal_batch_size=10.0,
    local_learning_rate=1.0,
    update_clip_norm=1000.0,
    features=FeatureSpec(horizon_days=28, sequence_length=4),
    model=ModelSpec(encoder="mlp", hidden=(4,)),
    cutoffs=(dt.date(2024, 6, 1),),
    holdout_start=dt.date(2024, 7, 1),
    server=_SERVER,
    init_fingerprint="0" * 64,
)


def tiny_dp(**changes: Any) -> DpSgdPlan:
    """One step at half of the customers with a noise multiplier of 1, with `changes` to its fields."""
    return dataclasses.replace(_DP, **changes)


def tiny_server(**changes: Any) -> ServerPlan:
    """The server adds the mean of the updates to the model as it is, with `changes` to its fields."""
    return dataclasses.replace(_SERVER, **changes)


def tiny_plan(**changes: Any) -> TrainingPlan:
    """Three rounds of fedsgd, one cutoff on 2024-06-01, holdout from 2024-07-01, with `changes` to its fields.

    The holdout of 28 days ends on 2024-07-29. Nested parts come from `tiny_dp` and `tiny_server`.
    """
    return dataclasses.replace(_PLAN, **changes)
