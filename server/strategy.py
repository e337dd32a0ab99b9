"""Flower's strategy interface over `server.rounds`: it sends tasks, waits a bounded time, and translates answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from flower_edge.records import arrays_from_record, arrays_to_record, to_record, wire_from_record
from pp_model.errors import ProtocolError
from pp_model.plan import TrainingPlan
from pp_model.protocol import Task
from pp_model.serialization import Shapes
from server.aggregation import RejectionCode
from server.rounds import Answer, RoundOutcome, TrainingState, apply_round, collect

POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


class PurchasePowerStrategy(Strategy):
    """One plan, from a state to its last round, over all merchants that are connected in each round.

    Args:
        state: where to begin; `state.round` rounds of the plan are done.
        trainable: the shapes that a release must have.
        record: told of every round, void ones included, and its seconds, before the model moves.
        save: given the state after every round that moved the model.
    """

    def __init__(
        self,
        *,
        plan: TrainingPlan,
        state: TrainingState,
        trainable: Shapes,
        record: Callable[[RoundOutcome, float], None],
        save: Callable[[TrainingState], None],
    ) -> None:
        self.plan, self.state = plan, state
        self._trainable, self._record, self._save = trainable, record, save
        self._task = ""
        self._asked: list[Message] = []
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
            self.aggregate_train(number, grid.send_and_receive(tasks, timeout=timeout) if tasks else [])
        return self.state

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The same task for every merchant that is connected; none where they are too few for a valid round.

        A task that nobody could use would still be charged, so it is not sent. It expires with the round.
        """
        del config  # the plan is the configuration
        server = self.plan.server
        nodes = connected_nodes(grid, at_least=server.min_completions, timeout=server.round_timeout_seconds)
        task = Task(plan=self.plan, round=server_round, arrays=arrays_from_record(arrays))
        record = to_record(task.to_wire())
        self._task = task.fingerprint
        self._asked = [
            Message(record, node, MessageType.TRAIN, ttl=server.round_timeout_seconds, group_id=str(server_round))
            for node in nodes
        ]
        return self._asked

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The model after the round, or None where the round is void. Metrics: none, ever."""
        outcome = collect(
            answers_by_node(self._asked, replies),
            plan=self.plan,
            round=server_round,
            task=self._task,
            trainable=self._trainable,
        )
        seconds = time.monotonic() - self._began
        _log_round(outcome, seconds)
        self._record(outcome, seconds)
        self.state = apply_round(self.state, outcome)
        if outcome.void:
            return None, None
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


def connected_nodes(
    grid: Grid,
    *,
    at_least: int,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[int]:
    """The connected nodes, in order, as soon as they are `at_least`; [] where they are not within `timeout` seconds."""
    deadline = clock() + timeout
    while len(nodes := sorted(grid.get_node_ids())) < at_least:
        if clock() >= deadline:
            return []
        sleep(min(POLL_SECONDS, timeout))
    return nodes


def answers_by_node(asked: Iterable[Message], replies: Iterable[Message]) -> Iterable[tuple[int, Answer]]:
    """One answer for every message asked, in the order of the nodes.

    A reply belongs to the message that it replies to, not to the node it names: an error reply names the link. Replies
    to anything else, and second replies, are logged and dropped.
    """
    node_of = {message.metadata.message_id: message.metadata.dst_node_id for message in asked}
    reply_to: dict[int, Message] = {}
    for reply in replies:
        node = node_of.get(reply.metadata.reply_to_message_id)
        if node is None or node in reply_to:
            log.warning("stray reply dropped", extra={"node": reply.metadata.src_node_id})
        else:
            reply_to[node] = reply
    for node in sorted(node_of.values()):
        yield node, _answer(reply_to.pop(node, None))


def _answer(reply: Message | None) -> Answer:
    if reply is None:
        return RejectionCode.NO_REPLY
    if not reply.has_content():
        return RejectionCode.ERROR
    try:
        return wire_from_record(reply.content)
    except ProtocolError:
        return RejectionCode.MALFORMED


def _log_round(outcome: RoundOutcome, seconds: float) -> None:
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
