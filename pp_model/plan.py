"""The plan: one frozen, public object that says what is computed, sampled, clipped, noised and charged."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

from pp_model.accounting import PrivacyEvent
from pp_model.config import from_mapping, to_mapping
from pp_model.errors import ConfigError
from pp_model.features import FeatureSpec
from pp_model.model_spec import ModelSpec

PLAN_VERSION = 2  # 1 knew no secure sums

MOST_IN_A_SUM = 200  # merchants; the platform's work for a round grows with their cube: a minute and a half here
MOST_NOISE_IN_A_SUM = 200  # noise multiplier: more would not fit the integers
LEAST_NOISE_IN_A_SUM = 0.01  # where there is any: in whole numbers it then costs less than 1e-5 of epsilon more
Trust = Literal["local", "secure_sum"]
Aggregation = Literal["mean", "norm_filter", "trimmed_mean", "median"]


def _require(ok: bool, key: str, value: object, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"plan.{key} is {value!r}; {allowed}")


@dataclass(frozen=True, kw_only=True)
class DpSgdPlan:
    """The mechanism of one task: `num_steps` Poisson-sampled Gaussian steps over the merchant's customers.

    With `local` trust each merchant adds all of the noise. In a secure sum the noise multiplier is what the honest
    survivors of a round add together at the least; see `integer_sum`.

    A `noise_multiplier` of 0 is training without privacy: its event costs infinite epsilon, and only a ledger
    with an infinite budget accepts it.
    """

    sample_rate: float
    noise_multiplier: float
    max_grad_norm: float
    num_steps: int

    def __post_init__(self) -> None:
        _require(0 < self.sample_rate <= 1, "dp.sample_rate", self.sample_rate, "allowed: above 0, at most 1")
        _require(0 <= self.noise_multiplier < math.inf, "dp.noise_multiplier", self.noise_multiplier, "allowed: >= 0")
        _require(0 < self.max_grad_norm < math.inf, "dp.max_grad_norm", self.max_grad_norm, "allowed: above 0")
        _require(1 <= self.num_steps <= 10_000, "dp.num_steps", self.num_steps, "allowed: 1 to 10000")

    @property
    def event(self) -> PrivacyEvent:
        """What one task costs where the noise is the merchant's own."""
        return PrivacyEvent(
            sample_rate=self.sample_rate, noise_multiplier=self.noise_multiplier, num_steps=self.num_steps
        )


@dataclass(frozen=True, kw_only=True)
class ServerPlan:
    """How the platform steps the model with the sum of the releases. Post-processing: it costs no privacy."""

    optimizer: Literal["scalar_adam", "adam", "momentum"]
    learning_rate: float
    final_learning_rate: float
    momentum: float
    aggregation: Aggregation = "mean"
    averaging: float = 0.0
    min_completions: int
    round_timeout_seconds: float

    def __post_init__(self) -> None:
        _require(0 < self.learning_rate < 100, "server.learning_rate", self.learning_rate, "allowed: above 0")
        _require(
            0 < self.final_learning_rate <= self.learning_rate,
            "server.final_learning_rate",
            self.final_learning_rate,
            "allowed: above 0, at most learning_rate",
        )
        _require(0 <= self.momentum < 1, "server.momentum", self.momentum, "allowed: 0 up to 1")
        _require(0 <= self.averaging < 1, "server.averaging", self.averaging, "allowed: 0 up to 1")
        _require(self.min_completions >= 1, "server.min_completions", self.min_completions, "allowed: 1 or more")
        _require(
            0 < self.round_timeout_seconds <= 86_400,
            "server.round_timeout_seconds",
            self.round_timeout_seconds,
            "allowed: above 0, at most a day",
        )


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A merchant on the roster of a secure sum: the name that the platform gives it, and its node key's fingerprint."""

    name: str
    key: str

    def __post_init__(self) -> None:
        _require(1 <= len(self.name) <= 80, "secure_sum.roster.name", self.name, "1 to 80 characters")
        _require(1 <= len(self.key) <= 80, "secure_sum.roster.key", self.key, "1 to 80 characters")


