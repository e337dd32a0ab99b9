import logging
import threading
import time

import httpx
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.superlink.grid.http_grid import HttpGrid

from flower_edge.records import anchor_from_record, to_record, wire_from_record, with_anchor
from pp_model.protocol import Anchor, Refusal, RefusalCode, Release, Task, Wire, task_from_wire
from server.aggregation import RejectionCode
from server.rounds import RunStoppedError, initial_state
from server.strategy import PurchasePowerStrategy, answer_of, connected_nodes, first_replies
from simulations.grid import InProcessGrid
from tests.support.fake_merchants import TRAINABLE, filled, merchants_app
from tests.support.plans import tiny_plan, tiny_server

NODES = {11: {}, 12: {}, 13: {}}


def release(task: Task, value: float) -> Wire:
    return Release(task=task.fingerprint, update=filled(value)).to_wire()


def trained(answer, *, plan=None, nodes=NODES, on_round=None, app=None, **how):
    """A whole run over fake merchants: the last state, and every round's outcome."""
    plan = plan or tiny_plan()
    outcomes = []
    strategy = PurchasePowerStrategy(
        plan=plan,
        state=initial_state(plan, filled(0.0)),
        trainable=TRAINABLE,
        record=lambda outcome, _: outcomes.append(outcome),
        save=lambda _: None,
        **how,
    )
    with InProcessGrid(app or merchants_app(answer), node_configs=nodes, on_round=on_round) as grid:
        try:
            strategy.start(grid)
        except RunStoppedError as error:
            return strategy.state, outcomes, error
    return strategy.state, outcomes, None


def answers_by_node(asked, replies):
    return {node: answer_of(reply) for node, reply in first_replies(asked, replies)}


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
    answers = answers_by_node(asked, [answered, link_down])
    assert set(answers) == {13, 12}
    assert answers[12].scalars == {"n": 12}
    assert answers[13] is RejectionCode.ERROR


def test_second_replies_and_replies_to_nothing_are_dropped_and_logged(caplog):
    asked = sent([11])
    first, second = (Message(to_record(Wire(arrays={}, scalars={"n": n})), reply_to=asked[0]) for n in (1, 2))
    stray = Message(to_record(Wire(arrays={}, scalars={"n": 3})), reply_to=sent([12])[0])
    answers = answers_by_node(asked, [stray, first, second])
    assert {node: answer.scalars for node, answer in answers.items()} == {11: {"n": 1}}
    assert [record.message for record in caplog.records] == ["stray reply dropped"] * 2


def test_a_reply_with_other_records_is_malformed():
    asked = sent([11])
    assert answers_by_node(asked, [Message(RecordDict(), reply_to=asked[0])]) == {11: RejectionCode.MALFORMED}


def test_only_merchants_are_asked_in_the_order_of_their_names_and_looked_up_in_every_round():
    asked = []
    rounds = iter([{11: "violet", 12: "anchor", 99: "away"}, {13: "bakery", 11: "violet"}, {12: "anchor"}])

    def answer(task, node):
        asked.append((task.round, node))
        return release(task, 1.0)

    _, outcomes, _ = trained(answer, merchants=lambda: next(rounds))
    assert asked == [(1, 12), (1, 11), (2, 13), (2, 11), (3, 12)]
    assert [outcome.completions for outcome in outcomes] == [2, 2, 1]


def test_the_same_merchants_under_other_node_ids_train_the_same_model():
    """A simulation and a deployment: float addition depends on the order, and the order is that of the names."""
    values = {"anchor": 1e17, "bakery": 1.0, "cellar": -1e17}  # so far apart that it shows in float64 too
    plan = tiny_plan(update_clip_norm=1e20)

    def model(names):
        state, _, _ = trained(
            lambda task, node: release(task, values[names[node]]),
            plan=plan,
            nodes={node: {} for node in names},
            merchants=lambda: names,
        )
        return state.arrays["head.bias"].tobytes()

    first = model({11: "anchor", 12: "bakery", 13: "cellar"})
    assert model({31: "cellar", 32: "anchor", 33: "bakery"}) == first
    assert model({11: "bakery", 12: "cellar", 13: "anchor"}) == first


