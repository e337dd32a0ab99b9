"""How is trained, and the public plan that follows from it: the noise that an epsilon needs, every other constant."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pp_model.accounting import noise_multiplier_for
from pp_model.features import FeatureSpec, training_cutoffs
from pp_model.model_spec import PRESETS, Encoder, ModelSpec
from pp_model.plan import Aggregation, DpSgdPlan, Peer, SecureSumPlan, ServerPlan, TrainingPlan, Trust
from pp_model.serialization import Arrays, fingerprint

FINAL_RATE_SHARE = 0.05  # of the learning rate, in the last round
ROUNDS_PER_BLOCK = 16  # of a secure sum: a merchant that was restarted waits no longer than these
SURVIVORS_SHARE = 0.75  # of the merchants must be left at the end of a round
UPDATE_CLIP_NORM = 1e3  # 200 clip norms: the longest update of a merchant with 200 times the declared customers


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How is trained. One default for all orders: it was chosen on earlier cutoffs (docs/results.md), not per shop.

    Attributes:
        optimizer, aggregation: the platform's; trimmed_mean and median bear some dishonest merchants, and more noise.
        trust: "local": each merchant adds all the noise; "secure_sum": its share of it, and the platform sees the sum.
        dishonest: merchants that may side with the platform in a secure sum.
        sample_rate: 1 takes everybody in every round: for a given epsilon and number of rounds the mean over all
            customers then has the least noise of any rate, and none from who was drawn.
        windows: of the newest, one horizon apart; the one a year before the holdout comes on top.
        declared_customers: lower bound that every merchant declares publicly; never counted from the orders.
        init: "default" (the starting point that ships with the package), "none", or a file of pp-sim pretrain.
    """

    encoder: Encoder = "mlp"
    hidden: tuple[int, ...] = PRESETS["small"]
    trainable: Literal["readout", "all"] = "readout"
    algorithm: Literal["fedsgd", "fedavg"] = "fedsgd"
    rounds: int = 120
    steps_per_round: int = 1
    sample_rate: float = 1.0
    max_grad_norm: float = 5.0
    learning_rate: float = 0.012
    local_learning_rate: float = 1.0
    momentum: float = 0.8
    optimizer: Literal["scalar_adam", "adam", "momentum"] = "scalar_adam"
    aggregation: Aggregation = "mean"
    trust: Trust = "local"
    dishonest: int = 1
    windows: int = 1
    sequence_length: int = 32
    declared_customers: int = 250
    init: str = "default"

    @staticmethod
    def fedavg() -> dict[str, Any]:
        """What differs where several local steps are taken between two rounds."""
        return {"rounds": 20, "steps_per_round": 3, "local_learning_rate": 0.2, "learning_rate": 0.08}

    @property
    def model(self) -> ModelSpec:
        """The model that is trained."""
        return ModelSpec(encoder=self.encoder, hidden=self.hidden, trainable=self.trainable)


def make_plan(
    recipe: Recipe,
    init: Arrays,
    *,
    plan_id: str,
    epsilon: float,
    delta: float,
    horizon_days: int,
    holdout_start: dt.date,
    min_completions: int,
    round_timeout_seconds: float,
    answer_every_seconds: float,
    roster: Sequence[Peer] = (),
) -> TrainingPlan:
    """The plan whose accounting never exceeds `epsilon` at `delta` for a customer of one merchant.

    Args:
        roster: the merchants of a secure sum; not looked at with local trust.

    Raises:
        AccountingError: no noise reaches that epsilon.
        ConfigError: a value out of range.
    """
    return TrainingPlan(
        plan_id=plan_id,
        trust=recipe.trust,
        secure_sum=_secure_sum(recipe, roster) if recipe.trust == "secure_sum" else None,
        algorithm=recipe.algorithm,
        rounds=recipe.rounds,
        dp=DpSgdPlan(
            sample_rate=recipe.sample_rate,
            noise_multiplier=noise_multiplier_for(
                epsilon=epsilon,
                delta=delta,
                sample_rate=recipe.sample_rate,
                num_steps=recipe.rounds * recipe.steps_per_round,
            ),
            max_grad_norm=recipe.max_grad_norm,
            num_steps=recipe.steps_per_round,
        ),
        delta=delta,
        declared_customers=recipe.declared_customers,
        nominal_batch_size=recipe.sample_rate * recipe.declared_customers,
        local_learning_rate=recipe.local_learning_rate,
        update_clip_norm=UPDATE_CLIP_NORM,
        answer_every_seconds=answer_every_seconds,
        features=FeatureSpec(horizon_days=horizon_days, sequence_length=recipe.sequence_length),
        model=recipe.model,
        cutoffs=training_cutoffs(holdout_start, horizon_days=horizon_days, count=recipe.windows),
        holdout_start=holdout_start,
        server=ServerPlan(
            optimizer=recipe.optimizer,
            aggregation=recipe.aggregation,
            learning_rate=recipe.learning_rate,
            final_learning_rate=recipe.learning_rate * FINAL_RATE_SHARE,
            momentum=recipe.momentum,
            min_completions=min_completions,
            round_timeout_seconds=round_timeout_seconds,
        ),
        init_fingerprint=fingerprint(init),
    )


def fewest_survivors(merchants: int, *, dishonest: int) -> int:
    """How many merchants of a secure sum must be left at the end of a round: three quarters, and what is safe."""
    safe = max((merchants + dishonest) // 2 + 1, dishonest + 2)
    return min(merchants, max(safe, math.ceil(SURVIVORS_SHARE * merchants)))


def _secure_sum(recipe: Recipe, roster: Sequence[Peer]) -> SecureSumPlan:
    return SecureSumPlan(roster=tuple(roster), dishonest=recipe.dishonest, rounds_per_block=ROUNDS_PER_BLOCK)
