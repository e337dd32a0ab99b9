"""One task, answered: check, charge, train, seal, release. The order of these lines is the guarantee.

    the ledger vouches?  ->  the merchant agreed?  ->  known already?  ->  the sealed bytes, again
    allowed?  ->  charge (on disk)  ->  train  ->  seal (on disk)  ->  release what was sealed

Each question's no is a refusal by a code. A crash after the charge wastes the charge or, since nothing has left, lets
the same task be computed under it. A crash after the seal resends the same bytes, as long as the merchant agrees: they
are paid for, but to every task that comes after a merchant's no, or after the end of its yes, the answer is no. No
path refunds, and none releases what was not charged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from client.ledger import SealedReplyGoneError
from client.policy import Policy, check_plan
from client.secure_sums import NoBlockError, SecureSums
from client.shop import Shop
from pp_model.accounting import PrivacyEvent
from pp_model.errors import (
    ArraysError,
    BudgetExceededError,
    ExpiredError,
    LedgerError,
    NotApprovedError,
    PolicyError,
    ProtocolError,
)
from pp_model.model import check_parameters
from pp_model.protocol import (
    Anchor,
    MaskedRelease,
    Refusal,
    RefusalCode,
    Release,
    Reply,
    Task,
    Wire,
    is_question,
    question_from_wire,
    seal,
    task_from_wire,
    unseal,
)
from pp_model.train import share_of_sum, train_locally
from secure_sum.errors import SumError

log = logging.getLogger(__name__)


class TaskLedger(Protocol):
    """What a task asks of a ledger; see `client.ledger.PrivacyLedger`."""

    def sealed(self, task: str) -> bytes | None:
        """The bytes sealed for a task; None where there are none."""
        ...

    def charge(self, task: str, event: PrivacyEvent, *, plan: str, most_tasks: int | None) -> None:
        """Reserves the event for the task, or raises."""
        ...

    def seal(self, task: str, payload: bytes) -> bytes:
        """Keeps the bytes of a charged task; what is kept."""
        ...


def answer(
    wire: Wire,
    shop: Shop,
    *,
    anchor: Anchor | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Reply | Refusal:
    """The reply to a message: a release that the ledger has paid for, or a refusal by a code.

    A question of the secure sum is answered without a charge, since no answer to one depends on an order: keys, shares
    of them, signatures. What does is masked and charged like any other task.

    Never raises, whatever the message, the orders or the disk do: an exception's text would travel to the platform
    (checklist D35, D36). The reason of a refusal stays in the merchant's own log. Whatever becomes of a task whose
    plan was agreed, it returns at a whole multiple of the plan's `answer_every_seconds` after the call; a refusal
    before that depends on no order, and returns at once: a plan that nobody agreed to makes nobody wait.

    Args:
        anchor: what the platform knows of this merchant's ledger. A ledger that contradicts it answers nothing, not
            even what was sealed: an old copy does not know what was charged since.
        clock: seconds that only grow; `sleep` waits for some of them.
    """
    came, task_id, answer_every = clock(), "", 0.0
    try:
        if is_question(wire):
            return _sum_answer(wire, shop)
        task = task_from_wire(wire)
        task_id = task.fingerprint
        if anchor is not None:
            shop.ledger.check_anchor(anchor)
        shop.agreed(task.plan)
        answer_every = task.plan.answer_every_seconds
        reply: Reply | Refusal = unseal(_paid_bytes(task, shop))
    except Exception as error:  # not a stop of the process, after which nothing is sent
        reply = refused(task_id, error)
    _wait_for_a_multiple(answer_every, since=came, clock=clock, sleep=sleep)
    return reply


def admitted(
    task: Task, *, ledger: TaskLedger, policy: Policy, ready: Callable[[Task], None] | None = None
) -> bytes | None:
    """The bytes sealed for this task before; or None: the task is now charged, and its orders may be looked at.

    Args:
        ready: returns if an answer to the task can be sent: what cannot must not cost budget.

    Raises:
        PurchasePowerError: the policy, the arrays, the ledger or the budget say no. Nothing was charged.
    """
    sealed = ledger.sealed(task.fingerprint)
    if sealed is None:
        check_plan(task.plan, policy)
        check_parameters(task.arrays, task.plan.model)  # before the charge: garbage must not cost budget
        if ready is not None:
            ready(task)
        ledger.charge(task.fingerprint, task.plan.event, plan=task.plan.fingerprint, most_tasks=task.plan.rounds)
    return sealed


def released(release: Release | MaskedRelease, *, ledger: TaskLedger) -> bytes:
    """The bytes to send for a charged task: this release's, or what was sealed for it first. The ledger has kept them.

    Raises:
        LedgerError: the task was never charged, or the ledger cannot keep the bytes. Nothing may leave.
    """
    return ledger.seal(release.task, seal(release))


def refused(task_id: str, error: Exception) -> Refusal:
    """The no that an error becomes: a code, and a line in the merchant's own log."""
    reply = Refusal(task=task_id, code=_code(error))
    fields = {"task": task_id[:12], "code": reply.code.value, "error": type(error).__name__}
    log.warning("task refused", extra=fields)  # the kind alone: the text of a library's error may hold a cell
    return reply


