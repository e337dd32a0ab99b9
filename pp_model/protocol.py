"""What platform and merchant say to each other: tasks, releases, refusals; versioned, as plain arrays and scalars."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pp_model.errors import ConfigError, ProtocolError
from pp_model.plan import TrainingPlan
from pp_model.serialization import Arrays, fingerprint, from_safetensors, to_safetensors

PROTOCOL_VERSION = 2  # 1 knew no secure sums
_MASKED = b"masked 2 "  # how sealed bytes of a secure sum begin


class RefusalCode(StrEnum):
    """Why a merchant did not release. A fixed list: no other text about a failure ever leaves the merchant."""

    BAD_TASK = "bad_task"  # not a task of this version, or its arrays are not the plan's model
    POLICY = "policy"  # the merchant's policy does not allow the plan
    NOT_APPROVED = "not_approved"  # nobody at the merchant has approved the plan
    EXPIRED = "expired"  # the plan's offer is not yet, or no longer, valid
    BUDGET = "budget"  # the charge would pass the merchant's budget
    LEDGER = "ledger"  # the ledger cannot vouch for what was spent
    ALREADY_ANSWERED = "already_answered"  # answered before, and the sealed reply is no longer kept
    NO_BLOCK = "no_block"  # not set up for this round's secure sum: it was restarted since, say
    SUM = "sum"  # the secure sum's rules forbid what was asked: a second list of survivors, say
    UNAVAILABLE = "unavailable"  # anything else; the reason stays in the merchant's own log


@dataclass(frozen=True, kw_only=True)
class Wire:
    """A message as Flower, a file or a test vector carries it.

    Attributes:
        letter: bytes of the secure sum's protocol; empty in every other message.
    """

    arrays: Arrays
    scalars: Mapping[str, str | int | float]
    letter: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """The last entry of a merchant's ledger, for the platform to keep, so that an old copy put back is noticed.

    It says how often the merchant was charged, which the platform knows, and nothing about anyone.

    Attributes:
        ledger: SHA-256 of what the budget belongs to.
        seq: number of the entry, from 0.
        hash: the entry's hash, which covers all before it.
    """

    ledger: str
    seq: int
    hash: str

    def __post_init__(self) -> None:
        hexadecimal = all(len(text) == 64 and set(text) <= set("0123456789abcdef") for text in (self.ledger, self.hash))
        if not hexadecimal or type(self.seq) is not int or not 0 <= self.seq < 2**53:
            raise ProtocolError("an anchor is two SHA-256 in hexadecimal and a number from 0")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One merchant's part in one round: the plan, the round (from 1) and the model's arrays.

    Attributes:
        block: which set-up of the secure sum the answer is masked with; 0 with `local` trust.
    """

    plan: TrainingPlan
    round: int
    arrays: Arrays
    block: int = 0

    @cached_property
    def fingerprint(self) -> str:
        """Equal exactly when plan, round, block and arrays are equal: what makes a repeated task a repeat."""
        text = f"{PROTOCOL_VERSION}|{self.plan.fingerprint}|{self.round}|{self.block}|{fingerprint(self.arrays)}"
        return hashlib.sha256(text.encode()).hexdigest()

    def to_wire(self) -> Wire:
        """Arrays and scalars; `task_from_wire` is the inverse."""
        return Wire(
            arrays=self.arrays,
            scalars={
                "version": PROTOCOL_VERSION,
                "kind": "task",
                "round": self.round,
                "block": self.block,
                "plan": self.plan.to_json(),
            },
        )


@dataclass(frozen=True, kw_only=True)
class Release:
    """What the mechanism made of the merchant's customers for one task, paid for in the ledger.

    Attributes:
        task: fingerprint of the task answered.
        update: trained parameters minus the parameters received.
    """

    task: str
    update: Arrays

    def to_wire(self) -> Wire:
        """Arrays and scalars; nothing else about the merchant."""
        return Wire(arrays=self.update, scalars={"version": PROTOCOL_VERSION, "kind": "release", "task": self.task})


