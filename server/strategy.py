"""Flower's strategy interface over `server.rounds`: it sends tasks, waits a bounded time, and translates answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from flower_edge.records import (
    anchor_from_record,
    arrays_from_record,
    arrays_to_record,
    to_record,
    wire_from_record,
    with_anchor,
)
from pp_model.errors import ProtocolError
from pp_model.plan import TrainingPlan
from pp_model.protocol import Anchor, Task, Wire
from pp_model.serialization import Shapes
from server.aggregation import RejectionCode
from server.exchange import exchange, node_ids
from server.rounds import Answer, RoundOutcome, TrainingState, apply_round, collect

POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


class AnchorBook(Protocol):
    """What the platform remembers of each merchant's ledger."""

    def known(self, node: int) -> Anchor | None:
        """The newest anchor seen of a node's ledger."""

    def seen(self, node: int, anchor: Anchor) -> None:
        """From now on this is the newest."""


class PurchasePowerStrategy(Strategy):
    """One plan, from a state to its last round, over the merchants that are connected in each round.

    Args:
        state: where to begin; `state.round` rounds of the plan are done.
        trainable: the shapes that a release must have.
        record: told of every round, void ones included, and its seconds, before the model moves.
        save: given the state after every round that moved the model.
        after: what to go on from after such a round: the same state, or an earlier model. Asked before `save`.
        merchants: the name of each node that may be asked, looked up anew in every round. Their releases are summed in
            the order of these names. None: all that are connected, in the order of their ids.
        anchors: told to every merchant with its task, and brought up to date by what comes back.
        begin: told the number of every round before anybody is asked; durable when it returns.
    """

    def __init__(
        self,
        *,
        plan: TrainingPlan,
        state: TrainingState,
        trainable: Shapes,
        record: Callable[[RoundOutcome, float], None],
        save: Callable[[TrainingState], None],
        after: Callable[[TrainingState], TrainingState] | None = None,
        merchants: Callable[[], Mapping[int, str]] | None = None,
        anchors: AnchorBook | None = None,
        begin: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.plan, self.state = plan, state
        self._trainable, self._record, self._save = trainable, record, save
        self._after, self._begin = after or (lambda state: state), begin
        self._merchants, self._anchors = merchants, anchors
        self._task = ""
        self.asked: list[Message] = []
        self._began = 0.0

    # Flower's own `start` would take rounds, timeouts and arrays from its caller. Here they are the plan's, and nothing
    # else may say them.
    def start(self, grid: Grid) -> TrainingState:  # type: ignore[override]
        """The state after the plan's last round.

        Raises:
            RunStoppedError: three void rounds in a row.
        """
        while self.state.round < self.plan.rounds:
            self._began = time.monotonic()
            number = self.state.round + 1
            tasks = list(self.configure_train(number, arrays_to_record(self.state.arrays), ConfigRecord(), grid))
            timeout = self.plan.server.round_timeout_seconds
            if tasks:
                self._begin(number)
            self.aggregate_train(number, exchange(grid, tasks, timeout=timeout))
        return self.state

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The same task for every merchant that may be asked; none where too few are connected for a valid round.

        A task that nobody could use would still be charged, so it is not sent. It expires with the round.
        """
        del config  # the plan is the configuration
        server = self.plan.server
        nodes = connected_nodes(
            grid, self._merchants, at_least=server.min_completions, timeout=server.round_timeout_seconds
        )
        task = Task(plan=self.plan, round=server_round, arrays=arrays_from_record(arrays))
        record = to_record(task.to_wire())
        self._task = task.fingerprint
        self.asked = [
            Message(
                self._addressed(record, node),
                node,
                MessageType.TRAIN,
                ttl=server.round_timeout_seconds,
                group_id=str(server_round),
            )
            for node in nodes
        ]
        return self.asked

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The model after the round, or None where the round is void. Metrics: none, ever.

        Each reply is used and forgotten as it comes.
        """
        outcome = collect(
            self._answers(replies),
            cohort=[message.metadata.dst_node_id for message in self.asked],
            plan=self.plan,
            round=server_round,
            task=self._task,
            trainable=self._trainable,
        )
        seconds = time.monotonic() - self._began
        log_round(outcome, seconds)
        self._record(outcome, seconds)
        self.state = apply_round(self.state, outcome)
        if outcome.void:
            return None, None
        self.state = self._after(self.state)
        self._save(self.state)
        return arrays_to_record(self.state.arrays), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing: every number that leaves a merchant is paid for, and evaluation is not in the plan."""
        del server_round, arrays, config, grid
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing, see `configure_evaluate`."""
        del server_round, replies
        return None

    def summary(self) -> None:
        """One log line: the plan, and where the run stands."""
        log.info("run", extra={"plan": self.plan.fingerprint, "round": self.state.round, "rounds": self.plan.rounds})

    def _addressed(self, record: RecordDict, node: int) -> RecordDict:
        return record if self._anchors is None else with_anchor(record, self._anchors.known(node))

    def _answers(self, replies: Iterable[Message]) -> Iterator[tuple[int, Answer]]:
        for node, reply in first_replies(self.asked, replies):
            answer = answer_of(reply)
            if isinstance(answer, Wire):  # of what is not one of our messages, nothing is believed
                self._remember_anchor(node, reply)
            del reply
            yield node, answer
            del answer

    def _remember_anchor(self, node: int, reply: Message) -> None:
        """An older entry of the same ledger is a copy put back: what is known of it stays, and every task says so."""
        if self._anchors is None:
            return
        anchor, known = _anchor_of(reply), self._anchors.known(node)
        if anchor and (known is None or anchor.ledger != known.ledger or anchor.seq > known.seq):
            self._anchors.seen(node, anchor)


def connected_nodes(
    grid: Grid,
    merchants: Callable[[], Mapping[int, str]] | None = None,
    *,
    at_least: int,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[int]:
    """The connected nodes that may be asked, as soon as they are `at_least`; [] where they are not within `timeout`
    seconds, whether or not the Grid can be reached.

    In the order of the merchants' names, or of the nodes' ids without `merchants`.
    """
    deadline = clock() + timeout
    while True:
        nodes = _invited(node_ids(grid, timeout=max(1.0, deadline - clock())), merchants)
        if len(nodes) >= at_least:
            return nodes
        if clock() >= deadline:
            return []
        sleep(min(POLL_SECONDS, timeout))


def _invited(connected: Iterable[int], merchants: Callable[[], Mapping[int, str]] | None) -> list[int]:
    if merchants is None:
        return sorted(connected)
    names = merchants()
    return sorted(set(connected) & names.keys(), key=lambda node: (names[node], node))


def first_replies(asked: Iterable[Message], replies: Iterable[Message]) -> Iterator[tuple[int, Message]]:
    """Each node that replied and its reply, as they come.

    A reply belongs to the message that it replies to, not to the node it names: an error reply names the link. Replies
    to anything else, and second replies, are logged and dropped.
    """
    waiting: dict[str, int] | None = None
    for reply in replies:
        if waiting is None:  # not before: a Grid numbers the messages when it sends them
            waiting = {message.metadata.message_id: message.metadata.dst_node_id for message in asked}
        node = waiting.pop(reply.metadata.reply_to_message_id, None)
        if node is None:
            log.warning("stray reply dropped", extra={"node": reply.metadata.src_node_id})
        else:
            yield node, reply
        del reply  # while the next is waited for


def answer_of(reply: Message) -> Answer:
    """What a reply says, or why it says nothing."""
    if not reply.has_content():
        return RejectionCode.ERROR
    try:
        return wire_from_record(reply.content)
    except ProtocolError:
        return RejectionCode.MALFORMED


def _anchor_of(reply: Message) -> Anchor | None:
    try:
        return anchor_from_record(reply.content)
    except ProtocolError:
        return None


def log_round(outcome: RoundOutcome, seconds: float) -> None:
    """One line of counts."""
    fields = {
        "round": outcome.round,
        "cohort": outcome.cohort,
        "completions": outcome.completions,
        "refusals": len(outcome.refusals),
        "rejections": len(outcome.rejections),
        "seconds": round(seconds, 3),
    }
    if outcome.void:
        log.warning("round void", extra=fields)
    else:
        log.info("round done", extra=fields)
