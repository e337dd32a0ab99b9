"""Which model a plan trains. Apart from `model`, so that who only reads a plan need not load PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pp_model.errors import ConfigError

Encoder = Literal["linear", "mlp", "gru", "transformer"]
ENCODERS: tuple[Encoder, ...] = ("linear", "mlp", "gru", "transformer")
PRESETS: dict[str, tuple[int, ...]] = {"small": (64, 32), "large": (128, 64, 32)}


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The shape of the model and what of it is trained; public, in the plan.

    Attributes:
        hidden: widths of the layers above the features (and the sequence); the last one feeds the readout.
        trainable: "readout" trains the last linear layer alone, on a frozen encoder; "all" trains both.
    """

    encoder: Encoder
    hidden: tuple[int, ...] = PRESETS["small"]
    trainable: Literal["readout", "all"] = "readout"

    def __post_init__(self) -> None:
        if not 1 <= len(self.hidden) <= 4 or not all(1 <= width <= 1024 for width in self.hidden):
            raise ConfigError(f"model.hidden is {list(self.hidden)}; allowed: 1 to 4 widths of 1 to 1024")

    @property
    def reads_sequence(self) -> bool:
        """Whether the encoder looks at the customer's last events in their order."""
        return self.encoder in ("gru", "transformer")
