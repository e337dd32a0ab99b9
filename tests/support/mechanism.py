"""Every kind of model, small, its gradients one customer at a time, and randomness that is watched."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pp_model.customer_rows import NEWEST_WEIGHT, CustomerRows
from pp_model.features import Examples
from pp_model.loss import ziln_loss
from pp_model.model import load_model, trained_part
from pp_model.model_spec import ENCODERS, ModelSpec
from pp_model.per_sample import trainable
from pp_model.randomness import SystemSource
from pp_model.stacked.layers import Frame, Layer, Slot, Trained
from pp_model.train import customer_rows
from tests.support.examples import random_arrays

SPECS = [ModelSpec(encoder=e, hidden=(6, 4), trainable=t) for e in ENCODERS for t in ("readout", "all")]
every_model = pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.encoder}-{s.trainable}")
# As far as gradients go: a linear model has nothing but its readout, and every frozen encoder leaves a readout alone.
KINDS = [SPECS[0], SPECS[2], *(spec for spec in SPECS[3:] if spec.trainable == "all")]
every_kind = pytest.mark.parametrize("spec", KINDS, ids=lambda s: f"{s.encoder}-{s.trainable}")


class RecordingSource:
    """The system's randomness, and a list of how much was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def uniform(self, size: int) -> NDArray[np.float64]:
        self.asked.append(size)
        return SystemSource().uniform(size)

    def standard_normal(self, size: int) -> NDArray[np.float64]:
        self.asked.append(size)
        return SystemSource().standard_normal(size)

    def words(self, size: int) -> NDArray[np.uint64]:
        self.asked.append(size)
        return SystemSource().words(size)


def ready(spec: ModelSpec, examples: Examples) -> tuple[nn.Module, CustomerRows]:
    """The module that is trained, and the rows that it is trained on."""
    model = load_model(spec, random_arrays(spec))
    return trained_part(model), customer_rows(model, examples)


def windows(customers: int, *, most: int = 5) -> list[int]:
    """1 to `most` windows each, and every eighth customer none."""
    return [0 if i % 8 == 7 else 1 + i % most for i in range(customers)]


def everyone(rows: CustomerRows) -> NDArray[np.intp]:
    """All customers in one batch."""
    return np.arange(rows.num_customers)


def values_of(module: nn.Module) -> NDArray[np.float64]:
    """The parameters that are trained, in the module's order."""
    return np.concatenate([p.detach().cpu().numpy().ravel() for p in trainable(module)]).astype(np.float64)


def mean_over_windows(losses: Tensor) -> Tensor:
    """Of one customer, the newest window first: it counts as often as the plan's constant says, each older one once."""
    return (losses.sum() + (NEWEST_WEIGHT - 1) * losses[0]) / (len(losses) - 1 + NEWEST_WEIGHT)


def gradient_of(module: nn.Module, rows: CustomerRows, customer: int) -> NDArray[np.float64]:
    """One customer: the mean loss of its windows, plain autograd, in double precision; zero where it is not finite."""
    hers, double = slice(*rows.first[customer : customer + 2]), copy.deepcopy(module).double()
    if hers.start == hers.stop:
        return np.zeros(len(values_of(module)))
    inputs = [tensor[hers].double() if tensor.is_floating_point() else tensor[hers] for tensor in rows.inputs]
    loss = mean_over_windows(ziln_loss(double(*inputs), rows.spend_cents[hers]))
    gradient = np.concatenate([g.numpy().ravel() for g in torch.autograd.grad(loss, trainable(double))])
    return gradient if np.isfinite(gradient).all() else np.zeros_like(gradient)


def slow_sum(
    module: nn.Module, rows: CustomerRows, batch: NDArray[np.intp], *, max_grad_norm: float
) -> NDArray[np.float64]:
    """One customer after the other, each clipped."""
    total = np.zeros(len(values_of(module)))
    for customer in batch:
        gradient = gradient_of(module, rows, customer)
        largest = max(np.abs(gradient).max(), 1e-300)  # the square of 1e200 would be infinite
        norm = float(largest * np.linalg.norm(gradient / largest))
        total += gradient * min(1.0, max_grad_norm / max(norm, 1e-300))
    return total


