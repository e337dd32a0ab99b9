"""One insight, as a file and as a page: headline figures, charts, short tables, caveats. Plain data, no markup."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pp_model.errors import ConfigError
from web.charts import Chart
from web.words import Kind, Phrase

FORMAT = 1
MOST_ROWS = 100  # of a table on a page; a list of all is a file


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A headline number.

    Attributes:
        value: None where there is none; a `Phrase` is said.
        band: low and high, where the figure is an estimate.
        warning: whether it asks for attention.
    """

    label: Phrase
    value: float | int | str | Phrase | None
    kind: Kind
    band: tuple[float, float] | None = None
    warning: bool = False


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table; its heading, and how its cells are written."""

    label: Phrase
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows for the page. A cell that is a `Phrase` is said; None is shown as missing.

    Attributes:
        file: the list that has all rows, a name below the report's folder; "" where these are all.
    """

    title: Phrase
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    file: str = ""

    def __post_init__(self) -> None:
        if len(self.rows) > MOST_ROWS:
            raise ConfigError(f"table {self.title.key} has {len(self.rows)} rows; allowed on a page: {MOST_ROWS}")
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ConfigError(f"table {self.title.key} has rows of other lengths than its {len(self.columns)} columns")


@dataclass(frozen=True, kw_only=True)
class Report:
    """One insight at one cutoff.

    Attributes:
        name: its file's, "churn" say; the texts below `<name>.` are its own, `<name>.title` and `<name>.about` too.
        model: SHA-256 of the model's file.
        currency: a code such as "GBP"; "" where the orders name none.
        empty: why there is nothing to show, and what to do; None where there is.
        files: of the complete lists, beside the report.
        notes: caveats, and what it must not be used for.
    """

    name: str
    made: dt.datetime
    cutoff: dt.date
    horizon_days: int
    model_id: int
    model: str
    currency: str = ""
    empty: Phrase | None = None
    figures: tuple[Figure, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    files: tuple[str, ...] = ()
    notes: tuple[Phrase, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in ("name", "horizon_days", "model_id", "model", "currency")},
            "made": self.made.isoformat(),
            "cutoff": self.cutoff.isoformat(),
            "empty": self.empty.to_json() if self.empty else None,
            "figures": [
                {
                    "label": figure.label.to_json(),
                    "value": _out(figure.value),
                    "kind": figure.kind,
                    "band": list(figure.band) if figure.band else None,
                    "warning": figure.warning,
                }
                for figure in self.figures
            ],
            "charts": [chart.to_json() for chart in self.charts],
            "tables": [
                {
                    "title": table.title.to_json(),
                    "columns": [{"label": c.label.to_json(), "kind": c.kind} for c in table.columns],
                    "rows": [[_out(cell) for cell in row] for row in table.rows],
                    "file": table.file,
                }
                for table in self.tables
            ],
            "files": list(self.files),
            "notes": [note.to_json() for note in self.notes],
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Report:
        """What `to_json` gave.

        Raises:
            ConfigError: it is of another format; make it anew.
        """
        if table.get("format") != FORMAT:
            raise ConfigError(f"a report of format {table.get('format')!r}, this program reads {FORMAT}; make it anew")
        return cls(
            **{name: table[name] for name in ("name", "horizon_days", "model_id", "model", "currency")},
            made=dt.datetime.fromisoformat(table["made"]),
            cutoff=dt.date.fromisoformat(table["cutoff"]),
            empty=Phrase.from_json(table["empty"]) if table["empty"] else None,
            figures=tuple(
                Figure(
                    label=Phrase.from_json(figure["label"]),
                    value=_in(figure["value"]),
                    kind=figure["kind"],
                    band=tuple(figure["band"]) if figure["band"] else None,
                    warning=figure["warning"],
                )
                for figure in table["figures"]
            ),
            charts=tuple(Chart.from_json(chart) for chart in table["charts"]),
            tables=tuple(
                Table(
                    title=Phrase.from_json(each["title"]),
                    columns=tuple(
                        Column(label=Phrase.from_json(column["label"]), kind=column["kind"])
                        for column in each["columns"]
                    ),
                    rows=tuple(tuple(_in(cell) for cell in row) for row in each["rows"]),
                    file=each["file"],
                )
                for each in table["tables"]
            ),
            files=tuple(table["files"]),
            notes=tuple(Phrase.from_json(note) for note in table["notes"]),
        )


def _out(value: Any) -> Any:
    if isinstance(value, Phrase):
        return value.to_json()
    if isinstance(value, dt.date):
        return value.isoformat()
    return None if isinstance(value, float) and value != value else value


def _in(value: Any) -> Any:
    return Phrase.from_json(value) if isinstance(value, Mapping) else value
