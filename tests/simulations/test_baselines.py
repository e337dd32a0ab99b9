from pathlib import Path
from typing import Any

import pytest

from pp_model.model import fresh_arrays
from simulations.baselines import LABELS, run_baseline
from simulations.evaluate import Judge
from simulations.federation import federate, secrets_for
from simulations.planning import features_of, plan_of
from simulations.scenario import BASELINES, Scenario
from simulations.shops import Market, holdout, open_market
from tests.support.ledgers import entries
from tests.support.shops import tiny_scenario

EVERYBODY = {"sample_rate": 1.0}  # in every step, so that without noise there is nothing random left
FIGURES = ("gini", "spearman", "auc", "average_precision", "log_loss", "brier", "mae", "rmse", "decile_mape")


def everybody(**changes: Any) -> Scenario:
    return tiny_scenario(recipe=EVERYBODY, **changes)


def baseline(name: str, folder: Path, scenario: Scenario, market: Market | None = None) -> dict[str, Any]:
    market = market or open_market(scenario)
    judge = Judge(scenario.recipe.model, holdout(market, scenario, features_of(scenario)))
    init = fresh_arrays(scenario.recipe.model, seed=0)
    return run_baseline(name, market, judge, init, scenario, directory=folder)


def figures(result: dict[str, Any]) -> list[Any]:
    return [result[name] for name in FIGURES]


def test_there_is_a_label_for_every_baseline_one_can_ask_for():
    assert set(LABELS) == set(BASELINES)


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_has_every_figure_over_all_and_by_merchant_and_says_what_it_is(tmp_path, name):
    result = baseline(name, tmp_path, tiny_scenario())
    assert result["label"] == LABELS[name]
    assert set(FIGURES) < set(result)
    assert all(set(FIGURES) < set(figures) for figures in result["merchants"].values())
    assert sorted(result["merchants"]) == ["merchant-01", "merchant-02", "merchant-03"]


@pytest.mark.parametrize("name", ["local_only", "central_non_private", "fedavg_non_private"])
def test_what_is_trained_without_privacy_is_labelled_so(name):
    assert "without privacy" in LABELS[name]


def test_the_central_baseline_is_called_what_no_merchant_could_do():
    assert "no merchant could do this" in LABELS["central_non_private"]


@pytest.mark.parametrize("name", BASELINES)
def test_no_baseline_touches_the_ledger_of_a_merchant(tmp_path, name):
    scenario = tiny_scenario()
    market, init = open_market(scenario), fresh_arrays(scenario.recipe.model, seed=0)
    plan = plan_of(scenario, init)
    federate(market.shops, plan, init, scenario, directory=tmp_path, secret_for=secrets_for(scenario))
    ledgers = sorted((tmp_path / "merchants").glob("*.ledger"))
    before = [entries(path) for path in ledgers]
    baseline(name, tmp_path, scenario, market)
    assert [entries(path) for path in ledgers] == before
    assert sorted((tmp_path / "merchants").glob("*.ledger")) == ledgers


@pytest.mark.parametrize("name", ["local_only", "central_non_private"])
def test_a_baseline_without_messages_charges_nothing_anywhere(tmp_path, name):
    scenario = tiny_scenario()
    baseline(name, tmp_path, scenario)
    assert not list(tmp_path.rglob("*.ledger"))


def test_synthetic_shops_only_is_the_starting_point_as_it_is(tmp_path):
    scenario = tiny_scenario()
    market = open_market(scenario)
    judge = Judge(scenario.recipe.model, holdout(market, scenario, features_of(scenario)))
    expected = judge.together(judge.predict(fresh_arrays(scenario.recipe.model, seed=0)))
    result = baseline("synthetic_only", tmp_path, scenario, market)
    assert {name: result[name] for name in FIGURES} == {name: expected[name] for name in FIGURES}


def test_alone_a_merchant_learns_nothing_from_the_others(tmp_path):
    scenario = everybody()
    market = open_market(scenario)
    others = open_market(everybody(seed=1)).shops
    changed = {**market.shops, "merchant-03": others["merchant-03"]}
    first = baseline("local_only", tmp_path / "first", scenario, market)
    second = baseline("local_only", tmp_path / "second", scenario, Market(shops=changed, skipped={}, synthetic=True))
    for name in ("merchant-01", "merchant-02"):
        assert figures(first["merchants"][name]) == figures(second["merchants"][name])
    assert figures(first["merchants"]["merchant-03"]) != figures(second["merchants"]["merchant-03"])


def test_with_one_merchant_alone_and_all_in_one_place_are_the_same(tmp_path):
    scenario = everybody(merchants=1)
    alone, central = (baseline(name, tmp_path, scenario) for name in ("local_only", "central_non_private"))
    assert figures(alone) == figures(central)


def test_training_moves_every_baseline_but_the_synthetic_one(tmp_path):
    scenario = everybody()
    start, *trained = (
        figures(baseline(name, tmp_path, scenario))
        for name in ("synthetic_only", "local_only", "central_non_private", "fedavg_non_private")
    )
    assert all(result != start for result in trained)
    assert len({str(result) for result in trained}) == 3
