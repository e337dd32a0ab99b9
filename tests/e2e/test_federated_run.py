"""`pp-sim run` on a small orders file: a real process, real ledgers, real files."""

import json
from pathlib import Path

import pytest

from pp_model.accounting import PrivacyEvent, epsilon_spent
from tests.support.pp_sim import ROUNDS, charged_events, pp_sim, run_arguments, write_orders

pytestmark = pytest.mark.e2e

FIGURES = {"gini", "spearman", "auc", "average_precision", "log_loss", "brier", "mae", "rmse", "decile_mape"}
KEYS = FIGURES | {
    *("epsilon", "delta", "epsilon_two_merchants", "noise_multiplier", "sample_rate", "rounds", "steps_per_round"),
    *("seconds", "parameters", "config", "versions", "merchants", "baselines"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    orders = write_orders(folder)
    baselines = ("--baseline", "local_only", "--baseline", "synthetic_only")
    done = pp_sim(*run_arguments(folder, orders), *baselines)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "out"


def test_the_result_has_every_key_that_was_promised(finished):
    result = json.loads((finished / "result.json").read_text())
    assert KEYS - set(result) == set()
    assert sorted(result["merchants"]) == ["shop 1", "shop 2", "shop 3"]
    assert all(set(figures) >= FIGURES for figures in result["merchants"].values())
    assert sorted(result["baselines"]) == ["local_only", "synthetic_only"]
    assert all({*FIGURES, "label"} <= set(figures) for figures in result["baselines"].values())


def test_the_result_says_what_was_asked_for_and_where_the_noise_came_from(finished):
    result = json.loads((finished / "result.json").read_text())
    assert (result["rounds"], result["steps_per_round"], result["delta"]) == (ROUNDS, 1, 1e-3)
    assert result["config"]["epsilon"] == 3.0
    assert result["noise_source"] == "operating system"
    assert (result["refusals"], result["rejected"]) == ({}, {})


def test_the_epsilon_of_the_result_is_that_of_the_ledgers_and_within_the_target(finished):
    result = json.loads((finished / "result.json").read_text())
    ledgers = charged_events(finished)
    mechanism = PrivacyEvent(
        sample_rate=result["sample_rate"], noise_multiplier=result["noise_multiplier"], num_steps=1
    )
    assert ledgers == [[mechanism] * ROUNDS] * 3
    assert result["epsilon"] == epsilon_spent(ledgers[0], delta=1e-3) <= 3.0
    assert result["epsilon_two_merchants"] == epsilon_spent(ledgers[0] * 2, delta=1e-3) > result["epsilon"]


def test_the_report_is_one_page_with_the_privacy_statement(finished):
    page = (finished / "report.html").read_text()
    assert "one customer of one merchant" in page
    assert "delta" in page


def test_a_finished_run_is_not_overwritten_unasked(finished, tmp_path):
    before = (finished / "result.json").read_bytes()
    done = pp_sim(*run_arguments(finished.parent, finished.parent / "orders.csv"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert (finished / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(("--cutoff", "2033-13-01"), "cutoff", id="date"),
        pytest.param(("--epsilon", "0"), "epsilon", id="epsilon"),
        pytest.param(("--column", "customer_id=nowhere"), "nowhere", id="column"),
        pytest.param(("--merchants", "99"), "merchants", id="merchants"),
    ],
)
def test_bad_input_is_exit_code_2_and_a_sentence(tmp_path, change, says):
    done = pp_sim(*run_arguments(tmp_path, write_orders(tmp_path)), *change)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_without_privacy_the_result_says_inf(tmp_path):
    done = pp_sim(*run_arguments(tmp_path, write_orders(tmp_path)), "--epsilon", "inf")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["epsilon"], result["noise_multiplier"]) == ("inf", 0.0)
    assert "NO PRIVACY" in (tmp_path / "out" / "report.html").read_text().upper()


def test_fedavg_with_several_local_steps_and_noise_is_charged_for_all_of_them(tmp_path):
    arguments = run_arguments(tmp_path, write_orders(tmp_path), algorithm="fedavg", steps_per_round=3)
    done = pp_sim(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    ledgers = charged_events(tmp_path / "out")
    assert [sum(event.num_steps for event in events) for events in ledgers] == [3 * ROUNDS] * 3
    assert all(epsilon_spent(events, delta=1e-3) <= 3.0 for events in ledgers)
