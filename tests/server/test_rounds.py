import random
import tracemalloc

import numpy as np
import pytest

from pp_model.protocol import Refusal, RefusalCode, Release, Wire
from server import in_order
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
    return collect(answers.items(), cohort=list(answers), plan=plan, round=1, task=TASK, trainable=TRAINABLE)


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


@pytest.mark.parametrize("aggregation", ["norm_filter", "trimmed_mean", "median"])
@pytest.mark.parametrize("arrivals", [[*range(9)], [*range(9)][::-1]], ids=["in-order", "backwards"])
def test_who_is_far_longer_than_the_others_is_named_and_counts_as_no_completion(aggregation, arrivals):
    long, refuser, broken = 5, 2, 7
    updates = {node: filled(1.0 + node / 100) for node in range(9)} | {long: filled(200.0)}
    answers = {node: released(update) for node, update in updates.items()}
    answers |= {refuser: refused(RefusalCode.BUDGET), broken: Wire(arrays={}, scalars={})}
    outcome = collected([(node, answers[node]) for node in arrivals], cohort=range(9), aggregation=aggregation)
    assert list(outcome.rejections.items()) == [(long, RejectionCode.OUTLIER), (broken, RejectionCode.MALFORMED)]
    assert (outcome.cohort, outcome.completions) == (9, 6)
    assert 1.0 <= outcome.update["head.bias"].min() <= outcome.update["head.bias"].max() <= 1.1


def test_a_round_is_void_where_too_few_are_left_after_those_that_were_left_out():
    answers = {node: released(filled(1.0)) for node in range(5)} | {5: released(filled(200.0))}
    assert not played(answers, min_completions=5, aggregation="norm_filter").void
    assert played(answers, min_completions=6, aggregation="norm_filter").void


def test_the_norm_of_the_outcome_is_that_of_the_mean():
    outcome = played({1: released(filled(1.0)), 2: released(filled(-3.0))})
    assert outcome.norm == pytest.approx(3.0)  # nine values of -1


def test_the_plan_says_how_updates_are_aggregated():
    answers = {node: released(filled(value)) for node, value in enumerate([1.0, 2.0, 300.0])}
    assert played(answers, aggregation="median").update["head.bias"].tolist() == [2.0] * 3
    assert played(answers, aggregation="trimmed_mean").update["head.bias"].tolist() == [2.0] * 3
    assert played(answers).update["head.bias"].tolist() == [101.0] * 3


def collected(answers, *, cohort, shapes=TRAINABLE, **server) -> RoundOutcome:
    """The outcome of answers that come in this order, to those of the cohort that answer at all."""
    plan = tiny_plan(server=tiny_server(**server), update_clip_norm=1e20)
    return collect(answers, cohort=cohort, plan=plan, round=1, task=TASK, trainable=shapes)


ORDER_MATTERS = [0.1, 1e17, 3.0, -1e17, 0.7, -7.0, 2.0, 0.3]  # also where they are summed in float64


@pytest.mark.parametrize("never", [None, 0, 4, 7])
def test_whatever_order_answers_come_in_the_sum_is_in_the_order_of_the_cohort(never):
    answers = [(node, released(filled(value))) for node, value in enumerate(ORDER_MATTERS) if node != never]
    cohort = list(range(len(ORDER_MATTERS)))
    in_turn = collected(answers, cohort=cohort)
    for seed in range(30):
        shuffled = random.Random(seed).sample(answers, len(answers))
        outcome = collected(shuffled, cohort=cohort)
        assert outcome.update["head.bias"].tobytes() == in_turn.update["head.bias"].tobytes()
    backwards = collected(answers, cohort=cohort[::-1])
    assert backwards.update["head.bias"].tobytes() != in_turn.update["head.bias"].tobytes()


def test_who_does_not_answer_gave_no_reply_and_codes_are_listed_in_the_order_of_the_cohort():
    answers = [(4, refused(RefusalCode.BUDGET)), (3, Wire(arrays={}, scalars={})), (2, released(filled(1.0)))]
    answers.append((1, refused(RefusalCode.POLICY)))
    outcome = collected(answers, cohort=[5, 1, 2, 3, 4])
    assert list(outcome.refusals.items()) == [(1, RefusalCode.POLICY), (4, RefusalCode.BUDGET)]
    assert list(outcome.rejections.items()) == [(5, RejectionCode.NO_REPLY), (3, RejectionCode.MALFORMED)]
    assert (outcome.cohort, outcome.completions) == (5, 1)


LARGE = {"w": (2**16,)}


def peak_updates(merchants: int, *, aggregation="mean", order=range) -> float:
    """Most memory of a round of so many merchants, in updates."""
    arrivals = list(order(merchants))

    def answers():
        for node in arrivals:
            yield node, released(filled(float(node + 1), LARGE))

    tracemalloc.start()
    try:
        outcome = collected(answers(), cohort=range(merchants), shapes=LARGE, aggregation=aggregation)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert outcome.completions == merchants
    return peak / (4 * 2**16)


def test_a_thousand_merchants_take_the_memory_of_ten():
    few, many = peak_updates(10), peak_updates(1000)
    assert few < 7
    assert many < few + 1.5  # a little is kept of everyone: who, and not what


def test_the_measure_of_memory_sees_updates_that_are_kept():
    assert peak_updates(100, aggregation="median") > 100


def test_answers_in_the_worst_order_are_held_to_a_bound_and_all_count(monkeypatch):
    monkeypatch.setattr(in_order.InOrder.__init__, "__kwdefaults__", {"held_bytes": 5 * 4 * 2**16})
    few, many = (peak_updates(merchants, order=lambda n: range(n)[::-1]) for merchants in (20, 500))
    assert 5 < few < 12
    assert many < few + 1.5


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
