"""What the noise of private training does to a model, by training on with noise drawn anew, here and on own orders.

Nobody can draw the noise of the published model again: it was added at other merchants too, and forgotten. What can be
done here is the parametric bootstrap of Ferrando, Wang and Sheldon 2022 (arXiv:2006.07749) for a whole training: the
plan is public, so its rounds can be run again, from the published model on, on the merchant's own orders, many times
with fresh noise of the plan's size and once with none. All else is alike in all of them, so what differs was the noise.

What is approximated, and which way it errs:
- Own customers stand for those of all merchants. They say how the loss pulls a moved readout back, not where to.
- The noise of a round is the most that the plan allows: as many merchants as it demands at the least.
- Without noise the platform's optimiser takes longer steps and learns more, here of own customers alone. What noise
  keeps a model from learning is so counted as what noise did, and may be counted too high.
- The last `MOST_ROUNDS` rounds are run: the training has pulled back most of what noise did before them.
- Only the readout is moved. Where the plan trained the encoder as well, what noise did to that is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pp_model.loss import ziln_gradient
from pp_model.model import LOCATION_BOUND, Readout
from pp_model.plan import Aggregation, TrainingPlan

MOST_ROUNDS = 200
ADAM_BETA2, ADAM_EPSILON = 0.99, 1e-8  # the platform's
# Standard deviation of these means of normal numbers against that of the plain one: the median's is sqrt(pi / 2), and
# the mean without a fifth at each end has 1.145 times the variance (Stigler 1973, "The asymptotic distribution of the
# trimmed mean").
_WIDER: Mapping[Aggregation, float] = {"mean": 1.0, "norm_filter": 1.0, "trimmed_mean": 1.07, "median": 1.2533}


@dataclass(frozen=True, kw_only=True)
class ReadoutRows:
    """What the readout reads of customers, and what they then spent.

    Attributes:
        inputs: float32 [rows, width].
        log_anchor: float32 [rows].
        spend_cents: int64 [rows].
    """

    inputs: Tensor
    log_anchor: Tensor
    spend_cents: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


def noise_of_update(plan: TrainingPlan) -> float:
    """Standard deviation of the noise in each number of the update of one round, at the most.

    With local trust, the mean over the merchants that the plan demands at the least; in a secure sum, the shares of
    the whole roster, of which the honest ones alone carry the plan's noise (`pp_model.integer_sum`).
    """
    one_sum = plan.dp.noise_multiplier * plan.dp.max_grad_norm / plan.nominal_batch_size
    one_sum *= plan.local_learning_rate * math.sqrt(plan.dp.num_steps)
    if plan.secure_sum is not None:
        merchants = len(plan.secure_sum.roster)
        return one_sum * math.sqrt(merchants / (merchants - plan.secure_sum.dishonest)) / merchants
    return one_sum * _WIDER[plan.server.aggregation] / math.sqrt(plan.server.min_completions)


def replayed(
    readout: Readout, rows: ReadoutRows, plan: TrainingPlan, *, customers: int, draws: int, rng: np.random.Generator
) -> Tensor:
    """[1 + draws, 3, width + 1]: the readout's weights and bias after the rounds; without noise first, then with it.

    Args:
        rows: one row for each of some customers.
        customers: how many the rows stand for.
        rng: the noise is no secret here, for nothing of it leaves: with a seed the report can be repeated.
    """
    start = torch.cat([readout.linear.weight.detach(), readout.linear.bias.detach()[:, None]], dim=1).double()
    values = start.expand(1 + draws, *start.shape).clone()
    size, clip = noise_of_update(plan), plan.dp.max_grad_norm
    scale = plan.dp.sample_rate * plan.dp.num_steps * plan.local_learning_rate / plan.nominal_batch_size
    scale *= customers / max(1, len(rows))
    steps, decay = _Steps(plan), plan.server.averaging
    average, taken = torch.zeros_like(values), 0
    for round in range(max(1, plan.rounds - MOST_ROUNDS + 1), plan.rounds + 1):
        noise = size * torch.from_numpy(rng.standard_normal((draws, *start.shape)))
        update = -scale * _clipped_sums(values, rows, clip).double()
        update[1:] += noise
        values = values + steps.of(update, round=round)
        average, taken = decay * average + (1 - decay) * values, taken + 1
    return average / (1 - decay**taken)  # what the platform publishes; without averaging, the last values


def outputs_of(values: Tensor, rows: ReadoutRows) -> Tensor:
    """[rows, readouts, 3]: what each of the readouts [readouts, 3, width + 1] says of every row."""
    raw = _linear(values, rows)
    location = rows.log_anchor[:, None] + LOCATION_BOUND * torch.tanh(raw[..., 1] / LOCATION_BOUND)
    return torch.stack([raw[..., 0], location, raw[..., 2]], dim=-1)


def _linear(values: Tensor, rows: ReadoutRows) -> Tensor:
    weights, bias = values[..., :-1].float(), values[..., -1].float()
    return (rows.inputs @ weights.reshape(-1, weights.shape[-1]).T).reshape(len(rows), *bias.shape) + bias


def _clipped_sums(values: Tensor, rows: ReadoutRows, clip: float) -> Tensor:
    """[readouts, 3, width + 1]: each readout's sum of customers' gradients, each of them clipped.

    A customer's gradient is the product of what comes back to the three outputs and of what the readout read, so its
    length is the product of theirs.
    """
    raw = _linear(values, rows)
    bent = torch.tanh(raw[..., 1] / LOCATION_BOUND)
    outputs = torch.stack([raw[..., 0], rows.log_anchor[:, None] + LOCATION_BOUND * bent, raw[..., 2]], dim=-1)
    spend = rows.spend_cents[:, None].repeat(1, len(values)).to(outputs.dtype)
    back = ziln_gradient(outputs, spend)
    back[..., 1] *= 1 - bent**2
    length = back.norm(dim=-1) * (rows.inputs.square().sum(dim=1) + 1).sqrt()[:, None]
    back *= (clip / length.clamp(min=clip))[..., None]
    sums = (back.reshape(len(rows), -1).T @ rows.inputs).reshape(len(values), 3, -1)
    return torch.cat([sums, back.sum(dim=0)[..., None]], dim=-1)


class _Steps:
    """The platform's optimiser, for several readouts at once; a test holds it against the platform's own."""

    def __init__(self, plan: TrainingPlan) -> None:
        self._plan, self._taken = plan, 0
        self._first: Tensor | float = 0.0
        self._second: Tensor | float = 0.0

    def of(self, update: Tensor, *, round: int) -> Tensor:
        server = self._plan.server
        self._taken += 1
        progress = (round - 1) / max(1, self._plan.rounds - 1)
        rate = server.learning_rate + progress * (server.final_learning_rate - server.learning_rate)
        if server.optimizer == "momentum":
            self._first = update + server.momentum * self._first
            return rate * self._first
        self._first = server.momentum * self._first + (1 - server.momentum) * update
        self._second = ADAM_BETA2 * self._second + (1 - ADAM_BETA2) * update**2
        size = self._second / (1 - ADAM_BETA2**self._taken)
        if server.optimizer == "scalar_adam":
            size = size.mean(dim=(1, 2), keepdim=True)
        return rate * (self._first / (1 - server.momentum**self._taken)) / (size.sqrt() + ADAM_EPSILON)
