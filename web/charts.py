"""Charts as data: Python says what is shown, the page's script draws it, and a table says the same in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pp_model.errors import ConfigError
from web.words import Kind, Phrase

MOST_POINTS = 2_000  # of one series: more cannot be told apart on a screen


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line, or one colour of bars.

    Attributes:
        values: one for each category, None where there is none; of a scatter the ordinates.
        x: of a scatter alone, the abscissas.
        shape: None draws the chart's kind; else this series is drawn as that.
        band: low and high of each value; a line has it as a shade, a bar as a whisker.
    """

    label: Phrase
    values: tuple[float | None, ...]
    x: tuple[float, ...] = ()
    shape: Literal["line", "bar", "dashed"] | None = None
    band: tuple[tuple[float | None, float | None], ...] = ()

    def __post_init__(self) -> None:
        if len(self.values) > MOST_POINTS:
            raise ConfigError(f"a series has {len(self.values)} values; allowed: {MOST_POINTS}")
        if self.x and len(self.x) != len(self.values):
            raise ConfigError(f"a series has {len(self.x)} abscissas for {len(self.values)} values")
        if self.band and len(self.band) != len(self.values):
            raise ConfigError(f"a series has {len(self.band)} bands for {len(self.values)} values")


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What is drawn in one figure.

    Attributes:
        categories: names below the axis, the same for every series; a `Phrase` is said, a text is shown as it is. Empty
            for a scatter.
        stacked, horizontal: of bars.
        kind_of_value: how values are written.
        kind_of_x: of a scatter's abscissas.
        diagonal: whether the line of equal abscissa and ordinate is drawn, as calibration wants it.
    """

    kind: Literal["line", "bar", "scatter"]
    title: Phrase
    x: Phrase
    y: Phrase
    categories: tuple[str | Phrase, ...] = ()
    series: tuple[Series, ...]
    stacked: bool = False
    horizontal: bool = False
    kind_of_value: Kind = "number"
    kind_of_x: Kind = "number"
    diagonal: bool = False

    def __post_init__(self) -> None:
        if self.kind != "scatter":
            for series in self.series:
                if len(series.values) != len(self.categories):
                    raise ConfigError(
                        f"chart {self.title.key}: {len(series.values)} values for {len(self.categories)} categories"
                    )

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(_finite(value) is not None for series in self.series for value in series.values)

    def to_json(self) -> dict[str, Any]:
        """Plain values, phrases as they are; what is not finite becomes None."""
        table = {name: getattr(self, name) for name in _PLAIN}
        return {
            **table,
            **{name: getattr(self, name).to_json() for name in ("title", "x", "y")},
            "categories": [c.to_json() if isinstance(c, Phrase) else c for c in self.categories],
            "series": [
                {
                    "label": series.label.to_json(),
                    "values": [_finite(value) for value in series.values],
                    "x": list(series.x),
                    "shape": series.shape,
                    "band": [[_finite(low), _finite(high)] for low, high in series.band],
                }
                for series in self.series
            ],
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Chart:
        """What `to_json` gave."""
        return cls(
            **{name: table[name] for name in _PLAIN},
            title=Phrase.from_json(table["title"]),
            x=Phrase.from_json(table["x"]),
            y=Phrase.from_json(table["y"]),
            categories=tuple(Phrase.from_json(c) if isinstance(c, Mapping) else c for c in table["categories"]),
            series=tuple(
                Series(
                    label=Phrase.from_json(series["label"]),
                    values=tuple(series["values"]),
                    x=tuple(series["x"]),
                    shape=series["shape"],
                    band=tuple((low, high) for low, high in series["band"]),
                )
                for series in table["series"]
            ),
        )


_PLAIN = ("kind", "stacked", "horizontal", "kind_of_value", "kind_of_x", "diagonal")


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
