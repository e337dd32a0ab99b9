"""The clipped sum by Opacus' per-sample gradients: for layers that the fast step does not know, and what it is held to.

Slow, with a gradient of all parameters for every row, and plain: each step of the definition is a line.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from pp_model.clipping import clipped_sum
from pp_model.customer_rows import CustomerRows, window_weights
from pp_model.loss import ziln_loss

GRADIENT_BYTES = 128 * 2**20  # of per-row gradients held at once; larger batches go through in several parts


class PerSampleGradients:
    """Clipped sums of per-customer gradients of any module that Opacus has rules for.

    Args:
        module: inputs of rows to outputs [rows, 3]; its trainable parameters count. It is hooked for good.
    """

    def __init__(self, module: nn.Module) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Opacus warns of inputs without gradients; ours get one in `_watched`
            self.module = GradSampleModule(module, loss_reduction="sum")

    def load(self, values: NDArray[np.float64]) -> None:
        """Takes the gradients at these parameters from now on: [parameters], in the module's order."""
        parameters = trainable(self.module)
        flat = torch.from_numpy(values.astype(np.float32)).to(parameters[0].device)
        with torch.no_grad():
            for parameter, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
                parameter.copy_(piece.view_as(parameter))

    def clipped_sum(self, rows: CustomerRows, batch: NDArray[np.intp], *, max_grad_norm: float) -> NDArray[np.float64]:
        """Sum over the batch's customers of the gradient of their loss, each clipped: [parameters]."""
        parameters = sum(p.numel() for p in trainable(self.module))
        total = np.zeros(parameters)
        for part in _parts(rows, batch, row_bytes=4 * max(1, parameters)):
            total += clipped_sum(self.gradients(rows, part), max_grad_norm=max_grad_norm).cpu().numpy()
        return total

    def gradients(self, rows: CustomerRows, customers: NDArray[np.intp]) -> Tensor:
        """[customers, parameters]: the gradient of each customer's loss, a weighted mean over its own rows.

        The loss of a row depends on that row alone, so the gradient of a customer is the sum over its rows of the
        per-row gradients that Opacus gives.
        """
        parameters = trainable(self.module)
        counts = rows.first[customers + 1] - rows.first[customers]
        index = np.concatenate([np.arange(rows.first[c], rows.first[c + 1]) for c in customers])
        device = parameters[0].device
        gradients = torch.zeros(len(customers), sum(p.numel() for p in parameters), device=device)
        picked = torch.from_numpy(index).to(device)
        weights = window_weights(counts)
        weight = torch.from_numpy(weights[weights > 0]).to(device)
        owner = torch.from_numpy(np.repeat(np.arange(len(customers)), counts)).to(device)
        outputs = self.module(*(_watched(tensor[picked]) for tensor in rows.inputs))
        (ziln_loss(outputs, rows.spend_cents[picked]) * weight).sum().backward()
        per_row = torch.cat([_grad_sample(p).flatten(start_dim=1) for p in parameters], dim=1)
        self.module.zero_grad(set_to_none=True)
        return gradients.index_add_(0, owner, per_row)


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are clipped, noised and released, in the module's order."""
    return [p for p in module.parameters() if p.requires_grad]


def _watched(tensor: Tensor) -> Tensor:
    """The input, with a gradient of its own where it can have one: Opacus' hooks want one to hang on to."""
    return tensor.requires_grad_() if tensor.is_floating_point() else tensor


def _grad_sample(parameter: nn.Parameter) -> Tensor:
    per_row: Tensor = parameter.grad_sample  # type: ignore[attr-defined]  # put there by Opacus' hooks
    return per_row


def _parts(rows: CustomerRows, batch: NDArray[np.intp], *, row_bytes: int) -> Iterator[NDArray[np.intp]]:
    """The batch's customers who have rows, in parts whose per-row gradients fit in `GRADIENT_BYTES`."""
    counts = rows.first[batch + 1] - rows.first[batch]
    batch, counts = batch[counts > 0], counts[counts > 0]
    number = np.cumsum(counts) * row_bytes // GRADIENT_BYTES
    for part in np.unique(number):
        yield batch[number == part]
