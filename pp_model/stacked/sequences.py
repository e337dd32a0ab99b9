"""Layers over sequences of events: embeddings, attention, a GRU, the mean over events. See `layers`.

Their rows are the events: customer after customer, window after window, in the order of time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pp_model.stacked.layers import Back, Frame, Linear, Slot, square

UNSEEN = -1e4  # added to the score of padding; finite: a customer without events attends evenly instead of to NaN


class Embeddings:
    """The sum over fields of each field's row of its table. Tokens are [merchants, rows, fields].

    Args:
        tables: each [merchants, size, width].
    """

    def __init__(self, tables: Sequence[Slot]) -> None:
        self.tables = tuple(tables)

    def forward(self, tokens: Tensor, _: Frame) -> tuple[Tensor, Back]:
        """See `Layer`."""
        self.tokens = tokens
        total, *others = [_rows(table.values, tokens[..., i]) for i, table in enumerate(self.tables)]
        for more in others:
            total.add_(more)
        return total, self._back

    def _back(self, grad: Tensor) -> Tensor:
        self.grad = grad
        return grad

    def square_norms(self, customers: int) -> Tensor:
        """See `Trained`. A token that comes again has one row of the gradient, the sum over its places."""
        grad = self.grad.view(len(self.grad) * customers, -1, self.grad.shape[-1])
        self.merged = [_merged(self.tokens[..., i].reshape(len(grad), -1), grad) for i in range(len(self.tables))]
        first, *others = [square(merged.flatten(start_dim=1)) for merged in self.merged]
        for more in others:
            first.add_(more)
        return first.view(-1, customers)

    def add_sum(self, scale: Tensor) -> None:
        """See `Trained`. The merged rows are added: their parts may be long, and cancel."""
        for i, (table, merged) in enumerate(zip(self.tables, self.merged, strict=True)):
            scaled = merged.flatten(start_dim=1).mul_(scale.reshape(-1, 1)).view(-1, merged.shape[-1])
            summed = torch.zeros_like(table.total, memory_format=torch.contiguous_format).flatten(end_dim=1)
            summed.index_add_(0, _places(table.values, self.tokens[..., i]).reshape(-1), scaled)
            table.total.add_(summed.view(table.total.shape))
        del self.tokens, self.grad, self.merged


def _merged(token: Tensor, grad: Tensor) -> Tensor:
    """[customers, rows, width]: at each token's first place the sum over its places, and 0 elsewhere."""
    same = token[:, :, None] == token[:, None, :]
    is_first = ~same.tril(diagonal=-1).any(dim=2, keepdim=True)
    return torch.bmm(same.logical_and_(is_first).to(grad.dtype), grad)


class Positions:
    """Adds a row of the table to each event, counted from the newest, or from the oldest.

    Args:
        table: [merchants, longest, width].
    """

    def __init__(self, table: Slot, *, newest_first: bool) -> None:
        self.table, self.newest_first = table, newest_first

    def forward(self, x: Tensor, frame: Frame) -> tuple[Tensor, Back]:
        """See `Layer`."""
        merchants, length = len(x), frame.real.shape[-1]
        places = self._ordered(self.table.values[:, :length])[:, None]

        def back(grad: Tensor) -> Tensor:
            split = grad.view(merchants, frame.customers, frame.windows, length, -1)
            self.gradient = split[:, :, 0] if frame.windows == 1 else split.sum(dim=2)
            return grad

        return (x.view(merchants, -1, length, x.shape[-1]) + places).view(x.shape), back

    def square_norms(self, customers: int) -> Tensor:
        """See `Trained`."""
        return square(self.gradient.reshape(-1, customers, self.gradient[0, 0].numel()))

    def add_sum(self, scale: Tensor) -> None:
        """See `Trained`."""
        length = self.gradient.shape[2]
        summed = torch.bmm(scale.transpose(1, 2), self.gradient.flatten(start_dim=2))
        self.table.total[:, :length] += self._ordered(summed.view(len(scale), length, -1))
        del self.gradient

    def _ordered(self, rows: Tensor) -> Tensor:
        return rows.flip(1) if self.newest_first else rows


