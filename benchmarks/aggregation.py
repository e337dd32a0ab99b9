"""Many updates into one, against Flower's `aggregate_arrayrecords`: `python benchmarks/aggregation.py --out FILE`.

CPU time of all in turns in one process, each update fresh, as one that has just come; the median of the ratios of
neighbours. Most memory, and the error, each in a process of its own. Making the updates is not counted; taking the
numbers out of Flower's records is, as it is part of its aggregation.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from numpy.typing import NDArray

from pp_model.protocol import Release
from pp_model.serialization import Arrays, shapes_of
from server.aggregation import aggregator, validate_release

PARAMETERS = 1_000_000
UPDATES, QUICK_UPDATES = 1_000, 100
ARRAYS = (0.44, 0.30, 0.20, 0.06)  # shares of the parameters
CPU_BAR = 0.40  # 0.3 s where Flower takes 0.75 s
MEMORY_BAR = 3.15  # three models, and the blocks of them that numpy converts
COORDINATES = 500  # at which the error is looked at
TASK = "0" * 64


class Aggregation(Protocol):
    """A way to take the mean of what is added."""

    def add(self, update: Any) -> None:
        """Takes one more."""

    def result(self) -> Arrays:
        """The mean."""


class Checked:
    """Ours, with the check of every update: names, shapes, finiteness, norm."""

    def __init__(self) -> None:
        self._mean = aggregator("mean")

    def add(self, update: Arrays) -> None:
        """Takes one more."""
        release = Release(task=TASK, update=update)
        shapes = shapes_of(update)
        self._mean.add(validate_release(release, task=TASK, shapes=shapes, update_clip_norm=1e6, noised=True))

    def result(self) -> Arrays:
        """The mean."""
        return self._mean.result()


class PlainFloat32:
    """The least that a sum can cost: one addition in float32."""

    def __init__(self) -> None:
        self._total: Arrays = {}
        self._count = 0

    def add(self, update: Arrays) -> None:
        """Takes one more."""
        self._count += 1
        for name, array in update.items():
            if name not in self._total:
                self._total[name] = np.zeros_like(array)
            self._total[name] += array

    def result(self) -> Arrays:
        """The mean."""
        return {name: array / np.float32(self._count) for name, array in self._total.items()}


class Flower:
    """Flower's own, which needs all records at once."""

    def __init__(self) -> None:
        self._records: list[RecordDict] = []

    def add(self, record: RecordDict) -> None:
        """Takes one more."""
        self._records.append(record)

    def result(self) -> Arrays:
        """The mean."""
        mean = aggregate_arrayrecords(self._records, "num-examples")
        return {name: array.numpy() for name, array in mean.items()}


METHODS: dict[str, Callable[[], Aggregation]] = {
    "ours": lambda: aggregator("mean"),
    "ours, each update checked": Checked,
    "plain float32": PlainFloat32,
    "flwr": Flower,
}


@cache
def base() -> NDArray[np.float32]:
    """What every update is a multiple of."""
    return np.random.default_rng(0).standard_normal(PARAMETERS, dtype=np.float32)


def update_number(number: int) -> Arrays:
    """The same for the same number."""
    ends = np.cumsum([int(PARAMETERS * share) for share in ARRAYS])[:-1]
    parts = np.split(base() * np.float32(1 + math.sin(number)), ends)
    return {f"layer-{i}": part for i, part in enumerate(parts)}


def record_number(number: int) -> RecordDict:
    """The same as Flower aggregates it: the arrays as a reply carries them, and a weight."""
    arrays = ArrayRecord({name: Array(array) for name, array in update_number(number).items()})
    return RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 64})})


def mean_of(method: str, count: int) -> tuple[Arrays, float]:
    """The mean of so many updates, and the CPU seconds that it took beside making them."""
    make = record_number if method == "flwr" else update_number
    mean, seconds = METHODS[method](), 0.0
    for number in range(count):
        update = make(number)
        began = time.process_time()
        mean.add(update)
        seconds += time.process_time() - began
        del update
    began = time.process_time()
    result = mean.result()
    return result, seconds + time.process_time() - began


def peak_and_error(method: str, *, count: int) -> dict[str, float]:
    """Most memory while updates are made and aggregated, in models; and the largest error.

    The error is in units of 2**-24 times the mean of the absolute values, at some of the numbers, by `math.fsum`.
    """
    base()  # is there before
    tracemalloc.start()
    mean, _ = mean_of(method, count)
    peak = tracemalloc.get_traced_memory()[1] / (4 * PARAMETERS)
    tracemalloc.stop()
    return {"peak": peak, "error": largest_error(mean, count=count)}


