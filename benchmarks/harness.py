"""Honest timing on a machine that others use too: everything is a ratio to a reference that runs in between.

A ratio is the CPU time of the thing measured over the mean of the reference just before and just after it, in one
process with one thread; of many such ratios the median is the result and the quartiles are the spread.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Work = Callable[[], object]
_FEWEST_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median and quartiles."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{digits(self.middle)} [{digits(self.low)}-{digits(self.high)}]"

    def inverse(self) -> Spread:
        """Of 1 / x."""
        return Spread(middle=1 / self.middle, low=1 / self.high, high=1 / self.low)

    def over(self, other: Spread) -> Spread:
        """Of the quotient of two that were measured apart: the quartiles at their worst."""
        return Spread(middle=self.middle / other.middle, low=self.low / other.high, high=self.high / other.low)


def digits(value: float) -> str:
    """Three digits that count, and no exponent."""
    if not math.isfinite(value) or value == 0:
        return str(value)
    places = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, places):.{min(max(places, 0), 6)}f}"


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of at least one value; a NaN among them makes all three NaN."""
    if any(math.isnan(value) for value in values):
        return Spread(middle=math.nan, low=math.nan, high=math.nan)
    if len(values) == 1:
        return Spread(middle=values[0], low=values[0], high=values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle=middle, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One thing that was timed.

    Attributes:
        ratio: to the reference.
        cpu_seconds: of one call, for scale; it depends on what else the machine does.
    """

    ratio: Spread
    cpu_seconds: Spread


def pooled(spreads: Sequence[Spread]) -> Spread:
    """Of one figure measured in several processes: the median of the medians, and the widest quartiles.

    Processes differ by more than the readings within one do, in how their memory happens to lie.
    """
    return Spread(
        middle=statistics.median(each.middle for each in spreads),
        low=min(each.low for each in spreads),
        high=max(each.high for each in spreads),
    )


def alternate(
    reference: Work,
    others: Mapping[str, Work],
    *,
    rounds: int,
    at_least_seconds: float,
    enough_seconds: float = math.inf,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, Measured]:
    """Times every one of `others` between two runs of the reference, at most `rounds` times; the reference is "".

    Everything has been called before: see `first_call`.

    Args:
        at_least_seconds: what is called so often that one reading takes at least this long.
        enough_seconds: after which no further round is begun, from the third on.
        clock: CPU seconds of this process, in all its threads.
    """
    works = {"": reference, **others}
    repeats = {name: _repeats(work, at_least_seconds, clock) for name, work in works.items()}

    def read(name: str) -> float:
        work, times = works[name], repeats[name]
        gc.collect()
        began = clock()
        for _ in range(times):
            work()
        return (clock() - began) / times

    seconds: dict[str, list[float]] = {name: [] for name in works}
    ratios: dict[str, list[float]] = {name: [] for name in others}
    began_all = clock()
    for done in range(rounds):
        if done >= _FEWEST_ROUNDS and clock() - began_all > enough_seconds:
            break
        for name in others:
            before, own, after = read(""), read(name), read("")
            ratios[name].append(2 * own / (before + after))
            seconds[name].append(own)
            seconds[""] += [before, after]
    if not others:
        seconds[""] = [read("") for _ in range(rounds)]
    return {
        name: Measured(
            ratio=spread(ratios[name]) if name else Spread(middle=1.0, low=1.0, high=1.0),
            cpu_seconds=spread(seconds[name]),
        )
        for name in works
    }


def first_call(work: Work) -> float:
    """Seconds of the wall clock that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _repeats(work: Work, at_least_seconds: float, clock: Callable[[], float]) -> int:
    """How often to call it in one reading."""
    began, calls = clock(), 0
    while calls < 3 and clock() - began < at_least_seconds:
        work()
        calls += 1
    return max(1, math.ceil(at_least_seconds * calls / max(clock() - began, 1e-9)))


def resident_bytes() -> int:
    """Memory of this process now."""
    return _status("VmRSS")


def forget_peak() -> None:
    """From here on `peak_bytes` counts anew (Linux alone)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """The most memory that this process had since `forget_peak`."""
    return _status("VmHWM")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no line {key}; memory is measured on Linux alone")


def peak_above_start(work: Work, *, calls: int) -> int:
    """Bytes by which `calls` calls lift the peak of this process over what it holds now."""
    gc.collect()
    held = resident_bytes()
    forget_peak()
    for _ in range(calls):
        work()
    return max(0, peak_bytes() - held)
