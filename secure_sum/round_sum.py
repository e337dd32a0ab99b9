"""The platform's side of one round: masked vectors in, the sum over the survivors out, or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pp_model.errors import ProtocolError
from secure_sum.errors import SumError, TooFewError
from secure_sum.masks import (
    add_mask_,
    commitment,
    mask_pair,
    pair_key,
    public_bytes,
    self_key,
    self_mask_seed,
    top_up_seed,
)
from secure_sum.messages import SECRETS, Array, Message, kind_of, read, written
from secure_sum.roll import Roll, survivor_list
from secure_sum.sharing import combined, share_hash
from secure_sum.signatures import is_signed

_WHOLE, _SELF, _PAIRWISE = range(len(SECRETS))


@dataclass(frozen=True, kw_only=True)
class Summed:
    """What a round came to.

    Attributes:
        values: [parameters] the sum modulo 2**64 over the survivors, to the last bit.
        survivors: their indices, in ascending order.
        top_up_seeds: by member, if all survived; else empty.
        offenders: members that sent something wrong on the way; what they sent was left out.
    """

    values: NDArray[np.uint64]
    survivors: tuple[int, ...]
    top_up_seeds: dict[int, bytes]
    offenders: frozenset[int]


class RoundSum:
    """One round's sum, in the making. It keeps one vector, however many merchants there are."""

    def __init__(self, roll: Roll, hashes: Mapping[int, NDArray[np.uint8]], *, round: int, size: int) -> None:
        """Args:
        hashes: by dealer, [members, rounds, secrets, 16]: which share is right.
        """
        self._roll, self._hashes, self._round, self._size = roll, hashes, round, size
        self._place = round - roll.terms.first_round
        self._total = np.zeros(size, np.uint64)
        self._added: set[int] = set()
        self._survivors: tuple[int, ...] = ()  # until the list is made
        self._signatures: dict[int, NDArray[np.uint8]] = {}
        self._quorum: bytes | None = None
        self._revealed: dict[int, NDArray[np.uint8]] = {}  # by holder: [members, 16]
        self._offenders: set[int] = set()
        self._summed: Summed | None = None

    def add(self, index: int, masked: NDArray[np.uint64]) -> None:
        """Adds a member's masked vector.

        Raises:
            ProtocolError: not a member's, not a vector of the right type and length, or its second.
            SumError: it came after the list of survivors was made; the merchant counts as dropped out.
        """
        if index not in self._roll.members or index in self._added:
            raise ProtocolError(f"a masked vector of merchant {index}, who is no member or sent one before")
        if masked.dtype != np.uint64 or masked.shape != (self._size,):
            raise ProtocolError(f"merchant {index} sent {masked.dtype} {masked.shape}; expected uint64 ({self._size},)")
        if self._survivors:
            raise SumError(f"the masked vector of merchant {index} came after the list of survivors was made")
        self._total += masked
        self._added.add(index)

    def survivors(self) -> bytes:
        """The `survivors` message, for those on it. From now on no vector is added.

        Raises:
            TooFewError: fewer masked vectors than the threshold; the round is void.
        """
        if not self._survivors:
            self._require(len(self._added), "members sent a masked vector")
            self._survivors = tuple(sorted(self._added))
        return survivor_list(self._roll, self._round, self._survivors)

    def add_answer(self, index: int, data: bytes) -> None:
        """Takes a survivor's answer to `survivors` or `quorum`; one that is wrong is left out and its sender named.

        Raises:
            ProtocolError: it is not an answer of that survivor to what was asked; says what is wrong.
            SumError: nothing was asked yet.
        """
        if not self._survivors:
            raise SumError(f"an answer of merchant {index} before anything was asked")
        try:
            self._take(index, data)
        except ProtocolError:
            self._offenders.add(index)
            raise

    def quorum(self) -> bytes | None:
        """The `quorum` message, for those on the list; None when nobody dropped out, which needs none.

        Raises:
            TooFewError: fewer signatures than the threshold, so far.
        """
        if self._everybody():
            return None
        if self._quorum is None:
            self._require(len(self._signatures), "survivors signed the list")
            signers = sorted(self._signatures)[: self._roll.terms.threshold]
            arrays: dict[str, Array] = {
                "members": np.array(self._survivors, np.uint64),
                "signers": np.array(signers, np.uint64),
                "signatures": np.stack([self._signatures[signer] for signer in signers]),
            }
            self._quorum = written("quorum", self._roll.fields(round=self._round), arrays)
        return self._quorum

    def result(self) -> Summed:
        """The sum over the survivors.

        Raises:
            TooFewError: fewer answers than the threshold, so far.
            SumError: a member dealt shares of another secret than it announced, and is named: the round is void.
        """
        if self._summed is None:
            everybody = self._everybody()
            self._require(len(self._revealed), "survivors gave their shares")
            secrets = {index: self._recovered(index) for index in self._roll.members}  # all, before any mask is off
            values = self._total.copy()  # what is interrupted half-way can be begun again
            for key, subtract in self._mask_keys(secrets):
                add_mask_(values, key, subtract=subtract)
            self._summed = Summed(
                values=values,
                survivors=self._survivors,
                top_up_seeds={i: top_up_seed(whole) for i, whole in secrets.items()} if everybody else {},
                offenders=frozenset(self._offenders),
            )
        return self._summed

    def _everybody(self) -> bool:
        if not self._survivors:
            raise SumError("the list of survivors of this round is not made yet")
        return len(self._survivors) == len(self._roll.members)

    def _require(self, found: int, what: str) -> None:
        threshold = self._roll.terms.threshold
        if found < threshold:
            raise TooFewError(f"{what} in round {self._round}", found=found, threshold=threshold)

    def _take(self, index: int, data: bytes) -> None:
        if index not in self._survivors:
            raise ProtocolError(f"an answer of merchant {index}, who is not on the list of survivors")
        if not self._everybody() and kind_of(data) == "signed":
            message = self._about_this_round(index, read(data, "signed"))
            signature = message.octets("signature")
            if not is_signed(self._roll.members[index].identity, "survivors", self.survivors(), signature):
                raise ProtocolError(f"a signature that merchant {index} did not make, or over another list")
            self._signatures[index] = signature
            return
        sizes = {"members": len(self._roll.members)}
        message = self._about_this_round(index, read(data, "revealed", sizes=sizes))
        if not self._everybody() and self._quorum is None:
            raise ProtocolError(f"shares of merchant {index} before there was a quorum")
        self._check_shares(index, message.octets("shares"))
        self._revealed[index] = message.octets("shares")

    def _about_this_round(self, index: int, message: Message) -> Message:
        self._roll.check(message)
        if message.number("round") != self._round or message.number("index") != index:
            raise ProtocolError(f"a {message.kind} message of merchant {index} of another round or merchant")
        return message

    def _asked_for(self, dealer: int) -> int:
        """Which of a member's secrets the survivors give their shares of."""
        if self._everybody():
            return _WHOLE
        return _SELF if dealer in self._survivors else _PAIRWISE

    def _check_shares(self, holder: int, shares: NDArray[np.uint8]) -> None:
        place, context, round = self._roll.places()[holder], self._roll.context, self._round
        for dealer, share in zip(self._roll.members, shares, strict=True):
            which = self._asked_for(dealer)
            found = share_hash(share.tobytes(), context=context, dealer=dealer, holder=holder, round=round, which=which)
            if found != self._hashes[dealer][place, self._place, which].tobytes():
                raise ProtocolError(f"merchant {holder} gave a wrong share of merchant {dealer}'s secret")

    def _recovered(self, dealer: int) -> bytes:
        """The secret that the threshold's number of shares give, proven to be the one that the dealer announced."""
        place, which, round = self._roll.places()[dealer], self._asked_for(dealer), self._round
        holders = sorted(self._revealed)[: self._roll.terms.threshold]
        secret = combined({holder: self._revealed[holder][place].tobytes() for holder in holders})
        announced = self._roll.members[dealer]
        if which == _PAIRWISE:
            right = public_bytes(mask_pair(secret)) == announced.masks[round]
        else:
            seed = self_mask_seed(secret) if which == _WHOLE else secret
            right = commitment(seed, index=dealer, round=round) == announced.commitments[round]
        if not right:
            raise SumError(
                f"merchant {dealer} dealt shares of another secret than it announced; round {round} is void: "
                "leave it out of the next block",
                offenders={*self._offenders, dealer},
            )
        return secret

    def _mask_keys(self, secrets: Mapping[int, bytes]) -> Iterator[tuple[bytes, bool]]:
        """The keys of all masks that are in the sum, and whether each has to be taken away rather than added."""
        context, round, everybody = self._roll.context, self._round, self._everybody()
        for index, secret in secrets.items():
            if index in self._survivors:
                seed = self_mask_seed(secret) if everybody else secret
                yield self_key(seed, context=context, index=index, round=round), True
                continue
            own = mask_pair(secret)
            for other in self._survivors:
                public = self._roll.members[other].masks[round]
                yield pair_key(own, index, public, other, context=context, round=round), other < index
