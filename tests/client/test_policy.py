"""The merchant's policy: every rule refuses what it is there to refuse, by name, and changes nothing."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from typing import Any

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from client.policy import MERCHANT_COUNTS, Policy, check_plan, epsilon_by_merchants, needs_approval, price_plan
from pp_model.accounting import PrivacyEvent, epsilon_spent
from pp_model.config import from_mapping
from pp_model.errors import ConfigError, PolicyError
from pp_model.features import FeatureSpec
from pp_model.model_spec import ModelSpec
from tests.support.plans import tiny_dp, tiny_plan
from tests.support.sum_town import sum_plan

TOML = """
epsilon_budget = 8.0
delta = 1e-3
declared_customers = 100
least_noise_multiplier = 0.5
longest_horizon_days = 90
longest_sequence = 32
trust_modes = ["local"]
encoders = ["linear", "mlp"]
approve = "automatic"
approve_under_epsilon = 8.0
"""

SUM = {name: getattr(sum_plan(merchants=3, threshold=3), name) for name in ("trust", "secure_sum", "server")}
POLICY = from_mapping(Policy, tomllib.loads(TOML), path="policy")


def policy(**changes: Any) -> Policy:
    return dataclasses.replace(POLICY, **changes)


def test_a_plan_within_every_limit_is_allowed_without_a_person() -> None:
    check_plan(tiny_plan(), POLICY)
    assert not needs_approval(tiny_plan(), POLICY)


def test_a_plan_exactly_at_every_limit_is_allowed() -> None:
    at_the_limit = policy(
        epsilon_budget=price_plan(tiny_plan()).epsilon_per_run,
        least_noise_multiplier=1.0,
        longest_horizon_days=28,
        longest_sequence=4,
        encoders=("mlp",),
        approve_under_epsilon=price_plan(tiny_plan()).epsilon_per_run,
    )
    check_plan(tiny_plan(), at_the_limit)
    assert not needs_approval(tiny_plan(), at_the_limit)


def test_a_plan_of_either_trust_is_allowed_where_the_policy_lists_it() -> None:
    plan = sum_plan(merchants=3, threshold=3)
    check_plan(plan, policy(trust_modes=("local", "secure_sum")))
    check_plan(plan, policy(trust_modes=("secure_sum",)))
    with pytest.raises(PolicyError, match="trust_modes allows: secure_sum"):
        check_plan(tiny_plan(), policy(trust_modes=("secure_sum",)))


def test_a_policy_names_trust_modes_that_there_are() -> None:
    table = tomllib.loads(TOML)
    for modes in ([], ["blind"], ["local", "all"]):
        with pytest.raises(ConfigError, match="trust_modes"):
            from_mapping(Policy, {**table, "trust_modes": modes}, path="policy")


BROKEN_RULES: list[tuple[str, dict[str, Any], str, str]] = [
    ("allow_no_privacy", {"dp": tiny_dp(noise_multiplier=0.0)}, "noise multiplier of 0: NO PRIVACY", "with"),
    ("least_noise_multiplier", {"dp": tiny_dp(noise_multiplier=0.49)}, "0.49", "at least 0.5"),
    ("delta", {"declared_customers": 10, "delta": 0.002}, "delta 0.002", "at most 0.001"),
    ("declared_customers", {"declared_customers": 101}, "at least 101 customers", "at most 100"),
    (
        "longest_horizon_days",
        {"features": FeatureSpec(horizon_days=91), "cutoffs": (tiny_plan().holdout_start.replace(year=2023),)},
        "91 days",
        "at most 90",
    ),
    ("longest_sequence", {"features": FeatureSpec(horizon_days=28, sequence_length=33)}, "33 events", "at most 32"),
    ("trust_modes", SUM, "has trust mode 'secure_sum'", " local."),
    ("encoders", {"model": ModelSpec(encoder="gru")}, "'gru'", "linear, mlp"),
    ("epsilon_budget", {"rounds": 30}, "for the whole run", "at most 8.00"),
]


@pytest.mark.parametrize(("rule", "changes", "found", "allowed"), BROKEN_RULES, ids=[rule[0] for rule in BROKEN_RULES])
def test_a_broken_rule_is_named_with_the_value_and_what_is_allowed(
    rule: str, changes: dict[str, Any], found: str, allowed: str
) -> None:
    with pytest.raises(PolicyError) as refusal:
        check_plan(tiny_plan(**changes), POLICY)
    message = str(refusal.value)
    assert f"rule {rule} allows" in message
    assert found in message.split("The policy's rule")[0]
    assert allowed in message.split("allows:")[1]
    assert "To take part, ask for" in message or "ask for a plan" in message


def test_a_trust_mode_that_is_not_listed_is_refused() -> None:
    plan = tiny_plan()
    object.__setattr__(plan, "trust", "secure_sum")  # no plan of this version has another mode
    with pytest.raises(PolicyError, match="trust_modes allows: local"):
        check_plan(plan, POLICY)


def test_a_plan_without_noise_runs_only_where_the_policy_says_so_in_words() -> None:
    plan = tiny_plan(dp=tiny_dp(noise_multiplier=0.0))
    infinite = {"epsilon_budget": math.inf, "approve_under_epsilon": math.inf}
    check_plan(plan, policy(allow_no_privacy=True, **infinite))
    assert not needs_approval(plan, policy(allow_no_privacy=True, **infinite))
    with pytest.raises(PolicyError, match="rule allow_no_privacy"):
        check_plan(plan, policy(least_noise_multiplier=0.0))
    with pytest.raises(PolicyError, match="rule epsilon_budget"):
        check_plan(plan, policy(allow_no_privacy=True))


def test_the_budget_rule_prices_at_the_ledgers_delta_and_the_promise_at_the_plans() -> None:
    plan = tiny_plan(delta=1e-6)
    at_ledgers, at_plans = (epsilon_spent(plan.events, delta=delta) for delta in (POLICY.delta, plan.delta))
    assert price_plan(plan).epsilon_per_run == at_plans
    check_plan(plan, policy(epsilon_budget=(at_ledgers + at_plans) / 2))
    with pytest.raises(PolicyError, match=r"at delta 0\.001 "):
        check_plan(plan, policy(epsilon_budget=at_ledgers * 0.999))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, False, id="automatic, cheap enough"),
        pytest.param({"approve_under_epsilon": 0.1}, True, id="automatic, too dear"),
        pytest.param({"approve": "ask"}, True, id="ask, cheap enough"),
        pytest.param({"approve": "ask", "approve_under_epsilon": math.inf}, True, id="ask, whatever the price"),
    ],
)
def test_a_person_is_asked_when_the_policy_says_so(changes: dict[str, Any], expected: bool) -> None:
    assert needs_approval(tiny_plan(), policy(**changes)) is expected


# Prices


def test_the_price_for_k_merchants_is_that_of_the_exact_gaussian() -> None:
    """Without sampling, k merchants of n steps are one Gaussian release with sqrt(k n) times less noise.

    Source: Balle and Wang 2018 (arXiv:1805.06530), Theorem 8.
    """
    plan = tiny_plan(rounds=4, dp=tiny_dp(sample_rate=1.0, noise_multiplier=10.0))
    price = price_plan(plan)
    priced = (
        price.epsilon_per_run,
        price.epsilon_two_merchants,
        price.epsilon_three_merchants,
        price.epsilon_five_merchants,
        price.epsilon_ten_merchants,
    )
    exact = [exact_gaussian_epsilon(10.0 / math.sqrt(4 * count), plan.delta) for count in (1, 2, 3, 5, 10)]
    assert priced == pytest.approx(exact, rel=2e-3)
    assert all(ours >= tight - 1e-9 for ours, tight in zip(priced, exact, strict=True))
    assert price.delta == plan.delta


def test_nothing_charged_costs_nothing_and_no_noise_costs_everything_at_any_number_of_merchants() -> None:
    assert epsilon_by_merchants([], delta=1e-5) == dict.fromkeys(MERCHANT_COUNTS, 0.0)
    bare = PrivacyEvent(sample_rate=0.1, noise_multiplier=0.0, num_steps=1)
    assert epsilon_by_merchants([bare], delta=1e-5) == dict.fromkeys(MERCHANT_COUNTS, math.inf)


def exact_gaussian_epsilon(noise: float, delta: float) -> float:
    def excess(epsilon: float) -> float:
        a, b = 1 / (2 * noise), epsilon * noise
        return float(norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b) - delta)

    return float(brentq(excess, 0.0, 50.0, xtol=1e-12))


# The policy's own file


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epsilon_budget", -1.0),
        ("epsilon_budget", math.nan),
        ("epsilon_budget", math.inf),
        ("delta", 0.0),
        ("delta", math.nan),
        ("delta", 0.0064),
        ("declared_customers", 0),
        ("least_noise_multiplier", -0.1),
        ("least_noise_multiplier", math.nan),
        ("least_noise_multiplier", math.inf),
        ("longest_horizon_days", 0),
        ("longest_sequence", 0),
        ("trust_modes", ()),
        ("encoders", ()),
        ("encoders", ("oracle",)),
        ("approve", "never"),
        ("approve_under_epsilon", math.nan),
        ("approve_under_epsilon", -1.0),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_by_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"policy\.{key}"):
        from_mapping(Policy, {**tomllib.loads(TOML), key: value}, path="policy")


@pytest.mark.parametrize("key", sorted(tomllib.loads(TOML)))
def test_every_limit_must_be_decided_by_somebody(key: str) -> None:
    table = tomllib.loads(TOML)
    del table[key]
    with pytest.raises(ConfigError, match=rf"missing key policy\.{key}"):
        from_mapping(Policy, table, path="policy")
