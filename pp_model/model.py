"""The purchase-power model: a public change of coordinates, an encoder, and one linear readout for everything.

Two parts never leave as updates: `center` and `mix`, which make the features of synthetic shops uncorrelated, and,
with `trainable = "readout"`, the encoder that was trained on synthetic shops. What is trained on real customers is then
so small that noise hardly hurts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from pp_model.errors import ArraysError
from pp_model.features import CORE_FEATURES, FEATURE_NAMES, TOKEN_SIZES
from pp_model.model_spec import ModelSpec
from pp_model.serialization import Arrays, Shapes, check_arrays, fingerprint

CORE_BOUND, OTHER_BOUND = 4.0, 1.5  # a rare extreme must not use up its customer's clip
HIDDEN_SCALE = 0.5  # the encoder's share of a customer's gradient norm, and so of the clip
LOCATION_BOUND = 3.0  # log cents that the model may move a prediction away from the customer's own past rate
LARGEST_PARAMETER = 1e3  # of what a platform may send; trained ones stay below 10
_TOKEN_WIDTH, _HEADS, _BLOCKS, _LONGEST = 32, 4, 2, 512


class Readout(nn.Module):
    """Representation [rows, width] and log anchor [rows] to outputs [rows, 3] (see `loss.ziln_loss`)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 3)

    def forward(self, representation: Tensor, log_anchor: Tensor) -> Tensor:
        logit, move, spread = self.linear(representation).unbind(-1)
        # Scale-equivariant: doubling every price doubles the prediction. Bounded: no customer can blow up a sum.
        return torch.stack([logit, log_anchor + LOCATION_BOUND * torch.tanh(move / LOCATION_BOUND), spread], dim=-1)


class PurchasePowerModel(nn.Module):
    """Features [rows, F], sequence [rows, length, 4] and log anchor [rows] to outputs [rows, 3]."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        number = len(FEATURE_NAMES)
        self.spec = spec
        self.center = nn.Parameter(torch.empty(number), requires_grad=False)
        self.mix = nn.Parameter(torch.empty(number, number), requires_grad=False)
        self.encoder = None if spec.encoder == "linear" else HiddenEncoder(spec)
        self.readout = Readout(number + (spec.hidden[-1] if self.encoder else 0))
        if self.encoder and spec.trainable == "readout":
            self.encoder.requires_grad_(False)

    def coordinates(self, features: Tensor) -> Tensor:
        """The features in public coordinates: never trained, so computed once for each row."""
        mixed, core = (features - self.center) @ self.mix, len(CORE_FEATURES)
        bounded = (mixed[:, :core].clamp(-CORE_BOUND, CORE_BOUND), mixed[:, core:].clamp(-OTHER_BOUND, OTHER_BOUND))
        return torch.cat(bounded, dim=-1)

    def represent(self, features: Tensor, sequence: Tensor) -> Tensor:
        """What the readout sees: the features in public coordinates, and the encoder's view of the customer."""
        return _represent(self.encoder, self.coordinates(features), sequence)

    def forward(self, features: Tensor, sequence: Tensor, log_anchor: Tensor) -> Tensor:
        outputs: Tensor = self.readout(self.represent(features, sequence), log_anchor)
        return outputs


class TrainedPart(nn.Module):
    """What `trainable = "all"` trains: coordinates [rows, F], sequence and log anchor to outputs [rows, 3]."""

    def __init__(self, model: PurchasePowerModel) -> None:
        super().__init__()
        self.encoder, self.readout = model.encoder, model.readout

    def forward(self, coordinates: Tensor, sequence: Tensor, log_anchor: Tensor) -> Tensor:
        outputs: Tensor = self.readout(_represent(self.encoder, coordinates, sequence), log_anchor)
        return outputs


def trained_part(model: PurchasePowerModel) -> nn.Module:
    """The module whose parameters are clipped, noised and released: the readout alone, or the encoder with it."""
    return model.readout if model.spec.trainable == "readout" else TrainedPart(model)


