"""The platform's side of one block: it sets up the members, relays what they say, and adds up their masked vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pp_model.errors import ProtocolError
from secure_sum.errors import SumError, TooFewError
from secure_sum.messages import Message, read, written
from secure_sum.roll import Keys, Roll, keys_of, roll_of, rolled
from secure_sum.round_sum import RoundSum, Summed
from secure_sum.sharing import box_bytes
from secure_sum.signatures import is_signed
from secure_sum.terms import Terms

__all__ = ["Collector", "RoundSum", "Summed"]


class Collector:
    """What the platform keeps of one block. It holds no secret: all that it has, it may lose or show.

    The order is: `opening` to all, `add_keys` of each; `roll` to all members, `add_shares` of each; `delivery` to
    each, `add_ready` of each; when all are ready it is `complete`, and each round has its `round_sum`. A member that
    drops out or is accused on the way costs the set-up: the caller makes another block without it.
    """

    def __init__(
        self, *, plan: str, roster: Sequence[str], block: int, first_round: int, rounds: int, threshold: int
    ) -> None:
        self._terms = Terms(
            plan=plan, roster=tuple(roster), threshold=threshold, block=block, first_round=first_round, rounds=rounds
        )
        self._keys: dict[int, Keys] = {}
        self._roll: Roll | None = None
        self._boxes: dict[int, NDArray[np.uint8]] = {}  # by dealer: [others, box]
        self._hashes: dict[int, NDArray[np.uint8]] = {}  # by dealer: [members, rounds, secrets, 16]
        self._ready: dict[int, frozenset[int]] = {}  # by member: whom it accuses
        self._summed: set[int] = set()

    @property
    def rounds(self) -> range:
        """The rounds of the block."""
        return self._terms.span

    @property
    def members(self) -> tuple[int, ...]:
        """Indices of the members, in ascending order; those whose keys have come, until the roll is made."""
        return tuple(sorted(self._keys))

    def opening(self) -> bytes:
        """The `open` message, for every merchant that may take part."""
        return written("open", self._terms.fields(), {})

    def add_keys(self, index: int, data: bytes) -> None:
        """Takes a merchant's answer to the opening.

        Raises:
            ProtocolError: it is not that merchant's signed keys for this block; leave the merchant out.
            SumError: the roll is made.
        """
        keys = keys_of(data, self._terms)
        if keys.index != index:
            raise ProtocolError(f"merchant {index} sent keys of merchant {keys.index}")
        if self._roll is not None:
            raise SumError(f"keys of merchant {index} came after the roll was made")
        if self._keys.setdefault(index, keys).data != data:
            raise ProtocolError(f"merchant {index} sent other keys before")

    def roll(self) -> bytes:
        """The `roll` message, for every member. From now on nobody joins.

        Raises:
            TooFewError: fewer keys than the threshold.
        """
        if self._roll is None:
            if len(self._keys) < self._terms.threshold:
                raise TooFewError(
                    "merchants sent keys that can be used", found=len(self._keys), threshold=self._terms.threshold
                )
            self._roll = roll_of(rolled(self._keys[index].data for index in self.members), self._terms)
        return self._roll.data

    def add_shares(self, index: int, data: bytes) -> None:
        """Takes a member's answer to the roll.

        Raises:
            ProtocolError: it is not that member's signed shares for this roll; set up anew without the member.
        """
        roll = self._known_roll()
        members, rounds = len(roll.members), self._terms.rounds
        sizes = {"members": members, "others": members - 1, "rounds": rounds, "box": box_bytes(rounds)}
        message = self._signed_by(index, read(data, "shares", sizes=sizes))
        boxes, hashes = message.octets("boxes"), message.octets("hashes")
        if index in self._boxes and not (
            np.array_equal(self._boxes[index], boxes) and np.array_equal(self._hashes[index], hashes)
        ):
            raise ProtocolError(f"merchant {index} sent other shares before")
        self._boxes[index], self._hashes[index] = boxes, hashes

    def delivery(self, index: int) -> bytes:
        """The `delivery` message for one member: what all the others dealt to it.

        Raises:
            SumError: a member has dealt no shares; names who. Set up anew without them.
        """
        roll = self._known_roll()
        missing = set(roll.members) - set(self._boxes)
        if missing:
            raise SumError(f"{len(missing)} members have dealt no shares; set up anew without them", offenders=missing)
        places = roll.places()
        dealers = [dealer for dealer in roll.members if dealer != index]
        arrays = {
            "boxes": np.stack([self._boxes[dealer][places[index] - (dealer < index)] for dealer in dealers]),
            "hashes": np.stack([self._hashes[dealer][places[index]] for dealer in dealers]),
        }
        return written("delivery", roll.fields(index=index), arrays)

    def add_ready(self, index: int, data: bytes) -> frozenset[int]:
        """Takes a member's answer to its delivery: the members that it accuses of having dealt it nothing usable.

        Raises:
            ProtocolError: it is not that member's signed answer for this roll; set up anew without the member.
        """
        message = self._signed_by(index, read(data, "ready"))
        accused = message.numbers("accused")
        if list(accused) != sorted(set(accused)) or not set(accused) <= set(self._known_roll().members) - {index}:
            raise ProtocolError(f"merchant {index} accuses others than its fellow members, once each")
        self._ready[index] = frozenset(accused)
        return self._ready[index]

    def complete(self) -> bool:
        """Whether every member has every share: from now on rounds can be summed."""
        return self._roll is not None and all(self._ready.get(index) == frozenset() for index in self._roll.members)

    def round_sum(self, round: int, *, size: int) -> RoundSum:
        """The sum of one round's vectors of `size` numbers; once for each round.

        Raises:
            SumError: the set-up is not complete, or the round is not of this block or was summed before.
        """
        if not self.complete():
            raise SumError("the set-up of this block is not complete; nothing can be summed")
        if round not in self.rounds or round in self._summed:
            raise SumError(f"round {round} is not of this block, or was summed before; a round is summed once")
        self._summed.add(round)
        return RoundSum(self._known_roll(), self._hashes, round=round, size=size)

    def _known_roll(self) -> Roll:
        if self._roll is None:
            raise SumError("the roll of this block is not made yet")
        return self._roll

    def _signed_by(self, index: int, message: Message) -> Message:
        roll = self._known_roll()
        roll.check(message)
        if index not in roll.members or message.number("index") != index:
            raise ProtocolError(f"a {message.kind} message that is not merchant {index}'s, or of one who is no member")
        identity = roll.members[index].identity
        if not is_signed(identity, message.kind, message.unsigned(), message.octets("signature")):
            raise ProtocolError(f"a {message.kind} message that merchant {index} did not sign")
        return message
