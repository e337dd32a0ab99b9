"""Loops over merchants with Opacus: run by its own environment."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from torch import nn

from benchmarks.engines import BATCH, Engine, flat, loop, main
from benchmarks.models import MODELS, Market, make_model
from benchmarks.peers.opacus_steps import GhostStep, HooksStep
from benchmarks.steps import Step


def hooks_rebuilt(name: str, market: Market) -> Engine:
    """Model, hooks and optimiser made anew for every merchant, as the examples of Flower do."""
    return loop(market, flat(make_model(name)), _fresh(name, HooksStep))


def ghost_rebuilt(name: str, market: Market) -> Engine:
    """The same with ghost clipping."""
    return loop(market, flat(make_model(name)), _fresh(name, GhostStep))


def hooks_kept(name: str, market: Market) -> Engine:
    """One model with its hooks for all merchants."""
    model = make_model(name)
    start = flat(model)
    step = HooksStep(model, BATCH)
    return loop(market, start, lambda: (model, step))


def _fresh(name: str, make: Callable[[nn.Module, int], Step]) -> Callable[[], tuple[nn.Module, Step]]:
    def fresh() -> tuple[nn.Module, Step]:
        model = MODELS[name]()
        return model, make(model, BATCH)

    return fresh


ENGINES = {
    "loop, Opacus hooks, rebuilt for every merchant": hooks_rebuilt,
    "loop, Opacus ghost, rebuilt for every merchant": ghost_rebuilt,
    "loop, Opacus hooks, built once": hooks_kept,
}

if __name__ == "__main__":
    warnings.filterwarnings("ignore")  # that inputs want no gradient
    main(ENGINES, ["opacus"])