@dataclass(frozen=True, kw_only=True)
class MaskedRelease:
    """What a merchant adds to a secure sum for one task, paid for in the ledger: without the others' masks, noise.

    Attributes:
        task: fingerprint of the task answered.
        values: [parameters] modulo 2**64.
    """

    task: str
    values: NDArray[np.uint64]

    def to_wire(self) -> Wire:
        """Two scalars and a letter; nothing else about the merchant."""
        return Wire(
            arrays={},
            scalars={"version": PROTOCOL_VERSION, "kind": "masked", "task": self.task},
            letter=self.values.astype("<u8").tobytes(),
        )


@dataclass(frozen=True, kw_only=True)
class SumQuestion:
    """A step of the secure sum's protocol that the platform asks a merchant for; see the package `secure_sum`."""

    plan: TrainingPlan
    block: int
    letter: bytes

    def to_wire(self) -> Wire:
        """Scalars and a letter; `question_from_wire` is the inverse."""
        return Wire(
            arrays={},
            scalars={
                "version": PROTOCOL_VERSION,
                "kind": "sum_question",
                "block": self.block,
                "plan": self.plan.to_json(),
            },
            letter=self.letter,
        )


@dataclass(frozen=True, kw_only=True)
class SumAnswer:
    """What the merchant says to a `SumQuestion`: keys, shares and signatures, none of which depends on an order."""

    letter: bytes

    def to_wire(self) -> Wire:
        """Two scalars and a letter."""
        return Wire(arrays={}, scalars={"version": PROTOCOL_VERSION, "kind": "sum_answer"}, letter=self.letter)


Reply = Release | MaskedRelease | SumAnswer


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A merchant's no, by a code of the fixed list. `task` is "" where the task could not be read."""

    task: str
    code: RefusalCode

    def to_wire(self) -> Wire:
        """Two scalars."""
        return Wire(
            arrays={},
            scalars={"version": PROTOCOL_VERSION, "kind": "refusal", "task": self.task, "code": self.code.value},
        )


def task_from_wire(wire: Wire) -> Task:
    """The task in a message.

    Raises:
        ProtocolError: another version or kind, an unreadable plan, a round outside the plan, a block where the plan
            has no secure sum, or none where it has.
    """
    _expect(wire, kind="task", keys={"version", "kind", "round", "block", "plan"})
    plan = _plan(wire)
    round_ = wire.scalars["round"]
    if type(round_) is not int or not 1 <= round_ <= plan.rounds:
        raise ProtocolError(f"round {round_!r} is not one of the plan's 1 to {plan.rounds}")
    return Task(plan=plan, round=round_, arrays=dict(wire.arrays), block=_block(wire, plan))


def question_from_wire(wire: Wire) -> SumQuestion:
    """The secure sum's question in a message; its letter is not yet read.

    Raises:
        ProtocolError: another version or kind, an unreadable plan, or one without a secure sum.
    """
    _expect(wire, kind="sum_question", keys={"version", "kind", "block", "plan"}, letter=True)
    plan = _plan(wire)
    if plan.secure_sum is None:
        raise ProtocolError(f"a question of a secure sum under a plan with {plan.trust} trust")
    return SumQuestion(plan=plan, block=_block(wire, plan), letter=wire.letter)


def is_question(wire: Wire) -> bool:
    """Whether it says that it is a step of the secure sum's protocol, and not a task."""
    return wire.scalars.get("kind") == "sum_question"


