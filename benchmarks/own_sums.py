"""The sum of gradients by our layers without norms and clip: how fast the same code is where nothing is private."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pp_model.loss import ziln_gradient
from pp_model.stacked.batch_sums import StackedBatch
from pp_model.stacked.layers import Frame, LayerNorm, Linear
from pp_model.stacked.networks import Network, ParameterStack, network_of
from pp_model.stacked.sequences import Embeddings, Positions


class PlainSums:
    """Takes the place of `StackedGradients`; one merchant, one row a customer."""

    def __init__(self, module: nn.Module, *, merchants: int, device: torch.device) -> None:
        stack = ParameterStack(module, merchants=merchants, device=device)
        self._network: Network = network_of(module, stack)
        self._trained = tuple(stack.trained)
        self.values, self.sums = stack.values, stack.sums
        self._zero = torch.zeros(())

    @torch.inference_mode()
    def measure(self, batch: StackedBatch) -> Tensor:
        """Forward and backward; nothing is measured."""
        outputs, back = self._network.forward(Frame(customers=batch.customers, windows=1), *batch.inputs)
        back(ziln_gradient(outputs, batch.spend_cents))
        return self._zero

    @torch.inference_mode()
    def add(self, norms: Tensor, *, max_grad_norm: float) -> None:
        """Adds the gradients of the batch to `sums`."""
        del norms, max_grad_norm
        for layer in self._trained:
            _add(layer)


def _add(layer: object) -> None:
    match layer:
        case Linear(x=x, grad=grad):
            x, grad = x.reshape(len(x), -1, x.shape[-1]), grad.reshape(len(grad), -1, grad.shape[-1])
            layer.weight.total.baddbmm_(grad.transpose(1, 2), x)
            layer.bias.total.add_(grad.sum(dim=1))
        case LayerNorm(unit=unit, grad=grad):
            layer.weight.total.add_((grad * unit).sum(dim=1))
            layer.bias.total.add_(grad.sum(dim=1))
        case Embeddings(tokens=tokens, grad=grad):
            (table,) = layer.tables
            table.total[0].index_add_(0, tokens.reshape(-1), grad.reshape(-1, grad.shape[-1]))
        case Positions(gradient=gradient):
            layer.table.total.add_(gradient.sum(dim=1))
        case _:
            raise TypeError(f"no plain sum is written for {type(layer).__name__}")
