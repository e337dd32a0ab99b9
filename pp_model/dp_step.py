"""The private step: the clipped, noised sum of per-customer gradients of a Poisson-sampled batch.

Adversary and guarantee: whoever sees the sums of all steps learns of one customer at most what the step's event says
(`accounting`), knowing everything but the sampling and the noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from pp_model.clipping import clipped_sum
from pp_model.loss import ziln_loss
from pp_model.plan import DpSgdPlan
from pp_model.randomness import SecretSource, poisson_batch, standard_normal

GRADIENT_BYTES = 128 * 2**20  # of per-row gradients held at once; larger batches go through in several parts


@dataclass(frozen=True, kw_only=True)
class CustomerRows:
    """Rows of the loss, grouped by customer: all rows of a customer are one example.

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


def noised_sum(
    module: GradSampleModule, rows: CustomerRows, plan: DpSgdPlan, secret: SecretSource
) -> NDArray[np.float64]:
    """One step's release: [parameters], the sum of clipped gradients plus noise, in the order of `trainable`.

    An empty batch is noised like any other (checklist D17); micro-batches share one noise (D21).
    """
    batch = poisson_batch(secret, num_customers=rows.num_customers, sample_rate=plan.sample_rate)
    total = clipped_gradient_sum(module, rows, batch, max_grad_norm=plan.max_grad_norm)
    noise = standard_normal(secret, len(total)) * (plan.noise_multiplier * plan.max_grad_norm)
    return total + noise


def clipped_gradient_sum(
    module: GradSampleModule, rows: CustomerRows, batch: NDArray[np.intp], *, max_grad_norm: float
) -> NDArray[np.float64]:
    """Sum over the batch's customers of the gradient of their mean loss, each clipped: [parameters], without noise."""
    parameters = trainable(module)
    total = np.zeros(sum(p.numel() for p in parameters))
    for part in _parts(rows, batch, row_bytes=4 * max(1, len(total))):
        total += clipped_sum(customer_gradients(module, rows, part), max_grad_norm=max_grad_norm).cpu().numpy()
    return total


def customer_gradients(module: GradSampleModule, rows: CustomerRows, customers: NDArray[np.intp]) -> Tensor:
    """[customers, parameters]: the gradient of each customer's loss, averaged over the customer's own rows.

    The loss of a row depends on that row alone, so the gradient of a customer is the sum over its rows of the
    per-row gradients that Opacus gives.
    """
    parameters = trainable(module)
    counts = rows.first[customers + 1] - rows.first[customers]
    index = np.concatenate([np.arange(rows.first[c], rows.first[c + 1]) for c in customers])
    device = parameters[0].device
    gradients = torch.zeros(len(customers), sum(p.numel() for p in parameters), device=device)
    picked = torch.from_numpy(index).to(device)
    weight = torch.from_numpy(np.repeat(1.0 / np.maximum(counts, 1), counts).astype(np.float32)).to(device)
    owner = torch.from_numpy(np.repeat(np.arange(len(customers)), counts)).to(device)
    outputs = module(*(_watched(tensor[picked]) for tensor in rows.inputs))
    (ziln_loss(outputs, rows.spend_cents[picked]) * weight).sum().backward()
    per_row = torch.cat([_grad_sample(p).flatten(start_dim=1) for p in parameters], dim=1)
    module.zero_grad(set_to_none=True)
    return gradients.index_add_(0, owner, per_row)


def _watched(tensor: Tensor) -> Tensor:
    """The input, with a gradient of its own where it can have one: Opacus' hooks want one to hang on to."""
    return tensor.requires_grad_() if tensor.is_floating_point() else tensor


def _grad_sample(parameter: nn.Parameter) -> Tensor:
    per_row: Tensor = parameter.grad_sample  # type: ignore[attr-defined]  # put there by Opacus' hooks
    return per_row


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are clipped, noised and released, in the module's order."""
    return [p for p in module.parameters() if p.requires_grad]


def _parts(rows: CustomerRows, batch: NDArray[np.intp], *, row_bytes: int) -> Iterator[NDArray[np.intp]]:
    """The batch's customers who have rows, in parts whose per-row gradients fit in `GRADIENT_BYTES`."""
    counts = rows.first[batch + 1] - rows.first[batch]
    batch, counts = batch[counts > 0], counts[counts > 0]
    number = np.cumsum(counts) * row_bytes // GRADIENT_BYTES
    for part in np.unique(number):
        yield batch[number == part]
