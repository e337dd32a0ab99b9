"""A merchant's runner that answers every round with another offence: `-m tests.support.hostile_runner --config FILE`.

It takes its tasks from a real SuperNode, as the real runner does; what it sends is its own.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode

import client.runner
from client.app import make_client_app
from client.settings import load_settings
from client.shop_status import StatusKeeper
from flower_edge.records import BLOB, MAX_ARRAY_BYTES, to_record, wire_from_record
from pp_model.model import trainable_shapes
from pp_model.protocol import Release, Task, task_from_wire
from pp_model.serialization import Arrays

Answer = Callable[[Task], RecordDict | Error]


@dataclass(frozen=True, kw_only=True)
class Offence:
    """What is sent, and the code under which the platform's registry names the sender.

    Attributes:
        code: None where the platform cannot tell it from a release.
    """

    name: str
    answer: Answer
    code: str | None


def honest_looking(task: Task) -> Arrays:
    """Arrays of the right names, shapes and size: the noise that the plan asks for, around nothing."""
    plan, rng = task.plan, np.random.default_rng(task.round)
    scale = plan.dp.noise_multiplier * plan.dp.max_grad_norm / plan.nominal_batch_size
    shapes = trainable_shapes(plan.model)
    return {name: (scale * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def _released(task: Task, update: Arrays) -> RecordDict:
    return to_record(Release(task=task.fingerprint, update=update).to_wire())


def _every(change: Callable[[Any], Any]) -> Answer:
    return lambda task: _released(task, {name: change(array) for name, array in honest_looking(task).items()})


def _one_nan(task: Task) -> RecordDict:
    update = honest_looking(task)
    next(iter(update.values())).flat[0] = np.nan
    return _released(task, update)


def _garbage(task: Task) -> RecordDict:
    return RecordDict({"arrays": ArrayRecord({BLOB: Array("uint8", (3,), BLOB, b"\x80\x04.")}), "x": ConfigRecord()})


def _huge(task: Task) -> RecordDict:
    size = MAX_ARRAY_BYTES + 2**23
    record, data = _released(task, honest_looking(task)), np.random.default_rng(task.round).bytes(size)
    record["arrays"] = ArrayRecord({BLOB: Array("uint8", (size,), BLOB, data)})
    return record


OFFENCES = (  # one a round, from the first on
    Offence(name="a NaN", answer=_one_nan, code="not_finite"),
    Offence(name="all infinite", answer=_every(lambda array: np.full_like(array, np.inf)), code="not_finite"),
    Offence(name="zeros", answer=_every(np.zeros_like), code="zero"),
    Offence(name="wrong shapes", answer=_every(lambda array: array[..., None]), code="shapes"),
    Offence(name="wrong names", answer=lambda task: _released(task, {"x": np.ones(1, np.float32)}), code="names"),
    Offence(name="1e6 times too large", answer=_every(lambda array: array * np.float32(1e6)), code="norm"),
    Offence(
        name="another task's",
        answer=lambda task: to_record(Release(task="f" * 64, update=honest_looking(task)).to_wire()),
        code="wrong_task",
    ),
    Offence(name="garbage", answer=_garbage, code="malformed"),
    Offence(name="an error", answer=lambda _: Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "x" * 999), code="error"),
    Offence(name="too much", answer=_huge, code="error"),
)


def what_passes(message: Message) -> Message:
    """The round's answer where the platform cannot tell it from a release, else an error."""
    task = _task(message)
    refused = OFFENCES[task.round - 1].code is not None
    return Message(Error(ErrorCode.UNKNOWN) if refused else OFFENCES[task.round - 1].answer(task), reply_to=message)


def _task(message: Message) -> Task:
    return task_from_wire(wire_from_record(message.content))


def main() -> int:
    """Until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True, type=Path)
    settings = load_settings(parser.parse_args().config)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def answer(_app: Any, message: Message, tree: Any, supernode: Any) -> RecordDict | Error:
        message.content = client.runner._content(message, tree, supernode)
        task = _task(message)
        return OFFENCES[task.round - 1].answer(task)

    client.runner._answer = answer  # type: ignore[assignment]
    StatusKeeper(settings.paths.agreements.parent, pid=os.getpid()).update(ready=True)  # as the daemon expects
    client.runner.serve(
        make_client_app(lambda _: sys.exit("never called")),
        address=f"127.0.0.1:{settings.local.supernode_port}",
        secret=settings.paths.runtime_secret.read_bytes(),
        stop=stop,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
