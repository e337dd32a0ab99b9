"""The clipped sum of one merchant's batch by the stacked layers, in micro-batches that fit the memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pp_model.customer_rows import CustomerRows, window_weights
from pp_model.per_sample import PerSampleGradients, trainable
from pp_model.stacked.batch_sums import StackedBatch, StackedGradients

# Rows of a micro-batch: as many as keep what is remembered of them in the processor's cache (measured).
ROWS_AT_ONCE, SEQUENCE_ROWS_AT_ONCE = 1_024, 48
_ADDED_IN_FLOAT32 = 256  # customers; more would let what float32 rounds grow beside the clip


class FastGradients:
    """As `PerSampleGradients`, at a fraction of its cost, for modules whose layers are all known.

    Raises:
        UnknownLayerError: a layer is not known.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._stacked = StackedGradients(module, merchants=1, device=trainable(module)[0].device)
        self._exact: PerSampleGradients | None = None
        self.rows_at_once = SEQUENCE_ROWS_AT_ONCE if reads_sequences(module) else ROWS_AT_ONCE

    def load(self, values: NDArray[np.float64]) -> None:
        """Takes the gradients at these parameters from now on: [parameters], in the module's order."""
        self._stacked.values[0] = torch.from_numpy(values.astype(np.float32))

    def clipped_sum(self, rows: CustomerRows, batch: NDArray[np.intp], *, max_grad_norm: float) -> NDArray[np.float64]:
        """Sum over the batch's customers of the gradient of their loss, each clipped: [parameters].

        Where the device's memory is too small the whole sum is begun again, in micro-batches of half the size.
        """
        while True:
            try:
                return self._sum(rows, batch, max_grad_norm=max_grad_norm)
            except torch.OutOfMemoryError:
                if self.rows_at_once == 1:
                    raise
                self.rows_at_once //= 2
                self._begin_anew()

    def _sum(self, rows: CustomerRows, batch: NDArray[np.intp], *, max_grad_norm: float) -> NDArray[np.float64]:
        self._stacked.sums.zero_()
        total, added = np.zeros(self._stacked.values.shape[1]), 0
        odd: list[NDArray[np.intp]] = []
        parts = list(micro_batches(rows, batch, rows_at_once=self.rows_at_once))
        while parts:
            part = parts.pop()
            norms = self._stacked.measure(padded(rows, part))
            if math.isfinite(float(norms.sum())):
                self._stacked.add(norms, max_grad_norm=max_grad_norm)
                added += len(part)
                if added >= _ADDED_IN_FLOAT32:
                    total, added = total + self._taken(), 0
            else:
                finite = torch.isfinite(norms[0]).cpu().numpy()
                odd.append(part[~finite])
                parts += [part[finite]] if finite.any() else []
        total += self._taken()
        if odd:
            total += self._exactly().clipped_sum(rows, np.concatenate(odd), max_grad_norm=max_grad_norm)
        return total

    def _begin_anew(self) -> None:
        """Gives back the memory that the layers keep."""
        values = self._stacked.values
        self._stacked = StackedGradients(self._module, merchants=1, device=values.device)
        self._stacked.values.copy_(values)

    def _taken(self) -> NDArray[np.float64]:
        taken: NDArray[np.float64] = self._stacked.sums[0].double().cpu().numpy()
        self._stacked.sums.zero_()
        return taken

    def _exactly(self) -> PerSampleGradients:
        """For customers whose gradient is not finite, or too long for the square of its length to be."""
        if self._exact is None:
            self._exact = PerSampleGradients(copy.deepcopy(self._module))  # the module stays the caller's, unhooked
        self._exact.load(self._stacked.values[0].double().cpu().numpy())
        return self._exact


def reads_sequences(module: nn.Module) -> bool:
    """Whether rows of its input are sequences: each takes as much memory as many rows of other models."""
    return any(isinstance(part, nn.Embedding) for part in module.modules())


def even_part(rows: int, *, rows_at_once: int) -> int:
    """How many rows go together, so that all parts of a batch are about as large, and none too large."""
    return math.ceil(rows / max(1, math.ceil(rows / rows_at_once)))


def micro_batches(rows: CustomerRows, batch: NDArray[np.intp], *, rows_at_once: int) -> Iterator[NDArray[np.intp]]:
    """The batch's customers who have rows, those with equally many together, so that little is padded."""
    counts = rows.first[batch + 1] - rows.first[batch]
    batch, counts = batch[counts > 0], counts[counts > 0]
    order = np.argsort(counts, kind="stable")
    batch, counts = batch[order], counts[order]
    most = even_part(int(counts.sum()), rows_at_once=rows_at_once)
    while len(batch):
        fits = np.arange(1, len(batch) + 1) * counts <= most
        number = max(1, int(fits.sum()))
        yield batch[:number]
        batch, counts = batch[number:], counts[number:]


def padded(rows: CustomerRows, customers: NDArray[np.intp]) -> StackedBatch:
    """Customers of one merchant, each of them with rows, with as many windows as the one with the most."""
    first, counts = rows.first[customers], rows.first[customers + 1] - rows.first[customers]
    windows, weight = np.arange(counts.max()), window_weights(counts)
    device = rows.spend_cents.device
    index = torch.from_numpy(np.where(weight > 0, first[:, None] + windows, first[:, None]).ravel()).to(device)
    return StackedBatch(
        customers=len(customers),
        inputs=tuple(tensor[index][None] for tensor in rows.inputs),
        spend_cents=rows.spend_cents[index][None],
        weight=torch.from_numpy(weight.ravel()).to(device)[None],
    )
