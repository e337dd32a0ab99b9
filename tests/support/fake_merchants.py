"""Merchants that answer tasks with arrays of a test's choice, as a real Flower ClientApp."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from flower_edge.records import to_record, wire_from_record
from pp_model.protocol import Task, Wire, task_from_wire
from pp_model.serialization import Arrays

TRAINABLE = {"encoder.weight": (2, 3), "head.bias": (3,)}


def filled(value: float, shapes: Mapping[str, tuple[int, ...]] = TRAINABLE) -> Arrays:
    """Arrays of the tiny trainable shapes with one value everywhere."""
    return {name: np.full(shape, value, dtype=np.float32) for name, shape in shapes.items()}


def random_arrays(seed: int, shapes: Mapping[str, tuple[int, ...]] = TRAINABLE) -> Arrays:
    """Arrays of standard normal numbers."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def merchants_app(answer: Callable[[Task, int], Wire]) -> ClientApp:
    """A ClientApp whose node `n` answers a task with `answer(task, n)`; what it raises, the ClientApp raises."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        task = task_from_wire(wire_from_record(message.content))
        return Message(to_record(answer(task, context.node_id)), reply_to=message)

    return app
