"""What platform and merchant say to each other: tasks, releases, refusals; versioned, as plain arrays and scalars."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from pp_model.errors import ConfigError, ProtocolError
from pp_model.plan import TrainingPlan
from pp_model.serialization import Arrays, fingerprint, from_safetensors, to_safetensors

PROTOCOL_VERSION = 1


class RefusalCode(StrEnum):
    """Why a merchant did not release. A fixed list: no other text about a failure ever leaves the merchant."""

    BAD_TASK = "bad_task"  # not a task of this version, or its arrays are not the plan's model
    POLICY = "policy"  # the merchant's policy does not allow the plan
    NOT_APPROVED = "not_approved"  # nobody at the merchant has approved the plan
    EXPIRED = "expired"  # the plan's offer is not yet, or no longer, valid
    BUDGET = "budget"  # the charge would pass the merchant's budget
    LEDGER = "ledger"  # the ledger cannot vouch for what was spent
    ALREADY_ANSWERED = "already_answered"  # answered before, and the sealed reply is no longer kept
    UNAVAILABLE = "unavailable"  # anything else; the reason stays in the merchant's own log


@dataclass(frozen=True, kw_only=True)
class Wire:
    """A message as Flower, a file or a test vector carries it."""

    arrays: Arrays
    scalars: Mapping[str, str | int | float]


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
    """One merchant's part in one round: the plan, the round (from 1) and the model's arrays."""

    plan: TrainingPlan
    round: int
    arrays: Arrays

    @cached_property
    def fingerprint(self) -> str:
        """Equal exactly when plan, round and arrays are equal: what makes a repeated task a repeat."""
        text = f"{PROTOCOL_VERSION}|{self.plan.fingerprint}|{self.round}|{fingerprint(self.arrays)}"
        return hashlib.sha256(text.encode()).hexdigest()

    def to_wire(self) -> Wire:
        """Arrays and scalars; `task_from_wire` is the inverse."""
        return Wire(
            arrays=self.arrays,
            scalars={"version": PROTOCOL_VERSION, "kind": "task", "round": self.round, "plan": self.plan.to_json()},
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
        ProtocolError: another version or kind, an unreadable plan, a round outside the plan.
    """
    _expect(wire, kind="task", keys={"version", "kind", "round", "plan"})
    try:
        plan = TrainingPlan.from_json(_text(wire, "plan"))
    except ConfigError as error:
        raise ProtocolError(f"the task's plan is not valid: {error}") from error
    round_ = wire.scalars["round"]
    if type(round_) is not int or not 1 <= round_ <= plan.rounds:
        raise ProtocolError(f"round {round_!r} is not one of the plan's 1 to {plan.rounds}")
    return Task(plan=plan, round=round_, arrays=dict(wire.arrays))


def reply_from_wire(wire: Wire) -> Release | Refusal:
    """The release or refusal in a message; its arrays are not yet checked against a model.

    Raises:
        ProtocolError: another version or kind, a key too many or too few, an unknown code.
    """
    if wire.scalars.get("kind") == "release":
        _expect(wire, kind="release", keys={"version", "kind", "task"})
        return Release(task=_text(wire, "task"), update=dict(wire.arrays))
    _expect(wire, kind="refusal", keys={"version", "kind", "task", "code"})
    if wire.arrays:
        raise ProtocolError("a refusal carries arrays")
    try:
        return Refusal(task=_text(wire, "task"), code=RefusalCode(_text(wire, "code")))
    except ValueError:
        raise ProtocolError("a refusal with a code that is not in the list") from None


def seal(release: Release) -> bytes:
    """The exact bytes that the ledger keeps and that every repeat of the task gets."""
    return to_safetensors(release.update, _seal_metadata(release))


def unseal(data: bytes) -> Release:
    """The release in sealed bytes.

    Raises:
        ProtocolError: the bytes are damaged.
    """
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


def _expect(wire: Wire, *, kind: str, keys: set[str]) -> None:
    version = wire.scalars.get("version")
    if type(version) is not int or version != PROTOCOL_VERSION:
        raise ProtocolError(f"message of version {version!r:.40}; this program speaks {PROTOCOL_VERSION}")
    if wire.scalars.get("kind") != kind or set(wire.scalars) != keys:
        raise ProtocolError(f"not a well-formed {kind} message")


def _text(wire: Wire, key: str) -> str:
    value = wire.scalars[key]
    if not isinstance(value, str):
        raise ProtocolError(f"{key} is not text")
    return value
