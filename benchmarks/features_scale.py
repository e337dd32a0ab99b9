"""Orders to features, labels and last-32 sequences, against a floor: a part of `make bench`.

The floor is the least that anyone does in numpy with as many orders: sort by customer and time in one packed key, eight
sums and extremes of each customer, the last 32 values of one column. Both begin with unsorted columns in memory and end
with arrays by customer; sorting is part of both. Every run is a process of its own: two calls, of which the cheaper one
counts; CPU time of user and system; memory above what the columns took before. Floor and ours take turns.
"""

from __future__ import annotations

import argparse
import cProfile
import datetime as dt
import json
import os
import pstats
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environments import ROOT
from benchmarks.harness import Spread, spread
from benchmarks.report import Report, Row, row_of
from pp_model.features import FEATURE_NAMES, TOKEN_SIZES, FeatureSpec, build_examples, training_cutoffs
from pp_model.schema import SECONDS_PER_DAY, OrderLog, day_start

NAME, TITLE = "features_scale", "Ten million orders to features"
ORDERS, BAR_MEGABYTES = 10_000_000, 1_000.0
Runs = dict[str, list[dict[str, Any]]]
FIRST_DAY, NUM_DAYS, LAST = dt.date(2023, 1, 1), 365, 32
SPEC = FeatureSpec(horizon_days=28, sequence_length=LAST)
END = FIRST_DAY + dt.timedelta(days=NUM_DAYS)
PARTS = {  # part of our time -> the function of a module that does it, with all that it calls
    "columns of a line side by side, and its key": "baskets.__init__",
    "sort": "baskets.blocks",
    "fetching lines, lines of a day to baskets": "baskets._baskets",
    "past of each customer: kinds of events, visits, sums": "feature_history.__init__",
    f"{len(FEATURE_NAMES)} features": "feature_columns.feature_columns",
    "tokens of the last 32 events": "features._sequences",
    "labels": "features._labels",
}


