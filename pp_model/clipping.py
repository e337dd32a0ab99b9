"""Bounding one customer's, and one merchant's, influence. The whole guarantee rests on these few lines."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pp_model.serialization import Arrays

_BLOCK = 2**14  # numbers made double at a time: they stay in the cache


def clipped_sum(grads: Tensor, *, max_grad_norm: float) -> Tensor:
    """Sum of per-customer gradients, each scaled to at most `max_grad_norm`.

    Adding or removing one customer moves the result by at most `max_grad_norm` in L2 norm, whatever the
    gradients are: a row that is not finite counts as zero.

    Args:
        grads: [customers, parameters]; zero customers are allowed.
        max_grad_norm: L2 bound, in gradient units; > 0.

    Returns:
        [parameters], in float64: the sum of many float32 rows must not drift past the bound.

    Source: Abadi et al. 2016 (arXiv:1607.00133), Algorithm 1, "Clip gradient".
    """
    rows = grads.double()
    rows = torch.where(torch.isfinite(rows).all(dim=1, keepdim=True), rows, 0.0)
    # Scale by the largest entry first: the square of 1e200 would be infinite, and its row lost.
    tiny = torch.finfo(torch.float64).tiny
    largest = rows.abs().amax(dim=1, keepdim=True).clamp(min=tiny) if rows.shape[1] else rows.new_ones(len(rows), 1)
    unit = rows / largest
    return (unit * torch.minimum(largest, max_grad_norm / unit.norm(dim=1, keepdim=True).clamp(min=tiny))).sum(dim=0)


def update_norm(update: Arrays) -> float:
    """L2 norm of all arrays together; infinite if any value is not finite. Its memory is that of one block."""
    total = math.fsum(_square_sum(array.reshape(-1)) for array in update.values())
    return math.sqrt(total) if math.isfinite(total) else math.inf


def _square_sum(numbers: NDArray[np.float32]) -> float:
    blocks = (numbers[start : start + _BLOCK].astype(np.float64) for start in range(0, numbers.size, _BLOCK))
    squares = [float(np.dot(block, block)) for block in blocks]
    return math.fsum(squares) if all(map(math.isfinite, squares)) else math.inf


def clip_update(update: Arrays, *, update_clip_norm: float) -> tuple[Arrays, float]:
    """The update scaled to an L2 norm of at most `update_clip_norm`, and the norm it had.

    An update that is not finite becomes zero.
    """
    norm = update_norm(update)
    if norm == math.inf:
        return {name: np.zeros_like(array) for name, array in update.items()}, norm
    # A hair less than the bound, or rounding to float32 could pass it.
    factor = (1 - 2.0**-22) * update_clip_norm / norm if norm > update_clip_norm else 1.0
    scaled: Arrays = {
        name: np.multiply(array, factor, dtype=np.float64).astype(np.float32) for name, array in update.items()
    }
    return scaled, norm
