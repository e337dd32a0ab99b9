"""Small merchants whose reading can be watched, the tasks they are given, and small markets to federate."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.common.serde import recorddict_to_proto

import simulations.federation as federation
import simulations.many_merchants as many_merchants
from client.ledger import open_ledger
from client.policy import Policy
from client.shop import Shop
from client.sources import DataContract, MemorySource, OrderChunk
from pp_model.model import fresh_arrays, load_model, model_arrays
from pp_model.model_spec import ENCODERS
from pp_model.plan import TrainingPlan
from pp_model.protocol import Task
from pp_model.schema import EventType, Order, OrderLog, Window, order_log
from pp_model.serialization import fingerprint
from server.recipe import Recipe
from simulations.grid import InProcessGrid, TogetherGrid
from simulations.scenario import Scenario, SyntheticSpec
from simulations.seeded import SeededSource
from tests.support.ledgers import LINEAGE
from tests.support.plans import tiny_plan

# Nothing of these may ever leave a merchant: unmistakable wherever they are found.
CANARIES = ("Quetzalcoatl Vandersloot", "quetzal.vandersloot@canary.example", "719384.65", "71938465")
CANARY_TEXT = ", ".join(CANARIES)


def tiny_orders(*, customers: int = 12, seed: int = 1) -> OrderLog:
    """Some six purchases of each customer between January and July 2024, so before and after tiny_plan's cutoff."""
    rng = np.random.default_rng(seed)
    first = dt.datetime(2024, 1, 1, 12)
    orders = [
        Order(
            customer=customer,
            timestamp=first + dt.timedelta(days=int(rng.integers(0, 205))),
            spend_cents=int(rng.integers(500, 9_000)),
            category=str(rng.choice(["bread", "cake"])),
            event_type=EventType.PURCHASE,
        )
        for customer in range(customers)
        for _ in range(6)
    ]
    return order_log(orders, num_customers=customers)


@dataclasses.dataclass(kw_only=True)
class WatchedSource:
    """Orders in memory; `on_read` is called when somebody begins to read them, and may raise."""

    log: OrderLog = dataclasses.field(default_factory=tiny_orders)
    on_read: Callable[[], object] = lambda: None
    windows: list[Window | None] = dataclasses.field(default_factory=list)
    place: str = "memory"
    contract: DataContract = dataclasses.field(default_factory=DataContract)

    def read(self, window: Window | None) -> Iterator[OrderChunk]:
        """See `OrderSource`."""
        self.windows.append(window)
        self.on_read()
        ids = [f"{CANARIES[1]} {number}" for number in range(self.log.num_customers)]
        yield from MemorySource(log=self.log, customer_ids=ids).read(window)


def raiser(error: BaseException) -> Callable[..., Any]:
    """A function that raises, whatever it is given."""

    def raises(*_: object, **__: object) -> None:
        raise error

    return raises


def tiny_policy(**changes: Any) -> Policy:
    """Allows everything that `tiny_plan` asks for, with `changes` to its fields."""
    fields: dict[str, Any] = {
        "epsilon_budget": 50.0,
        "delta": 1e-3,
        "declared_customers": 100,
        "least_noise_multiplier": 0.5,
        "longest_horizon_days": 90,
        "longest_sequence": 64,
        "trust_modes": ("local",),
        "encoders": ENCODERS,
        "approve": "automatic",
        "approve_under_epsilon": 50.0,
    }
    return Policy(**{**fields, **changes})


def tiny_shop(
    folder: Path, *, source: WatchedSource | None = None, budget: float = 50.0, seed: int = 5, **policy: Any
) -> Shop:
    """A merchant with its ledger in `folder`, opened anew; the ledger is the one that was there before."""
    return Shop(
        source=source or WatchedSource(),
        ledger=open_ledger(folder / "ledger.sqlite", lineage=LINEAGE, budget=budget, delta=1e-3),
        policy=tiny_policy(**policy),
        secret=SeededSource(seed),
        device="cpu",
    )


def charged(folder: Path, *, budget: float = 50.0) -> list[str]:
    """The tasks charged in the ledger of `tiny_shop(folder)`, read from the disk by another program."""
    path = folder / "ledger.sqlite"
    with closing(open_ledger(path, lineage=LINEAGE, budget=budget, delta=1e-3)) as ledger:
        return [charge.task for charge in ledger.charges()]


