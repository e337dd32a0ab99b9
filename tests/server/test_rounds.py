import numpy as np
import pytest

from pp_model.protocol import Refusal, RefusalCode, Release, Wire
from server.aggregation import RejectionCode
from server.rounds import RoundOutcome, RunStoppedError, apply_round, collect, initial_state
from tests.support.fake_merchants import TRAINABLE, filled
from tests.support.plans import tiny_plan, tiny_server

TASK = "a" * 64


def released(update, *, task=TASK) -> Wire:
    return Release(task=task, update=update).to_wire()


def refused(code: RefusalCode) -> Wire:
    return Refusal(task=TASK, code=code).to_wire()


def played(answers, *, min_completions=1, **server) -> RoundOutcome:
    plan = tiny_plan(server=tiny_server(min_completions=min_completions, **server))
    return collect(answers.items(), plan=plan, round=1, task=TASK, trainable=TRAINABLE)


OFFENDERS = [
    pytest.param(released(filled(float("nan"))), RejectionCode.NOT_FINITE, id="nan"),
    pytest.param(released({**filled(1.0), "head.bias": np.zeros(7, np.float32)}), RejectionCode.SHAPES, id="shape"),
    pytest.param(released({**filled(1.0), "extra": np.zeros(1, np.float32)}), RejectionCode.NAMES, id="extra-array"),
    pytest.param(released(filled(1e6)), RejectionCode.NORM, id="a-million-times-too-large"),
    pytest.param(released(filled(1.0), task="b" * 64), RejectionCode.WRONG_TASK, id="another-task"),
    pytest.param(Wire(arrays={}, scalars={}), RejectionCode.MALFORMED, id="empty-message"),
    pytest.param(Wire(arrays={}, scalars={"version": 2, "kind": "release"}), RejectionCode.MALFORMED, id="version-2"),
    pytest.param(
        Wire(arrays={}, scalars={**refused(RefusalCode.BUDGET).scalars, "code": "we have 312 customers"}),
        RejectionCode.MALFORMED,
        id="a-refusal-in-its-own-words",
    ),
    pytest.param(
        Wire(arrays=filled(1.0), scalars={**released({}).scalars, "num_examples": 312}),
        RejectionCode.MALFORMED,
        id="a-count-beside-the-release",
    ),
    pytest.param(RejectionCode.NO_REPLY, RejectionCode.NO_REPLY, id="no-reply"),
    pytest.param(RejectionCode.ERROR, RejectionCode.ERROR, id="an-error"),
]


@pytest.mark.parametrize(("answer", "code"), OFFENDERS)
def test_an_answer_that_cannot_be_used_is_recorded_and_moves_nothing(answer, code):
    outcome = played({1: released(filled(1.0)), 2: answer, 3: released(filled(3.0))})
    assert outcome.rejections == {2: code}
    assert (outcome.cohort, outcome.completions, outcome.void) == (3, 2, False)
    assert outcome.update["head.bias"].tolist() == [2.0] * 3


def test_an_update_of_zeros_which_no_noise_was_added_to_is_named():
    outcome = played({1: released(filled(0.0)), 2: released(filled(1.0))})
    assert (outcome.completions, outcome.rejections) == (1, {1: RejectionCode.ZERO})
    assert outcome.update["head.bias"].tolist() == [1.0] * 3


@pytest.mark.parametrize("code", list(RefusalCode))
def test_a_refusal_is_recorded_by_its_code_and_is_no_offence(code):
    outcome = played({7: refused(code), 8: released(filled(1.0))})
    assert (outcome.refusals, outcome.rejections, outcome.completions) == ({7: code}, {}, 1)


def test_the_norm_of_the_outcome_is_that_of_the_mean():
    outcome = played({1: released(filled(1.0)), 2: released(filled(-3.0))})
    assert outcome.norm == pytest.approx(3.0)  # nine values of -1


def test_the_plan_says_how_updates_are_aggregated():
    answers = {node: released(filled(value)) for node, value in enumerate([1.0, 2.0, 300.0])}
    assert played(answers, aggregation="median").update["head.bias"].tolist() == [2.0] * 3
    assert played(answers, aggregation="trimmed_mean").update["head.bias"].tolist() == [2.0] * 3
    assert played(answers).update["head.bias"].tolist() == [101.0] * 3


def test_a_round_moves_the_model_by_the_update():
    plan = tiny_plan()
    state = apply_round(initial_state(plan, filled(1.0)), played({1: released(filled(2.0))}))
    assert (state.round, state.voids) == (1, 0)
    assert state.arrays["head.bias"].tolist() == [3.0] * 3


@pytest.mark.parametrize(("releases", "void"), [(0, True), (1, True), (2, False)])
def test_below_the_minimum_of_completions_the_model_does_not_move(releases, void):
    answers = {node: released(filled(1.0)) for node in range(releases)} | {9: refused(RefusalCode.BUDGET)}
    outcome = played(answers, min_completions=2)
    before = initial_state(tiny_plan(), filled(5.0))
    after = apply_round(before, outcome)
    assert outcome.void is void
    assert (after.round, after.voids) == ((0, 1) if void else (1, 0))
    assert (after.arrays is before.arrays and after.optimizer is before.optimizer) is void


def test_the_third_void_round_in_a_row_stops_the_run():
    void, state = played({}, min_completions=1), initial_state(tiny_plan(), filled(0.0))
    state = apply_round(apply_round(state, void), void)
    with pytest.raises(RunStoppedError, match=r"round 1 had too few valid releases 3 times .* 0 of 0 asked"):
        apply_round(state, void)


def test_a_valid_round_forgets_the_void_ones_before_it():
    void, valid = played({}), played({1: released(filled(1.0))})
    state = initial_state(tiny_plan(), filled(0.0))
    for outcome in (void, void, valid, void, void):
        state = apply_round(state, outcome)
    assert (state.round, state.voids) == (1, 2)
