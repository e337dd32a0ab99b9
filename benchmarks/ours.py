"""The product behind the two interfaces that the measurements call."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import benchmarks.own_networks  # noqa: F401  (registers the measured models)
from benchmarks.models import Market
from benchmarks.own_sums import PlainSums
from benchmarks.steps import Noise, Step
from pp_model.fast_gradients import ROWS_AT_ONCE, SEQUENCE_ROWS_AT_ONCE, even_part, reads_sequences
from pp_model.stacked.batch_sums import StackedBatch, StackedGradients

_MERCHANTS_AT_ONCE, _SEQUENCE_MERCHANTS_AT_ONCE = 64, 1


def ours(
    model: nn.Module,
    *,
    max_grad_norm: float,
    noise: Noise,
    learning_rate: float,
    private: bool = True,
) -> Step:
    """Our step: parameters -= learning_rate / rows * (sum of clipped gradients + noise), every row one customer.

    Args:
        model: where training starts; it stays as it is.
        noise: called with a shape, gives the noise of the sum, its standard deviation included.
        private: without, the same code gives the sum as it is: no norms, no clip, no noise.
    """
    return _Step(model, max_grad_norm if private else math.inf, noise, learning_rate)


class _Step:
    """In micro-batches of the product's size. A clip at infinity is none, and has no noise."""

    def __init__(self, model: nn.Module, max_grad_norm: float, noise: Noise, learning_rate: float) -> None:
        kind = StackedGradients if math.isfinite(max_grad_norm) else PlainSums
        self.gradients = kind(model, merchants=1, device=torch.device("cpu"))
        self.gradients.values[0] = _flat(model)
        self.max_grad_norm, self.noise, self.learning_rate = max_grad_norm, noise, learning_rate
        self.rows_at_once = SEQUENCE_ROWS_AT_ONCE if reads_sequences(model) else ROWS_AT_ONCE
        self.weight = torch.ones(1, self.rows_at_once)

    @torch.inference_mode()
    def step(self, inputs: tuple[Tensor, ...], spend_cents: Tensor) -> None:
        """See `Step`."""
        sums, rows = self.gradients.sums, len(spend_cents)
        sums.zero_()
        size = even_part(rows, rows_at_once=self.rows_at_once)
        for start in range(0, rows, size):
            part = slice(start, min(start + size, rows))
            number = part.stop - start
            batch = StackedBatch(
                customers=number,
                inputs=tuple(tensor[None, part] for tensor in inputs),
                spend_cents=spend_cents[None, part],
                weight=self.weight[:, :number],
            )
            norms = self.gradients.measure(batch)
            if not math.isfinite(float(norms.sum())):
                raise ValueError("a gradient is not finite, and the product would take its exact path: no measurement")
            self.gradients.add(norms, max_grad_norm=self.max_grad_norm)
        if math.isfinite(self.max_grad_norm):
            sums.add_(self.noise(sums.shape))
        self.gradients.values.sub_(sums, alpha=self.learning_rate / rows)


def merchants(
    model: nn.Module,
    market: Market,
    *,
    steps: int,
    batch_size: int,
    max_grad_norm: float,
    noise: Noise,
    learning_rate: float,
) -> Callable[[Sequence[int]], Tensor]:
    """Our engine of many merchants: a function from some merchants to the sum of their updates, [parameters].

    Each merchant starts from the parameters of `model`, which stays as it is, and takes `steps` private steps of
    `batch_size` of its customers, drawn evenly. What can be prepared once for a run is done before the function is
    given.
    """
    at_once = _SEQUENCE_MERCHANTS_AT_ONCE if reads_sequences(model) else _MERCHANTS_AT_ONCE
    start, rng = _flat(model), np.random.default_rng(0)
    customers_at_once = min(batch_size, SEQUENCE_ROWS_AT_ONCE) if reads_sequences(model) else batch_size
    stacks: dict[int, StackedGradients] = {}

    def chunk(chosen: NDArray[np.int64]) -> Tensor:
        number = len(chosen)
        if number not in stacks:
            stacks[number] = StackedGradients(model, merchants=number, device=torch.device("cpu"))
        stack = stacks[number]
        stack.values.copy_(start.expand(number, -1))
        weight = torch.ones(number, customers_at_once)
        starts, counts = market.starts[chosen], market.counts[chosen]
        for _ in range(steps):
            drawn = torch.from_numpy(starts[:, None] + rng.integers(0, counts[:, None], (number, batch_size)))
            stack.sums.zero_()
            for part in drawn.split(customers_at_once, dim=1):
                rows = market.customers.rows(part.reshape(-1))
                batch = StackedBatch(
                    customers=part.shape[1],
                    inputs=tuple(tensor.view(*part.shape, *tensor.shape[1:]) for tensor in rows.inputs),
                    spend_cents=rows.spend_cents.view(part.shape),
                    weight=weight[:, : part.shape[1]],
                )
                norms = stack.measure(batch)
                if not math.isfinite(float(norms.sum())):
                    raise ValueError("a gradient is not finite: no measurement")
                stack.add(norms, max_grad_norm=max_grad_norm)
            stack.values.sub_(stack.sums.add_(noise(stack.sums.shape)), alpha=learning_rate / batch_size)
        return stack.values.sum(dim=0) - number * start

    def train(chosen: Sequence[int]) -> Tensor:
        total = torch.zeros_like(start)
        numbers = np.asarray(chosen)
        for first in range(0, len(numbers), at_once):
            total += chunk(numbers[first : first + at_once])
        return total

    return train


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
