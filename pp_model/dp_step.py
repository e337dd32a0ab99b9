"""The private step: the clipped, noised sum of per-customer gradients of a Poisson-sampled batch.

Adversary and guarantee: whoever sees the sums of all steps learns of one customer at most what the step's event says
(`accounting`), knowing everything but the sampling and the noise.
"""

from __future__ import annotations

import warnings
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pp_model.customer_rows import CustomerRows
from pp_model.errors import UnknownLayerError
from pp_model.fast_gradients import FastGradients
from pp_model.per_sample import PerSampleGradients
from pp_model.plan import DpSgdPlan
from pp_model.randomness import SecretSource, poisson_batch


class SlowStepWarning(UserWarning):
    """A model has a layer that the fast step does not know."""


class CustomerGradients(Protocol):
    """The clipped sum of customers' gradients of one module, at parameters that can be changed."""

    def load(self, values: NDArray[np.float64]) -> None:
        """Takes the gradients at these parameters from now on: [parameters], in the module's order."""
        ...

    def clipped_sum(self, rows: CustomerRows, batch: NDArray[np.intp], *, max_grad_norm: float) -> NDArray[np.float64]:
        """Sum over the batch's customers of the gradient of their loss, each clipped: [parameters], without noise."""
        ...


def customer_gradients(module: nn.Module) -> CustomerGradients:
    """The fast way where it knows all layers of the module, else Opacus' per-sample gradients and `SlowStepWarning`."""
    try:
        return FastGradients(module)
    except UnknownLayerError as unknown:
        warnings.warn(str(unknown), SlowStepWarning, stacklevel=2)
        return PerSampleGradients(module)


def noised_sum(
    gradients: CustomerGradients, rows: CustomerRows, plan: DpSgdPlan, secret: SecretSource
) -> NDArray[np.float64]:
    """One step's release: [parameters], the sum of clipped gradients plus noise, in the order of the module.

    An empty batch is noised like any other (checklist D17); micro-batches share one noise (D21).
    """
    total = sampled_sum(gradients, rows, plan, secret)
    noise = secret.standard_normal(len(total)) * (plan.noise_multiplier * plan.max_grad_norm)
    return total + noise


def sampled_sum(
    gradients: CustomerGradients, rows: CustomerRows, plan: DpSgdPlan, secret: SecretSource
) -> NDArray[np.float64]:
    """[parameters], the sum of clipped gradients of a sampled batch, WITHOUT noise: nothing that may leave."""
    batch = poisson_batch(secret, num_customers=rows.num_customers, sample_rate=plan.sample_rate)
    return gradients.clipped_sum(rows, batch, max_grad_norm=plan.max_grad_norm)
