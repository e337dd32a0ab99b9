"""Twenty named places between a task's coming and its reply's going, at any of which a process can be made to die.

No place needs a hook in the product: `install` wraps the function that is called there.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

_CHARGE, _SEAL = "PrivacyLedger.charge", "PrivacyLedger.seal"


@dataclass(frozen=True)
class Point:
    """Before or after a call of `module`.`function`; where `within` is given, only of a call made inside that one."""

    when: Literal["before", "after"]
    module: str
    function: str
    within: str = ""


POINTS = {  # in the order in which a task comes past them
    "task read": Point("after", "client.task", "task_from_wire"),
    "known not to be sealed": Point("after", "client.ledger", "PrivacyLedger.sealed"),
    "plan allowed": Point("after", "client.task", "check_plan"),
    "arrays checked": Point("after", "client.task", "check_parameters"),
    "charge asked for": Point("before", "client.ledger", _CHARGE),
    "charge written": Point("after", "client.ledger", "PrivacyLedger._append", within=_CHARGE),
    "charge committed": Point("before", "client.ledger", "write_head", within=_CHARGE),
    "charge in the head": Point("before", "client.ledger", "settle", within=_CHARGE),
    "charge in the file": Point("after", "client.ledger", "settle", within=_CHARGE),
    "charged": Point("before", "client.shop", "Shop.rows"),
    "orders read": Point("after", "client.shop", "Shop.rows"),
    "a step trained": Point("after", "pp_model.train", "noised_sum"),
    "trained": Point("after", "client.task", "train_locally"),
    "reply made": Point("after", "client.task", "seal"),
    "seal written": Point("after", "client.ledger", "PrivacyLedger._append", within=_SEAL),
    "seal committed": Point("before", "client.ledger", "write_head", within=_SEAL),
    "seal in the head": Point("before", "client.ledger", "settle", within=_SEAL),
    "sealed": Point("after", "client.ledger", _SEAL),
    "release read back": Point("after", "client.task", "unseal"),
    "reply built": Point("after", "client.app", "with_anchor"),
}


def install(name: str, *, nth: int = 1) -> None:
    """Makes this process kill itself with SIGKILL at the `nth` time that it comes past the point."""
    point, times = POINTS[name], 0
    owner: Any = importlib.import_module(point.module)
    *classes, function = point.function.split(".")
    for part in classes:
        owner = getattr(owner, part)
    original = getattr(owner, function)

    @wraps(original)
    def watched(*arguments: Any, **options: Any) -> Any:
        nonlocal times
        here = not point.within or _inside(point.within)
        times += here
        last = here and times == nth
        if last and point.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **options)
        if last and point.when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, function, watched)


def _inside(function: str) -> bool:
    """Whether a call of the function with this qualified name is under way in this thread."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_qualname != function:
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None
