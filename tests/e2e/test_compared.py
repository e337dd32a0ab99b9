"""What the comparison says of each model is what the simulation says of it, over whole runs."""

import tempfile
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.compared import figures
from benchmarks.judged import ALONE, BGNBD, OURS, SHARED_READOUT, judged
from simulations.run import simulate
from tests.support.shops import tiny_scenario

pytestmark = pytest.mark.e2e


class Silent:
    """Nobody is told how far a run is."""

    def begin(self, phase, steps):
        return lambda _: None


def scenario_of(trust, **changes):
    return tiny_scenario(recipe={"trust": trust, "sample_rate": 1.0}, **changes)


def test_the_figures_of_each_model_are_those_of_the_simulation_and_nothing_stays_on_disk(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    found = judged(scenario_of("secure_sum"), central=True)
    assert not [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]
    private = simulate(scenario_of("secure_sum"), tmp_path / "private", Silent())
    others = simulate(scenario_of("local", baselines=("local_only",)), tmp_path / "others", Silent())
    expected = {
        OURS: private,
        SHARED_READOUT: private["shared_readout"],
        ALONE: others["baselines"]["local_only"],
    }
    for model, figures_of_run in expected.items():
        ours = figures(found.bought, found.buying[model][None])
        assert ours["log_loss"][0] == pytest.approx(figures_of_run["log_loss"], rel=1e-6)
        assert ours["auc"][0] == pytest.approx(figures_of_run["auc"], rel=1e-9)
    assert len(found.buying[BGNBD]) == private["customers"]
    assert len({tuple(np.round(each, 6)) for each in found.buying.values()}) == len(found.buying)


def test_another_seed_without_those_in_one_place_has_the_models_of_a_seed_alone():
    found = judged(replace(scenario_of("secure_sum"), seed=1), central=False)
    assert set(found.buying) == {OURS, SHARED_READOUT, ALONE}
    assert list(found.customer) == sorted(found.customer)
