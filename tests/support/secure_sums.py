"""Merchants and a platform that set up a secure sum and run its rounds, without a network; and messages changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

from agreement.node_keys import fingerprint_of
from secure_sum.collector import Collector, Summed
from secure_sum.errors import SumError
from secure_sum.member import Member
from secure_sum.messages import read, written
from secure_sum.roll import Roll, roll_of, survivor_list
from secure_sum.signatures import signature_of

PLAN = hashlib.sha256(b"a plan").hexdigest()
SIZE = 5  # parameters
STEPS = ("keys", "shares", "delivery", "mask", "answer", "quorum")


@cache
def identity(index: int) -> ec.EllipticCurvePrivateKey:
    """The node key of the merchant with that index; the same in every process."""
    return ec.derive_private_key(1_000_003 + index, ec.SECP384R1())


def roster_of(merchants: int) -> list[str]:
    """The fingerprints of that many merchants."""
    return [fingerprint_of(identity(index).public_key()) for index in range(merchants)]


def counted(seed: str) -> Callable[[int], bytes]:
    """Bytes that are the same for the same seed."""
    calls = iter(range(10**9))

    def entropy(size: int) -> bytes:
        return hashlib.shake_256(f"{seed}|{next(calls)}".encode()).digest(size)

    return entropy


def collector_of(merchants: int, *, threshold: int, rounds: int = 1, block: int = 1, first_round: int = 1) -> Collector:
    """The platform's side, with nobody in it."""
    return Collector(
        plan=PLAN,
        roster=roster_of(merchants),
        block=block,
        first_round=first_round,
        rounds=rounds,
        threshold=threshold,
    )


def member_of(collector: Collector, index: int, *, merchants: int, threshold: int, seed: str = "") -> Member:
    """One merchant's side; with a seed its secrets are the same every time."""
    drawn = {"entropy": counted(f"{seed}|{index}")} if seed else {}
    return Member(
        collector.opening(),
        plan=PLAN,
        roster=roster_of(merchants),
        threshold=threshold,
        identity=identity(index),
        **drawn,
    )


@dataclass
class Block:
    """A platform and its members, set up as far as a test wants it."""

    collector: Collector
    members: dict[int, Member]
    rounds: Iterable[int] = field(init=False)

    def __post_init__(self) -> None:
        self.rounds = iter(self.collector.rounds)

    def __getitem__(self, index: int) -> Member:
        return self.members[index]

    @cached_property
    def roll(self) -> Roll:
        """The roll, read by somebody who knows the terms."""
        return roll_of(self.collector.roll(), self.collector._terms)

    def next_round(self) -> int:
        """A round of the block that was not asked for yet."""
        return next(self.rounds)


def announced(
    merchants: int, *, threshold: int, rounds: int = 1, block: int = 1, absent: Collection[int] = (), seed: str = ""
) -> Block:
    """A block whose members have sent their keys."""
    collector = collector_of(merchants, threshold=threshold, rounds=rounds, block=block)
    members = {
        index: member_of(collector, index, merchants=merchants, threshold=threshold, seed=seed)
        for index in range(merchants)
        if index not in absent
    }
    for index, member in members.items():
        collector.add_keys(index, member.keys())
    return Block(collector, members)


def dealt(merchants: int, *, threshold: int, rounds: int = 1, block: int = 1, seed: str = "") -> Block:
    """A block whose members have sent their shares too."""
    made = announced(merchants, threshold=threshold, rounds=rounds, block=block, seed=seed)
    roll = made.collector.roll()
    for index, member in made.members.items():
        made.collector.add_shares(index, member.shares(roll))
    return made


def set_up(merchants: int, *, threshold: int, rounds: int = 1, block: int = 1, seed: str = "") -> Block:
    """A block that is ready for its rounds."""
    made = dealt(merchants, threshold=threshold, rounds=rounds, block=block, seed=seed)
    for index, member in made.members.items():
        made.collector.add_ready(index, member.ready_for(made.collector.delivery(index)))
    assert made.collector.complete()
    return made


def vectors(merchants: int, *, rng: np.random.Generator, size: int = SIZE) -> dict[int, NDArray[np.uint64]]:
    """A vector of any words for each merchant."""
    return {index: rng.integers(0, 2**64, size, dtype=np.uint64) for index in range(merchants)}


def plain_sum(values: dict[int, NDArray[np.uint64]], survivors: Iterable[int]) -> list[int]:
    """The same by whole numbers."""
    return [sum(column) % 2**64 for column in zip(*(values[index].tolist() for index in survivors), strict=True)]


def play(block: Block, round: int, values: dict[int, NDArray[np.uint64]], drops: dict[int, str]) -> Summed | None:
    """One round as a platform runs it; None where it is void.

    Args:
        drops: the step at which a merchant falls silent: it does not do that step, nor any later one.
    """

    def alive(step: str) -> list[int]:
        return [i for i in block.members if STEPS.index(drops.get(i, "quorum")) > STEPS.index(step) or i not in drops]

    size = len(next(iter(values.values())))
    summing = block.collector.round_sum(round, size=size)
    try:
        for index in alive("mask"):
            summing.add(index, block[index].masked(round, values[index]))
        asked = summing.survivors()
        for index in alive("answer"):
            summing.add_answer(index, block[index].reveal(asked))
        quorum = summing.quorum()
        if quorum is not None:
            for index in alive("quorum"):
                summing.add_answer(index, block[index].reveal(quorum))
        return summing.result()
    except SumError:
        return None


def survivors(block: Block, round: int, members: Collection[int]) -> bytes:
    """A list of survivors as any platform can write it."""
    return survivor_list(block.roll, round, list(members))


def signatures(block: Block, round: int, members: Collection[int], signers: Iterable[int]) -> dict[int, NDArray]:
    """What those merchants say to that list."""
    asked = survivors(block, round, members)
    return {index: read(block[index].reveal(asked), "signed").octets("signature") for index in signers}


def quorum(block: Block, round: int, members: Collection[int], signed: Mapping[int, NDArray]) -> bytes:
    """A quorum as any platform can write it."""
    arrays = {
        "members": np.array(list(members), np.uint64),
        "signers": np.array(list(signed), np.uint64),
        "signatures": np.array(list(signed.values()), np.uint8).reshape(-1, 96),
    }
    return written("quorum", block.roll.fields(round=round), arrays)


def changed(data: bytes, kind: str, *, signer: int | None = None, fields: dict | None = None, **arrays) -> bytes:
    """A message with other fields or arrays, well-formed, and signed by a merchant where its kind wants that."""
    message = read(data, kind)
    new_fields, new_arrays = {**message.fields, **(fields or {})}, {**message.arrays, **arrays}
    if signer is not None:
        new_arrays.pop("signature")
        new_arrays["signature"] = signature_of(identity(signer), kind, written(kind, new_fields, new_arrays))
    return written(kind, new_fields, new_arrays)
