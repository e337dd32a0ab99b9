import hashlib
import math
from pathlib import Path

import numpy as np
import pytest

from pp_model.accounting import epsilon_spent
from pp_model.integer_sum import secure_epsilons
from pp_model.plan import TrainingPlan
from pp_model.serialization import fingerprint, from_safetensors
from server.model_card import model_card, publish_model
from server.registry import Registry
from tests.support.fake_merchants import random_arrays
from tests.support.plans import tiny_dp, tiny_plan
from tests.support.sum_town import sum_plan

PLAN = tiny_plan()
ARRAYS = random_arrays(1)


def card(plan=PLAN, *, merchants=5, parent=None) -> str:
    return model_card(plan, ARRAYS, merchants=merchants, parent=parent)


def printed_epsilon(text: str, who: str) -> float:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {who} |")]
    return float(line.split("|")[2])


@pytest.mark.parametrize(("who", "shops"), [("one merchant", 1), ("two merchants", 2)])
def test_the_card_states_epsilon_at_one_shop_and_at_two_never_rounded_down(who, shops):
    exact = epsilon_spent([PLAN.dp.event.times(PLAN.rounds * shops)], delta=PLAN.delta)
    assert exact <= printed_epsilon(card(), who) <= exact + 0.01


def test_the_card_names_unit_relation_and_delta():
    text = card()
    assert "one customer of one merchant" in text
    assert "adding or removing" in text
    assert "| 0.001 |" in text


def test_a_plan_without_noise_is_called_no_privacy_and_has_no_figure():
    text = card(tiny_plan(dp=tiny_dp(noise_multiplier=0.0)))
    assert "NO PRIVACY" in text
    assert "epsilon | delta" not in text


def test_a_plan_with_noise_is_not_called_no_privacy():
    assert "NO PRIVACY" not in card()


@pytest.mark.parametrize("use", ["credit decisions", "accusations of fraud", "automated prices"])
def test_the_card_says_what_the_model_is_not_for(use):
    assert use in card().split("**Not for**")[1].split("##")[0]


def test_the_card_carries_every_fingerprint_and_the_training():
    text = card(merchants=5, parent=41)
    for fact in (fingerprint(ARRAYS), PLAN.fingerprint, PLAN.init_fingerprint, "| Merchants | 5 |", "| 41 |"):
        assert fact in text
    assert "mlp, 9 parameters" in text
    assert "| Rounds | 3 of 1 step(s) |" in text


def test_a_published_model_is_a_file_a_card_and_a_line_in_the_registry(tmp_path):
    with Registry(tmp_path / "registry.sqlite") as registry:
        run = registry.start_run(PLAN, first_round=1)
        model = publish_model(tmp_path / "out", PLAN, ARRAYS, registry=registry, run=run, merchants=5, parent=None)
        (record,) = registry.models()
    data = Path(record.file).read_bytes()
    arrays, metadata = from_safetensors(data)
    assert record.id == model
    assert record.sha256 == hashlib.sha256(data).hexdigest()
    assert 0 < record.epsilon < record.epsilon_two_merchants < math.inf
    assert all(np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS)
    assert TrainingPlan.from_json(metadata["plan"]) == PLAN
    assert (tmp_path / "out" / "model_card.md").read_text() == card()


def test_the_card_of_a_secure_sum_says_whose_honesty_its_figures_rest_on_and_what_they_would_be_without():
    plan = sum_plan(merchants=5, threshold=4, dishonest=1)
    text = card(plan)
    own = math.ceil(100 * secure_epsilons(plan)["all_others"]) / 100
    assert "up to 5 merchants" in text
    assert "at least 3 were honest" in text
    assert f"would be {own:.2f} at delta {plan.delta:.3g}" in text
    assert "honest" not in card()
