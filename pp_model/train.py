"""One merchant's task: parameters and examples in, an update out, every step of it sampled, clipped and noised."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from pp_model.clipping import clip_update
from pp_model.customer_rows import CustomerRows
from pp_model.discrete_noise import Words
from pp_model.dp_step import customer_gradients, noised_sum, sampled_sum
from pp_model.features import Examples
from pp_model.integer_sum import integer_share, noise_shares
from pp_model.loss import Prediction, prediction
from pp_model.model import PurchasePowerModel, load_model, trainable_shapes, trained_part
from pp_model.model_spec import ModelSpec
from pp_model.plan import TrainingPlan
from pp_model.randomness import SecretSource
from pp_model.serialization import Arrays, Shapes

_ROWS_AT_ONCE = 8_192


def pick_device(name: str) -> torch.device:
    """ "auto" is the first GPU where there is one, else the processor; anything else is PyTorch's own name."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def customer_rows(model: PurchasePowerModel, examples: Examples) -> CustomerRows:
    """The examples as the private step wants them, on the model's device.

    What is not trained is computed once here: the encoder's view of each row where it is frozen, else the coordinates.
    """
    order = np.argsort(examples.customer, kind="stable")
    ordered = examples.select(order)
    counts = np.bincount(ordered.customer, minlength=ordered.num_customers)
    device = model.center.device
    anchor = torch.from_numpy(ordered.log_anchor).to(device)
    if model.spec.trainable == "readout":
        inputs: tuple[torch.Tensor, ...] = (_representation(model, ordered), anchor)
    else:
        features, sequence = _tensors(ordered, device)
        with torch.no_grad():
            inputs = (model.coordinates(features), sequence, anchor)
    return CustomerRows(
        inputs=inputs,
        spend_cents=torch.from_numpy(ordered.spend_cents).to(device),
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def train_locally(arrays: Arrays, rows: CustomerRows, plan: TrainingPlan, *, secret: SecretSource) -> Arrays:
    """The update of one task: trained parameters minus the parameters received, in float32.

    Exactly `plan.dp.num_steps` steps, whatever the data; each divides its noised sum by the plan's public
    `nominal_batch_size`, never by a count (checklist D5). Only what the spec trains is in the update (D15), and it is
    at most `update_clip_norm` long, as the platform demands.
    Deterministic but for `secret`.

    Source: Abadi et al. 2016 (arXiv:1607.00133), Algorithm 1; the division by a constant, McMahan et al. 2018
    (arXiv:1710.06963).
    """
    model = load_model(plan.model, arrays).to(rows.spend_cents.device)
    shapes = trainable_shapes(plan.model)
    start = flat_values(arrays, shapes)
    moved = np.zeros_like(start)
    gradients = customer_gradients(trained_part(model))
    for _ in range(plan.dp.num_steps):
        gradients.load(start + moved)
        moved -= plan.local_learning_rate * noised_sum(gradients, rows, plan.dp, secret) / plan.nominal_batch_size
    # Post-processing: a release over the plan's bound would be paid for, and then rejected by the platform.
    return clip_update(named_arrays(moved, shapes), update_clip_norm=plan.update_clip_norm)[0]


def share_of_sum(
    arrays: Arrays, rows: CustomerRows, plan: TrainingPlan, *, members: int, secret: SecretSource, top_up: Words
) -> NDArray[np.uint64]:
    """[parameters] modulo 2**64: the merchant's part of a secure sum, which it masks before anything leaves.

    By itself it holds this merchant's share of the noise and no more: only the sum has the plan's guarantee.

    Args:
        members: merchants of the block.
        top_up: the words of the top-up's seed.
    """
    model = load_model(plan.model, arrays).to(rows.spend_cents.device)
    gradients = customer_gradients(trained_part(model))
    gradients.load(flat_values(arrays, trainable_shapes(plan.model)))
    clipped = sampled_sum(gradients, rows, plan.dp, secret)
    return integer_share(
        clipped,
        max_grad_norm=plan.dp.max_grad_norm,
        shares=noise_shares(plan, members=members, parameters=len(clipped)),
        base=secret.words,
        top_up=top_up,
    )


def flat_values(arrays: Arrays, shapes: Shapes) -> NDArray[np.float64]:
    """[parameters]: the arrays of these names, one after the other."""
    return np.concatenate([arrays[name].ravel() for name in shapes]).astype(np.float64)


def named_arrays(values: NDArray[np.floating], shapes: Shapes) -> Arrays:
    """The inverse of `flat_values`, in float32."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    pieces = np.split(values.astype(np.float32), ends[:-1])
    return {name: piece.reshape(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


def predict(spec: ModelSpec, arrays: Arrays, examples: Examples, *, device: str = "cpu") -> Prediction:
    """What the model says of every row."""
    return predict_represented(spec, arrays, represented(spec, arrays, examples, device=device), examples.log_anchor)


def represented(spec: ModelSpec, arrays: Arrays, examples: Examples, *, device: str = "cpu") -> torch.Tensor:
    """What the readout sees of every row: [rows, width]. It changes only where the encoder is trained."""
    return _representation(load_model(spec, arrays).to(pick_device(device)), examples)


def predict_represented(
    spec: ModelSpec, arrays: Arrays, representation: torch.Tensor, log_anchor: NDArray[np.float32]
) -> Prediction:
    """What the readout says of rows that the encoder has seen already."""
    readout = load_model(spec, arrays).readout.to(representation.device)
    with torch.no_grad():
        return prediction(readout(representation, torch.from_numpy(log_anchor).to(representation.device)).cpu())


def _representation(model: PurchasePowerModel, examples: Examples) -> torch.Tensor:
    parts = []
    with torch.no_grad():
        for start in range(0, max(len(examples), 1), _ROWS_AT_ONCE):
            part = examples.select(np.arange(start, min(start + _ROWS_AT_ONCE, len(examples))))
            parts.append(model.represent(*_tensors(part, model.center.device)))
    return torch.cat(parts)


def _tensors(examples: Examples, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(examples.features).to(device), torch.from_numpy(examples.sequence).to(device)
