"""Opacus' private step, with per-sample gradients by hooks and by ghost clipping: run by its own environment.

The engine's parts are put together by hand, as `PrivacyEngine.make_private` does, without its loader and accountant.
"""

from __future__ import annotations

import warnings

import torch
from opacus.grad_sample.utils import prepare_module
from opacus.layers import DPGRU
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import Tensor, nn

from benchmarks.models import make_model
from benchmarks.steps import LEARNING_RATE, MAX_GRAD_NORM, NOISE_MULTIPLIER, Step, main
from pp_model.loss import ziln_loss


def model_for_opacus(name: str) -> nn.Module:
    """The model; it has no per-sample gradients for `nn.GRU`, so its own GRU takes that place."""
    return make_model(name, recurrent=DPGRU) if name == "gru" else make_model(name)


class HooksStep:
    """Opacus' default: per-sample gradients by hooks."""

    def __init__(self, model: nn.Module, rows: int) -> None:
        self.model = prepare_module(model, "hooks", batch_first=True, loss_reduction="mean")
        self.optimizer = DPOptimizer(
            torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE),
            noise_multiplier=NOISE_MULTIPLIER,
            max_grad_norm=MAX_GRAD_NORM,
            expected_batch_size=rows,
        )

    def step(self, inputs: tuple[Tensor, ...], spend_cents: Tensor) -> None:
        """See `Step`."""
        self.optimizer.zero_grad()
        ziln_loss(self.model(*inputs), spend_cents).mean().backward()
        self.optimizer.step()


class GhostStep:
    """Norms first, then a second backward pass of the weighted loss."""

    def __init__(self, model: nn.Module, rows: int) -> None:
        self.model = prepare_module(
            model, "ghost", batch_first=True, loss_reduction="mean", max_grad_norm=MAX_GRAD_NORM
        )
        self.optimizer = DPOptimizerFastGradientClipping(
            torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE),
            noise_multiplier=NOISE_MULTIPLIER,
            max_grad_norm=MAX_GRAD_NORM,
            expected_batch_size=rows,
        )

    def step(self, inputs: tuple[Tensor, ...], spend_cents: Tensor) -> None:
        """See `Step`."""
        self.optimizer.zero_grad()
        self.model.enable_hooks()
        losses = ziln_loss(self.model(*inputs), spend_cents)
        DPTensorFastGradientClipping(self.model, self.optimizer, losses, "mean").backward()
        self.optimizer.step()


def hooks(model: str, rows: int) -> Step:
    """See `HooksStep`."""
    return HooksStep(model_for_opacus(model), rows)


def ghost(model: str, rows: int) -> Step:
    """See `GhostStep`."""
    return GhostStep(model_for_opacus(model), rows)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")  # that inputs want no gradient
    main({"hooks": hooks, "ghost": ghost}, ["opacus"])
