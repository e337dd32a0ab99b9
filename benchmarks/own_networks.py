"""The measured models as stacked layers: what a builder beside a new kind of model looks like."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.models import Block, Gru, Joined, Mlp, Transformer
from pp_model.stacked import networks
from pp_model.stacked import sequences as events
from pp_model.stacked.layers import Back, Chain, Frame, Layer, Linear, Relu
from pp_model.stacked.networks import ParameterStack, builds, linear, network_of


@builds(Mlp)
class MlpNetwork:
    """See `models.Mlp`."""

    def __init__(self, module: Mlp, stack: ParameterStack) -> None:
        first = linear(module.first, stack, reads_data=True)
        self.layers = Chain([first, Relu(), linear(module.second, stack), Relu(), linear(module.third, stack)])

    def forward(self, frame: Frame, features: Tensor) -> tuple[Tensor, Back]:
        """See `Network`."""
        return self.layers.forward(features, frame)


class _Joined:
    """See `models.Joined`."""

    def __init__(self, module: Joined, stack: ParameterStack) -> None:
        self.view = Chain([linear(module.view, stack, reads_data=True), Relu()])
        self.head = Chain([linear(module.first, stack), Relu(), linear(module.second, stack)])

    def forward(self, frame: Frame, summary: Tensor, features: Tensor) -> tuple[Tensor, Back]:
        seen, back_view = self.view.forward(features, frame)
        outputs, back_head = self.head.forward(torch.cat([summary, seen], dim=-1), frame)
        size = summary.shape[-1]

        def back(grad: Tensor) -> Tensor:
            of_joined = back_head(grad)
            back_view(of_joined[..., size:].contiguous())
            return of_joined[..., :size].contiguous()

        return outputs, back


class _SequenceNetwork:
    """Tokens through `layers` to a summary, joined with the features."""

    def __init__(self, token: nn.Embedding, layers: Layer, head: Joined, stack: ParameterStack) -> None:
        self.token, self.layers = networks.embeddings([token], stack), layers
        self.head = _Joined(head, stack)

    def forward(self, frame: Frame, features: Tensor, tokens: Tensor) -> tuple[Tensor, Back]:
        """See `Network`."""
        present = torch.ones(tokens.shape)
        of_events = Frame(customers=frame.customers, windows=frame.windows, present=present)
        embedded, back_token = self.token.forward(tokens.flatten(1, 2)[..., None], of_events)
        summary, back_layers = self.layers.forward(embedded, of_events)
        outputs, back_head = self.head.forward(frame, summary, features)
        return outputs, lambda grad: back_token(back_layers(back_head(grad)))


@builds(Block)
def _block(module: Block, stack: ParameterStack) -> Chain:
    return networks.block(
        before=module.before, attend=module.attend, join=module.join, between=module.between, widen=module.widen,
        narrow=module.narrow, heads=4, stack=stack,
    )  # fmt: skip


@builds(Transformer)
def _transformer(module: Transformer, stack: ParameterStack) -> _SequenceNetwork:
    places = networks.positions(module.position, stack, newest_first=False)
    blocks = [network_of(block, stack) for block in module.blocks]
    layers = Chain([places, *blocks, network_of(module.after, stack), events.MeanOfEvents()])
    return _SequenceNetwork(module.token, layers, module.head, stack)


@builds(Gru)
def _gru(module: Gru, stack: ParameterStack) -> _SequenceNetwork:
    recurrent = module.recurrent
    assert isinstance(recurrent, nn.GRU)
    read, recall = (
        Linear(stack.slot(getattr(recurrent, f"weight_{kind}_l0")), stack.slot(getattr(recurrent, f"bias_{kind}_l0")))
        for kind in ("ih", "hh")
    )
    stack.trained += [read, recall]
    return _SequenceNetwork(module.token, events.Gru(read, recall), module.head, stack)