def reply_from_wire(wire: Wire) -> Reply | Refusal:
    """The reply in a message; its arrays are not yet checked against a model, its letter is not yet read.

    Raises:
        ProtocolError: another version or kind, a key too many or too few, an unknown code.
    """
    kind = wire.scalars.get("kind")
    if kind == "release":
        _expect(wire, kind="release", keys={"version", "kind", "task"})
        return Release(task=_text(wire, "task"), update=dict(wire.arrays))
    if kind == "masked":
        _expect(wire, kind="masked", keys={"version", "kind", "task"}, letter=True)
        return MaskedRelease(task=_text(wire, "task"), values=_words(wire.letter))
    if kind == "sum_answer":
        _expect(wire, kind="sum_answer", keys={"version", "kind"}, letter=True)
        return SumAnswer(letter=wire.letter)
    _expect(wire, kind="refusal", keys={"version", "kind", "task", "code"})
    if wire.arrays:
        raise ProtocolError("a refusal carries arrays")
    try:
        return Refusal(task=_text(wire, "task"), code=RefusalCode(_text(wire, "code")))
    except ValueError:
        raise ProtocolError("a refusal with a code that is not in the list") from None


def seal(release: Release | MaskedRelease) -> bytes:
    """The exact bytes that the ledger keeps and that every repeat of the task gets."""
    if isinstance(release, MaskedRelease):
        body = release.task.encode() + b"\n" + release.to_wire().letter
        return _MASKED + hashlib.sha256(body).digest() + body
    return to_safetensors(release.update, _seal_metadata(release))


def unseal(data: bytes) -> Release | MaskedRelease:
    """The release in sealed bytes.

    Raises:
        ProtocolError: the bytes are damaged.
    """
    if data.startswith(_MASKED):
        digest, body = data[len(_MASKED) :][:32], data[len(_MASKED) + 32 :]
        task, _, letter = body.partition(b"\n")
        if hashlib.sha256(body).digest() != digest:
            raise ProtocolError("the sealed bytes are damaged, or not a release of this version")
        return MaskedRelease(task=task.decode(), values=_words(letter))
    update, metadata = from_safetensors(data)
    release = Release(task=metadata.get("task", ""), update=update)
    if metadata != _seal_metadata(release):
        raise ProtocolError("the sealed bytes are damaged, or not a release of this version")
    return release


def _seal_metadata(release: Release) -> dict[str, str]:
    scalars = {key: str(value) for key, value in release.to_wire().scalars.items()}
    text = "|".join(f"{key}={scalars[key]}" for key in sorted(scalars))
    digest = hashlib.sha256(f"{text}|{fingerprint(release.update)}".encode()).hexdigest()
    return {**scalars, "digest": digest}


def _plan(wire: Wire) -> TrainingPlan:
    try:
        return TrainingPlan.from_json(_text(wire, "plan"))
    except ConfigError as error:
        raise ProtocolError(f"the message's plan is not valid: {error}") from error


def _block(wire: Wire, plan: TrainingPlan) -> int:
    block = wire.scalars["block"]
    least, most = (1, plan.rounds) if plan.secure_sum else (0, 0)
    if type(block) is not int or not least <= block <= most:
        raise ProtocolError(f"block {block!r:.40} does not fit a plan with {plan.trust} trust")
    return block


def _words(letter: bytes) -> NDArray[np.uint64]:
    if len(letter) % 8:
        raise ProtocolError(f"a masked release of {len(letter)} bytes; expected 8 for each parameter")
    return np.frombuffer(letter, "<u8").astype(np.uint64)


def _expect(wire: Wire, *, kind: str, keys: set[str], letter: bool = False) -> None:
    version = wire.scalars.get("version")
    if type(version) is not int or version != PROTOCOL_VERSION:
        raise ProtocolError(f"message of version {version!r:.40}; this program speaks {PROTOCOL_VERSION}")
    if wire.scalars.get("kind") != kind or set(wire.scalars) != keys:
        raise ProtocolError(f"not a well-formed {kind} message")
    if letter != bool(wire.letter) or (letter and wire.arrays):
        raise ProtocolError(f"a {kind} message {'without a letter, or with arrays' if letter else 'with a letter'}")


def _text(wire: Wire, key: str) -> str:
    value = wire.scalars[key]
    if not isinstance(value, str):
        raise ProtocolError(f"{key} is not text")
    return value