def test_too_few_approved_merchants_are_as_good_as_too_few_connected():
    asked = []
    plan = tiny_plan(server=tiny_server(min_completions=2, round_timeout_seconds=0.001))
    _, outcomes, _ = trained(lambda _, node: asked.append(node), plan=plan, merchants=lambda: {11: "bakery"})
    assert asked == []
    assert [outcome.void for outcome in outcomes] == [True] * 3


class Book:
    def __init__(self, known=()):
        self.anchors, self.writes = dict(known), []

    def known(self, node):
        return self.anchors.get(node)

    def seen(self, node, anchor):
        self.anchors[node] = anchor
        self.writes.append((node, anchor.seq))


def anchor(seq: int, *, ledger="a", entry="0") -> Anchor:
    return Anchor(ledger=ledger * 64, seq=seq, hash=entry * 64)


def anchored(back, *, known=(), rounds=1):
    """The anchors that node 11 was told, and the book, after a run in which it answers with `back(told)`."""
    told, book, app = [], Book(known), ClientApp()

    @app.train()
    def train(message, context):
        told.append(anchor_from_record(message.content))
        task = task_from_wire(wire_from_record(message.content))
        return Message(back(to_record(release(task, 1.0)), told[-1]), reply_to=message)

    trained(None, plan=tiny_plan(rounds=rounds), nodes={11: {}}, app=app, anchors=book)
    return told, book


def test_each_round_a_merchant_is_told_the_anchor_that_it_gave_before():
    told, book = anchored(lambda r, a: with_anchor(r, anchor(a.seq + 1 if a else 5)), rounds=3)
    assert told == [None, anchor(5), anchor(6)]
    assert book.anchors == {11: anchor(7)}


def test_the_anchor_of_another_ledger_replaces_what_was_known():
    _, book = anchored(lambda r, _: with_anchor(r, anchor(0, ledger="b")), known={11: anchor(5)})
    assert book.anchors == {11: anchor(0, ledger="b")}


@pytest.mark.parametrize("old", [anchor(4), anchor(5), anchor(5, entry="1")])
def test_an_older_or_other_entry_of_the_same_ledger_does_not_replace_what_was_known(old):
    _, book = anchored(lambda r, _: with_anchor(r, old), known={11: anchor(5)})
    assert (book.anchors, book.writes) == ({11: anchor(5)}, [])


def damaged(record, _):
    return RecordDict({**record, "anchor": ConfigRecord({"seq": 9})})


def malformed(record, _):
    return RecordDict({"anchor": with_anchor(record, anchor(9))["anchor"]})


@pytest.mark.parametrize("back", [lambda record, _: record, damaged, malformed])
def test_without_an_anchor_in_a_valid_message_nothing_is_remembered(back):
    _, book = anchored(back, known={11: anchor(5)})
    assert book.anchors == {11: anchor(5)}


def test_without_a_book_no_anchor_is_sent():
    records = []
    trained(lambda task, _: release(task, 1.0), on_round=lambda sent, _: records.extend(m.content for m in sent))
    assert {frozenset(record) for record in records} == {frozenset({"arrays", "scalars"})}


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


def test_only_those_who_may_be_asked_are_waited_for():
    arrivals = Arrivals()
    names = {4: "anchor", 2: "bakery"}
    found = connected_nodes(
        arrivals, lambda: names, at_least=2, timeout=60.0, clock=arrivals.clock, sleep=arrivals.sleep
    )
    assert (found, arrivals.now) == ([4, 2], 4.0)


def test_a_superlink_that_cannot_be_reached_has_no_nodes_and_does_not_move_the_end():
    arrivals, failing, release_it = Arrivals(), iter([httpx.ConnectError("down")] * 2), threading.Event()

    class Flaky(HttpGrid):
        def get_node_ids(self):
            if error := next(failing, None):
                raise error
            return arrivals.get_node_ids()

    class Hanging(HttpGrid):
        def get_node_ids(self):
            return release_it.wait()

    found = connected_nodes(Flaky(token="t"), at_least=1, timeout=60.0, clock=arrivals.clock, sleep=arrivals.sleep)
    assert (found, arrivals.now) == ([1, 2], 2.0)
    began = time.monotonic()
    assert connected_nodes(Hanging(token="t"), at_least=1, timeout=0.1) == []
    assert time.monotonic() - began < 2.5
    release_it.set()


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
