"""What a shop answers to a task."""

from __future__ import annotations

from client.shop import Shop
from client.task import answer
from pp_model.protocol import Refusal, RefusalCode, Release, Task


def replied(shop: Shop, task: Task) -> Release | Refusal:
    """What the merchant says to a task."""
    return answer(task.to_wire(), shop)


def refused(code: RefusalCode, task: Task | None = None) -> Refusal:
    """The refusal with this code, of this task if it could be read."""
    return Refusal(task=task.fingerprint if task else "", code=code)
