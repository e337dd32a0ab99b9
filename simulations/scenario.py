"""What a simulation is asked to do: a TOML file, overridden by flags. The resolved form is saved with every run."""

from __future__ import annotations

import datetime as dt
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from client.sources.contract import DataContract
from pp_model.config import from_mapping
from pp_model.errors import ConfigError
from pp_model.plan import MOST_IN_A_SUM
from server.recipe import Recipe

Engine = Literal["in_process", "vectorised", "ray"]
ENGINES: tuple[Engine, ...] = ("in_process", "vectorised", "ray")
BASELINES = ("local_only", "central_non_private", "fedavg_non_private", "synthetic_only")


@dataclass(frozen=True, kw_only=True)
class OrdersSpec:
    """Orders out of a file.

    Attributes:
        file: CSV, CSV.gz or Parquet.
        merchant_column: the column that says which merchant an order belongs to; "" deals customers out by a hash.
        customers_at: "home" puts a customer with all orders at the merchant with most of its visits, so that one
            person is one customer; "each" makes a customer of every merchant it visited, as in reality.
    """

    file: str
    contract: DataContract = field(default_factory=DataContract)
    merchant_column: str = ""
    customers_at: Literal["home", "each"] = "home"


@dataclass(frozen=True, kw_only=True)
class SyntheticSpec:
    """Made-up merchants of a shared trade, each with a size, price level and rhythm of its own."""

    customers: int  # of all merchants together
    days: int
    first_day: dt.date = dt.date(2023, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One simulation.

    Attributes:
        cutoff: the holdout starts here; training sees nothing from this day on.
        epsilon: the guarantee of the whole run for one customer of one merchant; inf for none.
        engine: how the merchants are run: "in_process", one after the other by a merchant's own program; "vectorised",
            together; "ray", by Flower's engine for several machines; "auto", vectorised wherever it can do the model.
    """

    name: str
    orders: OrdersSpec | None = None
    synthetic: SyntheticSpec | None = None
    merchants: int
    cutoff: dt.date
    horizon_days: int
    epsilon: float
    delta: float = 1e-5
    recipe: Recipe = field(default_factory=Recipe)
    baselines: tuple[Literal["local_only", "central_non_private", "fedavg_non_private", "synthetic_only"], ...] = ()
    seed: int = 0
    device: str = "auto"
    engine: Literal["auto", "in_process", "vectorised", "ray"] = "auto"

    def __post_init__(self) -> None:
        if (self.orders is None) == (self.synthetic is None):
            raise ConfigError("a scenario has either [orders] or [synthetic]; give one of them (--orders FILE)")
        if not 1 <= self.merchants <= 100_000:
            raise ConfigError(f"merchants is {self.merchants}; allowed: 1 to 100000")
        if self.recipe.trust == "secure_sum" and not 3 <= self.merchants <= MOST_IN_A_SUM:
            raise ConfigError(f"merchants is {self.merchants}; a secure sum takes 3 to {MOST_IN_A_SUM}")
        if not self.epsilon > 0:
            raise ConfigError(f"epsilon is {self.epsilon}; give a number above 0, or inf for no privacy")
        if not 0 < self.delta < 1:
            raise ConfigError(f"delta is {self.delta}; allowed: above 0 and below 1, usually 1e-5")

    @property
    def private(self) -> bool:
        """Whether there is any guarantee."""
        return self.epsilon < math.inf


def load_scenario(name: str, overrides: Mapping[str, Any]) -> Scenario:
    """The scenario of a shipped name or a TOML file, with `overrides` (nested like the file) on top.

    Raises:
        ConfigError: no such scenario, not TOML, or a key that is unknown, missing or out of range.
    """
    path = Path(name) if name.endswith(".toml") else scenario_folder() / f"{name}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(shipped_scenarios()))
        raise ConfigError(f"no scenario {name!r}; give a .toml file or one of: {known}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not a readable TOML file: {type(error).__name__}; correct the file") from None
    return resolve(merged(table, overrides))


def resolve(table: Mapping[str, Any]) -> Scenario:
    """The scenario in a table, with the defaults of its algorithm filled in.

    Raises:
        ConfigError: names the key.
    """
    recipe = table.get("recipe", {})
    if isinstance(recipe, Mapping) and recipe.get("algorithm") == "fedavg":
        recipe = {**Recipe.fedavg(), **recipe}
    return from_mapping(Scenario, {**table, "recipe": recipe})


def merged(table: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`table` with `overrides` on top, nested tables key by key."""
    result = dict(table)
    for key, value in overrides.items():
        below = result.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        result[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result


def scenario_folder() -> Path:
    """Where the shipped scenarios are."""
    return Path(str(resources.files("simulations") / "scenarios"))


def shipped_scenarios() -> dict[str, str]:
    """Name and first comment line of each shipped scenario."""
    return {
        path.stem: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        for path in sorted(scenario_folder().glob("*.toml"))
    }
