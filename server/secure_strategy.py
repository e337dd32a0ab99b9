"""Rounds whose releases are masked: the platform asks for parts of a sum, and sees the sum or nothing.

A round number is asked once, ever. Where too few answer, the round is lost: the charges stand, the model stays where
it is, and the next round comes. A block that was begun is in memory alone: after a crash a new one is set up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from flower_edge.records import to_record
from pp_model.clipping import update_norm
from pp_model.errors import ProtocolError
from pp_model.integer_sum import as_update, noise_shares, secure_sum_of, top_up_of
from pp_model.protocol import MaskedRelease, Refusal, RefusalCode, SumAnswer, SumQuestion, Task, reply_from_wire
from pp_model.serialization import Arrays
from pp_model.train import named_arrays
from secure_sum.collector import Collector, RoundSum, Summed
from secure_sum.errors import SumError
from secure_sum.masks import words
from server.aggregation import RejectionCode
from server.block_setup import set_up
from server.exchange import exchange
from server.rounds import Answer, RoundOutcome, TrainingState, apply_round
from server.strategy import PurchasePowerStrategy, answer_of, connected_nodes, first_replies, log_round
from server.sum_bound import SumTooLongError, check_sum_norm, longest_update

RENEW_AFTER = 5  # rounds of a block before it is given up for a merchant that came back
TRAIN_SHARE, LIST_SHARE = 0.6, 0.5  # of what is left of a round's time
SET_UP_SHARE = 0.3  # of a round's time, for each of the three exchanges of a set-up, which comes before the round's own

log = logging.getLogger(__name__)


class SecureSumStrategy(PurchasePowerStrategy):
    """See `PurchasePowerStrategy`; for plans with secure sums.

    Args:
        begin: told the number of every round before anybody is asked; durable when it returns.
    """

    def __init__(self, *, begin: Callable[[int], None], **rest: Any) -> None:
        super().__init__(begin=begin, **rest)
        self._sums = secure_sum_of(self.plan)
        self._parameters = sum(int(np.prod(shape)) for shape in self._trainable.values())
        merchants, survivors = len(self._sums.roster), self.plan.server.min_completions
        self._longest = longest_update(
            self.plan, parameters=self._parameters, merchants=merchants, noisy=survivors - self._sums.dishonest
        )
        self._block: Collector | None = None
        self._stale = True  # the block there is must not be used again
        self._left_out: frozenset[int] = frozenset()  # dealt what opens nothing, and would do it again
        self._refused: dict[int, RefusalCode] = {}  # nodes that did not want to be in the block of this round

    def start(self, grid: Grid) -> TrainingState:  # type: ignore[override]
        """See `PurchasePowerStrategy`."""
        while self.state.round < self.plan.rounds:
            self._began = time.monotonic()
            outcome = self._round(grid, self.state.round + 1)
            seconds = time.monotonic() - self._began
            log_round(outcome, seconds)
            self._record(outcome, seconds)
            self.state = apply_round(self.state, outcome)
            if outcome.void and outcome.cohort:
                self.state = replace(self.state, round=outcome.round)  # asked once, ever
            if not outcome.void:
                self.state = self._after(self.state)
                self._save(self.state)
        return self.state

    def _round(self, grid: Grid, number: int) -> RoundOutcome:
        nodes, self._refused = self._connected(grid), {}
        if len(nodes) >= self.plan.server.min_completions and self._needs_block(number, nodes):
            self._block = self._new_block(grid, number, nodes)
        nodes = {index: node for index, node in nodes.items() if self._block and index in self._block.members}
        if self._block is None or len(nodes) < self.plan.server.min_completions:
            self._block, self.asked = None, []
            return RoundOutcome(
                round=number, cohort=0, completed=(), update={}, norm=0.0, void=True, refusals=self._refused
            )
        self._begin(number)
        return self._outcome(grid, number, nodes, self._block)

    def _connected(self, grid: Grid) -> dict[int, int]:
        """The nodes of the merchants that are connected, by their numbers on the roster."""
        server, number_of = self.plan.server, {peer.name: index for index, peer in enumerate(self._sums.roster)}
        if self._merchants is None:
            raise ValueError("a secure sum needs the names of its merchants")
        names = self._merchants()
        found = connected_nodes(
            grid, lambda: names, at_least=server.min_completions, timeout=server.round_timeout_seconds
        )
        numbered = {number_of[names[node]]: node for node in found if names[node] in number_of}
        return {index: node for index, node in numbered.items() if index not in self._left_out}

    def _needs_block(self, number: int, nodes: Mapping[int, int]) -> bool:
        block = self._block
        if block is None or self._stale or number not in block.rounds:
            return True
        came_back = set(nodes) - set(block.members)
        return bool(came_back) and number - block.rounds.start >= RENEW_AFTER

    def _new_block(self, grid: Grid, number: int, nodes: Mapping[int, int]) -> Collector | None:
        seconds = self.plan.server.round_timeout_seconds * SET_UP_SHARE
        self._stale = False

        def ask(letters: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
            for index, answer in self._asked(grid, nodes, letters, number=number, block=number, seconds=seconds):
                if isinstance(answer, RefusalCode):
                    self._refused[nodes[index]] = answer
                elif answer is not None:
                    yield index, answer

        try:
            block = set_up(self.plan, first_round=number, merchants=nodes, ask=ask)
        except SumError as error:
            log.warning("no block", extra={"round": number, "why": str(error)})
            return None
        log.info("block set up", extra={"round": number, "merchants": len(block.members), "rounds": len(block.rounds)})
        return block

    def _outcome(self, grid: Grid, number: int, nodes: Mapping[int, int], block: Collector) -> RoundOutcome:
        """What the round comes to; it ends within the plan's time, however long a set-up took before it."""
        deadline = time.monotonic() + self.plan.server.round_timeout_seconds
        replies = _Replies(nodes)
        total = block.round_sum(number, size=self._parameters)
        for index, values in self._masked(grid, number, nodes, block, replies):
            total.add(index, values)
            del values  # while the next is waited for
        update: Arrays = {}
        try:
            summed = self._summed(grid, number, block, total, replies, deadline=deadline)
            update = self._update(summed, members=len(block.members))
        except SumError as error:
            log.warning("sum void", extra={"round": number, "why": str(error)})
            for index in error.offenders:
                replies.offended(index)
            self._left_out |= error.offenders
        except SumTooLongError as error:
            log.warning("sum void", extra={"round": number, "why": str(error)})
        self._stale = not update or RefusalCode.NO_BLOCK in replies.refusals.values()
        return RoundOutcome(
            round=number,
            cohort=len(nodes),
            completed=tuple(replies.masked.values()),
            update=update,
            norm=update_norm(update),
            void=not update,
            refusals=self._refused | replies.refusals,
            rejections=replies.rejections,
        )

    def _masked(
        self, grid: Grid, number: int, nodes: Mapping[int, int], block: Collector, replies: _Replies
    ) -> Iterator[tuple[int, NDArray[np.uint64]]]:
        """The masked vectors as they come."""
        timeout = self.plan.server.round_timeout_seconds * TRAIN_SHARE
        task = Task(plan=self.plan, round=number, arrays=self.state.arrays, block=block.rounds.start)
        record = to_record(task.to_wire())
        index_of = {node: index for index, node in nodes.items()}
        self.asked = [self._message(self._addressed(record, node), node, number, timeout) for node in nodes.values()]
        for node, answer in self._answers(exchange(grid, self.asked, timeout=timeout)):
            values = replies.values(index_of[node], answer, task=task.fingerprint, parameters=self._parameters)
            if values is not None:
                yield index_of[node], values
            del answer, values

    def _summed(
        self, grid: Grid, number: int, block: Collector, total: RoundSum, replies: _Replies, *, deadline: float
    ) -> Summed:
        """The sum over those whose masked vectors came.

        Raises:
            SumError: there is none: too few are left, or what came does not open it.
        """
        left = deadline - time.monotonic()
        self._ask_survivors(grid, number, block, total, replies, total.survivors(), seconds=left * LIST_SHARE)
        quorum = total.quorum()
        if quorum is not None:  # somebody was lost
            left = deadline - time.monotonic()
            self._ask_survivors(grid, number, block, total, replies, quorum, seconds=left)
        return total.result()

    def _ask_survivors(
        self,
        grid: Grid,
        number: int,
        block: Collector,
        total: RoundSum,
        replies: _Replies,
        letter: bytes,
        *,
        seconds: float,
    ) -> None:
        letters = dict.fromkeys(replies.masked, letter)
        for index, answer in self._asked(
            grid, replies.masked, letters, number=number, block=block.rounds.start, seconds=seconds
        ):
            if not isinstance(answer, bytes):
                continue  # its refusal is in its own log; the others' shares may be enough
            try:
                total.add_answer(index, answer)
            except ProtocolError as error:
                log.warning("answer not taken", extra={"merchant": index, "why": str(error)})
                replies.offended(index)

    def _update(self, summed: Summed, *, members: int) -> Arrays:
        """The model's update that the sum makes.

        Raises:
            SumTooLongError: honest merchants cannot have made it.
        """
        values = summed.values
        shares = noise_shares(self.plan, members=members, parameters=self._parameters)
        for seed in summed.top_up_seeds.values():
            values = values - top_up_of(self._parameters, shares, words(seed))
        update = named_arrays(as_update(values, self.plan), self._trainable)
        check_sum_norm(update_norm(update), bound=self._longest)
        return update

    def _asked(
        self,
        grid: Grid,
        nodes: Mapping[int, int],
        letters: Mapping[int, bytes],
        *,
        number: int,
        block: int,
        seconds: float,
    ) -> Iterator[tuple[int, bytes | RefusalCode | None]]:
        """Each merchant that replied to its letter in time, and its letter or its no; None where it sent neither."""
        seconds = max(1.0, seconds)
        index_of = {node: index for index, node in nodes.items()}
        records = {
            letter: to_record(SumQuestion(plan=self.plan, block=block, letter=letter).to_wire())
            for letter in set(letters.values())
        }
        messages = [self._message(records[letter], nodes[index], number, seconds) for index, letter in letters.items()]
        for node, reply in first_replies(messages, exchange(grid, messages, timeout=seconds)):
            yield index_of[node], _letter(answer_of(reply))

    def _message(self, record: RecordDict, node: int, number: int, seconds: float) -> Message:
        return Message(record, node, MessageType.TRAIN, ttl=seconds, group_id=str(number))


