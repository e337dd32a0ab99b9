import logging

import pytest
from flwr.app import ArrayRecord, Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode

from flower_edge.records import to_record, wire_from_record
from pp_model.protocol import Refusal, RefusalCode, Release, Task, Wire, task_from_wire
from server.aggregation import RejectionCode
from server.rounds import RunStoppedError, initial_state
from server.strategy import PurchasePowerStrategy, answers_by_node, connected_nodes
from simulations.grid import InProcessGrid
from tests.support.fake_merchants import TRAINABLE, filled, merchants_app
from tests.support.plans import tiny_plan, tiny_server

NODES = {11: {}, 12: {}, 13: {}}


def release(task: Task, value: float) -> Wire:
    return Release(task=task.fingerprint, update=filled(value)).to_wire()


def trained(answer, *, plan=None, nodes=NODES, on_round=None):
    """A whole run over fake merchants: the last state, and every round's outcome."""
    plan = plan or tiny_plan()
    outcomes = []
    strategy = PurchasePowerStrategy(
        plan=plan,
        state=initial_state(plan, filled(0.0)),
        trainable=TRAINABLE,
        record=lambda outcome, _: outcomes.append(outcome),
        save=lambda _: None,
    )
    with InProcessGrid(merchants_app(answer), node_configs=nodes, on_round=on_round) as grid:
        try:
            strategy.start(grid)
        except RunStoppedError as error:
            return strategy.state, outcomes, error
    return strategy.state, outcomes, None


def sent(nodes: list[int]) -> list[Message]:
    """Messages as a Grid leaves them: numbered."""
    with InProcessGrid(merchants_app(lambda *_: None), node_configs={}):
        messages = [Message(to_record(Wire(arrays={}, scalars={})), node, MessageType.TRAIN) for node in nodes]
    for message in messages:
        message.metadata.__dict__["_message_id"] = f"to-{message.metadata.dst_node_id}"
    return messages


def test_every_round_every_merchant_gets_the_plan_the_round_and_the_model():
    seen = []

    def answer(task, node):
        seen.append((task.round, node, task.plan, float(task.arrays["head.bias"][0])))
        return release(task, 1.0)

    state, _, _ = trained(answer)
    assert seen == [(number, node, tiny_plan(), number - 1.0) for number in (1, 2, 3) for node in NODES]
    assert state.arrays["head.bias"].tolist() == [3.0] * 3


def test_a_task_expires_with_its_round_and_asks_for_training_only():
    messages = []
    plan = tiny_plan(server=tiny_server(round_timeout_seconds=77.0))
    trained(lambda task, _: release(task, 1.0), plan=plan, on_round=lambda sent, _: messages.extend(sent))
    assert {(m.metadata.ttl, m.metadata.message_type) for m in messages} == {(77.0, "train")}
    assert [m.metadata.group_id for m in messages] == ["1"] * 3 + ["2"] * 3 + ["3"] * 3


def test_offenders_are_recorded_in_every_round_and_the_run_goes_on():
    def answer(task, node):
        if node == 12:
            raise RuntimeError("anna@example.com")
        return release(task, 1.0) if node == 11 else Refusal(task=task.fingerprint, code=RefusalCode.BUDGET).to_wire()

    state, outcomes, _ = trained(answer)
    assert state.round == 3
    assert [outcome.rejections for outcome in outcomes] == [{12: RejectionCode.ERROR}] * 3
    assert [outcome.refusals for outcome in outcomes] == [{13: RefusalCode.BUDGET}] * 3


def test_a_void_round_is_asked_again_as_the_identical_task():
    tasks = []

    def answer(task, node):
        tasks.append(task.fingerprint)
        broken = task.round == 2 and tasks.count(task.fingerprint) <= 3  # the first time that round 2 is played
        return release(task, float("nan") if broken else 1.0)

    state, outcomes, _ = trained(answer)
    assert [(outcome.round, outcome.void) for outcome in outcomes] == [(1, False), (2, True), (2, False), (3, False)]
    assert len(set(tasks)) == 3
    assert state.arrays["head.bias"].tolist() == [3.0] * 3


def test_three_void_rounds_in_a_row_end_the_run_where_the_model_stood():
    def answer(task, node):
        return release(task, 1.0 if task.round == 1 else float("inf"))

    state, outcomes, error = trained(answer)
    assert "round 2" in str(error)
    assert (state.round, state.arrays["head.bias"].tolist()) == (1, [1.0] * 3)
    assert [outcome.void for outcome in outcomes] == [False, True, True, True]


