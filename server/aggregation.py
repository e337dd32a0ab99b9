"""Releases checked, and many updates into one. Post-processing of what was released: it costs no privacy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pp_model.clipping import update_norm
from pp_model.errors import ArraysError, ProtocolError
from pp_model.protocol import Release
from pp_model.serialization import Arrays, Shapes, check_arrays
from server.norm_filter import far_from_others
from server.running_mean import RunningMean


class RejectionCode(StrEnum):
    """Why an answer was not used. A fixed list, kept in the registry against the node that answered."""

    NO_REPLY = "no_reply"  # none within the round's time
    ERROR = "error"  # the node, or the link to it, failed
    MALFORMED = "malformed"  # not a release or a refusal of our protocol
    WRONG_TASK = "wrong_task"  # the answer to another task
    NAMES = "names"  # an array too many or too few
    SHAPES = "shapes"
    DTYPE = "dtype"
    NOT_FINITE = "not_finite"
    ZERO = "zero"  # nothing but zeros, where the plan adds noise: no mechanism made it
    SHARE = "share"  # a share or signature of the secure sum that is wrong; its masked vector may be in the sum
    NORM = "norm"  # larger than the plan's update_clip_norm
    OUTLIER = "outlier"  # much longer than the other merchants' updates of the round


class RejectedReleaseError(ProtocolError):
    """A release that must not touch the model; `code` says why."""

    def __init__(self, code: RejectionCode, detail: str) -> None:
        self.code = code
        super().__init__(f"release rejected ({code.value}): {detail}")


def validate_release(release: Release, *, task: str, shapes: Shapes, update_clip_norm: float, noised: bool) -> Arrays:
    """The release's update, proven to answer `task` with exactly the trainable arrays, finite and within the norm.

    Args:
        task: fingerprint of the task that this merchant was given.
        shapes: of the trainable arrays.
        update_clip_norm: the plan's.
        noised: whether the plan adds noise.

    Raises:
        RejectedReleaseError: with its code.
    """
    if release.task != task:
        raise RejectedReleaseError(RejectionCode.WRONG_TASK, "it answers another task than this merchant was given")
    try:
        update = check_arrays(release.update, shapes)
    except ArraysError as error:
        raise RejectedReleaseError(_fault(release.update, shapes), str(error)) from error
    norm = update_norm(update)
    if noised and norm == 0:
        raise RejectedReleaseError(RejectionCode.ZERO, "it is all zeros, and the plan adds noise to every number")
    if not norm <= update_clip_norm:
        raise RejectedReleaseError(
            RejectionCode.NORM, f"its norm is {norm:.3g}; allowed: update_clip_norm = {update_clip_norm:g}"
        )
    return update


def trimmed_mean(updates: Sequence[Arrays], *, trim: int) -> Arrays:
    """Coordinate by coordinate, the mean without the `trim` smallest and the `trim` largest values; {} of none.

    Up to `trim` merchants, whatever they send, move no coordinate past the range of the others.

    Args:
        updates: of the same names and shapes; more than 2 * `trim`.

    Source: Yin et al. 2018 (arXiv:1803.01498), Definition 2.
    """
    if updates and not 0 <= 2 * trim < len(updates):
        raise ValueError(f"trim is {trim} of {len(updates)} updates; allowed: less than half of them")
    kept = slice(trim, len(updates) - trim)
    return {
        name: np.sort(stack, axis=0)[kept].mean(axis=0, dtype=np.float64).astype(np.float32)
        for name, stack in _stacked(updates)
    }


def median(updates: Sequence[Arrays]) -> Arrays:
    """Coordinate by coordinate, the median; {} of none. Fewer than half of the merchants cannot move it far.

    Source: Yin et al. 2018 (arXiv:1803.01498), Definition 1.
    """
    return {name: np.median(stack, axis=0).astype(np.float32) for name, stack in _stacked(updates)}


class Aggregator(Protocol):
    """One update of many."""

    def add(self, update: Arrays) -> None:
        """Takes one more, of the same names and shapes as all before."""

    def result(self) -> Arrays:
        """One update of all that were added but those left out; {} of none."""

    def left_out(self) -> Sequence[int]:
        """Which of those added so far `result` leaves out, ascending: 0 is the first that was added."""


def aggregator(method: str) -> Aggregator:
    """By the plan's `aggregation`.

    "mean" takes every update, and forgets it when it has added it. The others first leave out, and name, those far
    longer than the rest (`norm_filter.far_from_others`); of the rest, "norm_filter" gives the mean, "trimmed_mean" the
    mean without a fifth of the merchants at each end, at least one where there are three or more, "median" the median.
    They need all updates at the end, so their memory grows with the merchants: three models for each at the most.
    """
    return RunningMean() if method == "mean" else _AllTogether(_OF_ALL[method])


class _AllTogether:
    def __init__(self, of_all: Callable[[Sequence[Arrays]], Arrays]) -> None:
        self._of_all = of_all
        self._updates: list[Arrays] = []
        self._norms: list[float] = []

    def add(self, update: Arrays) -> None:
        self._updates.append(update)
        self._norms.append(update_norm(update))

    def result(self) -> Arrays:
        far = self.left_out()
        return self._of_all([update for place, update in enumerate(self._updates) if place not in far])

    def left_out(self) -> Sequence[int]:
        return far_from_others(self._norms)


def _mean(updates: Sequence[Arrays]) -> Arrays:
    total = RunningMean()
    for update in updates:
        total.add(update)
    return total.result()


def _fifth_trimmed(updates: Sequence[Arrays]) -> Arrays:
    merchants = len(updates)
    return trimmed_mean(updates, trim=min(max(1, merchants // 5), max(0, merchants - 1) // 2))


_OF_ALL = {"norm_filter": _mean, "trimmed_mean": _fifth_trimmed, "median": median}


def _stacked(updates: Sequence[Arrays]) -> Iterable[tuple[str, NDArray[np.float32]]]:
    for name in updates[0] if updates else ():
        yield name, np.stack([update[name] for update in updates])


def _fault(arrays: Arrays, shapes: Shapes) -> RejectionCode:
    """Which of the four things that `check_arrays` checks it was."""
    if set(arrays) != set(shapes):
        return RejectionCode.NAMES
    for name, shape in shapes.items():
        if arrays[name].dtype != np.float32:
            return RejectionCode.DTYPE
        if tuple(arrays[name].shape) != tuple(shape):
            return RejectionCode.SHAPES
    return RejectionCode.NOT_FINITE
