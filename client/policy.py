"""What a merchant allows: its budget, and the plans that may be paid from it. What does not fit is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pp_model.accounting import PrivacyEvent, epsilon_spent
from pp_model.errors import ConfigError, PolicyError
from pp_model.model_spec import Encoder
from pp_model.plan import TrainingPlan, Trust

MERCHANT_COUNTS = (1, 2, 3, 5, 10)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A merchant's own rules, from its configuration file. Every limit is decided by somebody: none has a default.

    The ledger has one delta, `delta` here: every charge of every plan is priced at it. A plan may promise a smaller
    one of its own, never a larger.

    Attributes:
        epsilon_budget: the budget of the ledger, over all plans and rounds; infinite only with `allow_no_privacy`.
        delta: the delta of the ledger, and the largest a plan may have; at most `declared_customers ** -1.1`.
        declared_customers: how many customers the merchant publicly declares to hold at least; not counted from data.
        least_noise_multiplier: below it no plan is run, whatever its epsilon.
        longest_horizon_days: the longest label window.
        longest_sequence: how many events of one customer the model may look at.
        trust_modes: the plan's trust mode must be one of these.
        encoders: the plan's encoder must be one of these.
        approve: "ask": a person approves each plan; "automatic": only those above `approve_under_epsilon`.
        approve_under_epsilon: price of a whole run up to which "automatic" needs nobody.
        allow_no_privacy: whether a plan without noise may run at all. For simulation on data that protects nobody.
    """

    epsilon_budget: float
    delta: float
    declared_customers: int
    least_noise_multiplier: float
    longest_horizon_days: int
    longest_sequence: int
    trust_modes: tuple[Trust, ...]
    encoders: tuple[Encoder, ...]
    approve: Literal["automatic", "ask"]
    approve_under_epsilon: float
    allow_no_privacy: bool = False

    def __post_init__(self) -> None:
        _valid(self.epsilon_budget >= 0, "epsilon_budget", self.epsilon_budget, "a number of at least 0")
        _valid(
            self.epsilon_budget < math.inf or self.allow_no_privacy,
            "epsilon_budget",
            self.epsilon_budget,
            "a finite budget; an infinite one protects nobody, and needs allow_no_privacy = true",
        )
        _valid(self.declared_customers >= 1, "declared_customers", self.declared_customers, "1 or more")
        largest = self.declared_customers**-1.1
        _valid(
            0 < self.delta < 1 and self.delta <= largest,
            "delta",
            self.delta,
            f"above 0, below 1, at most declared_customers ** -1.1 = {largest:.3g}",
        )
        _valid(
            0 <= self.least_noise_multiplier < math.inf, "least_noise_multiplier", self.least_noise_multiplier, ">= 0"
        )
        _valid(self.longest_horizon_days >= 1, "longest_horizon_days", self.longest_horizon_days, "1 or more")
        _valid(self.longest_sequence >= 1, "longest_sequence", self.longest_sequence, "1 or more")
        _valid(bool(self.trust_modes), "trust_modes", [], 'one or more of "local", "secure_sum"')
        _valid(bool(self.encoders), "encoders", [], "one or more of linear, mlp, gru, transformer")
        _valid(self.approve_under_epsilon >= 0, "approve_under_epsilon", self.approve_under_epsilon, "at least 0")


@dataclass(frozen=True, kw_only=True)
class Price:
    """Epsilon of a whole run at `delta`, for a customer of one merchant and of several that take part.

    Unit: one customer of one merchant. Relation: add or remove one. Infinite: no privacy.
    """

    delta: float
    epsilon_per_run: float
    epsilon_two_merchants: float
    epsilon_three_merchants: float
    epsilon_five_merchants: float
    epsilon_ten_merchants: float