def apart(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """How far one is from the other, as a share of the other's length."""
    return float(np.linalg.norm(one - other) / max(np.linalg.norm(other), 1e-300))


def random_slot(*shape: int, merchants: int = 3, seed: int = 0) -> Slot:
    """A parameter of several merchants, different for each, in double precision."""
    values = torch.randn(merchants, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Slot(values=values, total=torch.zeros_like(values))


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One forward and backward of a stacked layer, and of its plain twin, by merchant and customer.

    Attributes:
        output, of_input, square_norms: what the layer gave; `sums` [merchants, parameters] what it added.
        plain_output, plain_of_input, plain_square_norms, plain_sums: what autograd says.
    """

    output: Tensor
    plain_output: Tensor
    of_input: Tensor | None
    plain_of_input: Tensor | None
    square_norms: Tensor
    plain_square_norms: Tensor
    sums: Tensor
    plain_sums: Tensor

    def assert_equal(self, tolerance: float = 1e-10) -> None:
        """To `tolerance`, relative and absolute."""
        for name in ("output", "of_input", "square_norms", "sums"):
            one, other = getattr(self, name), getattr(self, f"plain_{name}")
            if other is not None:
                torch.testing.assert_close(
                    one, other, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
                )


def passed(
    layer: Layer,
    plain: Callable[[list[Tensor], Tensor, Tensor | None], Tensor],
    x: Tensor,
    frame: Frame,
    *,
    slots: Sequence[Slot] = (),
    trained: Sequence[Trained] = (),
    of_input: bool = True,
) -> Pass:
    """The layer and its twin on the same input, with the same random gradient of the output and random scales.

    Args:
        plain: parameters, input [rows, ..] and present [windows, events] of one merchant to output [rows, ..].
        trained: the layers with the parameters of `slots`, in their order.
    """
    generator = torch.Generator().manual_seed(7)
    parameters = [[s.values[m].clone().requires_grad_() for s in slots] for m in range(len(x))]
    watched = x.clone().requires_grad_(of_input)
    real = [None] * len(x) if frame.present is None else list(frame.present)
    plain_output = torch.stack([plain(parameters[m], watched[m], real[m]) for m in range(len(x))])
    output, back = layer.forward(x.clone(), frame)
    grad = torch.randn(plain_output.shape, dtype=torch.float64, generator=generator)
    of_output = output.clone()  # a layer after it may work in place
    given = back(grad.clone())
    weighed = (plain_output * grad).reshape(len(x), frame.customers, -1).sum(dim=-1)
    scale = torch.rand(len(x), frame.customers, 1, dtype=torch.float64, generator=generator)
    each = torch.zeros(len(x), frame.customers, sum(s.values[0].numel() for s in slots), dtype=torch.float64)
    for m, customer in itertools.product(range(len(x)), range(frame.customers)) if slots else ():
        gradients = torch.autograd.grad(weighed[m, customer], parameters[m], retain_graph=True, allow_unused=True)
        pairs = zip(gradients, parameters[m], strict=True)
        each[m, customer] = torch.cat([(torch.zeros_like(p) if g is None else g).ravel() for g, p in pairs])
    norms = sum((one.square_norms(frame.customers) for one in trained), torch.zeros_like(scale[..., 0]))
    for one in trained:
        one.add_sum(scale)
    return Pass(
        output=of_output,
        plain_output=plain_output.detach(),
        of_input=given if of_input else None,
        plain_of_input=torch.autograd.grad(weighed.sum(), watched, retain_graph=True)[0] if of_input else None,
        square_norms=norms,
        plain_square_norms=each.square().sum(dim=-1),
        sums=torch.cat([s.total.flatten(1) for s in slots], dim=1) if slots else torch.zeros(0),
        plain_sums=(each * scale).sum(dim=1) if slots else torch.zeros(0),
    )
