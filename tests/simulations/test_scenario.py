"""Checklist: D27.

A scenario is a file, flags on top of it, and nothing that is silently ignored.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pp_model.config import from_mapping, to_mapping
from pp_model.errors import ConfigError
from pp_model.randomness import SystemSource
from server.recipe import Recipe
from simulations.federation import secrets_for
from simulations.scenario import (
    BASELINES,
    OrdersSpec,
    Scenario,
    SyntheticSpec,
    load_scenario,
    merged,
    resolve,
    shipped_scenarios,
)
from simulations.seeded import SeededSource


def table(**changes: Any) -> dict[str, Any]:
    """A small synthetic scenario as a TOML file would give it, with `changes`."""
    return {
        "name": "tiny",
        "merchants": 2,
        "cutoff": "2024-06-01",
        "horizon_days": 28,
        "epsilon": 3.0,
        "synthetic": {"customers": 100, "days": 400},
        **changes,
    }


# --- what the file says


@pytest.mark.parametrize("name", sorted(shipped_scenarios()))
def test_every_shipped_scenario_is_valid_and_says_what_it_is(name):
    scenario = load_scenario(name, {})
    assert scenario.name == name
    assert scenario.synthetic is not None
    assert len(shipped_scenarios()[name]) > 20


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"epsilonn": 1.0}, "epsilonn"),
        ({"recipe": {"noise": 1.0}}, "recipe.noise"),
        ({"recipe": {"encoder": "lstm"}}, "recipe.encoder"),
        ({"recipe": 3}, "recipe"),
        ({"synthetic": {"customers": 100}}, "synthetic.days"),
        ({"synthetic": {"customers": 100, "days": 9, "seed": 1}}, "synthetic.seed"),
        ({"synthetic": None, "orders": {"file": "x.csv", "contract": {"colums": {}}}}, "orders.contract.colums"),
        ({"baselines": ["oracle"]}, "baselines"),
        ({"cutoff": "June"}, "cutoff"),
        ({"epsilon": "3"}, "epsilon"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": math.nan}, "epsilon"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 1.0}, "delta"),
        ({"delta": math.nan}, "delta"),
        ({"engine": "quick"}, "engine"),
        ({"merchants": 0}, "merchants"),
        ({"merchants": 2.0}, "merchants"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_key_that_is_unknown_missing_or_out_of_range_is_named(changes, key):
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        resolve(table(**changes))


@pytest.mark.parametrize("engine", ["auto", "in_process", "vectorised", "ray"])
def test_a_scenario_names_its_engine_and_by_default_leaves_it_open(engine):
    assert resolve(table(engine=engine)).engine == engine
    assert resolve(table()).engine == "auto"


@pytest.mark.parametrize("key", ["name", "merchants", "cutoff", "horizon_days", "epsilon"])
def test_nothing_that_costs_privacy_or_decides_the_run_has_a_default(key):
    without = table()
    del without[key]
    with pytest.raises(ConfigError, match=f"missing key {key}"):
        resolve(without)


@pytest.mark.parametrize("changes", [{"orders": {"file": "x.csv"}}, {"synthetic": None}], ids=["both", "neither"])
def test_a_scenario_has_either_orders_or_synthetic_shops(changes):
    with pytest.raises(ConfigError, match=r"\[orders\] or \[synthetic\]"):
        resolve(table(**changes))


def test_a_scenario_is_its_own_plain_form():
    scenario = resolve(table(recipe={"encoder": "gru"}, baselines=list(BASELINES)))
    assert from_mapping(Scenario, to_mapping(scenario)) == scenario


# --- flags on top


def test_overrides_win_over_the_file_and_leave_the_rest():
    plain = load_scenario("demo", {})
    scenario = load_scenario("demo", {"epsilon": 1.0, "synthetic": {"customers": 50}, "recipe": {"rounds": 3}})
    assert scenario.synthetic == replace(plain.synthetic, customers=50)
    assert scenario == replace(plain, epsilon=1.0, synthetic=scenario.synthetic, recipe=replace(plain.recipe, rounds=3))


def test_an_unknown_override_is_named():
    with pytest.raises(ConfigError, match=r"recipe\.round;|recipe\.round\b"):
        load_scenario("demo", {"recipe": {"round": 3}})


def slow_merged(file: Any, flags: Any) -> Any:
    """Where both have a table, key by key; anywhere else the flag, if there is one."""
    if not (isinstance(file, dict) and isinstance(flags, dict)):
        return flags
    keys = [*file, *(key for key in flags if key not in file)]
    return {
        key: file[key] if key not in flags else flags[key] if key not in file else slow_merged(file[key], flags[key])
        for key in keys
    }


trees = st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner), max_leaves=6)
tables = st.dictionaries(st.sampled_from("abc"), trees)


@given(tables, tables)
def test_merging_is_key_by_key_and_the_flag_wins(file, flags):
    assert merged(file, flags) == slow_merged(file, flags)


def test_merging_leaves_both_tables_as_they_were():
    file, flags = {"recipe": {"rounds": 1}}, {"recipe": {"rounds": 2}}
    merged(file, flags)
    assert (file, flags) == ({"recipe": {"rounds": 1}}, {"recipe": {"rounds": 2}})


# --- fedavg


def test_fedavg_brings_its_own_defaults():
    recipe = resolve(table(recipe={"algorithm": "fedavg"})).recipe
    assert recipe == replace(Recipe(), algorithm="fedavg", **Recipe.fedavg())
    assert recipe.steps_per_round > 1


def test_what_is_written_wins_over_the_defaults_of_fedavg():
    recipe = resolve(table(recipe={"algorithm": "fedavg", "rounds": 7})).recipe
    assert recipe == replace(Recipe(), algorithm="fedavg", **{**Recipe.fedavg(), "rounds": 7})


def test_fedavg_asked_for_by_flag_brings_its_defaults_too():
    assert load_scenario("demo", {"recipe": {"algorithm": "fedavg"}}).recipe.rounds == Recipe.fedavg()["rounds"]


# --- files


def test_an_unknown_scenario_is_answered_with_those_that_ship():
    with pytest.raises(ConfigError, match="demo"):
        load_scenario("no-such", {})


def test_a_file_that_is_not_toml_is_refused_without_its_content(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("ann@example.com = = 3")
    with pytest.raises(ConfigError, match="not a readable TOML file") as caught:
        load_scenario(str(path), {})
    assert "ann@example.com" not in str(caught.value)


def test_a_file_of_ones_own_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\nmerchants = 3\ncutoff = 2024-06-01\nhorizon_days = 28\nepsilon = inf\n'
        '[orders]\nfile = "orders.csv"\n[orders.contract.columns]\ncustomer_id = "Customer"\n'
    )
    scenario = load_scenario(str(path), {})
    assert scenario.cutoff == dt.date(2024, 6, 1)
    assert scenario.orders.contract.columns == {"customer_id": "Customer"}
    assert not scenario.private


# --- secrets (D27)


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize("epsilon", [0.5, math.inf])
def test_noise_for_real_orders_comes_from_the_operating_system_whatever_the_scenario_says(seed, epsilon):
    scenario = resolve(table(synthetic=None, orders={"file": "x.csv"}, seed=seed, epsilon=epsilon))
    source = secrets_for(scenario)
    assert type(source("bakery")) is SystemSource
    assert type(source("bakery")) is SystemSource


def test_noise_for_made_up_customers_repeats_with_the_seed_and_differs_between_shops():
    scenario = resolve(table(seed=3))
    one, same, other = secrets_for(scenario), secrets_for(scenario), secrets_for(replace(scenario, seed=4))
    drawn = [source(name).uniform(4).tolist() for source in (one, same, other) for name in ("bakery", "florist")]
    assert type(one("bakery")) is SeededSource
    assert drawn[:2] == drawn[2:4]
    assert len({tuple(numbers) for numbers in drawn}) == 4


def test_specs_are_frozen():
    for spec in (OrdersSpec(file="x"), SyntheticSpec(customers=1, days=1), Recipe()):
        with pytest.raises(AttributeError):
            spec.file = "y"