def _sum_answer(wire: Wire, shop: Shop) -> Reply:
    question = question_from_wire(wire)
    shop.agreed(question.plan)
    check_plan(question.plan, shop.policy)
    return shop.secure_sums().answer(question)


def _paid_bytes(task: Task, shop: Shop) -> bytes:
    masks = None if task.plan.secure_sum is None else shop.secure_sums()
    sealed = admitted(task, ledger=shop.ledger, policy=shop.policy, ready=masks.check_open if masks else None)
    if sealed is not None:
        return sealed
    began = time.monotonic()
    release = _trained(task, shop) if masks is None else _masked(task, shop, masks)
    seconds = round(time.monotonic() - began, 3)
    log.info("task trained", extra={"task": task.fingerprint[:12], "round": task.round, "seconds": seconds})
    return released(release, ledger=shop.ledger)


def _trained(task: Task, shop: Shop) -> Release:
    update = train_locally(task.arrays, shop.rows(task), task.plan, secret=shop.secret)
    return Release(task=task.fingerprint, update=update)


def _masked(task: Task, shop: Shop, masks: SecureSums) -> MaskedRelease:
    share = share_of_sum(
        task.arrays,
        shop.rows(task),
        task.plan,
        members=masks.members(task),
        secret=shop.secret,
        top_up=masks.top_up(task),
    )
    return MaskedRelease(task=task.fingerprint, values=masks.masked(task, share))


def _wait_for_a_multiple(
    seconds: float, *, since: float, clock: Callable[[], float], sleep: Callable[[float], None]
) -> None:
    """Returns at the next whole multiple of `seconds` after `since`, and at once where `seconds` is 0."""
    if seconds > 0:
        due = since + seconds * ((clock() - since) // seconds + 1)
        while (left := due - clock()) > 0:
            sleep(left)


def _code(error: Exception) -> RefusalCode:
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return RefusalCode.UNAVAILABLE


_CODES: tuple[tuple[type[Exception], RefusalCode], ...] = (
    (SealedReplyGoneError, RefusalCode.ALREADY_ANSWERED),
    (BudgetExceededError, RefusalCode.BUDGET),
    (LedgerError, RefusalCode.LEDGER),
    (NotApprovedError, RefusalCode.NOT_APPROVED),
    (ExpiredError, RefusalCode.EXPIRED),
    (PolicyError, RefusalCode.POLICY),
    (ArraysError, RefusalCode.BAD_TASK),
    (NoBlockError, RefusalCode.NO_BLOCK),
    (SumError, RefusalCode.SUM),
    (ProtocolError, RefusalCode.BAD_TASK),
)
