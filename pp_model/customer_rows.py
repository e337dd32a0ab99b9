"""Rows of the loss, grouped by customer: what the private step samples from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

NEWEST_WEIGHT = 2.0  # of a customer's newest window, against 1 of each older one: what was learnt last year has aged


@dataclass(frozen=True, kw_only=True)
class CustomerRows:
    """All rows of a customer are one example, the newest window's first.

    Attributes:
        inputs: what the module is called with, each [rows, ...].
        spend_cents: [rows], the label.
        first: [customers + 1]; the rows of customer c are first[c] up to first[c + 1]. A customer may have none.
    """

    inputs: tuple[Tensor, ...]
    spend_cents: Tensor
    first: NDArray[np.int64]

    @property
    def num_customers(self) -> int:
        """Customers in the unit of privacy, those without a row included."""
        return len(self.first) - 1


def window_weights(counts: NDArray[np.integer]) -> NDArray[np.float32]:
    """[..., most windows]: the share of each window in the loss of a customer with so many; 1 together, 0 beyond."""
    place = np.arange(counts.max(initial=0))
    weights = np.where(place == 0, NEWEST_WEIGHT, 1.0) * (place < counts[..., None])
    return np.asarray(weights / (np.maximum(counts, 1) - 1 + NEWEST_WEIGHT)[..., None], np.float32)