def _represent(encoder: nn.Module | None, coordinates: Tensor, sequence: Tensor) -> Tensor:
    if encoder is None:
        return coordinates
    return torch.cat([coordinates, HIDDEN_SCALE * encoder(coordinates, sequence)], dim=-1)


class HiddenEncoder(nn.Module):
    """Core coordinates, joined with a summary of the sequence where there is one, through an MLP with LayerNorm."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width = len(CORE_FEATURES)
        self.sequence: nn.Module | None = None
        if spec.reads_sequence:
            self.tokens = nn.ModuleList(nn.Embedding(size, _TOKEN_WIDTH) for size in TOKEN_SIZES)
            self.sequence = GruSummary() if spec.encoder == "gru" else TransformerSummary()
            width += _TOKEN_WIDTH
        layers: list[nn.Module] = []
        for size in spec.hidden:
            layers += [nn.Linear(width, size), nn.GELU()]
            width = size
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(width)

    def forward(self, coordinates: Tensor, sequence: Tensor) -> Tensor:
        joined = coordinates[:, : len(CORE_FEATURES)]
        if self.sequence is not None:
            joined = torch.cat([joined, self.summary(sequence)], dim=-1)
        return self.encode(joined)

    def summary(self, sequence: Tensor) -> Tensor:
        """The tokens [rows, length, 4] as [rows, 32], or as [rows, 0] where the encoder does not read them."""
        if self.sequence is None:
            return torch.empty(len(sequence), 0)
        tokens = sequence.long()
        embedded = torch.stack([table(tokens[..., i]) for i, table in enumerate(self.tokens)]).sum(dim=0)
        summary: Tensor = self.sequence(embedded, (tokens[..., -1] > 0).to(embedded.dtype))
        return summary

    def encode(self, joined: Tensor) -> Tensor:
        """The hidden representation of core coordinates, joined with the summary where there is one."""
        hidden: Tensor = self.norm(self.layers(joined))
        return hidden


class GruSummary(nn.Module):
    """The last state of a GRU over the events; padding is on the left, so the last event is always the newest.

    Made of linear layers, for which per-sample gradients exist (a fused GRU has none).
    Source: Cho et al. 2014 (arXiv:1406.1078), with the reset gate after the product, as in PyTorch's own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(_TOKEN_WIDTH, 3 * _TOKEN_WIDTH)
        self.recall = nn.Linear(_TOKEN_WIDTH, 3 * _TOKEN_WIDTH)

    def forward(self, embedded: Tensor, present: Tensor) -> Tensor:
        incoming = self.read(embedded)
        state = torch.zeros_like(embedded[:, 0])
        for step in range(embedded.shape[1]):
            reset_in, update_in, new_in = incoming[:, step].chunk(3, dim=-1)
            reset_past, update_past, new_past = self.recall(state).chunk(3, dim=-1)
            update = torch.sigmoid(update_in + update_past)
            new = torch.tanh(new_in + torch.sigmoid(reset_in + reset_past) * new_past)
            moved = update * state + (1 - update) * new
            state = torch.where(present[:, step, None] > 0, moved, state)
        return state


