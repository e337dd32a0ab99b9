"""What the merchant states for its reports, in insight.toml beside merchant.toml: costs, and what it assumes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from client.settings import read_table
from daemons.files import write_private
from pp_model.config import from_mapping
from pp_model.errors import ConfigError

CHURN_BANDS = ("low", "middle", "high")

TEMPLATE = """\
# What pp-client insight takes from you. Every line may be left out; amounts are in units of your currency.

[campaigns]
budget = 100.0           # all that one campaign may cost
cost_per_contact = 0.10  # of one message to one customer
margin = 0.3             # of what a customer spends, the part that is yours
# What you assume a contact does: by how much more a contacted customer spends than expected, by its churn risk. Nobody
# knows it but you, from an experiment: a part of the customers, drawn by lot, gets no message. Without it the page
# shows reach, value, and from which uplift on a contact pays for itself.
# uplift = { low = 0.02, middle = 0.05, high = 0.03 }
"""


@dataclass(frozen=True, kw_only=True)
class CampaignOptions:
    """What a campaign costs and is assumed to do.

    Attributes:
        budget, cost_per_contact: in units of the currency.
        margin: the share of spend that is the merchant's.
        uplift: by band of churn risk, how much more a contacted customer spends, as a share of what is expected.
    """

    budget: float = 100.0
    cost_per_contact: float = 0.10
    margin: float = 0.3
    uplift: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("budget", "cost_per_contact"):
            value: float = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"campaigns.{name} is {value:g}; allowed: more than 0")
        if not 0 < self.margin <= 1:
            raise ConfigError(f"campaigns.margin is {self.margin:g}; allowed: above 0, to 1")
        for band, value in self.uplift.items():
            if band not in CHURN_BANDS:
                raise ConfigError(f"unknown key campaigns.uplift.{band}; known keys here: {', '.join(CHURN_BANDS)}")
            if not 0 <= value <= 10:
                raise ConfigError(f"campaigns.uplift.{band} is {value:g}; allowed: 0 to 10 (0.05 is 5 % more)")


@dataclass(frozen=True, kw_only=True)
class InsightOptions:
    """All of insight.toml."""

    campaigns: CampaignOptions = field(default_factory=CampaignOptions)


def read_options(path: Path) -> InsightOptions:
    """What the file says; the defaults where there is none.

    Raises:
        ConfigError: not TOML, or the key that is unknown or wrong.
    """
    if not path.exists():
        return InsightOptions()
    try:
        return from_mapping(InsightOptions, read_table(path))
    except ConfigError as error:
        raise error if str(error).startswith(str(path)) else ConfigError(f"{path}: {error}") from None


def make_options(path: Path) -> bool:
    """Writes the file with the defaults and what they mean; false where there is one already."""
    if path.exists():
        return False
    write_private(path, TEMPLATE.encode())
    return True