class _Replies:
    """What came of each merchant asked in a round.

    Attributes:
        masked: the nodes of those whose vectors are in the sum, by number on the roster.
        refusals, rejections: see `RoundOutcome`.
    """

    def __init__(self, nodes: Mapping[int, int]) -> None:
        self._nodes = nodes
        self.masked: dict[int, int] = {}
        self.refusals: dict[int, RefusalCode] = {}
        self.rejections = dict.fromkeys(nodes.values(), RejectionCode.NO_REPLY)  # until it is known better

    def values(self, index: int, answer: Answer, *, task: str, parameters: int) -> NDArray[np.uint64] | None:
        """The masked vector in an answer; None where there is none, and why is noted."""
        node = self._nodes[index]
        read = _read(answer, task=task, parameters=parameters)
        if isinstance(read, RejectionCode):
            self.rejections[node] = read
            return None
        del self.rejections[node]
        if isinstance(read, RefusalCode):
            self.refusals[node] = read
            return None
        self.masked[index] = node
        return read

    def offended(self, index: int) -> None:
        """It sent a share or a signature that is wrong, or dealt one before it went away."""
        if index in self._nodes:
            self.rejections[self._nodes[index]] = RejectionCode.SHARE


def _read(answer: Answer, *, task: str, parameters: int) -> NDArray[np.uint64] | RefusalCode | RejectionCode:
    if isinstance(answer, RejectionCode):
        return answer
    try:
        reply = reply_from_wire(answer)
    except ProtocolError:
        return RejectionCode.MALFORMED
    if isinstance(reply, Refusal):
        return reply.code
    if not isinstance(reply, MaskedRelease):
        return RejectionCode.MALFORMED
    if reply.task != task:
        return RejectionCode.WRONG_TASK
    return reply.values if len(reply.values) == parameters else RejectionCode.SHAPES


def _letter(answer: Answer) -> bytes | RefusalCode | None:
    if isinstance(answer, RejectionCode):
        return None
    try:
        reply = reply_from_wire(answer)
    except ProtocolError:
        return None
    if isinstance(reply, Refusal):
        return reply.code
    return reply.letter if isinstance(reply, SumAnswer) else None
