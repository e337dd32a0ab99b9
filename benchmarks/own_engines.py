"""Our engine of many merchants, timed against the plain loop, over more merchants, and on two cores."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from multiprocessing.synchronize import Barrier

import torch

from benchmarks.engines import BATCH, STEPS, Engine, main
from benchmarks.harness import alternate, first_call
from benchmarks.models import Market, make_market, make_model
from benchmarks.ours import merchants
from benchmarks.own_steps import secret_noise
from benchmarks.steps import LEARNING_RATE, MAX_GRAD_NORM, Noise, torch_noise

SMALL, LARGE = 100, 10_000


def engine(name: str, market: Market, noise: Noise = torch_noise) -> Engine:
    """Ours."""
    return merchants(
        make_model(name),
        market,
        steps=STEPS,
        batch_size=BATCH,
        max_grad_norm=MAX_GRAD_NORM,
        noise=noise,
        learning_rate=LEARNING_RATE,
    )


def engine_with_secret_noise(name: str, market: Market) -> Engine:
    """Ours, with the noise of the product."""
    return engine(name, market, secret_noise)


def growth(rounds: int) -> dict[str, object]:
    """CPU time of a merchant-round among 10,000 merchants / among 100."""
    small, large = (engine("mlp", make_market("mlp", number)) for number in (SMALL, LARGE))
    first_call(lambda: small(range(SMALL)))
    first_call(lambda: large(range(SMALL)))
    timed = alternate(
        lambda: small(range(SMALL)), {"large": lambda: large(range(LARGE))}, rounds=rounds, at_least_seconds=1.0
    )["large"]
    scale = SMALL / LARGE
    return {name: value * scale for name, value in vars(timed.ratio).items()}


def on_cores(cores: int, number: int, rounds: int) -> list[float]:
    """Merchant-rounds a second of the wall clock, once for every round, when each of `cores` processes has a share."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(cores + 1)
    workers = [context.Process(target=_work, args=(barrier, core, cores, number, rounds)) for core in range(cores)]
    for worker in workers:
        worker.start()
    rates = []
    barrier.wait()  # all are warm
    for _ in range(rounds):
        began = time.perf_counter()
        barrier.wait()
        barrier.wait()
        rates.append(number / (time.perf_counter() - began))
    for worker in workers:
        worker.join()
    return rates


def _work(barrier: Barrier, core: int, cores: int, number: int, rounds: int) -> None:
    try:
        torch.set_num_threads(1)
        train, share = engine("mlp", make_market("mlp", number)), range(core, number, cores)
        train(share)
        barrier.wait()
        for _ in range(rounds):
            barrier.wait()
            train(share)
            barrier.wait()
    except BaseException:
        barrier.abort()  # or the others would wait for this one
        raise


ENGINES = {"ours": engine, "ours, secret noise": engine_with_secret_noise}

if __name__ == "__main__":
    if "--engines" in sys.argv:
        main(ENGINES, [])
    else:
        parser = argparse.ArgumentParser(description="Our engine over more merchants, or on several cores.")
        parser.add_argument("what", choices=["growth", "cores"])
        parser.add_argument("--rounds", type=int, default=3)
        args = parser.parse_args()
        torch.set_num_threads(1)
        found = growth(args.rounds) if args.what == "growth" else {"per_second": on_cores(2, 1_000, args.rounds)}
        print(json.dumps(found))
