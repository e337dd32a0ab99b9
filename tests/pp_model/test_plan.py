"""Checklist: D2, D5, D8, D13, D27, D32, D34, D40, D41.

One public object says what is computed and what it costs: every field is in the fingerprint, every nonsense is
refused by the key's name, and nothing in it can be counted from data.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pp_model.accounting import PrivacyEvent, epsilon_spent
from pp_model.errors import ConfigError
from pp_model.plan import MOST_IN_A_SUM, MOST_NOISE_IN_A_SUM, PLAN_VERSION, TrainingPlan
from tests.support.plans import tiny_dp, tiny_plan, tiny_server
from tests.support.sum_town import sum_plan

rates = st.floats(1e-6, 1.0)
positive = st.floats(1e-6, 10.0)
plans = st.builds(
    tiny_plan,
    plan_id=st.text(min_size=1, max_size=80),
    algorithm=st.just("fedavg"),
    rounds=st.integers(1, 100_000),
    dp=st.builds(
        tiny_dp,
        sample_rate=rates,
        noise_multiplier=st.floats(0, 1e6),
        max_grad_norm=positive,
        num_steps=st.integers(1, 10_000),
    ),
    delta=st.floats(1e-12, 1e-3),
    nominal_batch_size=positive | st.integers(1, 100),
    local_learning_rate=positive,
    update_clip_norm=positive,
    server=st.builds(
        tiny_server,
        optimizer=st.sampled_from(["adam", "momentum"]),
        aggregation=st.sampled_from(["mean", "trimmed_mean", "median"]),
        momentum=st.floats(0, 0.99),
        averaging=st.floats(0, 0.99),
        min_completions=st.integers(1, 100),
        round_timeout_seconds=st.integers(1, 1_000),
    ),
)


def table() -> dict[str, Any]:
    return dict(json.loads(tiny_plan().to_json()))


def leaves(node: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(node, dict):
        return [path]
    return [leaf for key, child in node.items() for leaf in leaves(child, (*path, key))]


def changed(node: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    if len(path) == 1:
        return {**node, path[0]: value}
    return {**node, path[0]: changed(node[path[0]], path[1:], value)}


# --- round trip and fingerprint


@given(plans)
def test_a_plan_comes_back_from_its_json_with_the_same_fingerprint(plan):
    again = TrainingPlan.from_json(plan.to_json())
    assert again == plan
    assert again.fingerprint == plan.fingerprint
    assert again.to_json() == plan.to_json()


@given(plans, plans)
def test_different_plans_have_different_fingerprints(first, second):
    assert (first == second) == (first.fingerprint == second.fingerprint)


# Another allowed value of every leaf of the plan; `version` allows only one, `trust` and `secure_sum` go together.
OTHER: dict[tuple[str, ...], Any] = {
    ("plan_id",): "other",
    ("algorithm",): "fedavg",
    ("rounds",): 4,
    ("dp", "sample_rate"): 0.25,
    ("dp", "noise_multiplier"): 1.0000000000000002,
    ("dp", "max_grad_norm"): 2.0,
    ("dp", "num_steps"): 2,
    ("delta",): 2e-3,
    ("declared_customers",): 101,
    ("nominal_batch_size",): 11.0,
    ("local_learning_rate",): 0.5,
    ("update_clip_norm",): 999.0,
    ("answer_every_seconds",): 2.5,
    ("features", "horizon_days"): 27,
    ("features", "sequence_length"): 5,
    ("model", "encoder"): "linear",
    ("model", "hidden"): [5],
    ("model", "trainable"): "all",
    ("cutoffs",): ["2024-05-31"],
    ("holdout_start",): "2024-07-02",
    ("server", "optimizer"): "adam",
    ("server", "learning_rate"): 2.0,
    ("server", "final_learning_rate"): 0.5,
    ("server", "momentum"): 0.5,
    ("server", "aggregation"): "median",
    ("server", "averaging"): 0.5,
    ("server", "min_completions"): 2,
    ("server", "round_timeout_seconds"): 6.0,
    ("init_fingerprint",): "1" * 64,
}


def test_the_list_of_changes_covers_every_field_of_the_plan():
    assert set(leaves(table())) - set(OTHER) == {("version",), ("trust",), ("secure_sum",)}


@pytest.mark.parametrize("path", OTHER, ids=".".join)
def test_every_field_is_in_the_fingerprint(path):
    base = changed(table(), ("algorithm",), "fedavg") if path != ("algorithm",) else table()
    before = TrainingPlan.from_json(json.dumps(base))
    after = TrainingPlan.from_json(json.dumps(changed(base, path, OTHER[path])))
    assert after.fingerprint != before.fingerprint


def sum_table(**changes: Any) -> dict[str, Any]:
    """Five merchants of which four must be left and one may be dishonest, with `changes` to the secure sum."""
    whole = dict(json.loads(sum_plan(merchants=5, threshold=4).to_json()))
    return {**whole, "secure_sum": {**whole["secure_sum"], **changes}}


def peer(name: str, key: str) -> dict[str, str]:
    return {"name": name, "key": key}


def test_everything_about_a_secure_sum_is_in_the_fingerprint():
    roster = sum_table()["secure_sum"]["roster"]
    others = {
        "roster": [
            roster[::-1],
            [peer("another", roster[0]["key"]), *roster[1:]],
            [peer(roster[0]["name"], "SHA256:another"), *roster[1:]],
        ],
        "dishonest": [0, 2],
        "rounds_per_block": [7],
    }
    assert set(others) == set(sum_table()["secure_sum"])
    plans = [sum_table(), *(sum_table(**{key: value}) for key, values in others.items() for value in values)]
    fingerprints = [TrainingPlan.from_json(json.dumps(plan)).fingerprint for plan in plans]
    assert len(set(fingerprints)) == len(plans) == 7


def test_an_integer_where_a_float_is_meant_does_not_change_the_fingerprint():
    assert tiny_plan(nominal_batch_size=64).fingerprint == tiny_plan(nominal_batch_size=64.0).fingerprint


def test_nothing_in_a_plan_can_be_assigned():
    for part in (tiny_plan(), tiny_dp(), tiny_server()):
        for field in dataclasses.fields(part):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(part, field.name, getattr(part, field.name))


def test_no_method_of_a_plan_takes_data():
    """A plan is made of what is written in it: no constructor, property or method takes orders or customers."""
    public = {name for name in vars(TrainingPlan) if not name.startswith("_")}
    functions = public - {field.name for field in dataclasses.fields(TrainingPlan)}
    assert functions == {"event", "events", "fingerprint", "to_json", "from_json"}
    assert isinstance(vars(TrainingPlan)["from_json"], staticmethod)


# --- what is charged


def test_a_run_is_charged_for_every_local_step_of_every_round():
    plan = tiny_plan(algorithm="fedavg", rounds=7, dp=tiny_dp(num_steps=5, sample_rate=0.1, noise_multiplier=3.0))
    assert plan.events == (PrivacyEvent(sample_rate=0.1, noise_multiplier=3.0, num_steps=35),)
    assert plan.dp.event == PrivacyEvent(sample_rate=0.1, noise_multiplier=3.0, num_steps=5)


def test_training_without_noise_costs_infinitely_much():
    assert epsilon_spent(tiny_plan(dp=tiny_dp(noise_multiplier=0.0)).events, delta=1e-5) == math.inf


# --- validators

NAN, INF = math.nan, math.inf
REFUSED: list[tuple[str, Any]] = [
    *[("dp.sample_rate", value) for value in (0.0, -0.1, 1.01, NAN, INF)],
    *[("dp.noise_multiplier", value) for value in (-0.1, NAN, INF)],
    *[("dp.max_grad_norm", value) for value in (0.0, -1.0, NAN, INF)],
    *[("dp.num_steps", value) for value in (0, -1, 10_001)],
    *[("server.optimizer", value) for value in ("sgd", "")],
    *[("server.learning_rate", value) for value in (0.0, -1.0, 100.0, NAN, INF)],
    *[("server.final_learning_rate", value) for value in (0.0, 1.5, NAN)],
    *[("server.momentum", value) for value in (-0.1, 1.0, NAN)],
    *[("server.aggregation", value) for value in ("krum", "weighted_mean")],
    *[("server.averaging", value) for value in (-0.1, 1.0, NAN)],
    *[("server.min_completions", value) for value in (0, -1)],
    *[("server.round_timeout_seconds", value) for value in (0.0, -1.0, 86_401.0, NAN, INF)],
    *[("plan_id", value) for value in ("", "x" * 81)],
    *[("version", value) for value in (0, PLAN_VERSION + 1)],
    *[("trust", value) for value in ("secure_sum", "blind", None)],
    ("secure_sum", {"roster": [{"name": "a", "key": "1"}, {"name": "b", "key": "2"}], "dishonest": 0}),
    ("algorithm", "scaffold"),
    *[("rounds", value) for value in (0, -1, 100_001)],
    *[("delta", value) for value in (0.0, -1e-5, 1.0, NAN, INF)],
    *[("declared_customers", value) for value in (0, -5, 10**400)],
    *[("nominal_batch_size", value) for value in (0.0, -1.0, NAN, INF)],
    *[("local_learning_rate", value) for value in (0.0, -1.0, 11.0, NAN, INF)],
    *[("update_clip_norm", value) for value in (0.0, -1.0, NAN, INF)],
    *[("features.horizon_days", value) for value in (0, 731)],
    *[("features.sequence_length", value) for value in (0, 513)],
    ("model.encoder", "resnet"),
    *[("model.hidden", value) for value in ([], [0], [2000], [1] * 5)],
    *[("cutoffs", value) for value in ([], ["2024-06-01"] * 2, ["2024-06-04"], ["9999-12-31"])],
    *[("cutoffs", [f"2023-{month:02}-{day:02}" for month in (1, 2, 3) for day in range(1, 10)])],
]


@pytest.mark.parametrize(("key", "value"), REFUSED, ids=lambda value: str(value)[:30])
def test_a_value_out_of_range_is_refused_and_its_key_named(key, value):
    text = json.dumps(changed(table(), tuple(key.split(".")), value))
    with pytest.raises(ConfigError) as caught:
        TrainingPlan.from_json(text)
    assert key in str(caught.value)


@pytest.mark.parametrize("path", leaves(table()), ids=".".join)
@pytest.mark.parametrize("value", [None, True, {}, {"a": 1}], ids=repr)
def test_a_value_of_another_type_is_refused(path, value):
    if (path, value) == (("secure_sum",), None):
        value = "none"  # nothing is what stands there
    with pytest.raises(ConfigError):
        TrainingPlan.from_json(json.dumps(changed(table(), path, value)))


@pytest.mark.parametrize(
    "key", ["seed", "sampler", "class_weights", "early_stopping", "num_customers", "val_fraction", "normalise"]
)
def test_a_plan_has_no_place_for_what_would_leak(key):
    with pytest.raises(ConfigError, match=f"unknown key plan.{key}"):
        TrainingPlan.from_json(json.dumps({**table(), key: 1}))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '"plan"', "[" * 100_000, "1" * 5_000, '{"delta": NaN}', "\x00", "{}"]
)
def test_text_that_is_no_plan_is_refused_by_our_own_error(text):
    with pytest.raises(ConfigError):
        TrainingPlan.from_json(text)


def test_fedsgd_takes_one_step_a_round_of_length_one():
    with pytest.raises(ConfigError, match="fedavg"):
        tiny_plan(dp=tiny_dp(num_steps=2))
    with pytest.raises(ConfigError, match="fedavg"):
        tiny_plan(local_learning_rate=0.5)


# --- secure sums (D48)


def read_sum(text: dict[str, Any]) -> TrainingPlan:
    return TrainingPlan.from_json(json.dumps(text))


def peers(count: int) -> list[dict[str, str]]:
    return [peer(f"shop {number}", f"SHA256:{number}") for number in range(count)]


REFUSED_SUMS = [
    pytest.param({"roster": peers(1)}, "secure_sum.roster", id="one-merchant"),
    pytest.param({"roster": peers(MOST_IN_A_SUM + 1)}, "secure_sum.roster", id="too-many"),
    pytest.param({"roster": [*peers(4), peer("shop 3", "SHA256:x")]}, "a name twice", id="a-name-twice"),
    pytest.param({"roster": [*peers(4), peer("shop x", "SHA256:3")]}, "a key twice", id="a-key-twice"),
    pytest.param({"roster": [*peers(4), peer("", "SHA256:x")]}, "secure_sum.roster.name", id="no-name"),
    pytest.param({"roster": [*peers(4), peer("x" * 81, "SHA256:x")]}, "secure_sum.roster.name", id="a-long-name"),
    pytest.param({"roster": [*peers(4), peer("x", "")]}, "secure_sum.roster.key", id="no-key"),
    pytest.param({"roster": [*peers(4), peer("x", "y" * 81)]}, "secure_sum.roster.key", id="a-long-key"),
    pytest.param({"roster": [*peers(4), {"name": "x"}]}, "missing key plan.secure_sum.roster", id="a-key-missing"),
    pytest.param({"roster": "shop"}, "secure_sum.roster", id="text"),
    pytest.param({"dishonest": -1}, "secure_sum.dishonest", id="fewer-than-none"),
    pytest.param({"dishonest": 4}, "secure_sum.dishonest", id="all-the-others"),
    pytest.param({"dishonest": 3}, "server.min_completions", id="three-of-five-and-four-left"),
    pytest.param({"dishonest": True}, "secure_sum.dishonest", id="a-truth-value"),
    pytest.param({"rounds_per_block": 0}, "secure_sum.rounds_per_block", id="no-rounds"),
    pytest.param({"rounds_per_block": 257}, "secure_sum.rounds_per_block", id="too-many-rounds"),
    pytest.param({"seed": 1}, "unknown key plan.secure_sum.seed", id="a-seed"),
]


@pytest.mark.parametrize(("changes", "named"), REFUSED_SUMS)
def test_a_secure_sum_out_of_range_is_refused_and_its_key_named(changes, named):
    with pytest.raises(ConfigError) as caught:
        read_sum(sum_table(**changes))
    assert named in str(caught.value)


def allowed(merchants: int, dishonest: int, threshold: int) -> bool:
    """Whether there is such a plan."""
    whole = sum_table(roster=peers(merchants), dishonest=dishonest)
    try:
        read_sum({**whole, "server": {**whole["server"], "min_completions": threshold}})
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("n", range(2, 10))
def test_a_threshold_is_allowed_exactly_where_no_two_lists_of_survivors_can_both_be_complete(n):
    """Two lists of T share 2T - n merchants: more than m of them means that an honest one would have to answer both."""
    for m in range(n + 1):
        for threshold in range(1, n + 2):
            safe = 2 * threshold > n + m and m + 2 <= threshold <= n
            assert allowed(n, m, threshold) == safe, (m, threshold)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"algorithm": "fedavg"}, "fedsgd"),
        ({"server": tiny_server(min_completions=4, aggregation="median")}, "server.aggregation"),
        ({"server": tiny_server(min_completions=4, aggregation="trimmed_mean")}, "server.aggregation"),
        ({"dp": tiny_dp(noise_multiplier=math.nextafter(MOST_NOISE_IN_A_SUM, 1e9))}, "dp.noise_multiplier"),
        ({"dp": tiny_dp(noise_multiplier=0.009)}, "dp.noise_multiplier"),
        ({"dp": tiny_dp(noise_multiplier=1e-12)}, "dp.noise_multiplier"),
        ({"trust": "local"}, "secure_sum"),
        ({"secure_sum": None}, "secure_sum"),
    ],
    ids=["several-steps", "median", "trimmed-mean", "much-noise", "little-noise", "a-trace", "local", "no-roster"],
)
def test_a_secure_sum_is_of_one_step_and_adds_up_everything(changes, named):
    base = sum_plan(merchants=5, threshold=4)
    with pytest.raises(ConfigError, match=named):
        dataclasses.replace(base, **changes)


@pytest.mark.parametrize("noise", [0.0, 0.01, 1.0, 200.0])
def test_a_secure_sum_takes_noise_that_fits_whole_numbers_or_none(noise):
    base = sum_plan(merchants=5, threshold=4)
    plan = dataclasses.replace(base, dp=tiny_dp(noise_multiplier=noise))
    assert plan.event.noise_multiplier == noise


def test_a_task_of_a_secure_sum_is_charged_as_noise_that_is_shared():
    plan = sum_plan(merchants=5, threshold=4)
    assert plan.event == dataclasses.replace(plan.dp.event, shared=True)
    assert plan.events == (plan.event.times(plan.rounds),)
    assert tiny_plan().event == tiny_plan().dp.event


# --- delta (D40)


@pytest.mark.parametrize("customers", [2, 100, 4_000, 1_000_000])
def test_delta_may_be_the_declared_number_to_the_power_minus_1_1_and_no_more(customers):
    largest = customers**-1.1
    assert tiny_plan(declared_customers=customers, delta=largest).delta == largest
    with pytest.raises(ConfigError, match="declared_customers"):
        tiny_plan(declared_customers=customers, delta=math.nextafter(largest, 1))


# --- windows (D2)


@given(
    st.dates(dt.date(2000, 1, 1), dt.date(2030, 1, 1)),
    st.integers(1, 730),
    st.lists(st.integers(-100, 1_000), min_size=1, max_size=5, unique=True),
)
def test_a_label_window_that_reaches_into_the_holdout_is_refused(holdout, horizon, days_before):
    cutoffs = tuple(holdout - dt.timedelta(days=days) for days in days_before)
    features = dataclasses.replace(tiny_plan().features, horizon_days=horizon)
    label_days = {cutoff + dt.timedelta(days=i) for cutoff in cutoffs for i in (0, horizon - 1)}
    if max(label_days) < holdout:
        tiny_plan(cutoffs=cutoffs, holdout_start=holdout, features=features)
    else:
        with pytest.raises(ConfigError, match="before the holdout starts"):
            tiny_plan(cutoffs=cutoffs, holdout_start=holdout, features=features)
