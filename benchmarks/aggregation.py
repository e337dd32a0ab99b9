"""Many updates into one, against Flower's `aggregate_arrayrecords`: a part of `make bench`.

CPU time of all in turns in one process, each update fresh, as one that has just come; the median of the ratios of
neighbours. Most memory, and the error, each in a process of its own. Making the updates is not counted; taking the
numbers out of Flower's records is, as it is part of its aggregation.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from numpy.typing import NDArray

from benchmarks.environments import ROOT
from benchmarks.harness import Spread, spread
from benchmarks.report import Report, row_of
from pp_model.protocol import Release
from pp_model.serialization import Arrays, shapes_of
from server.aggregation import aggregator, validate_release

NAME, TITLE = "aggregation", "Aggregation of a thousand updates"
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
    command = [sys.executable, "-m", f"benchmarks.{NAME}", "--measure", method, "--updates", str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return dict(json.loads(done.stdout))


def _measured(*, quick: bool) -> dict[str, dict[str, Any]]:
    """By method: CPU seconds for 1,000 updates, the ratios to Flower's, most memory in models, and the error."""
    count = QUICK_UPDATES
    turns = [{method: mean_of(method, count)[1] for method in METHODS} for _ in range(3 if quick else 15)]
    return {
        method: {
            "seconds": statistics.median(turn[method] for turn in turns) * UPDATES / count,
            "ratios": spread([turn[method] / turn["flwr"] for turn in turns]),
            **in_a_process_of_its_own(method, count=QUICK_UPDATES if quick else UPDATES),
        }
        for method in METHODS
    }


def measure(*, quick: bool) -> Report:
    """The report of this part."""
    found = _measured(quick=quick)
    mine, most = found["ours"], found["ours"]["peak"]
    rows = [
        row_of(
            "mean of 1,000 updates of 1M parameters: CPU / flwr aggregate_arrayrecords",
            mine["ratios"],
            f"<= {CPU_BAR:g}",
        ),
        row_of(
            "mean of updates of 1M parameters: most memory / a model",
            Spread(middle=most, low=most, high=most),
            f"<= {MEMORY_BAR:g}",
        ),
    ]
    return Report(name=NAME, title=TITLE, rows=rows, text=_text(found), versions={"flwr": version("flwr")})


def _text(found: dict[str, dict[str, Any]]) -> str:
    lines = [
        f"CPU: {QUICK_UPDATES} updates in turns in one process, times {UPDATES // QUICK_UPDATES}; the ratio is the "
        "median of neighbours'. Memory: the most, the update that is being added included, in models of float32, in a "
        "process of its own. Error: the largest, in units of 2**-24 times the mean of the absolute values.",
        *("", "| Method | CPU s per 1,000 | / flwr | memory, models | error |", "| --- | --- | --- | --- | --- |"),
    ]
    lines += [
        f"| {method} | {of['seconds']:.2f} | {of['ratios'].middle:.2f} | {of['peak']:,.2f} | {of['error']:.1f} |"
        for method, of in found.items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", choices=METHODS, required=True, help="memory and error of one method, as JSON")
    parser.add_argument("--updates", type=int, default=QUICK_UPDATES)
    args = parser.parse_args()
    print(json.dumps(peak_and_error(args.measure, count=args.updates)))


if __name__ == "__main__":
    main()
