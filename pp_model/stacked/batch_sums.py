"""The clipped sum of one batch, for all merchants of a stack at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pp_model.loss import ziln_gradient
from pp_model.stacked.layers import Frame
from pp_model.stacked.networks import Network, ParameterStack, network_of

# Clipped a hair shorter than the bound, because a length computed in float32 may be that much too short.
_SHORTER = 1 - 2.0**-21


@dataclass(frozen=True, kw_only=True)
class StackedBatch:
    """Customers of one step, as many rows for each and as many customers at every merchant.

    Attributes:
        customers: at each merchant; their rows come one customer after the other.
        inputs: what the model reads, each [merchants, rows, ...].
        spend_cents: [merchants, rows], the labels.
        weight: [merchants, rows]: of `window_weights`; 0 for a row that only fills up.
    """

    customers: int
    inputs: tuple[Tensor, ...]
    spend_cents: Tensor
    weight: Tensor


class StackedGradients:
    """Clipped sums of per-customer gradients of a module whose layers are all known.

    For each batch: `measure`, then `add`. No batch's memory outlives its `add`.

    Attributes:
        values: [merchants, parameters], in the module's order; write here what the gradients are to be taken at.
        sums: [merchants, parameters], of all that was added; zero it before a new sum.

    Raises:
        UnknownLayerError: a layer is not known; take Opacus' per-sample gradients (`per_sample`) for such a model.
    """

    def __init__(self, module: nn.Module, *, merchants: int, device: torch.device) -> None:
        stack = ParameterStack(module, merchants=merchants, device=device)
        self._network: Network = network_of(module, stack)
        self._trained = tuple(stack.trained)
        self.values, self.sums = stack.values, stack.sums

    @torch.inference_mode()
    def measure(self, batch: StackedBatch) -> Tensor:
        """[merchants, customers]: the length of the gradient of each customer's loss; may be infinite, or NaN."""
        frame = Frame(customers=batch.customers, windows=batch.weight.shape[1] // batch.customers)
        outputs, back = self._network.forward(frame, *batch.inputs)
        back(ziln_gradient(outputs, batch.spend_cents).mul_(batch.weight[..., None]))
        first, *others = [layer.square_norms(batch.customers) for layer in self._trained]
        for more in others:
            first.add_(more)
        return first.sqrt_()

    @torch.inference_mode()
    def add(self, norms: Tensor, *, max_grad_norm: float) -> None:
        """Adds to `sums` the gradients just measured, each clipped to `max_grad_norm`. All norms must be finite."""
        scale = (_SHORTER * max_grad_norm / norms).clamp_(max=1)[..., None]  # 1 for a gradient of zero
        for layer in self._trained:
            layer.add_sum(scale)
