"""A repeatable stand-in for the secret source, for synthetic shops and tests.

It lives in `simulations` because `client` may not import from here: a merchant's noise can then never come from a
seed, whatever a configuration or a task says (checklist D27, D28).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pp_model.randomness import uniform_from_bytes, words_from_bytes


class SeededSource:
    """A `SecretSource` that gives the same numbers for the same seed. Never secret: for synthetic shops and tests.

    Two sources of one seed give the same sequence of calls; one source never repeats itself. Philox is no
    cryptographic generator: who sees the noise of one step can compute that of the next. Its normal numbers come from
    a generator of their own, which is several times faster, has the 24 bits of float32 and ends at 5.8 deviations.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.Generator(np.random.Philox(seed))
        self._normal = torch.Generator().manual_seed(seed)

    def uniform(self, size: int) -> NDArray[np.float64]:
        """See `SecretSource`."""
        return uniform_from_bytes(self._rng.bytes(8 * size))

    def standard_normal(self, size: int) -> NDArray[np.float64]:
        """See `SecretSource`."""
        return torch.randn(size, generator=self._normal).numpy().astype(np.float64)

    def words(self, size: int) -> NDArray[np.uint64]:
        """See `SecretSource`."""
        return words_from_bytes(self._rng.bytes(8 * size))
