"""The platform's optimiser: one step of the model along the aggregated update. Post-processing of releases."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pp_model.errors import ArraysError
from pp_model.plan import ServerPlan
from pp_model.serialization import Arrays

ADAM_BETA2 = 0.99  # remembers about a hundred rounds; the usual 0.999 outlasts whole runs
ADAM_EPSILON = 1e-8  # below the noise of any update; it only keeps 0 / 0 from a coordinate that never moved


@dataclass(frozen=True, kw_only=True)
class ServerOptimizer:
    """The optimiser after `steps` steps. A step gives a new one; nothing is changed in place.

    All state is float32, as checkpoints hold it, so a resumed run continues bit by bit.

    Attributes:
        plan: which optimiser, with what constants.
        rounds: of the whole run; the learning rate falls linearly over them.
        steps: taken so far.
        first: Adam's first moment, or the velocity of momentum.
        second: Adam's second moment.
        average: exponential average of the trainable arrays, not yet corrected for its start at zero.
    """

    plan: ServerPlan
    rounds: int
    steps: int = 0
    first: Arrays = field(default_factory=dict)
    second: Arrays = field(default_factory=dict)
    average: Arrays = field(default_factory=dict)

    def learning_rate(self, round: int) -> float:
        """From `learning_rate` in round 1 linearly to `final_learning_rate` in the last round."""
        progress = (round - 1) / max(1, self.rounds - 1)
        return self.plan.learning_rate + progress * (self.plan.final_learning_rate - self.plan.learning_rate)

    def step(self, params: Arrays, update: Arrays, *, round: int) -> tuple[Arrays, ServerOptimizer]:
        """The model moved along `update`, which is minus a gradient, and the optimiser after that.

        Arrays of the model that the update does not name stay as they are.

        Source: Kingma and Ba 2015 (arXiv:1412.6980), Algorithm 1, with the sign of a descent direction;
        momentum: Polyak 1964, in the form velocity = momentum * velocity + update. "scalar_adam" is Adam with one
        second moment for all coordinates: privacy noise is equally large in each, so dividing each by its own size
        would only shrink those that carry signal.
        """
        steps, rate = self.steps + 1, self.learning_rate(round)
        beta1 = self.plan.momentum
        if self.plan.optimizer != "momentum":
            first = {name: _mix(self.first, name, u, beta1) for name, u in update.items()}
            second = {
                name: _mix(self.second, name, u.astype(np.float64) ** 2, ADAM_BETA2) for name, u in update.items()
            }
            size = second if self.plan.optimizer == "adam" else _shared_mean(second)
            direction = {
                name: (first[name] / (1 - beta1**steps))
                / (np.sqrt(size[name] / (1 - ADAM_BETA2**steps)) + ADAM_EPSILON)
                for name in update
            }
        else:
            first = {name: u + beta1 * _held(self.first, name, u) for name, u in update.items()}
            second, direction = {}, first
        moved = {name: (params[name] + rate * direction[name]).astype(np.float32) for name in update}
        decay = self.plan.averaging
        average = {name: _mix(self.average, name, moved[name], decay) for name in update} if decay else {}
        return {**params, **moved}, ServerOptimizer(
            plan=self.plan,
            rounds=self.rounds,
            steps=steps,
            first=_float32(first),
            second=_float32(second),
            average=_float32(average),
        )

    def published(self, params: Arrays) -> Arrays:
        """The model to publish: its trainable arrays averaged over the steps taken, or `params` where averaging is 0.

        The average is divided by 1 - averaging**steps: the model before the first step has no weight in it.
        """
        correction = 1 - self.plan.averaging**self.steps
        return {**params, **_float32({name: a.astype(np.float64) / correction for name, a in self.average.items()})}

    def to_arrays(self) -> Arrays:
        """All that a checkpoint must hold of it; `from_arrays` is the inverse."""
        arrays: Arrays = {"steps": np.array([self.steps], dtype=np.float32)}  # exact: far fewer than 2**24
        for kind in ("first", "second", "average"):
            arrays |= {f"{kind}/{name}": array for name, array in getattr(self, kind).items()}
        return arrays

    @staticmethod
    def from_arrays(arrays: Arrays, *, plan: ServerPlan, rounds: int) -> ServerOptimizer:
        """The optimiser of `to_arrays`.

        Raises:
            ArraysError: an array that is not an optimiser's.
        """
        parts: dict[str, Arrays] = {"first": {}, "second": {}, "average": {}}
        for key, array in arrays.items():
            kind, _, name = key.partition("/")
            if key != "steps" and kind not in parts:
                raise ArraysError(f"array {key[:80]!r} is not part of an optimiser")
            if key != "steps":
                parts[kind][name] = array
        if "steps" not in arrays:
            raise ArraysError("the optimiser's number of steps is missing")
        return ServerOptimizer(plan=plan, rounds=rounds, steps=int(arrays["steps"][0]), **parts)


def _held(state: Arrays, name: str, like: NDArray[np.floating]) -> NDArray[np.float64]:
    return state[name].astype(np.float64) if name in state else np.zeros(like.shape)


def _mix(state: Arrays, name: str, new: NDArray[np.floating], decay: float) -> NDArray[np.float64]:
    return decay * _held(state, name, new) + (1 - decay) * new.astype(np.float64)


def _shared_mean(arrays: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """The mean over all coordinates of all arrays, under each name."""
    mean = np.sum([a.sum() for a in arrays.values()]) / max(1, sum(a.size for a in arrays.values()))
    return {name: np.asarray(mean, np.float64) for name in arrays}


def _float32(arrays: dict[str, NDArray[np.float64]]) -> Arrays:
    return {name: array.astype(np.float32) for name, array in arrays.items()}