class TransformerSummary(nn.Module):
    """Pre-norm Transformer blocks over the events, then their mean; padding is neither attended to nor averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Embedding(_LONGEST, _TOKEN_WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(_BLOCKS))

    def forward(self, embedded: Tensor, present: Tensor) -> Tensor:
        length = embedded.shape[1]
        # Counted from the newest event; one row of positions per customer keeps per-sample gradients apart.
        places = torch.arange(length - 1, -1, -1, device=embedded.device).expand(len(embedded), length)
        states = embedded + self.position(places)
        for block in self.blocks:
            states = block(states, present)
        mean: Tensor = (states * present[..., None]).sum(dim=1) / present.sum(dim=1, keepdim=True).clamp(min=1.0)
        return mean


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a LayerNorm and around it."""

    heads = _HEADS

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(_TOKEN_WIDTH), nn.LayerNorm(_TOKEN_WIDTH)
        self.attend = nn.Linear(_TOKEN_WIDTH, 3 * _TOKEN_WIDTH)
        self.join = nn.Linear(_TOKEN_WIDTH, _TOKEN_WIDTH)
        self.widen, self.narrow = nn.Linear(_TOKEN_WIDTH, 2 * _TOKEN_WIDTH), nn.Linear(2 * _TOKEN_WIDTH, _TOKEN_WIDTH)

    def forward(self, states: Tensor, present: Tensor) -> Tensor:
        rows, length, width = states.shape
        split = self.attend(self.before(states)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        # A finite penalty: a customer without events attends evenly to padding instead of to NaN.
        scores = query @ key.transpose(-1, -2) / (width // self.heads) ** 0.5 - 1e4 * (1 - present)[:, None, None, :]
        attended = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(rows, length, width)
        states = states + self.join(attended)
        widened: Tensor = states + self.narrow(torch.relu(self.widen(self.between(states))))
        return widened


def model_arrays(model: nn.Module) -> Arrays:
    """All parameters by name, trained or not, as copies on the host."""
    return {name: p.detach().cpu().numpy().astype(np.float32, copy=True) for name, p in model.named_parameters()}


@lru_cache(maxsize=32)
def array_shapes(spec: ModelSpec) -> Shapes:
    """Names and shapes of all arrays of the model, trained or not: what a task carries."""
    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in PurchasePowerModel(spec).named_parameters()}


@lru_cache(maxsize=32)
def trainable_shapes(spec: ModelSpec) -> Shapes:
    """Names and shapes of what a release carries: never more than what was clipped and noised."""
    with torch.device("meta"):
        model = PurchasePowerModel(spec)
    return {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}


def frozen_fingerprint(spec: ModelSpec, arrays: Arrays) -> str:
    """Fingerprint of the arrays that training leaves as they are: what was derived from them alone can be kept."""
    trained = trainable_shapes(spec)
    return fingerprint({name: array for name, array in arrays.items() if name not in trained})


def check_parameters(arrays: Mapping[str, object], spec: ModelSpec) -> Arrays:
    """The arrays, if they are the spec's and no value is larger than `LARGEST_PARAMETER`.

    Weights of 1e9 and more, which no training makes, turn the rounding of float32 into differences larger than the
    clip: what one customer changes in the rounding of others would then be seen through the noise.

    Raises:
        ArraysError: names the first array that differs, and how; never a value of it.
    """
    checked = check_arrays(arrays, array_shapes(spec))
    for name, array in checked.items():
        if not np.abs(array).max(initial=0.0) <= LARGEST_PARAMETER:
            raise ArraysError(f"array {name!r} has a value above {LARGEST_PARAMETER:g}, which no training makes")
    return checked


def load_model(spec: ModelSpec, arrays: Arrays) -> PurchasePowerModel:
    """The model with exactly these arrays.

    Raises:
        ArraysError: names or shapes are not the spec's, or a value is not finite.
    """
    checked = check_arrays(arrays, array_shapes(spec))
    with torch.device("meta"):
        model = PurchasePowerModel(spec)
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in checked.items()}, assign=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable_shapes(spec))  # assigning them made them all trainable
    return model


def fresh_arrays(spec: ModelSpec, *, seed: int) -> Arrays:
    """A model that has seen nothing: PyTorch's usual first weights, out of a generator of our own; a readout of 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        model = PurchasePowerModel(spec)
    model = model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, generator=generator)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    zeros = {name: np.zeros_like(a) for name, a in model_arrays(model.readout).items()}
    number = len(FEATURE_NAMES)
    public = {"center": np.zeros(number, np.float32), "mix": 0.5 * np.eye(number, dtype=np.float32)}
    return model_arrays(model) | {f"readout.{name}": a for name, a in zeros.items()} | public