def price_plan(plan: TrainingPlan) -> Price:
    """What a whole run of `plan` costs at the plan's own delta: the number the platform promises."""
    one, two, three, five, ten = epsilon_by_merchants(plan.events, delta=plan.delta).values()
    return Price(
        delta=plan.delta,
        epsilon_per_run=one,
        epsilon_two_merchants=two,
        epsilon_three_merchants=three,
        epsilon_five_merchants=five,
        epsilon_ten_merchants=ten,
    )


def epsilon_by_merchants(events: Iterable[PrivacyEvent], *, delta: float) -> dict[int, float]:
    """Epsilon for a customer of k merchants that each release `events`, for k of `MERCHANT_COUNTS` (checklist D4)."""
    once = tuple(events)
    return {count: epsilon_spent(once, delta=delta, merchants=count) for count in MERCHANT_COUNTS}


def check_plan(plan: TrainingPlan, policy: Policy) -> None:
    """Returns if the merchant's policy allows `plan`; what is left of the budget is the ledger's question.

    Raises:
        PolicyError: names the rule, the plan's value, what is allowed and what to do.
    """
    private = plan.dp.noise_multiplier > 0
    _allow(
        private or policy.allow_no_privacy,
        "allow_no_privacy",
        "has a noise multiplier of 0: NO PRIVACY",
        "a plan with noise",
        "ask for a plan with noise; the rule is there for data that protects nobody",
    )
    _allow(
        not private or plan.dp.noise_multiplier >= policy.least_noise_multiplier,
        "least_noise_multiplier",
        f"has a noise multiplier of {plan.dp.noise_multiplier:g}",
        f"at least {policy.least_noise_multiplier:g}",
        "ask for more noise",
    )
    _allow(
        plan.delta <= policy.delta,
        "delta",
        f"has delta {plan.delta:g}",
        f"at most {policy.delta:g}",
        "ask for a smaller delta",
    )
    _allow(
        plan.declared_customers <= policy.declared_customers,
        "declared_customers",
        f"is for merchants that declare at least {plan.declared_customers} customers",
        f"at most {policy.declared_customers}, which is what this merchant declares",
        "ask for a plan for smaller merchants",
    )
    _allow(
        plan.features.horizon_days <= policy.longest_horizon_days,
        "longest_horizon_days",
        f"looks {plan.features.horizon_days} days ahead",
        f"at most {policy.longest_horizon_days}",
        "ask for a shorter horizon",
    )
    _allow(
        plan.features.sequence_length <= policy.longest_sequence,
        "longest_sequence",
        f"reads {plan.features.sequence_length} events of each customer",
        f"at most {policy.longest_sequence}",
        "ask for a shorter sequence",
    )
    _allow(
        plan.trust in policy.trust_modes,
        "trust_modes",
        f"has trust mode {plan.trust!r}",
        ", ".join(policy.trust_modes),
        "ask for one of these",
    )
    _allow(
        plan.model.encoder in policy.encoders,
        "encoders",
        f"has encoder {plan.model.encoder!r}",
        ", ".join(policy.encoders),
        "ask for one of these",
    )
    epsilon = epsilon_spent(plan.events, delta=policy.delta)
    _allow(
        epsilon <= policy.epsilon_budget,  # a price that is not a number is not allowed either
        "epsilon_budget",
        f"costs epsilon {epsilon:.2f} at delta {policy.delta:g} for the whole run",
        f"at most {policy.epsilon_budget:.2f}, the whole budget",
        "ask for fewer rounds or more noise",
    )


def needs_approval(plan: TrainingPlan, policy: Policy) -> bool:
    """Whether a person must say yes before the merchant takes part; `check_plan` comes first and is not replaced."""
    return policy.approve == "ask" or not price_plan(plan).epsilon_per_run <= policy.approve_under_epsilon


def _valid(ok: bool, key: str, value: object, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"policy.{key} is {value!r}; allowed: {allowed}")


def _allow(ok: bool, rule: str, found: str, allowed: str, remedy: str) -> None:
    if not ok:
        raise PolicyError(f"The plan {found}. The policy's rule {rule} allows: {allowed}. To take part, {remedy}.")