def tiny_task(*, round: int = 1, seed: int = 0, shift: float = 0.0, **changes: Any) -> Task:
    """A round of `tiny_plan`, with `changes` to the plan, on fresh weights that are all moved by `shift`."""
    plan: TrainingPlan = tiny_plan(**changes)
    arrays = {name: array + np.float32(shift) for name, array in fresh_arrays(plan.model, seed=seed).items()}
    return Task(plan=plan, round=round, arrays=arrays)


def moved_encoder(task: Task, *, by: float) -> Task:
    """The same task with another encoder."""
    arrays = {
        name: array + np.float32(by) if name.startswith("encoder.") else array for name, array in task.arrays.items()
    }
    return Task(plan=task.plan, round=task.round, arrays=model_arrays(load_model(task.plan.model, arrays)))


def tiny_recipe(**changes: Any) -> dict[str, Any]:
    """A linear model, four rounds, fresh weights, with `changes`: as a scenario's table holds it."""
    fields: dict[str, Any] = {
        "encoder": "linear",
        "rounds": 4,
        "declared_customers": 20,
        "windows": 2,
        "sequence_length": 4,
        "init": "none",
    }
    return {**fields, **changes}


def tiny_scenario(*, recipe: dict[str, Any] | None = None, **changes: Any) -> Scenario:
    """Three synthetic merchants of at least twenty customers, epsilon 3, with `changes`."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "synthetic": SyntheticSpec(customers=60, days=300),
        "merchants": 3,
        "cutoff": dt.date(2023, 9, 1),
        "horizon_days": 28,
        "epsilon": 3.0,
        "delta": 1e-3,
        "device": "cpu",
        "recipe": Recipe(**tiny_recipe(**(recipe or {}))),
    }
    return Scenario(**{**fields, **changes})


def same_bits(first: Any, second: Any) -> bool:
    """Whether two sets of arrays are equal bit by bit."""
    return fingerprint(first) == fingerprint(second)


def record_wire(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Message, Message]]:
    """Filled with every message to a merchant and its reply, as the grids of both engines carry them."""
    carried: list[tuple[Message, Message]] = []

    class RecordingGrid(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
            sent = list(messages)
            replies = super().send_and_receive(sent, timeout=timeout)
            carried.extend(zip(sent, replies, strict=True))
            return replies

    class RecordingTogetherGrid(TogetherGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
            sent = list(messages)
            for message, reply in zip(sent, super().send_and_receive(sent, timeout=timeout), strict=True):
                carried.append((message, reply))
                yield reply

    monkeypatch.setattr(federation, "InProcessGrid", RecordingGrid)
    monkeypatch.setattr(many_merchants, "TogetherGrid", RecordingTogetherGrid)
    return carried


def bytes_of(content: RecordDict) -> bytes:
    """A message's content as Flower sends it, with records, arrays and scalars in the order of their names."""
    ordered = RecordDict({name: type(record)(dict(sorted(record.items()))) for name, record in sorted(content.items())})
    return recorddict_to_proto(ordered).SerializeToString(deterministic=True)


class Silent:
    """Progress that tells nobody."""

    def begin(self, phase: str, steps: int) -> Callable[[int], None]:
        """See `simulations.run.Progress`."""
        return lambda _: None


def market_rows(*, customers: int = 60, merchants: int = 3, seed: int = 3) -> list[dict[str, str]]:
    """Rows of an orders file: some eight orders of each customer from January to October 2023, at its merchant."""
    rng = np.random.default_rng(seed)
    first = dt.datetime(2023, 1, 1, 12)
    return [
        {
            "customer_id": f"c{customer:04d}",
            "timestamp": (first + dt.timedelta(days=int(rng.integers(0, 300)))).isoformat(sep=" "),
            "amount": f"{rng.integers(500, 9_000) / 100:.2f}",
            "category": str(rng.choice(["bread", "cake"])),
            "merchant": f"shop {customer % merchants + 1}",
        }
        for customer in range(customers)
        for _ in range(8)
    ]