class Attention:
    """Multi-head attention of what a linear layer made of each event: width 3 w to width w."""

    def __init__(self, *, heads: int) -> None:
        self.heads = heads

    def forward(self, x: Tensor, frame: Frame) -> tuple[Tensor, Back]:
        """See `Layer`."""
        length, width = frame.real.shape[-1], x.shape[-1] // 3
        split = x.view(-1, length, 3, self.heads, width // self.heads)
        penalty = None
        if not bool(frame.real.all()):
            penalty = (UNSEEN * (1 - frame.real)).view(-1, 1, 1, length)
        attend = _fused_attention if x.device.type == "cpu" else _attention
        attended, of_attended = attend(split, penalty)

        def back(grad: Tensor) -> Tensor:
            return of_attended(grad.view(attended.shape)).reshape(x.shape)

        return attended.reshape(*x.shape[:2], width), back


def _fused_attention(split: Tensor, penalty: Tensor | None) -> tuple[Tensor, Back]:
    """As `_attention`, in the processor's own kernels, which read heads where they lie: two thirds of the time."""
    query, key, value = (each.transpose(1, 2) for each in split.unbind(2))
    mask = None if penalty is None else penalty.expand(-1, 1, split.shape[1], -1)
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attended, logsumexp = forward(query, key, value, attn_mask=mask)

    def back(grad: Tensor) -> Tensor:
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        of_each = backward(grad.transpose(1, 2), query, key, value, attended, logsumexp, 0.0, False, attn_mask=mask)
        return torch.stack([of_part.transpose(1, 2) for of_part in of_each], dim=2)

    return attended.transpose(1, 2), back


def _attention(split: Tensor, penalty: Tensor | None) -> tuple[Tensor, Back]:
    """Events [rows, length, 3, heads, each] to [rows, length, heads, each]; back, the gradient of `split`."""
    rows, length, _, heads, each = split.shape
    by_head = split.permute(2, 0, 3, 1, 4)
    query, key, value = by_head.reshape(3, rows * heads, length, each).unbind(0)
    query = query * each**-0.5
    scores = torch.bmm(query, key.transpose(1, 2))
    if penalty is not None:
        scores.view(rows, heads, length, length).add_(penalty)
    weights = scores.softmax(dim=-1)

    def back(grad: Tensor) -> Tensor:
        of_heads = grad.transpose(1, 2).reshape(-1, length, each)
        of_weights = torch.bmm(of_heads, value.transpose(1, 2))
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        of_x = torch.empty_like(by_head, memory_format=torch.contiguous_format).view(3, -1, length, each)
        torch.bmm(of_scores, key, out=of_x[0]).mul_(each**-0.5)
        torch.bmm(of_scores.transpose(1, 2), query, out=of_x[1])
        torch.bmm(weights.transpose(1, 2), of_heads, out=of_x[2])
        return of_x.view(by_head.shape).permute(1, 3, 0, 2, 4)

    return torch.bmm(weights, value).view(rows, heads, length, each).transpose(1, 2), back


class Gru:
    """The last state of a GRU over each window's events; an event that is padding changes nothing.

    Args:
        read: [.., inputs] to [.., 3 width]; its gates are reset, update, new.
        recall: [.., width] to [.., 3 width].

    Source: Cho et al. 2014 (arXiv:1406.1078), with the reset gate after the product, as in PyTorch's own.
    """

    def __init__(self, read: Linear, recall: Linear) -> None:
        self.read, self.recall = read, recall

    def forward(self, x: Tensor, frame: Frame) -> tuple[Tensor, Back]:
        """Rows of events to rows of windows."""
        merchants, length, width = len(x), frame.real.shape[-1], self.recall.weight.values.shape[-1]
        events = _turned(x.view(merchants, -1, length, x.shape[-1]))  # in the order of time, all windows at once
        gates = self.read.forward(events.flatten(1, 2), frame)[0].view(merchants, length, -1, 3 * width)
        real = None if bool(frame.real.all()) else _turned(frame.real[..., None])
        past = torch.empty_like(gates[..., 2 * width :], memory_format=torch.contiguous_format)
        states = x.new_zeros(merchants, length + 1, gates.shape[2], width)
        self._run(gates, past, states, real)

        def back(grad: Tensor) -> Tensor:
            of_read, of_recall = _gru_backward(grad, gates, past, states, real, self.recall.weight.values)
            self.recall.keep(states[:, :-1].transpose(1, 2), of_recall.transpose(1, 2))
            self.read.keep(events.transpose(1, 2), of_read.transpose(1, 2))
            of_events = torch.bmm(of_read.flatten(1, 2), self.read.weight.values)
            return _turned(of_events.view(events.shape)).view(x.shape)

        return states[:, -1].clone(), back

    def _run(self, gates: Tensor, past: Tensor, states: Tensor, real: Tensor | None) -> None:
        """Through the events: what was read becomes the gates, in place; `states` is filled, and `past`, what of the
        state goes into the new gate."""
        width = states.shape[-1]
        both, news = gates[..., : 2 * width].unbind(1), gates[..., 2 * width :].unbind(1)
        at, pasts = states.unbind(1), past.unbind(1)
        reset, update = gates[..., :width].unbind(1), gates[..., width : 2 * width].unbind(1)
        recalled = torch.empty_like(gates[:, 0])  # the same memory for every event stays in the cache
        recalled_both, recalled_new = recalled.split(2 * width, dim=-1)
        for step, new in enumerate(news):
            torch.baddbmm(self.recall.bias_row, at[step], self.recall.transposed, out=recalled)
            both[step].add_(recalled_both).sigmoid_()
            pasts[step].copy_(recalled_new)
            new.addcmul_(reset[step], recalled_new).tanh_()
            torch.lerp(new, at[step], update[step], out=at[step + 1])
            if real is not None:
                at[step + 1].copy_(torch.lerp(at[step], at[step + 1], real[:, step]))


def _gru_backward(
    grad: Tensor, gates: Tensor, past: Tensor, states: Tensor, real: Tensor | None, recall_weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of what the two linear layers of a GRU gave: each [merchants, events, rows, 3 width]."""
    width = states.shape[-1]
    reset, update, new = gates.split(width, dim=-1)
    to_new = (1 - update).mul_(1 - new * new)
    # What each gate passes on of its state's gradient; the loop multiplies by that, all three gates at once.
    of_recall = torch.empty_like(gates)
    of_reset, of_update, of_new = of_recall.split(width, dim=-1)
    torch.mul(to_new, past, out=of_reset).mul_(reset - reset * reset)
    torch.sub(states[:, :-1], new, out=of_update).mul_(update - update * update)
    torch.mul(to_new, reset, out=of_new)
    passed = update
    if real is not None:  # padding passes its gradient on to the state before it
        to_new, passed = to_new * real, torch.where(real > 0, update, 1.0)
        of_recall.mul_(real)
    of_state = torch.empty_like(to_new)
    of_states, recalls, passes = of_state.unbind(1), of_recall.unbind(1), passed.unbind(1)
    gates_of = of_recall.unflatten(-1, (3, width)).unbind(1)
    of_states[-1].copy_(grad)
    for step in range(len(recalls) - 1, -1, -1):
        gates_of[step].mul_(of_states[step][:, :, None])
        if step:
            torch.baddbmm(of_states[step] * passes[step], recalls[step], recall_weight, out=of_states[step - 1])
    of_read = of_recall.clone()
    torch.mul(of_state, to_new, out=of_read[..., 2 * width :])
    return of_read, of_recall


class MeanOfEvents:
    """The mean over a window's real events, 0 of none: rows of events to rows of windows."""

    def forward(self, x: Tensor, frame: Frame) -> tuple[Tensor, Back]:
        """See `Layer`."""
        real = frame.real
        share = real / real.sum(dim=-1, keepdim=True).clamp_(min=1)
        split = x.view(*real.shape, -1)

        def back(grad: Tensor) -> Tensor:
            return (grad[:, :, None] * share[..., None]).view(x.shape)

        merchants, windows, length = real.shape
        means = torch.bmm(share.view(-1, 1, length), split.view(-1, length, x.shape[-1]))
        return means.view(merchants, windows, -1), back


def _places(table: Tensor, tokens: Tensor) -> Tensor:
    """Where each token's row is when the tables of all merchants lie one after the other."""
    if len(table) == 1:
        return tokens
    return tokens + (torch.arange(len(table), device=tokens.device) * table.shape[1])[:, None]


def _rows(table: Tensor, tokens: Tensor) -> Tensor:
    return torch.nn.functional.embedding(_places(table, tokens), table.reshape(-1, table.shape[-1]))


def _turned(events: Tensor) -> Tensor:
    """[merchants, windows, events, width] as [merchants, events, windows, width], or back."""
    return events.transpose(1, 2).contiguous()
