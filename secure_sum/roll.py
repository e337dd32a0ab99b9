"""Who takes part in a block: what each merchant announced, signed, and the roll of all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from agreement.node_keys import fingerprint_of, load_public
from pp_model.errors import ConfigError, ProtocolError
from secure_sum.masks import LABEL
from secure_sum.messages import KEY_BYTES, Message, read, written
from secure_sum.signatures import is_signed
from secure_sum.terms import Terms

_ANY_KEY = X25519PrivateKey.from_private_bytes(bytes(KEY_BYTES))  # secret to nobody


@dataclass(frozen=True, kw_only=True)
class Keys:
    """What one merchant announced for a block.

    Attributes:
        data: the whole message.
        channel: public key that shares for it are encrypted to.
        masks: public key of its masks, by round.
        commitments: commitment to the seed of its own mask, by round.
    """

    data: bytes
    index: int
    identity: ec.EllipticCurvePublicKey
    channel: bytes
    masks: dict[int, bytes]
    commitments: dict[int, bytes]


@dataclass(frozen=True, kw_only=True)
class Roll:
    """The members of a block.

    Attributes:
        data: the whole message.
        members: what each announced, by index, in ascending order.
    """

    data: bytes
    terms: Terms
    members: dict[int, Keys]

    @cached_property
    def context(self) -> bytes:
        """SHA-256 of the roll: everything that is said later is said about exactly these members and keys."""
        return hashlib.sha256(LABEL + b"context\n" + self.data).digest()

    def places(self) -> dict[int, int]:
        """Where a member stands in arrays over all members."""
        return {index: place for place, index in enumerate(self.members)}

    def fields(self, *, round: int | None = None, index: int | None = None) -> dict[str, str | int]:
        """What a message says that it is about: this roll, and a round and a member where there is one."""
        numbers = {"round": round, "index": index}
        return {"context": self.context.hex()} | {name: n for name, n in numbers.items() if n is not None}

    def check(self, message: Message) -> None:
        """Does nothing if the message is about this roll.

        Raises:
            ProtocolError: it is about another.
        """
        if message.fields["context"] != self.context.hex():
            raise ProtocolError(f"a {message.kind} message of another roll than this block's")


def keys_of(data: bytes, terms: Terms) -> Keys:
    """What a merchant of the roster announced for these terms, proven to be signed by its node key.

    Raises:
        ProtocolError: it is not that; says what is wrong.
    """
    message = read(data, "keys", sizes={"rounds": terms.rounds})
    terms.check(message)
    index = message.number("index")
    if index >= len(terms.roster):
        raise ProtocolError(f"keys of merchant {index}; the roster has {len(terms.roster)}, from 0")
    try:
        identity = load_public(message.fields["identity"].encode())
    except ConfigError:
        raise ProtocolError(f"keys of merchant {index} with an identity that is not a node key") from None
    if fingerprint_of(identity) != terms.roster[index]:
        raise ProtocolError(f"keys of merchant {index} with another node key than the roster's")
    if not is_signed(identity, "keys", message.unsigned(), message.octets("signature")):
        raise ProtocolError(f"keys of merchant {index} that its node key did not sign")
    by_round = {
        name: dict(zip(terms.span, (row.tobytes() for row in message.octets(name)), strict=True))
        for name in ("masks", "commitments")
    }
    channel = message.octets("channel").tobytes()
    for public in (channel, *by_round["masks"].values()):
        _check_public(public, index=index)
    return Keys(data=data, index=index, identity=identity, channel=channel, **by_round)


def _check_public(public: bytes, *, index: int) -> None:
    """A point of low order gives everybody the same key, so any key notices it (RFC 7748, section 6.1)."""
    try:
        _ANY_KEY.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise ProtocolError(f"keys of merchant {index} with a public key that keeps nothing secret") from None


def survivor_list(roll: Roll, round: int, survivors: Sequence[int]) -> bytes:
    """The `survivors` message, which is also what merchants sign."""
    return written("survivors", roll.fields(round=round), {"members": np.array(survivors, np.uint64)})


def rolled(entries: Iterable[bytes]) -> bytes:
    """The roll of `keys` messages, in ascending order of the members."""
    parts = list(entries)
    ends = np.cumsum([len(part) for part in parts]).astype(np.uint64)
    return written("roll", {}, {"keys": np.frombuffer(b"".join(parts), np.uint8), "ends": ends})


def roll_of(data: bytes, terms: Terms) -> Roll:
    """The roll, each member proven to be on the roster, once, with its own signature over its keys.

    Raises:
        ProtocolError: it is not that, or it has fewer members than the threshold.
    """
    message = read(data, "roll")
    keys, ends = message.octets("keys").tobytes(), message.numbers("ends")
    starts = (0, *ends[:-1])
    if not ends or ends[-1] != len(keys) or any(end <= start for start, end in zip(starts, ends, strict=True)):
        raise ProtocolError("a roll whose parts do not fit together")
    if not terms.threshold <= len(ends) <= len(terms.roster):
        raise ProtocolError(f"a roll of {len(ends)} members; allowed: {terms.threshold} to {len(terms.roster)}")
    members = [keys_of(keys[start:end], terms) for start, end in zip(starts, ends, strict=True)]
    indices = [member.index for member in members]
    if indices != sorted(set(indices)):
        raise ProtocolError("a roll with a member twice, or not in ascending order")
    return Roll(data=data, terms=terms, members={member.index: member for member in members})
