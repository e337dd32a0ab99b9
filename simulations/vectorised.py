"""The local training of many merchants at once: their parameters stacked, each with a batch and noise of its own.

What every merchant computes is what `pp_model.train.train_locally` computes for it, to float precision; only how it is
computed differs. Nothing of one merchant's rows, batches or noise reaches another's parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pp_model.customer_rows import CustomerRows, window_weights
from pp_model.dp_step import CustomerGradients, customer_gradients
from pp_model.fast_gradients import SEQUENCE_ROWS_AT_ONCE, even_part, reads_sequences
from pp_model.plan import DpSgdPlan
from pp_model.randomness import SecretSource, poisson_batch
from pp_model.stacked.batch_sums import StackedBatch, StackedGradients

ROWS_AT_ONCE = 4_096  # of all merchants of a chunk together (measured)
PARAMETERS_AT_ONCE = 2**19  # likewise: what is stacked then stays in the cache

_NOBODY = -1


def train_stacked(
    module: nn.Module,
    start: NDArray[np.float64],
    rows: Sequence[CustomerRows],
    secrets: Sequence[SecretSource],
    *,
    dp: DpSgdPlan,
    learning_rate: float,
    nominal_batch_size: float,
) -> NDArray[np.float32]:
    """[merchants, parameters]: how far each merchant's `dp.num_steps` private steps led from `start`.

    Merchants are trained in chunks, those with about equally many customers together, so memory grows with their
    number by the result alone. Each draws from its own secret what `train_locally` would, in the same order.

    Args:
        module: with layers that are all known; its own parameters are not looked at.
        start: [parameters], the trained ones in the module's order.
        rows: of each merchant; all on one device.
        secrets: of each merchant, no two the same.

    Raises:
        UnknownLayerError: a layer is not known.
    """
    moved = np.empty((len(rows), len(start)), np.float32)
    training = _Training(module, start, dp, learning_rate / nominal_batch_size)
    for chunk in chunks(rows, sample_rate=dp.sample_rate, parameters=len(start), rows_at_once=training.rows_at_once):
        moved[chunk] = training.moved([rows[m] for m in chunk], [secrets[m] for m in chunk])
    return moved


def chunks(
    rows: Sequence[CustomerRows], *, sample_rate: float, parameters: int, rows_at_once: int
) -> Iterator[NDArray[np.intp]]:
    """Which merchants to train together: the largest first, and as many as keep a batch of all to `rows_at_once`."""
    expected = sample_rate * np.array([len(one.spend_cents) for one in rows])
    left = np.argsort(-expected, kind="stable")
    while len(left):
        by_rows = rows_at_once // max(1, math.ceil(expected[left[0]]))
        number = max(1, min(by_rows, PARAMETERS_AT_ONCE // parameters))
        yield left[:number]
        left = left[number:]


class _Training:
    """Steps from one start; keeps the stack from one chunk to the next of as many merchants."""

    def __init__(self, module: nn.Module, start: NDArray[np.float64], dp: DpSgdPlan, pace: float) -> None:
        self._module, self._start, self._dp, self._pace = module, start, dp, pace
        self._stack: StackedGradients | None = None
        self.rows_at_once = SEQUENCE_ROWS_AT_ONCE if reads_sequences(module) else ROWS_AT_ONCE

    def moved(self, rows: Sequence[CustomerRows], secrets: Sequence[SecretSource]) -> NDArray[np.float32]:
        """[merchants, parameters]: how far the merchants of one chunk came."""
        dp, chunk, stack = self._dp, _Chunk(rows), self._stack_of(len(rows), rows[0].spend_cents.device)
        position = torch.from_numpy(self._start).repeat(len(rows), 1)  # in float64, as in `train_locally`
        on_host = torch.empty_like(stack.values, device="cpu") if stack.values.is_cuda else stack.values
        on_host.copy_(position)
        for _ in range(dp.num_steps):
            if on_host is not stack.values:
                stack.values.copy_(on_host)
            batches = [
                poisson_batch(secret, num_customers=one.num_customers, sample_rate=dp.sample_rate)
                for one, secret in zip(rows, secrets, strict=True)
            ]
            sums = self._clipped_sums(stack, chunk, batches).cpu()
            # Merchant by merchant, so that what is added and rounded stays in the cache.
            for place, value, total, secret in zip(
                position.unbind(), on_host.unbind(), sums.unbind(), secrets, strict=True
            ):
                noise = torch.from_numpy(secret.standard_normal(len(place)))
                place.sub_(noise, alpha=self._pace * dp.noise_multiplier * dp.max_grad_norm)
                place.sub_(total.double(), alpha=self._pace)
                value.copy_(place)
        return position.sub_(torch.from_numpy(self._start)).float().numpy()

    def _stack_of(self, merchants: int, device: torch.device) -> StackedGradients:
        if self._stack is None or len(self._stack.values) != merchants:
            self._stack = StackedGradients(self._module, merchants=merchants, device=device)
        return self._stack

    def _clipped_sums(self, stack: StackedGradients, chunk: _Chunk, batches: Sequence[NDArray[np.intp]]) -> Tensor:
        """[merchants, parameters]; where the device's memory is too small, begun again with half as many rows."""
        while True:
            try:
                return self._sum(stack, chunk, batches)
            except torch.OutOfMemoryError:
                if self.rows_at_once == 1:
                    raise
                self.rows_at_once //= 2

    def _sum(self, stack: StackedGradients, chunk: _Chunk, batches: Sequence[NDArray[np.intp]]) -> Tensor:
        stack.sums.zero_()
        odd: set[int] = set()
        for part in chunk.parts(batches, rows_at_once=self.rows_at_once):
            norms = stack.measure(chunk.batch(part))
            if not math.isfinite(float(norms.sum())):
                finite = torch.isfinite(norms).all(dim=1)
                odd |= set(torch.nonzero(~finite).flatten().tolist())
                norms = torch.where(finite[:, None], norms, 1.0)  # these merchants' sums are overwritten below
            stack.add(norms, max_grad_norm=self._dp.max_grad_norm)
        for merchant in odd:
            self._reference.load(stack.values[merchant].double().cpu().numpy())
            total = self._reference.clipped_sum(
                chunk.rows[merchant], batches[merchant], max_grad_norm=self._dp.max_grad_norm
            )
            stack.sums[merchant] = torch.from_numpy(total)
        return stack.sums

    @cached_property
    def _reference(self) -> CustomerGradients:
        """For merchants with a customer whose gradient is not finite: they are rare, and it knows what to do."""
        return customer_gradients(self._module)


