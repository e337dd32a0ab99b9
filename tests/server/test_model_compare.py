"""Two models side by side: only what is public or was released, and no number where there is none."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from daemons.exit_codes import Exit
from pp_model.errors import ConfigError
from pp_model.serialization import from_safetensors
from server.model_compare import Difference, compare_models, plan_differences
from server.registry import Registry
from server.rollback import roll_back
from tests.support.plans import tiny_dp, tiny_plan, tiny_server
from tests.support.platform import new_platform, pp_server
from tests.support.published import VERDICT, publish
from tests.support.sum_town import sum_plan


@pytest.fixture
def home(tmp_path, capsys):
    made = new_platform(tmp_path / "p")
    publish(made, "may")
    publish(made, "june", parent=1, dp=tiny_dp(sample_rate=0.05, noise_multiplier=1.75))
    capsys.readouterr()
    return made


def compared(home, first=1, second=2):
    with Registry(home.registry) as registry:
        return compare_models(registry, first, second)


def test_both_sides_say_where_they_come_from_what_they_cost_and_how_good_they_are(home):
    found = compared(home)
    assert (found.first.model.id, found.first.plan_id, found.first.lineage) == (1, "may", (1,))
    assert (found.second.model.id, found.second.plan_id, found.second.lineage) == (2, "june", (2, 1))
    assert [(side.rounds, side.merchants) for side in (found.first, found.second)] == [(2, 2)] * 2
    assert found.first.model.epsilon > found.second.model.epsilon
    assert (found.first.model.log_loss, found.first.model.spend_error) == (VERDICT.log_loss, VERDICT.spend_error)


def test_the_plans_differ_in_what_was_changed_and_in_nothing_else(home):
    assert compared(home).plan == (
        Difference(key="dp.noise_multiplier", first="1.5", second="1.75"),
        Difference(key="plan_id", first="may", second="june"),
    )


def test_a_difference_in_the_last_digit_and_a_part_that_one_plan_has_not_are_seen():
    close = plan_differences(tiny_plan(), tiny_plan(server=tiny_server(learning_rate=math.nextafter(1.0, 2.0))))
    assert close == (Difference(key="server.learning_rate", first="1.0", second="1.0000000000000002"),)
    assert plan_differences(tiny_plan(), tiny_plan()) == ()
    keys = {
        each.key: (each.first, each.second)
        for each in plan_differences(tiny_plan(), sum_plan(merchants=5, threshold=4))
    }
    assert keys["trust"] == ("local", "secure_sum")
    assert keys["secure_sum.dishonest"][0] == ""
    assert keys["secure_sum"] == ("None", "")


def test_the_distance_is_that_of_all_parameters(home):
    found = compared(home)
    with Registry(home.registry) as registry:
        files = [from_safetensors(Path(model.file).read_bytes())[0] for model in registry.models()]
    one, two = (np.concatenate([arrays[name].ravel() for name in sorted(arrays)]).astype(float) for arrays in files)
    assert found.distance.norm == pytest.approx(np.linalg.norm(two - one))
    assert found.distance.relative == pytest.approx(np.linalg.norm(two - one) / np.linalg.norm(one))
    assert math.hypot(*found.distance.arrays.values()) == pytest.approx(found.distance.norm)


def test_a_rollback_is_no_step_away_from_what_it_goes_back_to(home):
    roll_back(home, 1)
    found = compared(home, 1, 3)
    assert (found.distance.norm, found.distance.relative, found.plan) == (0.0, 0.0, ())
    assert found.second.lineage == (3, 1)


@pytest.mark.parametrize("change", ["gone", "changed"])
def test_of_a_file_that_is_not_the_published_one_no_distance_is_told(home, change):
    file = home.run_folder("june") / "model.safetensors"
    other = home.run_folder("may") / "model.safetensors"
    file.unlink() if change == "gone" else file.write_bytes(other.read_bytes())
    assert compared(home).distance is None


def test_models_of_other_shapes_have_no_distance(home):
    from pp_model.model_spec import ModelSpec

    other = publish(home, "july", model=ModelSpec(encoder="mlp", hidden=(7,)))
    assert compared(home, 1, other).distance is None


def test_a_model_that_is_not_there_is_named(home):
    with pytest.raises(ConfigError, match="no model 9; there are: 1, 2"):
        compared(home, 1, 9)


def test_the_command_shows_all_of_it(home, capsys):
    assert pp_server(home, "models", "compare", "1", "2") == Exit.DONE
    shown = capsys.readouterr().out
    for text in ("2 < 1", "dp.noise_multiplier", "0.6100", "apart"):
        assert text in shown
    assert pp_server(home, "models", "compare", "1", "2", "--json") == Exit.DONE
    found = json.loads(capsys.readouterr().out)
    assert found["second"]["lineage"] == [2, 1]
    assert found["plan"][0] == {"key": "dp.noise_multiplier", "first": "1.5", "second": "1.75"}
    assert set(found["distance"]) == {"norm", "relative", "arrays"}
    assert pp_server(home, "models", "compare", "1", "8") == Exit.BAD_INPUT
