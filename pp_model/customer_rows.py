"""Rows of the loss, grouped by customer: what the private step samples from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CustomerRows:
    """All rows of a customer are one example.

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
