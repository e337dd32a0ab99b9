"""Every kind of model, small, and randomness that is watched: shared by the tests of the step and of training."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pp_model.model_spec import ENCODERS, ModelSpec
from pp_model.randomness import SystemSource

SPECS = [ModelSpec(encoder=e, hidden=(6, 4), trainable=t) for e in ENCODERS for t in ("readout", "all")]
every_model = pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.encoder}-{s.trainable}")


class RecordingSource:
    """The system's randomness, and a list of how much was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def uniform(self, size: int) -> NDArray[np.float64]:
        self.asked.append(size)
        return SystemSource().uniform(size)
