"""The mean of updates that come one after the other and are forgotten as soon as they are added."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pp_model.serialization import Arrays

DOUBLE_UP_TO = 2**18  # parameters of a model
GROUP = 32  # updates
BLOCK = 2**14  # numbers that are converted at a time: their doubles stay in the cache, and take little beside a model


class RunningMean:
    """The sum of the updates added so far divided by their number; {} of none.

    Two models of memory, whatever the number of updates, and one more for `result`.

    Up to `DOUBLE_UP_TO` parameters it is the sum in float64. That takes about twice the time of plain float32, so a
    larger model is summed in float32, in groups of `GROUP` updates, and what is lost where a group joins those before
    it is carried into the next. Each number of the result is then off by at most 34 * 2**-24 times the mean of the
    absolute values, plus the smallest float32, for up to a million updates (plain float32: 2**-24 times the number of
    updates). The sum must fit into float32.
    """

    def __init__(self) -> None:
        self._count = 0
        self._sums: dict[str, _DoubleSum | _GroupedSum] = {}

    def add(self, update: Arrays) -> None:
        """Adds it; all have the names and shapes of the first."""
        if not self._sums:
            double = sum(array.size for array in update.values()) <= DOUBLE_UP_TO
            self._sums = {
                name: _DoubleSum(array.shape) if double else _GroupedSum(array.shape) for name, array in update.items()
            }
        for name, array in update.items():
            self._sums[name].add(array)
        self._count += 1

    def result(self) -> Arrays:
        """The mean as it stands."""
        return {name: total.divided_by(self._count) for name, total in self._sums.items()}

    def left_out(self) -> tuple[int, ...]:
        """None: an update that is forgotten cannot be left out afterwards."""
        return ()


class _DoubleSum:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self._total = np.zeros(shape)

    def add(self, array: NDArray[np.float32]) -> None:
        self._total += array

    def divided_by(self, count: int) -> NDArray[np.float32]:
        quotient = np.empty(self._total.shape, np.float32)
        np.divide(self._total, count, out=quotient, casting="same_kind")
        return quotient


class _GroupedSum:
    """The sum is `high` plus `low`; `low` is the group, and what `high` could not hold of those before it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape, self._in_group = shape, 0
        self._high, self._low = np.zeros(shape, np.float32).reshape(-1), np.zeros(shape, np.float32).reshape(-1)

    def add(self, array: NDArray[np.float32]) -> None:
        self._low += array.reshape(-1)
        self._in_group += 1
        if self._in_group == GROUP:
            self._in_group = 0
            for block in blocks_of(self._low.size):
                exact = self._exact(block)
                self._high[block] = exact
                exact -= self._high[block]
                self._low[block] = exact

    def divided_by(self, count: int) -> NDArray[np.float32]:
        quotient = np.empty(self._high.shape, np.float32)
        for block in blocks_of(quotient.size):
            exact = self._exact(block)
            exact /= count
            quotient[block] = exact
        return quotient.reshape(self._shape)

    def _exact(self, block: slice) -> NDArray[np.float64]:
        return np.add(self._high[block], self._low[block], dtype=np.float64)


def blocks_of(size: int) -> list[slice]:
    """`size` numbers in order, `BLOCK` at a time."""
    return [slice(start, start + BLOCK) for start in range(0, size, BLOCK)]
