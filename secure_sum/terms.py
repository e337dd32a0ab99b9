"""What a block is about: which plan and roster, which rounds, and how many must be left at the end of each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pp_model.errors import ProtocolError
from secure_sum.masks import LABEL
from secure_sum.messages import MOST_ROUNDS, Message


@dataclass(frozen=True, kw_only=True)
class Terms:
    """All that the members of a block agree on before anybody says anything.

    Attributes:
        plan: the plan's fingerprint.
        roster: fingerprint of each merchant's node key; the place in it is the merchant's index.
        threshold: how many must be left for a sum; more than half of the roster.
        block: number of the set-up within the plan.
    """

    plan: str
    roster: tuple[str, ...]
    threshold: int
    block: int
    first_round: int
    rounds: int

    def __post_init__(self) -> None:
        merchants = len(self.roster)
        if len(set(self.roster)) != merchants:
            raise ProtocolError("a roster with a key twice; give each merchant one place")
        if not max(2, merchants // 2 + 1) <= self.threshold <= merchants:
            raise ProtocolError(
                f"a threshold of {self.threshold} of {merchants} merchants; allowed: at least 2, more than half of "
                "them, and at most all"
            )
        if not 1 <= self.rounds <= MOST_ROUNDS:
            raise ProtocolError(f"a block of {self.rounds} rounds; allowed: 1 to {MOST_ROUNDS}")

    @property
    def span(self) -> range:
        """The rounds of the block."""
        return range(self.first_round, self.first_round + self.rounds)

    def fields(self) -> dict[str, str | int]:
        """The terms as a message has them."""
        return {
            "plan": self.plan,
            "roster": hashlib.sha256(LABEL + b"roster\n" + "\n".join(self.roster).encode()).hexdigest(),
            "threshold": self.threshold,
            "block": self.block,
            "first_round": self.first_round,
            "rounds": self.rounds,
        }

    def check(self, message: Message) -> None:
        """Does nothing if the message is about these terms.

        Raises:
            ProtocolError: it is about others; names the first that differs.
        """
        for name, value in self.fields().items():
            if message.fields[name] != str(value):
                raise ProtocolError(f"a {message.kind} message of another {name.replace('_', ' ')} than this block's")


def opened(message: Message, *, plan: str, roster: Sequence[str], threshold: int) -> Terms:
    """The terms of an `open` message.

    Raises:
        ProtocolError: it is not about this plan, roster and threshold.
    """
    terms = Terms(
        plan=plan,
        roster=tuple(roster),
        threshold=threshold,
        block=message.number("block"),
        first_round=message.number("first_round"),
        rounds=message.number("rounds"),
    )
    terms.check(message)
    return terms
