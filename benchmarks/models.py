"""What is measured: three models of a usual size, batches for them, and a market of many small merchants.

All of it is synthetic and seeded; it needs torch, numpy and `pp_model.loss` alone, so that every peer's environment
can import it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

FEATURES, EVENTS, WIDTH, VOCABULARY, HIDDEN = 64, 32, 64, 1000, 96
_HEADS, _BLOCKS, _FEED_FORWARD = 4, 2, 128
_BUYERS, _TYPICAL_SPEND_CENTS = 0.4, 2_000.0
_FEWEST, _MOST = 64, 512  # customers of a merchant


class Mlp(nn.Module):
    """Features [rows, 64] to outputs [rows, 3] through 128 and 64 units."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(FEATURES, 128), nn.Linear(128, 64), nn.Linear(64, 3)

    def forward(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.third(torch.relu(self.second(torch.relu(self.first(features)))))
        return outputs


class Joined(nn.Module):
    """A summary of the events [rows, size] beside a linear view of the features, through a head 128-64-3."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.view, self.first, self.second = nn.Linear(FEATURES, WIDTH), nn.Linear(size + WIDTH, 64), nn.Linear(64, 3)

    def forward(self, summary: Tensor, features: Tensor) -> Tensor:
        joined = torch.cat([summary, torch.relu(self.view(features))], dim=-1)
        outputs: Tensor = self.second(torch.relu(self.first(joined)))
        return outputs


class Block(nn.Module):
    """One pre-norm Transformer block on [rows, EVENTS, WIDTH]."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attend, self.join = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.widen, self.narrow = nn.Linear(WIDTH, _FEED_FORWARD), nn.Linear(_FEED_FORWARD, WIDTH)

    def forward(self, states: Tensor) -> Tensor:
        rows, length, width = states.shape
        split = self.attend(self.before(states)).view(rows, length, 3, _HEADS, width // _HEADS)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(query, key, value)
        states = states + self.join(attended.transpose(1, 2).reshape(rows, length, width))
        widened: Tensor = states + self.narrow(torch.relu(self.widen(self.between(states))))
        return widened


class Transformer(nn.Module):
    """Features [rows, 64] and events [rows, 32] to outputs [rows, 3]; about 150,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(EVENTS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(_BLOCKS))
        self.after, self.head = nn.LayerNorm(WIDTH), Joined(WIDTH)

    def forward(self, features: Tensor, events: Tensor) -> Tensor:
        # A copy of the positions for each row, contiguous: Opacus' ghost clipping takes no expanded ids.
        places = torch.arange(EVENTS, device=events.device).repeat(len(events), 1)
        states = self.token(events) + self.position(places)
        for block in self.blocks:
            states = block(states)
        outputs: Tensor = self.head(self.after(states).mean(dim=1), features)
        return outputs


class Gru(nn.Module):
    """Features [rows, 64] and events [rows, 32] to outputs [rows, 3]; `recurrent` takes the place of `nn.GRU`."""

    def __init__(self, recurrent: type[nn.Module] = nn.GRU) -> None:
        super().__init__()
        self.token, self.head = nn.Embedding(VOCABULARY, WIDTH), Joined(HIDDEN)
        self.recurrent = recurrent(WIDTH, HIDDEN, batch_first=True)

    def forward(self, features: Tensor, events: Tensor) -> Tensor:
        states, _ = self.recurrent(self.token(events))
        outputs: Tensor = self.head(states[:, -1], features)
        return outputs


MODELS: dict[str, type[nn.Module]] = {"mlp": Mlp, "transformer": Transformer, "gru": Gru}


def make_model(name: str, **shape: type[nn.Module]) -> nn.Module:
    """The model with its first weights, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS[name](**shape)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of the loss: what the model is called with, each [rows, ...], and float32 spend [rows]."""

    inputs: tuple[Tensor, ...]
    spend_cents: Tensor

    def rows(self, picked: Tensor | slice) -> Batch:
        """Some of them."""
        return Batch(inputs=tuple(tensor[picked] for tensor in self.inputs), spend_cents=self.spend_cents[picked])


def make_batch(model: str, rows: int, *, seed: int = 1) -> Batch:
    """`rows` customers for the model; common tokens come several times in one customer's events."""
    rng = np.random.default_rng(seed)
    features = torch.from_numpy(rng.standard_normal((rows, FEATURES), dtype=np.float32))
    spend = np.exp(rng.standard_normal(rows)) * _TYPICAL_SPEND_CENTS * (rng.random(rows) < _BUYERS)
    spend_cents = torch.from_numpy(np.round(spend).astype(np.float32))
    if model == "mlp":
        return Batch(inputs=(features,), spend_cents=spend_cents)
    events = np.minimum(rng.random((rows, EVENTS)) ** 3 * VOCABULARY, VOCABULARY - 1).astype(np.int64)
    return Batch(inputs=(features, torch.from_numpy(events)), spend_cents=spend_cents)


@dataclass(frozen=True, kw_only=True)
class Market:
    """Customers of many merchants: those of merchant m are the `counts[m]` rows of `customers` from `starts[m]` on."""

    customers: Batch
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]

    def shop(self, merchant: int) -> Batch:
        """One merchant's customers."""
        start = int(self.starts[merchant])
        return self.customers.rows(slice(start, start + int(self.counts[merchant])))

    def draw(self, merchant: int, rows: int, rng: np.random.Generator) -> Batch:
        """`rows` of one merchant's customers, drawn evenly: the same work for every engine and every merchant."""
        picked = self.starts[merchant] + rng.integers(0, self.counts[merchant], rows)
        return self.customers.rows(torch.from_numpy(picked))


def make_market(model: str, merchants: int, *, different: int = 1_000) -> Market:
    """Merchants of 64 to 512 customers; from merchant `different` on, the shops of the first come again."""
    counts = np.random.default_rng(0).integers(_FEWEST, _MOST + 1, min(merchants, different))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    again = np.arange(merchants) % different
    return Market(
        customers=make_batch(model, int(counts.sum())), starts=starts[again].astype(np.int64), counts=counts[again]
    )
