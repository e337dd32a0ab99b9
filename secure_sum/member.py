"""One merchant's side of one block. All of it is in memory and dies with the process, on purpose."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from agreement.node_keys import fingerprint_of, public_text
from pp_model.errors import ProtocolError
from secure_sum.errors import SumError
from secure_sum.masks import (
    RoundSecrets,
    add_mask_,
    commitment,
    mask_pair,
    pair_key,
    public_bytes,
    self_key,
    self_mask_seed,
    top_up_seed,
)
from secure_sum.messages import KEY_BYTES, SECRET_BYTES, SECRETS, Array, Message, kind_of, read, written
from secure_sum.roll import Roll, roll_of, survivor_list
from secure_sum.sharing import box_bytes, dealt, sealed, share_hashes, unsealed
from secure_sum.signatures import is_signed, signature_of
from secure_sum.terms import opened

_WHOLE, _SELF, _PAIRWISE = range(len(SECRETS))


class Member:
    """What a merchant says and keeps in one block of rounds.

    It masks one vector for a round, ever, and answers for one list of survivors of a round, ever: with two of either
    the platform could see what this merchant alone holds. It must therefore never be copied, stored or restored, and a
    vector must never be masked in two blocks; that is up to whoever makes it.

    Attributes:
        block: number of the block.
        rounds: the rounds it is for.
        index: the merchant's place in the roster.
        ready: everybody's shares have come, so vectors may be masked.
    """

    def __init__(
        self,
        opening: bytes,
        *,
        plan: str,
        roster: Sequence[str],
        threshold: int,
        identity: ec.EllipticCurvePrivateKey,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Draws all secrets of the block.

        Args:
            opening: the platform's `open` message.
            plan: fingerprint of the plan that the merchant approved.
            roster: fingerprints of all merchants' node keys, from that plan.
            threshold: how many must be left at the end of a round, from that plan.
            identity: this merchant's node key.
            entropy: so many bytes that nobody else can know.

        Raises:
            ProtocolError: the message is about something else, or this node key is not on the roster.
        """
        self._terms = opened(read(opening, "open"), plan=plan, roster=roster, threshold=threshold)
        self._identity = identity
        fingerprint = fingerprint_of(identity.public_key())
        if fingerprint not in self._terms.roster:
            raise ProtocolError(f"this merchant's node key {fingerprint} is not on the plan's roster")
        self.block = self._terms.block
        self.rounds = self._terms.span
        self.index = self._terms.roster.index(fingerprint)
        self.ready = False
        self._channel = X25519PrivateKey.from_private_bytes(entropy(KEY_BYTES))
        self._secrets = {round: RoundSecrets.drawn(entropy) for round in self.rounds}  # those not masked with yet
        self._keys = self._announced()
        self._roll: Roll | None = None
        self._shares = b""
        self._held: dict[int, NDArray[np.uint8]] = {}  # by dealer: [rounds, secrets, 16]
        self._delivered = self._ready_text = b""
        self._decided: dict[int, bytes] = {}  # by round: the one list of survivors that was answered

    @property
    def members(self) -> int:
        """How many take part.

        Raises:
            SumError: the roll has not come yet.
        """
        return len(self._known_roll().members)

    def keys(self) -> bytes:
        """The `keys` message: this merchant's public keys for the block, signed."""
        return self._keys

    def shares(self, roll: bytes) -> bytes:
        """The `shares` message: every secret of the block, dealt to the members of the roll; once.

        Raises:
            ProtocolError: the roll is not one of merchants of the roster that signed what it says, with this merchant
                as it announced itself; or another roll came before.
        """
        if self._roll is not None and roll != self._roll.data:
            raise ProtocolError("a second roll for one block; this merchant deals its shares to one")
        if self._roll is None:
            checked = roll_of(roll, self._terms)
            mine = checked.members.get(self.index)
            if mine is None or mine.data != self._keys:
                raise ProtocolError("a roll in which this merchant is missing or is not as it announced itself")
            self._shares = self._dealt_to(checked)
            self._roll = checked
        return self._shares

    def ready_for(self, delivery: bytes) -> bytes:
        """The `ready` message: that the other members' shares have come, or which of them dealt none that can be used.

        Raises:
            ProtocolError: not a delivery of this roll to this merchant; or another one was accepted before.
        """
        roll = self._asked_roll()
        if self.ready and delivery != self._delivered:
            raise ProtocolError("a second delivery after this merchant had all shares")
        if not self.ready:
            sizes = {
                "others": len(roll.members) - 1,
                "rounds": self._terms.rounds,
                "box": box_bytes(self._terms.rounds),
            }
            message = read(delivery, "delivery", sizes=sizes)
            roll.check(message)
            if message.number("index") != self.index:
                raise ProtocolError("a delivery for another merchant")
            accused = self._opened(message, roll)
            self.ready, self._delivered = not accused, delivery
            fields = roll.fields(index=self.index)
            self._ready_text = self._signed("ready", fields, {"accused": np.array(accused, np.uint64)})
        return self._ready_text

    def top_up_seed(self, round: int) -> bytes:
        """16 bytes: the seed of the noise that the platform may take out again when nobody drops out.

        Raises:
            SumError: not a round of this block, or it is masked already.
        """
        return top_up_seed(self._unused(round).whole)

    def masked(self, round: int, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """[parameters]: `values` behind a mask, uniform to anyone who does not have the other members' help.

        Raises:
            SumError: the block is not ready, or the round is not of this block or was masked before.
        """
        roll = self._known_roll()
        secrets = self._unused(round)
        if not self.ready:
            raise SumError("the set-up of this block is not complete; nothing can be masked")
        if values.dtype != np.uint64 or values.ndim != 1:
            raise SumError(f"values of type {values.dtype} and shape {values.shape}; expected uint64 [parameters]")
        del self._secrets[round]  # from here on the round is used, whatever happens
        total = values.copy()
        add_mask_(total, self_key(self_mask_seed(secrets.whole), context=roll.context, index=self.index, round=round))
        own = mask_pair(secrets.pairwise)
        for index, other in roll.members.items():
            if index != self.index:
                key = pair_key(own, self.index, other.masks[round], index, context=roll.context, round=round)
                add_mask_(total, key, subtract=index < self.index)
        return total

    def reveal(self, message: bytes) -> bytes:
        """The answer to a list of survivors (`survivors`) or to the proof that enough signed it (`quorum`).

        If all members survived: `revealed`, this merchant's share of each one's own mask and top-up. Else `signed`, and
        with a quorum `revealed`: its share of each survivor's own mask, and of the key of each other's masks. The same
        question again gets the same answer.

        Raises:
            ProtocolError: the platform may not ask this; says why.
        """
        roll = self._asked_roll()
        kind = kind_of(message)
        if kind not in ("survivors", "quorum"):
            raise ProtocolError(f"a message of kind {kind!r}; expected 'survivors' or 'quorum'")
        asked = read(message, kind)
        roll.check(asked)
        round, survivors = asked.number("round"), asked.numbers("members")
        self._check_list(roll, round, survivors)
        if kind == "quorum":
            self._check_quorum(roll, asked)
            return self._revealed(roll, round, [_SELF if i in survivors else _PAIRWISE for i in roll.members])
        if self._decided.setdefault(round, message) != message:
            raise ProtocolError(f"a second list of survivors of round {round}; this merchant answered another one")
        if survivors == tuple(roll.members):
            return self._revealed(roll, round, [_WHOLE] * len(roll.members))
        fields = roll.fields(round=round, index=self.index)
        return written("signed", fields, {"signature": signature_of(self._identity, "survivors", message)})

    def _known_roll(self) -> Roll:
        if self._roll is None:
            raise SumError("the roll of this block has not come yet")
        return self._roll

    def _asked_roll(self) -> Roll:
        """The same, where it is the platform that is ahead of its time."""
        if self._roll is None:
            raise ProtocolError("a message of a later step; the roll of this block has not come yet")
        return self._roll

    def _unused(self, round: int) -> RoundSecrets:
        if round not in self.rounds:
            span = f"{self.rounds.start} to {self.rounds.stop - 1}"
            raise SumError(f"round {round} is not of this block, which is for {span}")
        if round not in self._secrets:
            raise SumError(f"round {round} was masked before; a merchant masks one vector for a round")
        return self._secrets[round]

    def _announced(self) -> bytes:
        identity = public_text(self._identity.public_key()).decode()
        fields = self._terms.fields() | {"index": self.index, "identity": identity}
        secrets = self._secrets.items()
        arrays = {
            "channel": np.frombuffer(public_bytes(self._channel), np.uint8),
            "masks": _rows([public_bytes(mask_pair(of_round.pairwise)) for _, of_round in secrets]),
            "commitments": _rows(
                [
                    commitment(self_mask_seed(of_round.whole), index=self.index, round=round)
                    for round, of_round in secrets
                ]
            ),
        }
        return self._signed("keys", fields, arrays)

    def _dealt_to(self, roll: Roll) -> bytes:
        holders = list(roll.members)
        dealt_secrets = [
            dealt(secret, threshold=self._terms.threshold, holders=holders)
            for secrets in self._secrets.values()
            for secret in secrets.in_order()
        ]
        shape = (len(holders), self._terms.rounds, len(SECRETS), SECRET_BYTES)
        by_holder = np.stack(dealt_secrets, axis=1).reshape(shape)
        hashes = [
            share_hashes(shares, context=roll.context, dealer=self.index, holder=holder, span=self.rounds)
            for holder, shares in zip(holders, by_holder, strict=True)
        ]
        boxes = []
        for holder, shares in zip(holders, by_holder, strict=True):
            if holder == self.index:
                self._held[holder] = shares
                continue
            other = roll.members[holder].channel
            box = sealed(shares, own=self._channel, other=other, context=roll.context, dealer=self.index, holder=holder)
            boxes.append(box)
        arrays = {"boxes": _rows(boxes), "hashes": np.stack(hashes)}
        return self._signed("shares", roll.fields(index=self.index), arrays)

    def _opened(self, message: Message, roll: Roll) -> list[int]:
        """Keeps the shares of a delivery; the dealers whose shares are not what they should be."""
        accused = []
        others = [index for index in roll.members if index != self.index]
        for dealer, box, expected in zip(others, message.octets("boxes"), message.octets("hashes"), strict=True):
            channel = roll.members[dealer].channel
            shares = unsealed(
                box, own=self._channel, other=channel, context=roll.context, dealer=dealer, holder=self.index
            )
            if shares is None or not np.array_equal(self._hashes_of(shares, roll, dealer), expected):
                accused.append(dealer)
            else:
                self._held[dealer] = shares
        return accused

    def _hashes_of(self, shares: NDArray[np.uint8], roll: Roll, dealer: int) -> NDArray[np.uint8]:
        return share_hashes(shares, context=roll.context, dealer=dealer, holder=self.index, span=self.rounds)

    def _check_list(self, roll: Roll, round: int, survivors: tuple[int, ...]) -> None:
        if round not in self.rounds or round in self._secrets:
            raise ProtocolError(f"survivors of round {round}, for which this merchant has masked nothing")
        if list(survivors) != sorted(set(survivors)) or not set(survivors) <= set(roll.members):
            raise ProtocolError("a list of survivors that is not one of members, each once, in ascending order")
        if len(survivors) < self._terms.threshold:
            raise ProtocolError(f"a list of {len(survivors)} survivors; the threshold is {self._terms.threshold}")
        if self.index not in survivors:
            raise ProtocolError("a list of survivors without this merchant")

    def _check_quorum(self, roll: Roll, asked: Message) -> None:
        round, survivors, signers = asked.number("round"), asked.numbers("members"), asked.numbers("signers")
        body = survivor_list(roll, round, survivors)
        if self._decided.get(round) != body or survivors == tuple(roll.members):
            raise ProtocolError(f"a quorum of round {round} for a list that this merchant did not sign")
        if list(signers) != sorted(set(signers)) or not set(signers) <= set(survivors):
            raise ProtocolError("a quorum whose signers are not survivors, each once, in ascending order")
        if len(signers) < self._terms.threshold:
            raise ProtocolError(f"a quorum of {len(signers)} signatures; the threshold is {self._terms.threshold}")
        for signer, signature in zip(signers, asked.octets("signatures"), strict=True):
            if not is_signed(roll.members[signer].identity, "survivors", body, signature):
                raise ProtocolError(f"a quorum with a signature that merchant {signer} did not make")

    def _revealed(self, roll: Roll, round: int, which: Sequence[int]) -> bytes:
        place = round - self.rounds.start
        shares = [self._held[dealer][place, secret] for dealer, secret in zip(roll.members, which, strict=True)]
        fields = roll.fields(round=round, index=self.index)
        return written("revealed", fields, {"shares": np.stack(shares)})

    def _signed(self, kind: str, fields: Mapping[str, str | int], arrays: Mapping[str, Array]) -> bytes:
        signature = signature_of(self._identity, kind, written(kind, fields, arrays))
        return written(kind, fields, {**arrays, "signature": signature})


def _rows(parts: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(parts), np.uint8).reshape(len(parts), -1)
