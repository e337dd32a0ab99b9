"""A readout of the merchant's own: the shared one, moved towards its own customers. It never leaves the machine.

The shared readout says what all merchants have in common, with the noise that protects everybody's customers. What a
merchant does with its own customers, for itself alone, costs no privacy: it needs no clip and no noise.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace

import torch

from pp_model.customer_rows import CustomerRows, window_weights
from pp_model.features import build_examples
from pp_model.loss import ziln_loss
from pp_model.model import Readout, load_model
from pp_model.plan import TrainingPlan
from pp_model.schema import OrderLog
from pp_model.serialization import Arrays
from pp_model.train import customer_rows

# The inverse of the variance with which merchants' readouts lie around a shared one without noise; a customer counts 1.
LARGEST_WEIGHT = 1_000.0
NOISE_SCALE = 0.01  # of a run's noise that adds as much variance again
MOST_CUSTOMERS = 20_000  # more would hardly move the fit, and cost as much time as the scoring itself
_STEPS = 25


def with_own_readout(plan: TrainingPlan, arrays: Arrays, log: OrderLog, *, cutoff: dt.date) -> Arrays:
    """The arrays of a model with the readout fitted to the customers of `log`; all else is as it was.

    The windows are the plan's, moved so that its holdout starts at `cutoff`: nothing from that day on is looked at. The
    same orders give the same readout. It is data as the orders are, and serves the merchant's own scores alone.

    Raises:
        ArraysError: the arrays are not the plan's model.
    """
    model = load_model(replace(plan.model, trainable="readout"), arrays)
    cutoffs = [cutoff - (plan.holdout_start - day) for day in plan.cutoffs]
    rows = customer_rows(model, build_examples(_some_customers(log), cutoffs, plan.features))
    own = fitted(model.readout, rows, shared_weight=shared_weight(plan))
    return {**arrays, **{f"readout.{name}": value.numpy() for name, value in own.state_dict().items()}}


def fitted(shared: Readout, rows: CustomerRows, *, shared_weight: float) -> Readout:
    """The readout of least loss over the rows plus half of `shared_weight` times its squared distance to `shared`.

    The most probable one, where merchants' readouts lie around the shared one with a variance of 1 / `shared_weight` in
    every number. Without a row it is the shared one.
    """
    start = [parameter.detach().double() for parameter in shared.parameters()]
    own = Readout(shared.linear.in_features).double()
    own.load_state_dict(shared.state_dict())
    representation, log_anchor = (tensor.double() for tensor in rows.inputs)
    counts = rows.first[1:] - rows.first[:-1]
    weight = torch.from_numpy(window_weights(counts)).double()
    weight = weight[weight > 0]  # customer by customer, the newest window first: as the rows are
    optimizer = torch.optim.LBFGS(own.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        away = torch.stack([(p - s).square().sum() for p, s in zip(own.parameters(), start, strict=True)]).sum()
        ours = (weight * ziln_loss(own(representation, log_anchor), rows.spend_cents)).sum()
        total: torch.Tensor = ours + 0.5 * shared_weight * away
        total.backward()
        return total

    optimizer.step(loss)
    return own.float()


def shared_weight(plan: TrainingPlan) -> float:
    """What the shared readout weighs against a merchant's own customers, from public numbers alone.

    Its variance around the merchant's is that between merchants and, on top, that of the noise in the mean gradient of
    a customer over all steps of the run: much noise, little weight.
    """
    merchants = plan.server.min_completions  # at the least; with local trust each of them adds all the noise
    adding = merchants if plan.trust == "local" else 1
    steps = plan.rounds * plan.dp.num_steps
    of_a_step = plan.dp.noise_multiplier * plan.dp.max_grad_norm / plan.nominal_batch_size
    noise = of_a_step * math.sqrt(adding / steps) / merchants
    return LARGEST_WEIGHT / (1 + (noise / NOISE_SCALE) ** 2)


def _some_customers(log: OrderLog) -> OrderLog:
    """Every second, third, ... customer of a large shop; of others, all."""
    step = math.ceil(max(log.num_customers, 1) / MOST_CUSTOMERS)
    return log if step == 1 else log.select(log.customer % step == 0)
