"""Layers that know their per-customer gradients. Each kind states in one place how it runs forward and backward, how
long each customer's gradient is, and how the clipped gradients are summed.

Every tensor is [merchants, rows, width]: merchants differ in their parameters; the rows are customer after customer,
and each customer's are equally many: its cutoff windows, or the events of its windows. All of them are one example.
There is no autograd: `forward` gives its output and the function that takes the gradient back, and a layer with
parameters keeps what its norm and its sum are made of until the sum is taken.

The length of a gradient is always taken of the very numbers that are then scaled and summed, or of their exact
product; never of a difference of large numbers, which weights made for the purpose could bring to nothing.

Source: Bu et al. 2023 (arXiv:2210.00038), "book-keeping"; Goodfellow 2015 (arXiv:1510.01799) for one row a customer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

Back = Callable[[Tensor], Tensor]

_LONGEST_SUM = 4_096  # squares added up in float32 at a time
# Square of an input that may make much of a gradient whose own square is too small for float32: said to be infinite.
_TOO_LONG = 1e30


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One parameter of all merchants: its values, and where its clipped sum is added; each [merchants, *shape]."""

    values: Tensor
    total: Tensor


@dataclass(frozen=True, kw_only=True)
class Frame:
    """How the rows of a batch are made up: customers, each with windows, each with events where there are sequences.

    Attributes:
        present: 1 for a real event and 0 for padding, [merchants, customers * windows, events]; None: no sequences.
    """

    customers: int
    windows: int
    present: Tensor | None = None

    @property
    def real(self) -> Tensor:
        """`present`, for a layer over events."""
        if self.present is None:
            raise TypeError("a layer over events was not told which events are real; give `present`")
        return self.present


class Layer(Protocol):
    """A step of the model."""

    def forward(self, x: Tensor, frame: Frame, /) -> tuple[Tensor, Back]:
        """The output, and the function from the gradient of the output to that of the input."""
        ...


class Trained(Protocol):
    """A layer with parameters, after a backward."""

    def square_norms(self, customers: int) -> Tensor:
        """[merchants, customers]: squared L2 norm of each customer's gradient of this layer's parameters."""
        ...

    def add_sum(self, scale: Tensor) -> None:
        """Adds to the slots the sum over customers of their gradients times `scale` [merchants, customers, 1]."""
        ...


class Linear:
    """x W^T + b.

    Args:
        weight: [merchants, outputs, inputs].
        bias: [merchants, outputs].
        reads_data: whether the input is data, of which nobody wants the gradient.
    """

    def __init__(self, weight: Slot, bias: Slot, *, reads_data: bool = False) -> None:
        self.weight, self.bias, self.reads_data = weight, bias, reads_data
        self.transposed, self.bias_row = weight.values.transpose(1, 2), bias.values[:, None]
        self._each: Tensor | None = None

    def forward(self, x: Tensor, _: Frame) -> tuple[Tensor, Back]:
        """See `Layer`."""
        return torch.baddbmm(self.bias_row, x, self.transposed), lambda grad: self.back(x, grad)

    def keep(self, x: Tensor, grad: Tensor) -> None:
        """Input and gradient of the output, until the sum is taken: [merchants, rows, ..., width]."""
        self.x, self.grad = x, grad

    def back(self, x: Tensor, grad: Tensor) -> Tensor:
        """The gradient of the input."""
        self.keep(x, grad)
        return grad if self.reads_data else torch.bmm(grad, self.weight.values)

    def square_norms(self, customers: int) -> Tensor:
        """See `Trained`. With one row a customer the gradient is an outer product: its length is one of two lengths."""
        x, grad = self.x, self.grad
        if x.shape[1:-1] == (customers,):
            of_x = square(x) + 1
            return of_x.masked_fill_(of_x > _TOO_LONG, torch.inf) * square(grad)
        x, grad = _by_customer(x, customers), _by_customer(grad, customers)
        self.of_weight = torch.bmm(grad.transpose(1, 2), x, out=self._room(len(x)))
        self.of_bias = grad.sum(dim=1)
        return (square(self.of_weight.flatten(1)) + square(self.of_bias)).view(-1, customers)

    def add_sum(self, scale: Tensor) -> None:
        """See `Trained`."""
        if self.x.shape[1:-1] == scale.shape[1:-1]:
            x, grad = self.x, self.grad
            if x.shape[2] < grad.shape[2]:
                x = x * scale
            else:
                grad = grad * scale
            self.weight.total.baddbmm_(grad.transpose(1, 2), x)
            add_scaled(self.bias.total, scale, self.grad)
        else:
            add_scaled(self.weight.total, scale, self.of_weight)
            add_scaled(self.bias.total, scale, self.of_bias)
            del self.of_weight, self.of_bias
        del self.x, self.grad

    def _room(self, examples: int) -> Tensor:
        """Memory for one gradient each, kept: asking the system for fresh pages would cost as much as the product."""
        if self._each is None or len(self._each) < examples:
            self._each = self.weight.values.new_empty(examples, *self.weight.values.shape[1:])
        return self._each[:examples]


