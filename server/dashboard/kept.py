"""What takes long to learn, kept so that no page waits for it: who is connected, and what plans cost."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from pp_model.errors import PurchasePowerError
from pp_model.plan import TrainingPlan
from server.home import PlatformHome, ServerConfig

CONNECTED_SECONDS = 5.0
Nodes = Mapping[int, str] | None  # node -> "registered", "online" or "offline"; None: the platform is not up

log = logging.getLogger(__name__)
Value = TypeVar("Value")


class Kept(Generic[Value]):
    """A value that is loaded in the background.

    Args:
        load: may take its time. If it raises, the value stays what it was.
        seconds: how old the value may be before it is loaded again.
        first: before anything was loaded.

    Attributes:
        known: whether it was ever loaded.
    """

    def __init__(self, load: Callable[[], Value], *, seconds: float, first: Value) -> None:
        self._load, self._seconds, self._value = load, seconds, first
        self.known = False
        self._lock, self._loading, self._loaded = threading.Lock(), False, -float("inf")

    def now(self) -> Value:
        """The value that was loaded last, at once; a newer one is fetched where this one is old."""
        with self._lock:
            if not self._loading and time.monotonic() - self._loaded > self._seconds:
                self._loading = True
                threading.Thread(target=self._fetch, name="kept", daemon=True).start()
            return self._value

    def _fetch(self) -> None:
        try:
            self._value, self.known = self._load(), True
        except Exception as error:
            log.warning("could not be learnt", extra={"error": type(error).__name__})
        finally:
            with self._lock:
                self._loading, self._loaded = False, time.monotonic()


def nodes_of(home: PlatformHome, config: ServerConfig) -> Nodes:
    """Which merchants' nodes the SuperLink knows, and how they stand; None where it does not answer."""
    from server.commands import control  # Flower takes seconds to load

    try:
        with control(home, config) as client:
            return {node.node_id: node.status for node in client.nodes()}
    except PurchasePowerError:
        return None


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a whole run of a plan costs a customer at the plan's delta.

    Attributes:
        one, two: epsilon of who shops at so many of its merchants.
        sums: of a secure sum, epsilon by who looks.
    """

    one: float
    two: float
    sums: Mapping[str, float]


class Prices:
    """Prices of plans, worked out one after the other in a thread of its own."""

    def __init__(self) -> None:
        self._known: dict[str, Price | None] = {}
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[TrainingPlan] = queue.SimpleQueue()
        self._started = False

    def of(self, plan: TrainingPlan) -> Price | None:
        """The plan's price; None while it is being worked out."""
        with self._lock:
            if plan.fingerprint not in self._known:
                self._known[plan.fingerprint] = None
                self._waiting.put(plan)
            if not self._started:
                self._started = True
                threading.Thread(target=self._work, name="prices", daemon=True).start()
            return self._known[plan.fingerprint]

    def _work(self) -> None:
        while True:
            plan = self._waiting.get()
            try:
                price = price_of(plan)
            except Exception as error:  # a price that cannot be worked out is none that may be shown as small
                log.error("a plan could not be priced", extra={"plan": plan.plan_id, "error": type(error).__name__})
                price = Price(one=float("inf"), two=float("inf"), sums={})
            self._known[plan.fingerprint] = price


def price_of(plan: TrainingPlan) -> Price:
    """The plan's price, which may take seconds."""
    from pp_model.accounting import epsilon_spent
    from pp_model.integer_sum import secure_epsilons

    one, two = (epsilon_spent(plan.events, delta=plan.delta, merchants=merchants) for merchants in (1, 2))
    return Price(one=one, two=two, sums=secure_epsilons(plan) if plan.secure_sum else {})
