import dataclasses
import json
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pp_model.features import FeatureSpec
from pp_model.model import fresh_arrays
from pp_model.model_spec import ModelSpec
from server.public_check import (
    GOOD_UP_TO,
    LOG_LOSS_MARGIN,
    PATIENCE,
    SPEND_ERROR_MARGIN,
    Finding,
    Guard,
    PublicCheck,
    Verdict,
    public_customers,
)
from server.starting_point import load_init

FEATURES = FeatureSpec(horizon_days=60)
MLP = ModelSpec(encoder="mlp")
BEST = Verdict(log_loss=0.5, spend_error=0.8)


def judge(arrays, *, model=MLP) -> Verdict:
    return PublicCheck(model, FEATURES).judge(arrays)


def changed(**arrays):
    return {**load_init("default", MLP, seed=0), **arrays}


def test_the_made_up_customers_are_the_same_whenever_they_are_made():
    first = public_customers(FEATURES)
    public_customers.cache_clear()
    again = public_customers(FEATURES)
    assert again is not first
    for field in dataclasses.fields(first):
        assert np.array_equal(getattr(first, field.name), getattr(again, field.name))


@pytest.mark.parametrize("horizon", [1, 28, 120])
def test_of_any_horizon_some_of_the_made_up_customers_buy_and_some_do_not(horizon):
    rows = public_customers(FeatureSpec(horizon_days=horizon, sequence_length=4))
    buyers = int((rows.spend_cents > 0).sum())
    assert len(rows) > 500
    assert min(buyers, len(rows) - buyers) >= 40


def test_a_model_that_saw_made_up_shops_is_better_than_one_that_saw_nothing_in_both_figures():
    trained, fresh = judge(load_init("default", MLP, seed=0)), judge(fresh_arrays(MLP, seed=0))
    assert fresh.log_loss == pytest.approx(math.log(2), abs=1e-6)
    assert trained.log_loss < 0.8 * fresh.log_loss
    assert trained.spend_error < 0.8 * fresh.spend_error


@pytest.mark.parametrize("model", [MLP, ModelSpec(encoder="mlp", trainable="all"), ModelSpec(encoder="linear")])
def test_equal_arrays_get_equal_verdicts_after_others_were_judged(model):
    one, other = load_init("default", model, seed=0), fresh_arrays(model, seed=1)
    check = PublicCheck(model, FEATURES)
    first = check.judge(one)
    assert check.judge(other) != first
    assert check.judge(one) == first


def test_the_two_figures_judge_two_different_faults():
    base = judge(changed())
    bias = changed()["readout.linear.bias"]
    wrong_chance = judge(changed(**{"readout.linear.bias": bias + np.float32([4, 0, 0])}))
    wrong_spend = judge(changed(**{"readout.linear.bias": bias + np.float32([0, 4, 0])}))
    assert wrong_chance.log_loss > base.log_loss + 1
    assert wrong_chance.spend_error == base.spend_error
    assert wrong_spend.spend_error > base.spend_error + 1
    assert wrong_spend.log_loss == base.log_loss


@pytest.mark.parametrize(
    ("name", "value"),
    [("readout.linear.weight", math.nan), ("readout.linear.bias", math.inf), ("encoder.layers.0.weight", 3e38)],
    ids=["nan", "infinity", "finite-and-its-norm-is-not"],
)
def test_a_model_that_gives_no_number_gets_infinite_figures(name, value):
    verdict = judge(changed(**{name: np.full_like(changed()[name], value)}))
    assert verdict == Verdict(log_loss=math.inf, spend_error=math.inf)


def test_a_verdict_on_the_default_model_takes_less_than_fifty_milliseconds():
    check, arrays = PublicCheck(MLP, FEATURES), changed()
    check.judge(arrays)
    began = time.process_time()
    for _ in range(10):
        check.judge(arrays)
    assert (time.process_time() - began) / 10 < 0.05


def risen(share: float) -> Verdict:
    """A verdict so many margins above `BEST`, in the log loss."""
    return dataclasses.replace(BEST, log_loss=BEST.log_loss + share * LOG_LOSS_MARGIN)


def played(shares, *, guard=None) -> tuple[Guard, list[Finding]]:
    """A guard after rounds with these rises, and what it found in each."""
    guard, found = guard or Guard(best=BEST), []
    for share in shares:
        guard, finding = guard.judged(risen(share), round=guard.round + 1)
        found.append(finding)
    return guard, found


@pytest.mark.parametrize(
    ("share", "finding"),
    [
        (-0.1, Finding.GOOD),
        (0.99 * GOOD_UP_TO, Finding.GOOD),
        (1.01 * GOOD_UP_TO, Finding.DOUBTFUL),
        (0.99, Finding.DOUBTFUL),
        (1.01, Finding.BAD),
    ],
)
def test_a_verdict_is_found_good_doubtful_or_bad_by_its_rise_in_margins(share, finding):
    assert played([share])[1] == [finding]


def test_either_figure_alone_can_be_bad():
    spend = dataclasses.replace(BEST, spend_error=BEST.spend_error + 1.01 * SPEND_ERROR_MARGIN)
    assert Guard(best=BEST).judged(spend, round=1)[1] is Finding.BAD


def test_only_bad_rounds_in_a_row_are_a_collapse():
    assert played([2.0] * PATIENCE)[1] == [Finding.BAD] * (PATIENCE - 1) + [Finding.COLLAPSED]
    interrupted = [*[2.0] * (PATIENCE - 1), 0.9] * 4
    assert Finding.COLLAPSED not in played(interrupted)[1]


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("figure", ["log_loss", "spend_error"])
def test_a_figure_that_is_no_number_is_a_collapse_at_once(figure, value):
    broken = dataclasses.replace(BEST, **{figure: value})
    guard, finding = Guard(best=BEST).judged(broken, round=1)
    assert finding is Finding.COLLAPSED
    assert guard.best == BEST


def test_the_rise_is_counted_from_the_best_so_far_and_not_from_the_start():
    guard, found = played([-1.0, 0.2])
    assert guard.best == risen(-1.0)
    assert found == [Finding.GOOD, Finding.BAD]


def test_a_round_that_is_judged_again_after_a_crash_counts_once():
    guard, _ = played([2.0])
    again, finding = guard.judged(risen(2.0), round=1)
    assert (again.bad, finding) == (1, Finding.BAD)


@given(st.lists(st.floats(-1, 3), max_size=12), st.integers(0, 12))
def test_a_guard_that_was_written_and_read_again_finds_what_it_would_have_found(shares, at):
    guard, before = played(shares[:at])
    text = json.dumps(guard.to_numbers())
    assert played(shares[at:], guard=Guard.from_numbers(json.loads(text))) == played(shares[at:], guard=guard)
    assert before + played(shares[at:], guard=guard)[1] == played(shares)[1]
