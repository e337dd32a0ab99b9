"""One task, answered: check, charge, train, seal, release. The order of these lines is the guarantee.

    known already?  ->  the sealed bytes, again      allowed?  ->  a refusal, by a code
    charge (on disk) ->  train ->  seal (on disk)  ->  release what was sealed

A crash after the charge wastes the charge or, since nothing has left, lets the same task be computed under it. A
crash after the seal resends the same bytes. No path refunds, and none releases what was not charged.
"""

from __future__ import annotations

import logging

from client.ledger import SealedReplyGoneError
from client.policy import check_plan
from client.shop import Shop
from pp_model.errors import ArraysError, BudgetExceededError, LedgerError, PolicyError, ProtocolError
from pp_model.model import array_shapes
from pp_model.protocol import Refusal, RefusalCode, Release, Task, Wire, seal, task_from_wire, unseal
from pp_model.serialization import check_arrays
from pp_model.train import train_locally

log = logging.getLogger(__name__)


def answer(wire: Wire, shop: Shop) -> Release | Refusal:
    """The reply to a message: a release that the ledger has paid for, or a refusal by a code.

    Never raises, whatever the message, the orders or the disk do: an exception's text would travel to the platform
    (checklist D35, D36). The reason of a refusal stays in the merchant's own log.
    """
    task_id = ""
    try:
        task = task_from_wire(wire)
        task_id = task.fingerprint
        return unseal(_paid_bytes(task, shop))
    except Exception as error:  # not a stop of the process, after which nothing is sent
        code = _code(error)
        # The kind alone: the text of a library's error may hold a cell.
        log.warning("task refused", extra={"task": task_id[:12], "code": code.value, "error": type(error).__name__})
        return Refusal(task=task_id, code=code)


def _paid_bytes(task: Task, shop: Shop) -> bytes:
    sealed = shop.ledger.sealed(task.fingerprint)
    if sealed is not None:
        return sealed
    check_plan(task.plan, shop.policy)
    check_arrays(task.arrays, array_shapes(task.plan.model))  # before the charge: garbage must not cost budget
    shop.ledger.charge(task.fingerprint, task.plan.dp.event, plan=task.plan.fingerprint)
    update = train_locally(task.arrays, shop.rows(task), task.plan, secret=shop.secret)
    log.info("task trained", extra={"task": task.fingerprint[:12], "round": task.round})
    return shop.ledger.seal(task.fingerprint, seal(Release(task=task.fingerprint, update=update)))


def _code(error: Exception) -> RefusalCode:
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return RefusalCode.UNAVAILABLE


_CODES: tuple[tuple[type[Exception], RefusalCode], ...] = (
    (SealedReplyGoneError, RefusalCode.ALREADY_ANSWERED),
    (BudgetExceededError, RefusalCode.BUDGET),
    (LedgerError, RefusalCode.LEDGER),
    (PolicyError, RefusalCode.POLICY),
    (ArraysError, RefusalCode.BAD_TASK),
    (ProtocolError, RefusalCode.BAD_TASK),
)
