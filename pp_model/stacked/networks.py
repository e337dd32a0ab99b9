"""From PyTorch modules to stacked layers: one builder for each kind of module, registered by its type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from pp_model.errors import UnknownLayerError
from pp_model.features import CORE_FEATURES
from pp_model.model import (
    HIDDEN_SCALE,
    LOCATION_BOUND,
    Block,
    GruSummary,
    HiddenEncoder,
    Readout,
    TrainedPart,
    TransformerSummary,
)
from pp_model.stacked.layers import Back, Chain, Frame, Gelu, Layer, LayerNorm, Linear, Relu, Residual, Slot, Trained
from pp_model.stacked.sequences import Attention, Embeddings, Gru, MeanOfEvents, Positions


class Network(Protocol):
    """A whole model: inputs, each [merchants, customers * windows, ...], to outputs [.., 3]."""

    def forward(self, frame: Frame, /, *inputs: Tensor) -> tuple[Tensor, Back]:
        """The outputs, and the function that takes their gradient back into the layers."""
        ...


class ParameterStack:
    """The trained parameters of many merchants' copies of one module, in the module's order.

    Attributes:
        values: [merchants, parameters], what the layers compute with.
        sums: [merchants, parameters], where the layers add their clipped sums.
        trained: the layers that have parameters; each builder adds its own.
    """

    def __init__(self, module: nn.Module, *, merchants: int, device: torch.device) -> None:
        parameters = [p for p in module.parameters() if p.requires_grad]
        number = sum(p.numel() for p in parameters)
        self.values = torch.zeros(merchants, number, device=device)
        self.sums = torch.zeros_like(self.values)
        self.trained: list[Trained] = []
        self._places: dict[int, tuple[int, torch.Size]] = {}
        start = 0
        for parameter in parameters:
            self._places[id(parameter)] = start, parameter.shape
            start += parameter.numel()

    def slot(self, parameter: Tensor) -> Slot:
        """Where a parameter's values and total are.

        Raises:
            UnknownLayerError: it is not trained, or another layer has it too: the length of their joint gradient is
                not made of the lengths of its parts.
        """
        if id(parameter) not in self._places:
            raise UnknownLayerError("a layer with a parameter that is not trained, or shared with another layer")
        start, shape = self._places.pop(id(parameter))
        span = slice(start, start + shape.numel())
        merchants = len(self.values)
        return Slot(
            values=self.values[:, span].view(merchants, *shape), total=self.sums[:, span].view(merchants, *shape)
        )


Builder = Callable[[Any, ParameterStack], Any]
B = TypeVar("B", bound=Builder)
_BUILDERS: dict[type[nn.Module], Builder] = {}


def builds(kind: type[nn.Module]) -> Callable[[B], B]:
    """Registers how modules of exactly this type are built."""

    def register(builder: B) -> B:
        _BUILDERS[kind] = builder
        return builder

    return register


def network_of(module: nn.Module, stack: ParameterStack) -> Any:
    """The module as stacked layers: a `Network` of a whole model, a `Layer` of a part of one.

    Raises:
        UnknownLayerError: no builder is registered for it or for a part of it.
    """
    builder = _BUILDERS.get(type(module))
    if builder is None:
        raise UnknownLayerError(type(module).__name__)
    return builder(module, stack)


def _require(module: nn.Module, kind: type[nn.Module]) -> None:
    """A module of a type derived from a known one may do anything."""
    if type(module) is not kind:
        raise UnknownLayerError(type(module).__name__)


@builds(nn.Linear)
def linear(module: nn.Linear, stack: ParameterStack, *, reads_data: bool = False) -> Linear:
    """A linear layer with a bias."""
    _require(module, nn.Linear)
    if module.bias is None:
        raise UnknownLayerError("Linear without a bias")
    layer = Linear(stack.slot(module.weight), stack.slot(module.bias), reads_data=reads_data)
    stack.trained.append(layer)
    return layer


@builds(nn.LayerNorm)
def _layer_norm(module: nn.LayerNorm, stack: ParameterStack) -> LayerNorm:
    if len(module.normalized_shape) != 1 or module.weight is None or module.bias is None:
        raise UnknownLayerError("LayerNorm over several dimensions, or without weight and bias")
    layer = LayerNorm(stack.slot(module.weight), stack.slot(module.bias), epsilon=module.eps)
    stack.trained.append(layer)
    return layer


@builds(nn.ReLU)
def _relu(_: nn.ReLU, __: ParameterStack) -> Relu:
    return Relu()


@builds(nn.GELU)
def _gelu(module: nn.GELU, _: ParameterStack) -> Gelu:
    if module.approximate != "none":
        raise UnknownLayerError(f"GELU by approximation {module.approximate!r}")
    return Gelu()


@builds(nn.Sequential)
def chain(module: nn.Sequential, stack: ParameterStack, *, reads_data: bool = False) -> Chain:
    """One module after the other."""
    _require(module, nn.Sequential)
    first, *others = module
    if reads_data and isinstance(first, nn.Linear):
        layers: list[Layer] = [linear(first, stack, reads_data=True)]
    else:
        layers = [network_of(first, stack)]
    return Chain(layers + [network_of(other, stack) for other in others])


def embeddings(tables: Sequence[nn.Embedding], stack: ParameterStack) -> Embeddings:
    """The sum of one table a field."""
    for table in tables:
        _require(table, nn.Embedding)
        if table.padding_idx is not None or table.max_norm is not None or table.scale_grad_by_freq:
            raise UnknownLayerError("Embedding with padding_idx, max_norm or scale_grad_by_freq")
    layer = Embeddings([stack.slot(table.weight) for table in tables])
    stack.trained.append(layer)
    return layer


def positions(table: nn.Embedding, stack: ParameterStack, *, newest_first: bool) -> Positions:
    """One row of the table for each place in the sequence."""
    _require(table, nn.Embedding)
    layer = Positions(stack.slot(table.weight), newest_first=newest_first)
    stack.trained.append(layer)
    return layer


def block(
    *, before: nn.LayerNorm, attend: nn.Linear, join: nn.Linear, between: nn.LayerNorm, widen: nn.Linear,
    narrow: nn.Linear, heads: int, stack: ParameterStack,
) -> Chain:  # fmt: skip
    """A pre-norm Transformer block of linear layers."""
    attention: list[Layer] = [network_of(before, stack), network_of(attend, stack), Attention(heads=heads)]
    feed_forward: list[Layer] = [network_of(between, stack), network_of(widen, stack), Relu()]
    return Chain(
        [
            Residual(Chain([*attention, network_of(join, stack)])),
            Residual(Chain([*feed_forward, network_of(narrow, stack)])),
        ]
    )


@builds(Block)
def _block(module: Block, stack: ParameterStack) -> Chain:
    return block(
        before=module.before, attend=module.attend, join=module.join, between=module.between, widen=module.widen,
        narrow=module.narrow, heads=module.heads, stack=stack,
    )  # fmt: skip


@builds(TransformerSummary)
def _transformer(module: TransformerSummary, stack: ParameterStack) -> Chain:
    blocks = [network_of(one, stack) for one in module.blocks]
    return Chain([positions(module.position, stack, newest_first=True), *blocks, MeanOfEvents()])


@builds(GruSummary)
def _gru(module: GruSummary, stack: ParameterStack) -> Gru:
    return Gru(linear(module.read, stack), linear(module.recall, stack))


class ReadoutNetwork:
    """See `model.Readout`: representation and log anchor to outputs."""

    def __init__(self, module: Readout, stack: ParameterStack, *, reads_data: bool) -> None:
        self.linear = linear(module.linear, stack, reads_data=reads_data)

    def forward(self, frame: Frame, representation: Tensor, log_anchor: Tensor) -> tuple[Tensor, Back]:
        """See `Network`."""
        raw, back_linear = self.linear.forward(representation, frame)
        moved = torch.tanh(raw[..., 1] / LOCATION_BOUND)
        outputs = raw.clone()
        outputs[..., 1] = log_anchor + LOCATION_BOUND * moved

        def back(grad: Tensor) -> Tensor:
            of_raw = grad.clone()
            of_raw[..., 1] *= 1 - moved * moved
            return back_linear(of_raw)

        return outputs, back


@builds(Readout)
def _readout(module: Readout, stack: ParameterStack) -> ReadoutNetwork:
    return ReadoutNetwork(module, stack, reads_data=True)


@builds(HiddenEncoder)
class EncoderLayers:
    """See `model.HiddenEncoder`."""

    def __init__(self, module: HiddenEncoder, stack: ParameterStack) -> None:
        self.tokens = (
            embeddings(cast(Sequence[nn.Embedding], module.tokens), stack) if module.sequence is not None else None
        )
        self.summary: Layer | None = None if module.sequence is None else network_of(module.sequence, stack)
        self.layers = chain(module.layers, stack, reads_data=self.summary is None)
        self.norm: LayerNorm = network_of(module.norm, stack)

    def forward(self, frame: Frame, coordinates: Tensor, sequence: Tensor) -> tuple[Tensor, Back]:
        """Coordinates [.., F] and tokens [.., events, fields] to [.., width]."""
        core = coordinates[..., : len(CORE_FEATURES)]
        back_summary: Back | None = None
        if self.summary is not None:
            summary, back_summary = self._summarise(frame, sequence.long(), core.dtype)
            core = torch.cat([core, summary], dim=-1)
        hidden, back_layers = self.layers.forward(core, frame)
        normed, back_norm = self.norm.forward(hidden, frame)

        def back(grad: Tensor) -> Tensor:
            of_core = back_layers(back_norm(grad))
            return of_core if back_summary is None else back_summary(of_core[..., len(CORE_FEATURES) :].contiguous())

        return normed, back

    def _summarise(self, frame: Frame, tokens: Tensor, dtype: torch.dtype) -> tuple[Tensor, Back]:
        assert self.tokens is not None
        assert self.summary is not None
        events = Frame(customers=frame.customers, windows=frame.windows, present=(tokens[..., -1] > 0).to(dtype))
        embedded, back_tokens = self.tokens.forward(tokens.flatten(1, 2), events)
        summary, back_summary = self.summary.forward(embedded, events)
        return summary, lambda grad: back_tokens(back_summary(grad))


@builds(TrainedPart)
class TrainedNetwork:
    """See `model.TrainedPart`: coordinates, sequence and log anchor to outputs."""

    def __init__(self, module: TrainedPart, stack: ParameterStack) -> None:
        self.encoder = None if module.encoder is None else network_of(module.encoder, stack)
        _require(module.readout, Readout)
        self.readout = ReadoutNetwork(module.readout, stack, reads_data=self.encoder is None)

    def forward(self, frame: Frame, coordinates: Tensor, sequence: Tensor, log_anchor: Tensor) -> tuple[Tensor, Back]:
        """See `Network`."""
        if self.encoder is None:
            return self.readout.forward(frame, coordinates, log_anchor)
        hidden, back_encoder = self.encoder.forward(frame, coordinates, sequence)
        seen = torch.cat([coordinates, HIDDEN_SCALE * hidden], dim=-1)
        outputs, back_readout = self.readout.forward(frame, seen, log_anchor)
        first = coordinates.shape[-1]
        return outputs, lambda grad: back_encoder(HIDDEN_SCALE * back_readout(grad)[..., first:])
