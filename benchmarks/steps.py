"""One training step by several methods, timed against the plain one; runs in any environment that has torch.

`main` is the command line of every script that measures steps: it prints one JSON object on its last line.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from benchmarks.harness import alternate, first_call, forget_peak, peak_above_start, peak_bytes
from benchmarks.models import MODELS, Batch, make_batch, make_model
from pp_model.loss import ziln_loss

MAX_GRAD_NORM, NOISE_MULTIPLIER, LEARNING_RATE = 1.0, 1.0, 0.01
PLAIN = "plain"
_STEPS_BEFORE, _STEPS_OF_ALL = 100, 1_000

Noise = Callable[[Sequence[int]], Tensor]


def torch_noise(shape: Sequence[int]) -> Tensor:
    """Noise as Opacus draws it by default: from torch's own generator, which is not cryptographic."""
    return torch.normal(mean=0.0, std=NOISE_MULTIPLIER * MAX_GRAD_NORM, size=tuple(shape))


class Step(Protocol):
    """One way of training a model, which it holds."""

    def step(self, inputs: tuple[Tensor, ...], spend_cents: Tensor) -> None:
        """One step on a batch."""
        ...


class PlainStep:
    """What everybody writes first: mean loss, autograd, `torch.optim.SGD`. No privacy."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)

    def step(self, inputs: tuple[Tensor, ...], spend_cents: Tensor) -> None:
        """See `Step`."""
        self.optimizer.zero_grad()
        ziln_loss(self.model(*inputs), spend_cents).mean().backward()
        self.optimizer.step()


Methods = Mapping[str, Callable[[str, int], Step]]  # by name, each makes a step for a model's name and a batch size


def plain(model: str, rows: int) -> Step:
    """The plain step of a fresh model."""
    del rows
    return PlainStep(make_model(model))


def main(methods: Methods, packages: Sequence[str]) -> None:
    """Answers the command line; `packages` are those whose versions belong beside the figures."""
    known: Methods = {PLAIN: plain, **methods}
    parser = argparse.ArgumentParser(description="Times training steps, or measures their memory.")
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), required=True)
    parser.add_argument("--batches", nargs="+", type=int, required=True)
    parser.add_argument("--methods", nargs="+", choices=sorted(known), required=True)
    parser.add_argument("--reference", choices=sorted(known), default=PLAIN)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.05, help="that one reading takes at least")
    parser.add_argument(
        "--enough", type=float, default=60.0, help="seconds for a model and batch, three rounds or more"
    )
    parser.add_argument("--memory", choices=["peak", "flat"], help="of the one method, model and batch named")
    args = parser.parse_args()
    torch.set_num_threads(1)
    gc.freeze()  # what imports made need not be looked through before every reading
    answer = _memory(known, args) if args.memory else {"cells": list(_cells(known, args))}
    versions = {name: version(name) for name in ("torch", *packages)}
    print(json.dumps({**answer, "versions": {"python": platform.python_version(), **versions}}))


def _cells(methods: Methods, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One entry for each model, batch and method; one that cannot run has `failed` with the reason instead."""
    for model in args.models:
        for rows in args.batches:
            batch = make_batch(model, rows)
            works: dict[str, Callable[[], None]] = {}
            first: dict[str, float] = {}
            for name in dict.fromkeys([args.reference, *args.methods]):
                try:
                    works[name] = _work(methods[name](model, rows), batch)
                    first[name] = first_call(works[name])
                except Exception as error:  # a peer that cannot do a model is a finding, not a crash
                    works.pop(name, None)
                    yield {"model": model, "batch": rows, "method": name, "failed": f"{type(error).__name__}: {error}"}
            if args.reference not in works:
                continue
            reference = works.pop(args.reference)
            timed = alternate(
                reference, works, rounds=args.rounds, at_least_seconds=args.seconds, enough_seconds=args.enough
            )
            for name, measured in timed.items():
                name = name or args.reference
                yield {"model": model, "batch": rows, "method": name, "first_seconds": first[name], **asdict(measured)}


def _work(step: Step, batch: Batch) -> Callable[[], None]:
    return lambda: step.step(batch.inputs, batch.spend_cents)


def _memory(methods: Methods, args: argparse.Namespace) -> dict[str, Any]:
    (model,), (rows,), (name,) = args.models, args.batches, args.methods
    step = methods[name](model, rows)
    if args.memory == "peak":
        _work(step, make_batch(model, 2))()  # what libraries load at their first call is not the batch's
        return {"bytes": peak_above_start(_work(step, make_batch(model, rows)), calls=2)}
    return {"growth": growth(_work(step, make_batch(model, rows)))}


def growth(work: Callable[[], object]) -> float:
    """Peak memory of the process over the last 100 of 1,000 calls / over the second 100."""
    peaks = []
    for done in range(0, _STEPS_OF_ALL, _STEPS_BEFORE):
        gc.collect()
        forget_peak()
        for _ in range(_STEPS_BEFORE):
            work()
        if done:
            peaks.append(peak_bytes())
    return peaks[-1] / peaks[0] if peaks[0] > 0 else math.inf
