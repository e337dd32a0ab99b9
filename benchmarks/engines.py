"""One round of many merchants by several engines, timed against a plain loop; runs where torch is.

Every merchant starts from the same parameters and takes 5 steps of 64 of its own customers; a round gives the sum of
the updates. `main` is the command line of every script that measures engines: one JSON object on its last line.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import alternate, first_call
from benchmarks.models import MODELS, Market, make_market, make_model
from benchmarks.steps import PlainStep, Step

STEPS, BATCH = 5, 64
PLAIN = "plain loop"

Engine = Callable[[Sequence[int]], Tensor]  # merchants to the sum of their updates, [parameters]
Engines = Mapping[str, Callable[[str, Market], Engine]]


def flat(model: nn.Module) -> Tensor:
    """All parameters in one vector, a copy."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def load(model: nn.Module, vector: Tensor) -> None:
    """Sets all parameters from one vector."""
    with torch.no_grad():
        for parameter, part in zip(
            model.parameters(), vector.split([p.numel() for p in model.parameters()]), strict=True
        ):
            parameter.copy_(part.view_as(parameter))


def loop(market: Market, start: Tensor, fresh: Callable[[], tuple[nn.Module, Step]]) -> Engine:
    """Merchants one after the other; `fresh` gives the model and the step for each."""
    rng = np.random.default_rng(0)

    def train(merchants: Sequence[int]) -> Tensor:
        total = torch.zeros_like(start)
        for merchant in merchants:
            model, step = fresh()
            load(model, start)
            for _ in range(STEPS):
                batch = market.draw(merchant, BATCH, rng)
                step.step(batch.inputs, batch.spend_cents)
            total += flat(model) - start
        return total

    return train


def plain_loop(name: str, market: Market) -> Engine:
    """Without privacy; one model and one optimiser for all merchants."""
    model = make_model(name)
    step = PlainStep(model)
    return loop(market, flat(model), lambda: (model, step))


def some(merchants: int, sample: int) -> list[int]:
    """`sample` of the merchants, evenly spaced."""
    return [int(merchant) for merchant in np.linspace(0, merchants - 1, min(sample, merchants)).round()]


def main(engines: Engines, packages: Sequence[str]) -> None:
    """Answers the command line; `packages` are those whose versions belong beside the figures."""
    parser = argparse.ArgumentParser(description="Times a round of many merchants.")
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    parser.add_argument("--engines", nargs="+", choices=sorted(engines), required=True)
    parser.add_argument("--merchants", type=int, default=1_000)
    parser.add_argument("--sample", type=int, default=1_000, help="merchants trained in one reading")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    gc.freeze()  # what imports made need not be looked through before every reading
    market, who = make_market(args.model, args.merchants), some(args.merchants, args.sample)
    made: dict[str, Engine] = {}
    failed = []
    for name in args.engines:
        try:
            made[name] = engines[name](args.model, market)
            first_call(_round(made[name], who[:2]))
        except Exception as error:  # an engine that cannot do a model is a finding, not a crash
            made.pop(name, None)
            failed.append({"engine": name, "failed": f"{type(error).__name__}: {error}"})
    reference = plain_loop(args.model, market)
    first_call(_round(reference, who[:2]))
    measured = alternate(
        _round(reference, who),
        {name: _round(engine, who) for name, engine in made.items()},
        rounds=args.rounds,
        at_least_seconds=0.0,
    )
    cells = [{"engine": name or PLAIN, "sample": len(who), **asdict(result)} for name, result in measured.items()]
    versions = {name: version(name) for name in ("torch", *packages)}
    print(json.dumps({"cells": cells + failed, "versions": {"python": platform.python_version(), **versions}}))


def _round(engine: Engine, who: Sequence[int]) -> Callable[[], Tensor]:
    return lambda: engine(who)