def largest_error(mean: Arrays, *, count: int) -> float:
    """See `peak_and_error`."""
    places = np.linspace(0, PARAMETERS - 1, COORDINATES).astype(int)
    factors = [np.float32(1 + math.sin(number)) for number in range(count)]
    numbers = np.stack([base()[places] * factor for factor in factors]).astype(np.float64)
    means = np.concatenate([array.reshape(-1) for array in mean.values()])[places]
    return max(
        abs(float(value) - math.fsum(column) / count) / (2.0**-24 * math.fsum(np.abs(column)) / count)
        for value, column in zip(means, numbers.T, strict=True)
    )


def in_a_process_of_its_own(method: str, *, count: int) -> dict[str, float]:
    """`peak_and_error`, of a process that has done nothing else."""
    command = [sys.executable, __file__, "--measure", method, "--updates", str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def measured(*, quick: bool) -> dict[str, dict[str, Any]]:
    """By method: CPU seconds for 1,000 updates, the ratios to Flower's, most memory in models, and the error."""
    count = QUICK_UPDATES
    turns = [{method: mean_of(method, count)[1] for method in METHODS} for _ in range(5 if quick else 15)]
    found: dict[str, dict[str, Any]] = {}
    for method in METHODS:
        found[method] = {
            "seconds": statistics.median(turn[method] for turn in turns) * UPDATES / count,
            "ratios": statistics.quantiles([turn[method] / turn["flwr"] for turn in turns], n=4, method="inclusive"),
            **in_a_process_of_its_own(method, count=QUICK_UPDATES if quick else UPDATES),
        }
    return found


def rows(*, quick: bool) -> list[dict[str, Any]]:
    """What was measured against its bar, as plain values: what, ratio, bar, detail; low and high are the quartiles."""
    return rows_of(measured(quick=quick))


def rows_of(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """See `rows`."""
    mine, theirs = found["ours"], found["flwr"]
    low, middle, high = mine["ratios"]
    seconds = ", ".join(f"{method} {of['seconds']:.2f}" for method, of in found.items())
    errors = ", ".join(f"{method} {of['error']:.1f}" for method, of in found.items())
    return [
        {
            "what": "mean of 1,000 updates of 1M parameters: CPU / flwr aggregate_arrayrecords",
            "ratio": middle,
            "low": low,
            "high": high,
            "bar": CPU_BAR,
            "detail": f"CPU s: {seconds}",
        },
        {
            "what": "mean of updates of 1M parameters: most memory / a model",
            "ratio": mine["peak"],
            "bar": MEMORY_BAR,
            "detail": f"flwr {theirs['peak']:,.0f}; largest error, in 2^-24 of the mean absolute value: {errors}",
        },
    ]


def table(found: dict[str, dict[str, Any]], *, quick: bool) -> list[str]:
    """The report, line by line."""
    count = QUICK_UPDATES if quick else UPDATES
    lines = [
        f"# The mean of {count:,} updates of {PARAMETERS:,} parameters",
        "",
        f"{os.cpu_count()} cores, one thread; {platform.machine()}, Python {platform.python_version()}, "
        f"numpy {version('numpy')}, flwr {version('flwr')}.",
        "",
        f"CPU: {QUICK_UPDATES} updates in turns in one process, times {UPDATES // QUICK_UPDATES}; the ratio is the "
        "median of neighbours'. Memory: the most, the update that is being added included, in models of float32, in a "
        "process of its own. Error: the largest, in units of 2**-24 times the mean of the absolute values.",
        "",
        "| Method | CPU s per 1,000 | / flwr | memory, models | error |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {method} | {of['seconds']:.2f} | {of['ratios'][1]:.2f} | {of['peak']:,.2f} | {of['error']:.1f} |"
        for method, of in found.items()
    ]
    lines += ["", "| Against the bar | measured | bar |", "| --- | --- | --- |"]
    return [*lines, *(f"| {row['what']} | {row['ratio']:.2f} | {row['bar']:.2f} |" for row in rows_of(found))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, and memory of fewer updates")
    parser.add_argument("--out", type=Path, help="write the tables to this file too")
    parser.add_argument("--measure", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--updates", type=int, default=QUICK_UPDATES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(peak_and_error(args.measure, count=args.updates)))
        return
    text = "\n".join(table(measured(quick=args.quick), quick=args.quick)) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
