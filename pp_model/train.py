"""One merchant's task: parameters and examples in, an update out, every step of it sampled, clipped and noised."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule

from pp_model.clipping import clip_update
from pp_model.dp_step import CustomerRows, noised_sum, trainable
from pp_model.features import Examples
from pp_model.loss import Prediction, prediction
from pp_model.model import PurchasePowerModel, load_model
from pp_model.model_spec import ModelSpec
from pp_model.plan import TrainingPlan
from pp_model.randomness import SecretSource
from pp_model.serialization import Arrays

_ROWS_AT_ONCE = 8_192


def pick_device(name: str) -> torch.device:
    """ "auto" is the first GPU where there is one, else the processor; anything else is PyTorch's own name."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def customer_rows(model: PurchasePowerModel, examples: Examples) -> CustomerRows:
    """The examples as the private step wants them, on the model's device.

    Where the encoder is frozen, its view of each row is computed once here and the step sees the readout alone.
    """
    order = np.argsort(examples.customer, kind="stable")
    ordered = examples.select(order)
    counts = np.bincount(ordered.customer, minlength=ordered.num_customers)
    device = model.center.device
    anchor = torch.from_numpy(ordered.log_anchor).to(device)
    if model.spec.trainable == "readout":
        inputs: tuple[torch.Tensor, ...] = (_representation(model, ordered), anchor)
    else:
        inputs = (*_tensors(ordered, device), anchor)
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
    trained = model.readout if plan.model.trainable == "readout" else model
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    shapes = [tuple(p.shape) for p in trainable(model)]
    start = np.concatenate([arrays[name].ravel() for name in names]).astype(np.float64)
    moved = np.zeros_like(start)
    module = GradSampleModule(trained, loss_reduction="sum")
    for _ in range(plan.dp.num_steps):
        moved -= plan.local_learning_rate * noised_sum(module, rows, plan.dp, secret) / plan.nominal_batch_size
        _assign(trainable(module), start + moved)
    pieces = np.split(moved.astype(np.float32), np.cumsum([np.prod(shape, dtype=int) for shape in shapes])[:-1])
    update = {name: piece.reshape(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
    # Post-processing: a release over the plan's bound would be paid for, and then rejected by the platform.
    return clip_update(update, update_clip_norm=plan.update_clip_norm)[0]


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


def _assign(parameters: list[torch.nn.Parameter], flat: NDArray[np.float64]) -> None:
    values = torch.from_numpy(flat.astype(np.float32)).to(parameters[0].device)
    with torch.no_grad():
        for parameter, piece in zip(parameters, values.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(piece.view_as(parameter))