def test_nobody_is_asked_and_charged_while_too_few_are_connected():
    asked = []
    plan = tiny_plan(server=tiny_server(min_completions=4, round_timeout_seconds=0.001))
    _, outcomes, error = trained(lambda _, node: asked.append(node), plan=plan)
    assert asked == []
    assert [(outcome.cohort, outcome.void) for outcome in outcomes] == [(0, True)] * 3
    assert error is not None


def test_evaluation_is_never_asked_for():
    strategy = PurchasePowerStrategy(
        plan=tiny_plan(),
        state=initial_state(tiny_plan(), filled(0.0)),
        trainable=TRAINABLE,
        record=lambda *_: None,
        save=lambda _: None,
    )
    assert list(strategy.configure_evaluate(1, ArrayRecord(), None, None)) == []
    assert strategy.aggregate_evaluate(1, []) is None


def test_the_log_line_of_a_round_counts_and_names_nobody(caplog):
    with caplog.at_level(logging.INFO, logger="server"):
        trained(lambda task, node: release(task, 1.0 if node == 11 else 1e9), plan=tiny_plan(rounds=1))
    (record,) = [record for record in caplog.records if record.name == "server.strategy"]
    assert record.message == "round done"
    assert (record.cohort, record.completions, record.refusals, record.rejections) == (3, 1, 0, 2)


def test_replies_are_matched_to_the_message_and_not_to_the_node_they_name():
    asked = sent([13, 12, 11])
    link_down = Message(Error(ErrorCode.NODE_UNAVAILABLE), reply_to=asked[0])
    link_down.metadata.__dict__["_src_node_id"] = 1  # the link's own id
    answered = Message(to_record(Wire(arrays={}, scalars={"n": 12})), reply_to=asked[1])
    answers = dict(answers_by_node(asked, [answered, link_down]))
    assert list(answers) == [11, 12, 13]
    assert answers[11] is RejectionCode.NO_REPLY
    assert answers[12].scalars == {"n": 12}
    assert answers[13] is RejectionCode.ERROR


def test_second_replies_and_replies_to_nothing_are_dropped_and_logged(caplog):
    asked = sent([11])
    first, second = (Message(to_record(Wire(arrays={}, scalars={"n": n})), reply_to=asked[0]) for n in (1, 2))
    stray = Message(to_record(Wire(arrays={}, scalars={"n": 3})), reply_to=sent([12])[0])
    answers = dict(answers_by_node(asked, [stray, first, second]))
    assert {node: answer.scalars for node, answer in answers.items()} == {11: {"n": 1}}
    assert [record.message for record in caplog.records] == ["stray reply dropped"] * 2


def test_a_reply_with_other_records_is_malformed():
    asked = sent([11])
    assert dict(answers_by_node(asked, [Message(RecordDict(), reply_to=asked[0])])) == {11: RejectionCode.MALFORMED}


def test_replies_are_summed_in_the_order_of_the_nodes_whatever_order_they_came_in():
    asked = sent([11, 12, 13])
    replies = [Message(to_record(Wire(arrays={}, scalars={})), reply_to=message) for message in asked]
    assert [node for node, _ in answers_by_node(asked, replies[::-1])] == [11, 12, 13]


class Arrivals:
    """A Grid's node list in which one more node is there each second, and the clock that goes with it."""

    def __init__(self):
        self.now = 0.0

    def get_node_ids(self):
        return range(int(self.now), 0, -1)

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.mark.parametrize(("timeout", "nodes"), [(60.0, [1, 2, 3]), (3.0, [1, 2, 3]), (2.0, [])])
def test_the_wait_for_merchants_ends_when_they_are_enough_or_the_time_is_over(timeout, nodes):
    arrivals = Arrivals()
    found = connected_nodes(arrivals, at_least=3, timeout=timeout, clock=arrivals.clock, sleep=arrivals.sleep)
    assert found == nodes
    assert arrivals.now == min(3.0, timeout)


def test_the_task_that_merchants_get_is_the_one_whose_fingerprint_is_expected():
    messages = []
    _, outcomes, _ = trained(
        lambda task, _: release(task, 1.0),
        plan=tiny_plan(rounds=1),
        on_round=lambda sent, _: messages.extend(sent),
    )
    task = task_from_wire(wire_from_record(messages[0].content))
    assert task.fingerprint == Task(plan=tiny_plan(rounds=1), round=1, arrays=filled(0.0)).fingerprint
    assert outcomes[0].completions == 3
