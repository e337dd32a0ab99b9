"""What every engine of a federated run must do, and that they agree: `in_process` is the reference.

`ray` starts processes; it is held to the same in tests/e2e.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simulations.federation
import simulations.many_merchants
from client.policy import Policy
from pp_model.accounting import epsilon_spent
from pp_model.errors import BadOrdersError, ConfigError
from pp_model.model import fresh_arrays, trainable_shapes
from pp_model.randomness import SystemSource
from pp_model.serialization import fingerprint
from server.registry import Registry
from server.rounds import RunStoppedError
from simulations.federation import Federated, engine_for, federate_by_engine, secrets_for
from simulations.planning import plan_of, policy_of
from simulations.scenario import Scenario, SyntheticSpec
from simulations.shops import open_market, source_of
from tests.support.shops import CANARY_TEXT, tiny_scenario

ENGINES = ("in_process", "vectorised")
MODULES = {"in_process": simulations.federation, "vectorised": simulations.many_merchants}
FEDAVG = {"algorithm": "fedavg", "steps_per_round": 3, "local_learning_rate": 0.1}
SMALL = {"hidden": (4,), "trainable": "all"}

every_engine = pytest.mark.parametrize("engine", ENGINES)


class MachineDownError(BaseException):
    """The one process of the simulation ends here."""


def federated(directory: Path, engine: str, scenario: Scenario | None = None, **how: Any) -> Federated:
    scenario = dataclasses.replace(scenario or tiny_scenario(), engine=engine)
    init = fresh_arrays(scenario.recipe.model, seed=0)
    shops = how.pop("shops", None) or open_market(scenario).shops
    fields = {"directory": directory, "secret_for": secrets_for(scenario), **how}
    return federate_by_engine(shops, plan_of(scenario, init), init, scenario, **fields)


def outcomes(directory: Path) -> list[tuple[int, int, int, bool, dict[str, int]]]:
    with Registry(directory / "platform" / "registry.sqlite") as registry:
        runs = [registry.rounds(run.id) for run in registry.run_records()]
    return [(r.round, r.cohort, r.completions, r.void, dict(r.refusals)) for rounds in runs for r in rounds]


def break_source_of(monkeypatch: pytest.MonkeyPatch, engine: str, wanted: str, *, times: int) -> None:
    """The orders of one merchant cannot be read the first `times` times."""
    failures = [0]

    def broken(log: Any, *, name: str) -> Any:
        source = source_of(log, name=name)
        return _Failing(source) if name == wanted else source

    class _Failing:
        def __init__(self, source: Any) -> None:
            self.source, self.place, self.contract = source, source.place, source.contract

        def read(self, window: Any) -> Any:
            failures[0] += 1
            if failures[0] <= times:
                raise BadOrdersError(CANARY_TEXT, place=CANARY_TEXT, line=7)
            return self.source.read(window)

    monkeypatch.setattr(MODULES[engine], "source_of", broken)


SCENARIOS = [
    pytest.param(tiny_scenario(), id="linear-fedsgd"),
    pytest.param(tiny_scenario(recipe=FEDAVG), id="linear-fedavg"),
    pytest.param(tiny_scenario(recipe={"encoder": "mlp", "hidden": (4,)}), id="mlp-readout"),
    pytest.param(tiny_scenario(recipe={**SMALL, "encoder": "mlp", **FEDAVG}), id="mlp-fedavg"),
    pytest.param(tiny_scenario(recipe={**SMALL, "encoder": "gru"}), id="gru"),
    pytest.param(tiny_scenario(recipe={**SMALL, "encoder": "transformer"}), id="transformer"),
    pytest.param(
        tiny_scenario(merchants=9, synthetic=SyntheticSpec(customers=400, days=300)), id="nine-merchants-of-many-sizes"
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_engines_agree_on_every_round_every_charge_and_to_float_precision_on_the_model(tmp_path, scenario):
    reference, other = (federated(tmp_path / engine, engine, scenario) for engine in ENGINES)
    assert other.spent == reference.spent
    assert (other.refusals, other.rejected) == (reference.refusals, reference.rejected)
    assert outcomes(tmp_path / "vectorised") == outcomes(tmp_path / "in_process")
    assert [number for number, _ in other.history] == [number for number, _ in reference.history]
    init = reference.history[0][1]
    for (_, mine), (_, theirs) in zip(other.history[1:], reference.history[1:], strict=True):
        for name in mine:
            moved = np.linalg.norm(theirs[name] - init[name])
            assert np.linalg.norm(mine[name] - theirs[name]) <= 1e-5 * moved, name
    assert fingerprint(reference.arrays) != fingerprint(init)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"encoders": ("gru",)}, "policy", id="policy"),
        pytest.param({"epsilon_budget": 0.01}, "policy", id="price-of-the-run"),
    ],
)
def test_the_engines_agree_on_who_refuses_and_why(tmp_path, monkeypatch, changes, code):
    def strict(scenario: Scenario) -> Policy:
        return dataclasses.replace(policy_of(scenario), **changes)

    for engine in ENGINES:
        monkeypatch.setattr(MODULES[engine], "policy_of", strict)
        with pytest.raises(RunStoppedError):
            federated(tmp_path / engine, engine)
        assert outcomes(tmp_path / engine) == [(1, 3, 0, True, {code: 3})] * 3


@every_engine
def test_a_merchant_whose_orders_cannot_be_read_has_paid_and_says_a_code(tmp_path, monkeypatch, engine):
    break_source_of(monkeypatch, engine, "merchant-02", times=2)
    run = federated(tmp_path, engine)
    assert run.refusals == {"unavailable": 2}
    assert [len(events) for events in run.spent.values()] == [4, 4, 4]
    assert [completions for _, _, completions, _, _ in outcomes(tmp_path)] == [2, 2, 3, 3]


@every_engine
def test_every_ledger_is_charged_every_step_and_no_more_than_the_target(tmp_path, engine):
    scenario = tiny_scenario(recipe=FEDAVG)
    run = federated(tmp_path, engine, scenario)
    assert {sum(event.num_steps for event in events) for events in run.spent.values()} == {4 * 3}
    for events in run.spent.values():
        assert 0.97 * scenario.epsilon < epsilon_spent(events, delta=scenario.delta) <= scenario.epsilon


@every_engine
def test_a_spent_budget_is_refused_and_nothing_more_is_charged(tmp_path, engine):
    first = federated(tmp_path, engine)
    checkpoints, away = tmp_path / "platform" / "checkpoints", tmp_path / "away"
    checkpoints.rename(away)  # a platform that forgot the run, and asks for another plan
    with pytest.raises(RunStoppedError):
        federated(tmp_path, engine, tiny_scenario(recipe={"learning_rate": 0.01}))
    assert outcomes(tmp_path)[4:] == [(1, 3, 0, True, {"budget": 3})] * 3
    away.rename(checkpoints)
    assert federated(tmp_path, engine).spent == first.spent


@every_engine
@pytest.mark.parametrize("last", [1, 2, 4])
def test_a_run_interrupted_after_any_round_is_completed_with_one_charge_a_round(tmp_path, engine, last):
    def down(round_: int) -> None:
        if round_ == last:
            raise MachineDownError

    how = {"secret_for": lambda _: SystemSource()}  # what was sealed comes again, what was not is drawn afresh
    with pytest.raises(MachineDownError):
        federated(tmp_path, engine, on_round=down, **how)
    run = federated(tmp_path, engine, **how)
    assert [len(events) for events in run.spent.values()] == [4, 4, 4]
    assert [number for number, _ in run.history] == [0, 1, 2, 3, 4]


@every_engine
@pytest.mark.parametrize("call", [1, 4, 7, 12])
def test_a_run_interrupted_inside_any_merchants_step_is_completed_with_one_charge_a_round(tmp_path, engine, call):
    calls = [0]

    class DyingSource(SystemSource):
        def uniform(self, size):
            calls[0] += 1
            if calls[0] == call:
                raise MachineDownError
            return super().uniform(size)

    with pytest.raises(MachineDownError):
        federated(tmp_path, engine, secret_for=lambda _: DyingSource())
    run = federated(tmp_path, engine)
    assert [len(events) for events in run.spent.values()] == [4, 4, 4]


@every_engine
def test_a_platform_that_lost_the_last_round_gets_the_same_model(tmp_path, engine):
    how = {"secret_for": lambda _: SystemSource()}
    first = federated(tmp_path, engine, **how)
    checkpoints = tmp_path / "platform" / "checkpoints"
    (checkpoints / "round-000004.safetensors").unlink()
    shutil.rmtree(checkpoints / "watch")  # it keeps the last good state
    second = federated(tmp_path, engine, **how)
    assert fingerprint(second.arrays) == fingerprint(first.arrays)
    assert second.spent == first.spent


@every_engine
def test_a_seeded_run_repeats_to_the_last_bit_and_another_seed_does_not(tmp_path, engine):
    shops = open_market(tiny_scenario()).shops
    runs = [federated(tmp_path / str(n), engine, tiny_scenario(seed=n // 2), shops=shops) for n in (0, 1, 2)]
    assert fingerprint(runs[0].arrays) == fingerprint(runs[1].arrays) != fingerprint(runs[2].arrays)


@every_engine
def test_a_release_has_what_the_spec_trains_and_nothing_else(tmp_path, engine):
    scenario = tiny_scenario(recipe={"encoder": "mlp", "hidden": (4,)})
    run = federated(tmp_path, engine, scenario)
    init = run.history[0][1]
    changed = {name for name in init if (run.arrays[name] != init[name]).any()}
    assert changed == set(trainable_shapes(scenario.recipe.model))


@pytest.mark.parametrize(("first", "second"), [ENGINES, ENGINES[::-1]], ids=ENGINES)
def test_a_run_is_not_continued_by_an_engine_that_would_not_find_its_ledgers(tmp_path, first, second):
    federated(tmp_path, first)
    with pytest.raises(ConfigError, match=f"another engine than {second}"):
        federated(tmp_path, second)


def test_by_default_the_merchants_are_trained_together_where_that_is_possible():
    scenario = tiny_scenario()
    init = fresh_arrays(scenario.recipe.model, seed=0)
    plan = plan_of(scenario, init)
    assert engine_for(scenario, plan, init) == "vectorised"
    assert engine_for(tiny_scenario(device="meta"), plan, init) == "in_process"
    for engine in ("in_process", "ray"):
        assert engine_for(tiny_scenario(engine=engine, device="meta"), plan, init) == engine
    with pytest.raises(ConfigError, match="device meta; choose --engine in_process"):
        engine_for(tiny_scenario(engine="vectorised", device="meta"), plan, init)


def test_a_model_with_an_unknown_layer_is_run_in_process(monkeypatch):
    scenario = tiny_scenario()
    init = fresh_arrays(scenario.recipe.model, seed=0)
    plan = plan_of(scenario, init)
    monkeypatch.setattr("pp_model.stacked.networks._BUILDERS", {})
    assert engine_for(scenario, plan, init) == "in_process"
    with pytest.raises(ConfigError, match="the layer Readout"):
        engine_for(tiny_scenario(engine="vectorised"), plan, init)
