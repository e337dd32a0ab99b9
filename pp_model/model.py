"""The purchase-power model: an encoder and one zero-inflated lognormal head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pp_model.errors import ConfigError

Encoder = Literal["linear", "mlp", "gru", "transformer"]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The shape of the model; public, in the plan."""

    encoder: Encoder
    hidden: tuple[int, ...] = (64, 32)

    def __post_init__(self) -> None:
        if not 1 <= len(self.hidden) <= 4 or not all(1 <= width <= 1024 for width in self.hidden):
            raise ConfigError(f"model.hidden is {list(self.hidden)}; allowed: 1 to 4 widths of 1 to 1024")
