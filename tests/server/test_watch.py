import dataclasses
import math

import numpy as np
import pytest

from pp_model.errors import CheckpointError
from pp_model.model_spec import ModelSpec
from server.optimizer import ServerOptimizer
from server.public_check import PATIENCE
from server.rounds import RunStoppedError, TrainingState, initial_state
from server.starting_point import load_init
from server.watch import Watch
from tests.support.plans import tiny_plan

MLP = ModelSpec(encoder="mlp")
PLAN = tiny_plan(model=MLP, rounds=100)
INIT = load_init("default", MLP, seed=0)


def state_of(round: int, *, off: float = 0.0, plan=PLAN) -> TrainingState:
    """The starting point with all chances off by so many logits, and an optimiser that has taken that many steps."""
    bias = INIT["readout.linear.bias"] + np.float32([off, 0, 0])
    moved = {"readout.linear.bias": bias.astype(np.float32)}
    optimizer = ServerOptimizer(plan=plan.server, rounds=plan.rounds, steps=round, first=moved)
    return TrainingState(round=round, arrays={**INIT, **moved}, optimizer=optimizer)


def watch(folder, plan=PLAN) -> Watch:
    return Watch(plan, initial_state(plan, INIT), directory=folder)


def off_of(state: TrainingState) -> float:
    return round(float(state.arrays["readout.linear.bias"][0] - INIT["readout.linear.bias"][0]), 3)


COLLAPSED = 6.0


def test_a_run_that_stays_good_is_left_alone(tmp_path):
    watching = watch(tmp_path)
    for number in range(1, 8):
        state = state_of(number, off=0.1)
        assert watching.after(state) is state
        assert watching.final(state) is state


def collapse(watching, first: int) -> TrainingState:
    """The state after the last of as many collapsed rounds as patience bears."""
    for number in range(first, first + PATIENCE - 1):
        state = state_of(number, off=COLLAPSED)
        assert watching.after(state) is state
    return watching.after(state_of(first + PATIENCE - 1, off=COLLAPSED))


def test_a_collapsed_model_is_put_back_to_the_last_good_one_and_the_round_goes_on(tmp_path):
    watching = watch(tmp_path)
    watching.after(state_of(1, off=0.1))
    watching.after(state_of(2, off=0.2))
    back = collapse(watching, 3)
    assert (back.round, off_of(back)) == (2 + PATIENCE, 0.2)
    assert (back.optimizer.steps, back.optimizer.first) == (0, {})


def test_before_any_good_round_the_starting_point_is_the_last_good_model(tmp_path):
    assert off_of(collapse(watch(tmp_path), 1)) == 0.0


def test_the_second_collapse_stops_the_run_and_says_where_the_model_stands(tmp_path):
    watching = watch(tmp_path)
    watching.after(state_of(4, off=0.1))
    back = collapse(watching, 5)
    with pytest.raises(RunStoppedError, match=rf"round 20: .* stands as after round {back.round}\. .*norm_filter"):
        collapse(watching, 21 - PATIENCE)


def test_after_a_stop_a_new_run_goes_on_from_the_good_model_and_bears_as_much_again(tmp_path):
    watching = watch(tmp_path)
    watching.after(state_of(4, off=0.1))
    collapse(watching, 5)
    with pytest.raises(RunStoppedError):
        collapse(watching, 11)
    again = watch(tmp_path)
    resumed = again.resumed(state_of(9, off=COLLAPSED))  # the last checkpoint: of a round before the stop
    assert (resumed.round, off_of(resumed)) == (10 + PATIENCE, 0.1)
    assert off_of(collapse(again, 20)) == 0.1


def test_a_model_that_is_no_number_is_put_back_at_once(tmp_path):
    broken = dataclasses.replace(state_of(1), arrays={**INIT, "readout.linear.bias": np.full(3, np.nan, np.float32)})
    assert off_of(watch(tmp_path).after(broken)) == 0.0


@pytest.mark.parametrize("bad", range(1, PATIENCE))
def test_a_run_that_is_resumed_among_bad_rounds_goes_on_counting(tmp_path, bad):
    watching = watch(tmp_path)
    watching.after(state_of(1, off=0.1))
    for number in range(2, 2 + bad):
        watching.after(state_of(number, off=COLLAPSED))
    again = watch(tmp_path)
    last = state_of(1 + bad, off=COLLAPSED)
    assert again.resumed(last) is last
    for number in range(2 + bad, 1 + PATIENCE):
        assert off_of(again.after(state_of(number, off=COLLAPSED))) == COLLAPSED
    assert off_of(again.after(state_of(1 + PATIENCE, off=COLLAPSED))) == 0.1


def test_who_crashed_after_the_model_was_put_back_resumes_from_there_and_not_from_the_collapsed_one(tmp_path):
    watching = watch(tmp_path)
    watching.after(state_of(1, off=0.1))
    back = collapse(watching, 2)
    resumed = watch(tmp_path).resumed(state_of(back.round - 1, off=COLLAPSED))
    assert (resumed.round, off_of(resumed)) == (back.round, 0.1)


def test_a_run_that_ends_among_bad_rounds_publishes_the_last_good_model(tmp_path):
    watching = watch(tmp_path)
    watching.after(state_of(99, off=0.2))
    last = watching.after(state_of(100, off=COLLAPSED))
    assert (watching.final(last).round, off_of(watching.final(last))) == (100, 0.2)


@pytest.mark.parametrize("text", ["", "{}", '{"round": null}', "[1]"])
def test_a_damaged_memory_is_an_error_that_says_what_to_do(tmp_path, text):
    watch(tmp_path).after(state_of(1))
    (tmp_path / "guard.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"guard\.json is damaged; restore"):
        watch(tmp_path)


def test_the_memory_of_another_plan_is_refused(tmp_path):
    watch(tmp_path).after(state_of(1))
    with pytest.raises(CheckpointError, match="another plan"):
        watch(tmp_path, plan=dataclasses.replace(PLAN, plan_id="another"))


def test_what_is_remembered_holds_figures_and_no_array(tmp_path):
    watch(tmp_path).after(state_of(1))
    text = (tmp_path / "guard.json").read_text()
    assert len(text) < 200
    assert not math.isnan(float(text.split('"best_log_loss": ')[1].split(",")[0]))