class LayerNorm:
    """(x - mean) / std * w + b over the last dimension."""

    def __init__(self, weight: Slot, bias: Slot, *, epsilon: float) -> None:
        self.weight, self.bias, self.epsilon = weight, bias, epsilon
        self.weight_row, self.bias_row = weight.values[:, None], bias.values[:, None]

    def forward(self, x: Tensor, _: Frame) -> tuple[Tensor, Back]:
        """See `Layer`."""
        width = (x.shape[-1],)
        unit, mean, inverse = torch.native_layer_norm(x, width, None, None, self.epsilon)

        def back(grad: Tensor) -> Tensor:
            self.unit, self.grad = unit, grad
            wanted = [True, False, False]
            of_x: Tensor = torch.ops.aten.native_layer_norm_backward(
                grad * self.weight_row, x, width, mean, inverse, None, None, wanted
            )[0]
            return of_x

        return torch.addcmul(self.bias_row, unit, self.weight_row), back

    def square_norms(self, customers: int) -> Tensor:
        """See `Trained`."""
        self.of_weight, self.of_bias = self.grad * self.unit, self.grad
        if self.grad.shape[1] != customers:
            self.of_weight = _by_customer(self.of_weight, customers).sum(dim=1)
            self.of_bias = _by_customer(self.of_bias, customers).sum(dim=1)
        return (square(self.of_weight) + square(self.of_bias)).view(-1, customers)

    def add_sum(self, scale: Tensor) -> None:
        """See `Trained`."""
        add_scaled(self.weight.total, scale, self.of_weight)
        add_scaled(self.bias.total, scale, self.of_bias)
        del self.of_weight, self.of_bias, self.unit, self.grad


class Relu:
    """max(x, 0), in place of x: no layer before it keeps its own output."""

    def forward(self, x: Tensor, _: Frame) -> tuple[Tensor, Back]:
        """See `Layer`."""
        y = x.relu_()
        return y, lambda grad: torch.ops.aten.threshold_backward.grad_input(grad, y, 0, grad_input=grad)


class Gelu:
    """x times the normal distribution function of x."""

    def forward(self, x: Tensor, _: Frame) -> tuple[Tensor, Back]:
        """See `Layer`."""
        return torch.nn.functional.gelu(x), lambda grad: torch.ops.aten.gelu_backward(grad, x)


class Chain:
    """One layer after the other."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = tuple(layers)

    def forward(self, x: Tensor, frame: Frame) -> tuple[Tensor, Back]:
        """See `Layer`."""
        backs: list[Back] = []
        for layer in self.layers:
            x, back = layer.forward(x, frame)
            backs.append(back)
        return x, lambda grad: _through(backs, grad)


class Residual:
    """x plus a layer's view of it."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def forward(self, x: Tensor, frame: Frame) -> tuple[Tensor, Back]:
        """See `Layer`."""
        y, back = self.layer.forward(x, frame)
        return y.add_(x), lambda grad: back(grad).add_(grad)


def square(gradients: Tensor) -> Tensor:
    """[..., parameters] to [...]: squared L2 norm."""
    length = gradients.shape[-1]
    if length > _LONGEST_SUM:  # one long sum in float32 may fall short by a thousandth; a sum of sums does not
        gradients = torch.linalg.vector_norm(gradients.unflatten(-1, (-1, _piece(length))), dim=-1)
    norm: Tensor = torch.linalg.vector_norm(gradients, dim=-1)  # in one pass; a product and its sum would be two
    return norm.square_()


def add_scaled(total: Tensor, scale: Tensor, gradients: Tensor) -> None:
    """Adds to `total` [merchants, ...] the sum over customers of `scale` times `gradients` [each customer, ...]."""
    flat = gradients.reshape(*scale.shape[:2], -1)
    total.add_(torch.bmm(scale.transpose(1, 2), flat).view(total.shape))


@lru_cache(maxsize=256)
def _piece(length: int) -> int:
    """The largest divisor that is still short."""
    return max(divisor for divisor in range(1, _LONGEST_SUM // 4 + 1) if length % divisor == 0)


def _by_customer(rows: Tensor, customers: int) -> Tensor:
    """[merchants, rows, ..., width] as [merchants * customers, rows of each, width]."""
    return rows.reshape(rows.shape[0] * customers, -1, rows.shape[-1])


def _through(backs: list[Back], grad: Tensor) -> Tensor:
    while backs:
        grad = backs.pop()(grad)  # popped: what a layer kept for its backward is free after it
    return grad