class _Chunk:
    """The rows of some merchants, one merchant after the other, so that one look-up gathers a batch of all of them."""

    def __init__(self, rows: Sequence[CustomerRows]) -> None:
        self.rows = rows
        self._inputs = tuple(torch.cat(tensors) for tensors in zip(*(one.inputs for one in rows), strict=True))
        self._spend_cents = torch.cat([one.spend_cents for one in rows])
        before = np.cumsum([0, *(len(one.spend_cents) for one in rows)])
        # By customer, numbered through all merchants:
        self._first = np.concatenate([one.first[:-1] + rows for one, rows in zip(rows, before[:-1], strict=True)])
        self._counts = np.concatenate([np.diff(one.first) for one in rows])
        self._customers_before = np.cumsum([0, *(one.num_customers for one in rows)])
        self._several_windows = bool((self._counts > 1).any())

    def parts(self, batches: Sequence[NDArray[np.intp]], *, rows_at_once: int) -> Iterator[NDArray[np.intp]]:
        """[merchants, customers] of each part: customers numbered through all merchants, or `_NOBODY` to fill up.

        Customers without rows are in none; those with equally many are together, so that little is padded.
        """
        everybody = [self._with_rows(batch + self._customers_before[m]) for m, batch in enumerate(batches)]
        table = np.full((len(batches), max(map(len, everybody))), _NOBODY)
        for merchant, customers in enumerate(everybody):
            table[merchant, : len(customers)] = customers
        start = 0
        while start < table.shape[1]:
            width = self._width(table[:, start:], rows_at_once)
            yield table[:, start : start + width]
            start += width

    def batch(self, customers: NDArray[np.intp]) -> StackedBatch:
        """One of `parts`, each customer with as many windows as the one with the most."""
        merchants, number = customers.shape
        counts = np.where(customers == _NOBODY, 0, self._counts[customers])
        first = np.where(customers == _NOBODY, 0, self._first[customers])
        windows, weight = np.arange(counts.max()), window_weights(counts)
        index = np.where(weight > 0, first[..., None] + windows, first[..., None])
        device = self._spend_cents.device
        picked = torch.from_numpy(index.ravel()).to(device)
        rows = (merchants, number * len(windows))
        return StackedBatch(
            customers=number,
            inputs=tuple(tensor.index_select(0, picked).view(*rows, *tensor.shape[1:]) for tensor in self._inputs),
            spend_cents=self._spend_cents.index_select(0, picked).view(rows),
            weight=torch.from_numpy(weight.reshape(rows)).to(device),
        )

    def _with_rows(self, customers: NDArray[np.intp]) -> NDArray[np.intp]:
        counts = self._counts[customers]
        customers = customers[counts > 0]
        return customers[np.argsort(counts[counts > 0], kind="stable")] if self._several_windows else customers

    def _width(self, table: NDArray[np.intp], rows_at_once: int) -> int:
        """How many columns fit, when the rows of each are as many as its longest customer needs."""
        if not self._several_windows:
            return even_part(table.shape[1], rows_at_once=max(1, rows_at_once // len(table)))
        longest = np.where(table == _NOBODY, 0, self._counts[table]).max(axis=0)
        rows = np.maximum.accumulate(longest) * np.arange(1, len(longest) + 1) * len(table)
        return max(1, int(np.searchsorted(rows, rows_at_once, side="right")))