def synthetic_log(orders: int, *, seed: int = 0) -> OrderLog:
    """A year of orders of one line each, 40 a customer on average, some customers far busier; 3 % are returns."""
    rng = np.random.default_rng(seed)
    customers = max(orders // 40, 1)
    returned = rng.random(orders) < 0.03
    cents = np.maximum(np.exp(rng.standard_normal(orders) + 8), 1).astype(np.int64)
    names = rng.integers(0, 2**31 - 1, 1_000).astype(np.int32)
    return OrderLog(
        customer=(rng.random(orders) ** 1.5 * customers).astype(np.int32),
        timestamp=rng.integers(0, NUM_DAYS * SECONDS_PER_DAY, orders) + day_start(FIRST_DAY),
        order=rng.integers(-(2**63), 2**63 - 1, orders),
        spend_cents=np.where(returned, -cents, cents),
        quantity=rng.integers(1, 6, orders).astype(np.int32),
        category=names[rng.integers(0, len(names), orders)],
        event_type=returned.astype(np.int8),
        num_customers=customers,
    )


class Floor:
    """Sort and reduceat. It reads narrow columns, made before the clock starts: the cheapest case for it."""

    def __init__(self, log: OrderLog) -> None:
        self.customer, self.second = log.customer, log.timestamp - day_start(FIRST_DAY)
        self.amount, self.token = log.spend_cents.astype(np.float32), (log.category % 1_000).astype(np.int16)
        self.since = (NUM_DAYS - 30) * SECONDS_PER_DAY

    def eight_sums_one_token(self) -> list[Any]:
        """What the bar is measured against."""
        customer, second, amount, token, starts, ends = self._sorted()
        recent = np.where(second >= self.since, amount, 0)
        return [
            *(customer[starts], ends - starts, second[starts], second[ends - 1]),
            *(np.add.reduceat(amount, starts, dtype=np.float64), np.add.reduceat(recent, starts, dtype=np.float64)),
            *(np.maximum.reduceat(amount, starts), np.minimum.reduceat(amount, starts)),
            _last(token, starts, ends),
        ]

    def as_many_outputs_as_ours(self) -> list[Any]:
        """One masked sum for each feature and the label, and the last tokens of four columns."""
        _, second, amount, token, starts, ends = self._sorted()
        step = NUM_DAYS * SECONDS_PER_DAY // len(FEATURE_NAMES)
        sums = [
            np.add.reduceat(np.where(second >= step * number, amount, 0), starts, dtype=np.float64)
            for number in range(len(FEATURE_NAMES) + 1)
        ]
        return [*sums, *(_last(token + field, starts, ends) for field in range(len(TOKEN_SIZES)))]

    def _sorted(self) -> tuple[Any, ...]:
        bits = (NUM_DAYS * SECONDS_PER_DAY).bit_length()
        key = self.customer.astype(np.int64) << bits | self.second
        order = np.argsort(key)
        key = key[order]
        customer = key >> bits
        starts = np.flatnonzero(np.diff(customer, prepend=-1))
        ends = np.append(starts[1:], len(key))
        return customer, key & (1 << bits) - 1, self.amount[order], self.token[order], starts, ends


def _last(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    places = ends[:, None] + np.arange(-LAST, 0)
    known = places >= starts[:, None]
    return np.where(known, values[np.where(known, places, 0)], 0)


def _work(name: str, log: OrderLog) -> Callable[[], Any]:
    if name.startswith("ours"):
        cutoffs = training_cutoffs(END, horizon_days=SPEC.horizon_days, count=int(name.removeprefix("ours ")))
        return lambda: build_examples(log, cutoffs, SPEC)
    floor = Floor(log)
    return {"floor": floor.eight_sums_one_token, "wide floor": floor.as_many_outputs_as_ours}[name]


def _megabytes(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) / 1024


def run_here(name: str, orders: int) -> dict[str, Any]:
    """CPU seconds and extra memory of one kind of work, in this process; of ours also where the time goes."""
    work = _work(name, synthetic_log(orders))
    before, seconds = _megabytes("VmRSS"), []
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
    for _ in range(2):
        start, system = time.process_time(), os.times().system
        work()
        seconds.append((time.process_time() - start, os.times().system - system))
    found: dict[str, Any] = {"cpu": min(seconds)[0], "system": min(seconds)[1], "extra": _megabytes("VmHWM") - before}
    if name == "ours 1":
        found["parts"] = _parts(work)
    return found


def _parts(work: Callable[[], Any]) -> dict[str, float]:
    profile = cProfile.Profile(time.process_time)
    profile.runcall(work)
    spent: dict[str, float] = {}
    for (file, _, function), (_, _, _, inclusive, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if Path(file).parent.name == "pp_model":
            name = f"{Path(file).stem}.{function}"
            spent[name] = max(spent.get(name, 0.0), inclusive)  # of two of one name, the one that calls the other
    parts = {part: spent[name] / spent["features.build_examples"] for part, name in PARTS.items()}
    return parts | {"putting the rows together, and the rest": 1 - sum(parts.values())}


def _run(name: str, orders: int) -> dict[str, Any]:
    command = [sys.executable, "-m", f"benchmarks.{NAME}", "--orders", str(orders), "--only", name]
    path = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, env={**os.environ, **path}, capture_output=True, text=True, check=True)
    return dict(json.loads(answer.stdout))


def _middle(runs: list[dict[str, Any]], field: str) -> float:
    return float(statistics.median(run[field] for run in runs))


def _runs(*, quick: bool) -> Runs:
    """Floor and ours in turns; in the full form the wide floor and four cutoffs too."""
    runs: Runs = {"floor": [], "ours 1": [], "wide floor": [], "ours 4": []}
    for _ in range(2 if quick else 5):
        for name in ("floor", "ours 1"):
            runs[name].append(_run(name, ORDERS))
    for name in () if quick else ("wide floor", "ours 4"):
        runs[name].append(_run(name, ORDERS))
    return runs


def _ratios(runs: Runs, *, against: str = "floor") -> Spread:
    return spread([ours["cpu"] / other["cpu"] for ours, other in zip(runs["ours 1"], runs[against], strict=False)])


def _rows(runs: Runs) -> list[Row]:
    """One row for each bar, and in the full form one without a bar for the floor of as many outputs."""
    ours, floor, wide = runs["ours 1"], runs["floor"], runs["wide floor"]
    what = f"{ORDERS:,} orders to features and sequences"
    rows = [
        row_of(
            f"{what}, CPU / sort-and-reduceat floor",
            _ratios(runs),
            "<= 1.1",
            detail=f"{_middle(ours, 'cpu'):.2f} s / {_middle(floor, 'cpu'):.2f} s",
        ),
        row_of(
            f"{what}, extra memory / 1 GB",
            spread([run["extra"] / BAR_MEGABYTES for run in ours]),
            "<= 1",
            detail=f"{_middle(ours, 'extra'):.0f} MB; floor {_middle(floor, 'extra'):.0f} MB",
        ),
    ]
    if wide:
        wider, seconds = _ratios(runs, against="wide floor"), f"{_middle(wide, 'cpu'):.2f} s for the floor"
        rows.append(row_of(f"{what}, CPU / floor with as many outputs", wider, "<=", quick=False, detail=seconds))
    return rows


def _profile(runs: Runs) -> str:
    """Where our time goes, as Markdown."""
    ours, floor = runs["ours 1"], runs["floor"]
    user = [(a["cpu"] - a["system"]) / (b["cpu"] - b["system"]) for a, b in zip(ours, floor, strict=True)]
    lines = [
        f"{ORDERS:,} orders of {ORDERS // 40:,} customers over a year, one line an order; {len(ours)} pairs.",
        *("", (__doc__ or "").split("\n\n", 1)[1].strip(), ""),
        f"User time alone, without what the system takes for new memory: {statistics.median(user):.2f} times the floor "
        f"(system: ours {_middle(ours, 'system'):.2f} s, floor {_middle(floor, 'system'):.2f} s)."
        + "".join(f" Four cutoffs: {run['cpu']:.2f} s, {run['extra']:.0f} MB extra." for run in runs["ours 4"]),
        *("", "| Part of ours | share | seconds |", "| --- | --- | --- |"),
    ]
    for part in ours[0]["parts"]:
        share = statistics.median(run["parts"][part] for run in ours)
        lines.append(f"| {part} | {share:.0%} | {share * _middle(ours, 'cpu'):.2f} |")
    return "\n".join(lines)


def measure(*, quick: bool) -> Report:
    """The report of this part. Fewer orders would lie in the cache, and their ratio would mean something else."""
    runs = _runs(quick=quick)
    return Report(name=NAME, title=TITLE, rows=_rows(runs), text=_profile(runs), versions={"numpy": version("numpy")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="WORK", required=True, help="one of floor, wide floor, ours 1, ours 4")
    parser.add_argument("--orders", type=int, default=ORDERS)
    args = parser.parse_args()
    print(json.dumps(run_here(args.only, args.orders)))


if __name__ == "__main__":
    main()
