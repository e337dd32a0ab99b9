"""Orders into bounded tensors and labels at a cutoff, by public constants alone."""

from __future__ import annotations

from dataclasses import dataclass

from pp_model.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """What the model sees of a customer; public, in the plan, the same for every merchant."""

    horizon_days: int
    sequence_length: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.horizon_days <= 730:
            raise ConfigError(f"features.horizon_days is {self.horizon_days}; allowed: 1 to 730")
        if not 1 <= self.sequence_length <= 512:
            raise ConfigError(f"features.sequence_length is {self.sequence_length}; allowed: 1 to 512")
