"""Flower's Ray engine, wall clock, one worker for each core: run by its own environment.

The start is timed apart; a round is what passes between two calls of the strategy's evaluation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from itertools import pairwise

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.models import make_model
from benchmarks.peers import flower_app


def main() -> None:
    """Prints one JSON object on the last line."""
    parser = argparse.ArgumentParser(description="Times rounds of Flower's Ray engine.")
    parser.add_argument("--merchants", type=int, default=1_000)
    parser.add_argument("--cohort", type=int, default=200, help="merchants trained in a round")
    parser.add_argument("--rounds", type=int, default=6, help="the first is not counted")
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()
    began, ends = time.perf_counter(), []

    def note(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        del server_round, arrays
        ends.append(time.perf_counter())
        return MetricRecord()

    server = ServerApp()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        del context
        strategy = FedAvg(fraction_train=args.cohort / args.merchants, fraction_evaluate=0.0)
        strategy.start(
            grid,
            initial_arrays=ArrayRecord(make_model(flower_app.MODEL).state_dict()),
            num_rounds=args.rounds,
            evaluate_fn=note,
        )

    run_simulation(
        server_app=server,
        client_app=flower_app.app,
        num_supernodes=args.merchants,
        backend_config={
            "init_args": {"num_cpus": args.cores, "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    warm = [args.cohort / (after - before) for before, after in pairwise(ends[1:])]
    versions = {name: version(name) for name in ("flwr", "ray", "opacus", "torch")}
    answer = {"per_second": warm, "first_round_after_seconds": ends[1] - began}
    print(json.dumps({**answer, "versions": {"python": platform.python_version(), **versions}}))


if __name__ == "__main__":
    main()
