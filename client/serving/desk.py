"""Where both doors hand in their requests: one queue, one clock, one count, one way to fail."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from client.serving.faults import Code, ServingError
from client.serving.limits import Gate
from client.serving.metrics import Door, Metrics
from client.serving.schemas import Answer, Asked, AskPortrait, Rerank, ScoreCustomer, ScoreOrders
from client.serving.service import Service

CALLS: Mapping[type[Asked], str] = {
    ScoreCustomer: "score_customer",
    ScoreOrders: "score_orders",
    Rerank: "rerank",
    AskPortrait: "portrait",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Desk:
    """The service behind its queue."""

    service: Service
    gate: Gate
    metrics: Metrics

    async def answer(self, door: Door, asked: Asked, *, seconds: float | None = None) -> Answer:
        """The service's answer.

        Args:
            seconds: that the caller will wait.

        Raises:
            ServingError: there is none; whatever went wrong, nothing else is raised.
        """
        call, began, code = CALLS[type(asked)], time.perf_counter(), Code.INTERNAL.value
        work: Callable[[], Any] = partial(getattr(self.service, call), asked)
        try:
            found: Answer = await self.gate.run(work, seconds=seconds)
            code = "ok"
            return found
        except ServingError as error:
            code = error.code.value
            raise
        except Exception as error:  # a fault of ours; its text may hold a cell
            log.error("a request failed", extra={"call": call, "error": type(error).__name__}, exc_info=True)
            raise ServingError(Code.INTERNAL) from None
        finally:
            self.metrics.answered(door, call, code, time.perf_counter() - began)
