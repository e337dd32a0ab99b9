"""What one round is, on plain values: answers in, the next state of the training out. Flower is not needed here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pp_model.clipping import update_norm
from pp_model.errors import ProtocolError, PurchasePowerError
from pp_model.plan import TrainingPlan
from pp_model.protocol import Refusal, RefusalCode, Release, Wire, reply_from_wire
from pp_model.serialization import Arrays, Shapes
from server.aggregation import RejectedReleaseError, RejectionCode, aggregator, validate_release
from server.in_order import InOrder
from server.optimizer import ServerOptimizer

MAX_VOID_ROUNDS = 3

Answer = Wire | RejectionCode  # what came back, or why nothing did


class RunStoppedError(PurchasePowerError):
    """Too many void rounds in a row; the last checkpoint stands, and a new run resumes from it."""


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Where a run stands between two rounds.

    Attributes:
        round: the last round that moved the model; 0 before the first.
        voids: void rounds since then.
        arrays: all arrays of the model, as merchants receive them.
    """

    round: int
    voids: int = 0
    arrays: Arrays
    optimizer: ServerOptimizer

    @property
    def published(self) -> Arrays:
        """The model as it would be published now: averaged over rounds where the plan says so."""
        return self.optimizer.published(self.arrays)


def initial_state(plan: TrainingPlan, arrays: Arrays) -> TrainingState:
    """Before the first round."""
    return TrainingState(round=0, arrays=arrays, optimizer=ServerOptimizer(plan=plan.server, rounds=plan.rounds))


@dataclass(frozen=True, kw_only=True)
class RoundOutcome:
    """What a round's answers come to.

    Attributes:
        round: which round, from 1.
        cohort: merchants asked.
        completed: nodes of the valid releases, all of them in `update`, in the order of the cohort.
        update: the aggregate; {} without a valid release.
        norm: L2 norm of `update`.
        void: too few valid releases; the model must not move.
        refusals: merchants' no, by node.
        rejections: answers that were not used, by node.
    """

    round: int
    cohort: int
    completed: tuple[int, ...]
    update: Arrays
    norm: float
    void: bool
    refusals: dict[int, RefusalCode] = field(default_factory=dict)
    rejections: dict[int, RejectionCode] = field(default_factory=dict)

    @property
    def completions(self) -> int:
        """How many valid releases there were."""
        return len(self.completed)


def collect(
    answers: Iterable[tuple[int, Answer]],
    *,
    cohort: Sequence[int],
    plan: TrainingPlan,
    round: int,
    task: str,
    trainable: Shapes,
) -> RoundOutcome:
    """The outcome of a round. No answer, however wrong, ends the round or touches another merchant's.

    Each answer is checked, added and forgotten as it comes: with the aggregation "mean", memory does not grow with the
    merchants. The others keep all updates to the end. See `InOrder` for what comes before its turn.

    Args:
        answers: (node, answer), at most one for each of the cohort, in any order; read once, as they come.
        cohort: the nodes asked, in the order in which their updates are to be summed; who is not in `answers` gave no
            reply.
        task: fingerprint of the task that all of them were given.
        trainable: the shapes that a release must have.
    """
    refusals: dict[int, RefusalCode] = {}
    rejections = dict.fromkeys(cohort, RejectionCode.NO_REPLY)  # until it is known better
    aggregate = aggregator(plan.server.aggregation)
    updates = InOrder(cohort, aggregate.add)

    def take(node: int, answer: Answer) -> None:
        read = _read(answer, task=task, plan=plan, trainable=trainable)
        if isinstance(read, RejectionCode):
            rejections[node] = read
        else:
            del rejections[node]
        if isinstance(read, RefusalCode):
            refusals[node] = read
        updates.came(node, read if isinstance(read, dict) else None)

    for node, answer in answers:
        take(node, answer)
        del answer  # while the next is waited for
    updates.end()
    update = aggregate.result()
    for place in aggregate.left_out():
        rejections[updates.passed[place]] = RejectionCode.OUTLIER
    completed = tuple(node for node in cohort if node not in refusals and node not in rejections)
    return RoundOutcome(
        round=round,
        cohort=len(cohort),
        completed=completed,
        update=update,
        norm=update_norm(update),
        void=len(completed) < plan.server.min_completions,
        refusals={node: refusals[node] for node in cohort if node in refusals},
        rejections={node: rejections[node] for node in cohort if node in rejections},
    )


def apply_round(state: TrainingState, outcome: RoundOutcome) -> TrainingState:
    """The state after a round. A void round leaves the model and the round where they were.

    The round is then asked again as the identical task: who has answered answers the same without a new charge.

    Raises:
        RunStoppedError: the third void round in a row.
    """
    if not outcome.void:
        arrays, optimizer = state.optimizer.step(state.arrays, outcome.update, round=outcome.round)
        return TrainingState(round=outcome.round, arrays=arrays, optimizer=optimizer)
    if state.voids + 1 >= MAX_VOID_ROUNDS:
        raise RunStoppedError(
            f"round {outcome.round} had too few valid releases {MAX_VOID_ROUNDS} times in a row, the last time "
            f"{outcome.completions} of {outcome.cohort} asked. The model stands as after round {state.round}. "
            "See the registry for refusals and rejections, then run again: it resumes from there."
        )
    return replace(state, voids=state.voids + 1)


def _read(answer: Answer, *, task: str, plan: TrainingPlan, trainable: Shapes) -> Arrays | RefusalCode | RejectionCode:
    if isinstance(answer, RejectionCode):
        return answer
    try:
        reply = reply_from_wire(answer)
        if isinstance(reply, Refusal):
            return reply.code
        if not isinstance(reply, Release):
            return RejectionCode.MALFORMED
        return validate_release(
            reply,
            task=task,
            shapes=trainable,
            update_clip_norm=plan.update_clip_norm,
            noised=plan.dp.noise_multiplier > 0,
        )
    except RejectedReleaseError as error:
        return error.code
    except ProtocolError:
        return RejectionCode.MALFORMED