@dataclass(frozen=True, kw_only=True)
class SecureSumPlan:
    """Who adds up together so that the platform sees the sum alone, and how many of them may side with the platform.

    How many must be left at the end of a round is the plan's `server.min_completions`, the threshold.

    Attributes:
        roster: all merchants that may take part, in the order that gives each its number.
        dishonest: the guarantee holds though so many of them show the platform all they know, and add no noise.
        rounds_per_block: rounds that are set up at once.
    """

    roster: tuple[Peer, ...]
    dishonest: int
    rounds_per_block: int

    def __post_init__(self) -> None:
        merchants = len(self.roster)
        _require(
            2 <= merchants <= MOST_IN_A_SUM, "secure_sum.roster", f"{merchants} merchants", f"2 to {MOST_IN_A_SUM}"
        )
        for what in ("name", "key"):
            different = len({getattr(peer, what) for peer in self.roster})
            _require(different == merchants, "secure_sum.roster", f"a {what} twice", f"give each {what} once")
        _require(0 <= self.dishonest < merchants - 1, "secure_sum.dishonest", self.dishonest, "0 up to merchants - 2")
        _require(1 <= self.rounds_per_block <= 256, "secure_sum.rounds_per_block", self.rounds_per_block, "1 to 256")


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Everything public about one federated run; equal fingerprints mean the same computation and the same price.

    Attributes:
        dp: the mechanism of one task; a run is `rounds` such tasks at every merchant.
        delta: the guarantee's delta, at most `declared_customers ** -1.1` (checklist D40).
        declared_customers: public lower bound that every merchant declares to hold; never counted from data.
        nominal_batch_size: the public divisor of every sum (never a count of this merchant's customers).
        local_learning_rate: step size of the local steps; 1.0 for fedsgd, where the server does the stepping.
        update_clip_norm: releases with a larger L2 norm are rejected by the platform.
        answer_every_seconds: a merchant answers only at whole multiples of this after a task came, so that the time
            it took tells little; 0 answers at once (in a simulation nobody is there to watch).
        cutoffs: dates at which a training window is cut; each label window ends before `holdout_start`.
        holdout_start: first day that training never sees.
    """

    plan_id: str
    version: int = PLAN_VERSION
    trust: Trust = "local"
    secure_sum: SecureSumPlan | None = None
    algorithm: Literal["fedsgd", "fedavg"]
    rounds: int
    dp: DpSgdPlan
    delta: float
    declared_customers: int
    nominal_batch_size: float
    local_learning_rate: float
    update_clip_norm: float
    answer_every_seconds: float = 0.0
    features: FeatureSpec
    model: ModelSpec
    cutoffs: tuple[dt.date, ...]
    holdout_start: dt.date
    server: ServerPlan
    init_fingerprint: str

    def __post_init__(self) -> None:
        _require(self.version == PLAN_VERSION, "version", self.version, f"this program speaks version {PLAN_VERSION}")
        _require(bool(self.plan_id) and len(self.plan_id) <= 80, "plan_id", self.plan_id, "1 to 80 characters")
        _require(1 <= self.rounds <= 100_000, "rounds", self.rounds, "allowed: 1 to 100000")
        _require(
            1 <= self.declared_customers <= 10**10, "declared_customers", self.declared_customers, "allowed: 1 to 1e10"
        )
        largest = self.declared_customers**-1.1
        _require(0 < self.delta < 1, "delta", self.delta, "allowed: between 0 and 1")
        _require(
            self.delta <= largest,
            "delta",
            self.delta,
            f"at most declared_customers ** -1.1 = {largest:.3g}, or a customer could be given away whole",
        )
        _require(0 < self.nominal_batch_size < math.inf, "nominal_batch_size", self.nominal_batch_size, "above 0")
        _require(0 < self.local_learning_rate <= 10, "local_learning_rate", self.local_learning_rate, "above 0")
        _require(0 < self.update_clip_norm < math.inf, "update_clip_norm", self.update_clip_norm, "above 0")
        _require(0 <= self.answer_every_seconds <= 3600, "answer_every_seconds", self.answer_every_seconds, "0 to 3600")
        _require(
            self.algorithm != "fedsgd" or (self.dp.num_steps == 1 and self.local_learning_rate == 1.0),
            "algorithm",
            self.algorithm,
            "fedsgd takes one step a round with local_learning_rate 1.0; use fedavg for several",
        )
        self._check_secure_sum()
        _require(1 <= len(self.cutoffs) <= 24, "cutoffs", len(self.cutoffs), "allowed: 1 to 24 cutoffs")
        _require(len(set(self.cutoffs)) == len(self.cutoffs), "cutoffs", "repeated date", "give each cutoff once")
        horizon = dt.timedelta(days=self.features.horizon_days)
        for cutoff in self.cutoffs:
            _require(
                self.holdout_start - cutoff >= horizon,
                "cutoffs",
                cutoff.isoformat(),
                f"its label window must end before the holdout starts on {self.holdout_start.isoformat()}",
            )

    def _check_secure_sum(self) -> None:
        sums = self.secure_sum
        _require((self.trust == "secure_sum") == (sums is not None), "secure_sum", sums, "given with that trust alone")
        if sums is None:
            return
        _require(self.algorithm == "fedsgd", "algorithm", self.algorithm, "a secure sum is of one step: fedsgd")
        aggregation = self.server.aggregation
        _require(aggregation == "mean", "server.aggregation", aggregation, "mean: nobody sees what could be left out")
        noise = self.dp.noise_multiplier
        _require(
            noise == 0 or LEAST_NOISE_IN_A_SUM <= noise <= MOST_NOISE_IN_A_SUM,
            "dp.noise_multiplier",
            noise,
            f"{LEAST_NOISE_IN_A_SUM:g} to {MOST_NOISE_IN_A_SUM} in a sum, or 0",
        )
        wait, timeout = self.answer_every_seconds, self.server.round_timeout_seconds
        _require(4 * wait <= timeout, "answer_every_seconds", wait, "in a sum at most a quarter of the round's time")
        merchants, threshold = len(sums.roster), self.server.min_completions
        least = (merchants + sums.dishonest) // 2 + 1
        _require(
            max(least, sums.dishonest + 2) <= threshold <= merchants,
            "server.min_completions",
            threshold,
            f"{max(least, sums.dishonest + 2)} to {merchants}: more than half of the merchants and the dishonest "
            "together, or the platform could have two sums of one round",
        )

    @property
    def event(self) -> PrivacyEvent:
        """What the ledger is charged for one task of this plan."""
        return dataclasses.replace(self.dp.event, shared=self.secure_sum is not None)

    @property
    def events(self) -> tuple[PrivacyEvent, ...]:
        """What a whole run costs one customer of one merchant."""
        return (self.event.times(self.rounds),)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON of the plan."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces; the bytes that are fingerprinted (and later signed)."""
        return json.dumps(to_mapping(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @staticmethod
    @lru_cache(maxsize=16)  # the same text in every task of a run
    def from_json(text: str) -> TrainingPlan:
        """The plan of `to_json`.

        Raises:
            ConfigError: not JSON, or a key is unknown, missing or out of range.
        """
        try:
            table: Any = json.loads(text)
        except (ValueError, RecursionError):
            raise ConfigError("the plan is not valid JSON") from None
        if not isinstance(table, Mapping):
            raise ConfigError("the plan is not a JSON object")
        return from_mapping(TrainingPlan, table, path="plan")
