"""The merchant's part in secure sums. What it knows of them is in this process alone, and is gone with it.

So a merchant that was restarted, or restored from a backup, can answer nothing of an earlier block: it cannot be
brought to mask two vectors with the same masks, or to name two lists of survivors for one round.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

from pp_model.discrete_noise import Words
from pp_model.errors import ProtocolError, PurchasePowerError
from pp_model.integer_sum import secure_sum_of
from pp_model.plan import TrainingPlan
from pp_model.protocol import SumAnswer, SumQuestion, Task
from secure_sum.masks import words
from secure_sum.member import Member
from secure_sum.messages import kind_of

BLOCKS_KEPT = 2  # of one plan: the next one is set up while the last rounds of one are under way

log = logging.getLogger(__name__)


class NoBlockError(PurchasePowerError):
    """This process was not set up for the round's secure sum, or has masked its vector already."""


class SecureSums:
    """One merchant's members of the blocks that are under way. Several threads may use it.

    Args:
        identity: the node key, whose fingerprint is on the roster.
    """

    def __init__(self, identity: ec.EllipticCurvePrivateKey) -> None:
        self._identity = identity
        self._members: dict[tuple[str, int], Member] = {}
        self._lock = threading.Lock()

    def answer(self, question: SumQuestion) -> SumAnswer:
        """The next step of the protocol. Nothing in it depends on an order.

        Raises:
            NoBlockError: of a block that this process knows nothing of.
            ProtocolError, SumError: the rules forbid it.
        """
        with self._lock:
            kind = kind_of(question.letter)
            if kind == "open":
                return SumAnswer(letter=self._opened(question).keys())
            member = self._member(question.plan, question.block)
            steps: dict[str, Callable[[bytes], bytes]] = {
                "roll": member.shares,
                "delivery": member.ready_for,
                "survivors": member.reveal,
                "quorum": member.reveal,
            }
            if kind not in steps:
                raise ProtocolError(f"a {kind} message is no question to a merchant")
            log.info("secure sum", extra={"step": kind, "block": member.block})
            return SumAnswer(letter=steps[kind](question.letter))

    def check_open(self, task: Task) -> None:
        """Returns if a vector can be masked for the task's round.

        Raises:
            NoBlockError: this process was not set up for it.
            SumError: a vector was masked for the round before, or it is none of the block's.
        """
        with self._lock:
            self._open(task)

    def members(self, task: Task) -> int:
        """How many merchants are in the task's block. Raises as `check_open`."""
        with self._lock:
            return self._open(task).members

    def top_up(self, task: Task) -> Words:
        """The words of the round's top-up. Raises as `check_open`."""
        with self._lock:
            return words(self._open(task).top_up_seed(task.round))

    def masked(self, task: Task, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The values under the round's masks; once. Raises as `check_open`."""
        with self._lock:
            return self._open(task).masked(task.round, values)

    def _opened(self, question: SumQuestion) -> Member:
        plan = question.plan
        member = Member(
            question.letter,
            plan=plan.fingerprint,
            roster=[peer.key for peer in secure_sum_of(plan).roster],
            threshold=plan.server.min_completions,
            identity=self._identity,
        )
        if member.block != question.block:
            raise ProtocolError("an opening of another block than its message says")
        older = sorted(key for key in self._members if key[0] == plan.fingerprint and key[1] != member.block)
        # A block that is opened anew begins with new keys: what was known of it before is of no more use to anybody.
        for key in older[: 1 - BLOCKS_KEPT]:
            del self._members[key]
        self._members[plan.fingerprint, member.block] = member
        return member

    def _member(self, plan: TrainingPlan, block: int) -> Member:
        member = self._members.get((plan.fingerprint, block))
        if member is None:
            raise NoBlockError(
                f"block {block} is not known here: this merchant was restarted since it was set up, perhaps; it takes "
                "part again from the next block"
            )
        return member

    def _open(self, task: Task) -> Member:
        member = self._member(task.plan, task.block)
        if not member.ready:
            raise NoBlockError(f"the set-up of block {task.block} is not complete; nothing can be masked")
        member.top_up_seed(task.round)  # or the round is none of the block's, or was masked before
        return member
