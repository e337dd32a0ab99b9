"""What a report's module gives: the page's report and the complete lists behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from client.insight.data import InsightData
from client.scoring import REASON_COLUMNS
from web.charts import Chart
from web.report import MOST_ROWS, Column, Figure, Report, Table
from web.words import Kind, Phrase, phrase

# On every report: what it must not be used for.
REFUSED_USES = (phrase("insight.refused.credit"), phrase("insight.refused.fraud"), phrase("insight.refused.pricing"))
_OUR_WORDS = {"tier": "tier", "churn_band": "churn"} | dict.fromkeys(REASON_COLUMNS, "reason")


@dataclass(frozen=True, kw_only=True)
class Made:
    """One report, made.

    Attributes:
        lists: complete lists by name; each becomes the file `list_file(report.name, name)`.
    """

    report: Report
    lists: Mapping[str, pa.Table] = field(default_factory=dict)


def made(
    data: InsightData,
    name: str,
    *,
    figures: Iterable[Figure] = (),
    charts: Iterable[Chart] = (),
    tables: Iterable[Table] = (),
    notes: Iterable[Phrase] = (),
    lists: Mapping[str, pa.Table] | None = None,
    empty: Phrase | None = None,
) -> Made:
    """A report with what all have in common: when, for when, by which model, and the uses that are refused."""
    lists = lists or {}
    report = Report(
        name=name,
        made=data.made,
        cutoff=data.cutoff,
        horizon_days=data.horizon_days,
        model_id=data.model_id,
        model=data.model,
        currency=data.currency,
        empty=empty,
        figures=tuple(figures),
        charts=tuple(charts),
        tables=tuple(tables),
        files=tuple(list_file(name, each) for each in lists),
        notes=(*notes, *REFUSED_USES),
    )
    return Made(report=report, lists=lists)


def list_file(report: str, name: str) -> str:
    """The file of a list, below the report's folder."""
    return f"{report}.{name}.csv"


def shown_rows(table: pa.Table, kinds: Mapping[str, Kind], *, title: Phrase, file: str, words: str) -> Table:
    """The first rows of a list as a page's table.

    Args:
        kinds: the columns to show, and how; the heading of a column is the text `<words>.<column>`.
        words: where the headings stand in the catalogues.
    """
    first = table.select(list(kinds)).slice(0, MOST_ROWS).to_pylist()
    columns = tuple(Column(label=phrase(f"{words}.{name}"), kind=kind) for name, kind in kinds.items())
    rows = tuple(tuple(said(name, cell) for name, cell in row.items()) for row in first)
    return Table(title=title, columns=columns, rows=rows, file=file)


def said(column: str, cell: Any) -> Any:
    """A cell of a list as the page says it: tiers and reasons are words of ours, in the reader's language."""
    if not isinstance(cell, str) or (kind := _OUR_WORDS.get(column)) is None:
        return cell
    return phrase(f"insight.{kind}.{cell.replace(':+', '_plus').replace(':-', '_minus')}")


def plain_rows(columns: Iterable[Iterable[Any]]) -> tuple[tuple[Any, ...], ...]:
    """Columns, numpy's too, as a table's rows of Python's own values."""
    return tuple(zip(*(_plain(column) for column in columns), strict=True))


def _plain(column: Iterable[Any]) -> list[Any]:
    listed = column.tolist() if hasattr(column, "tolist") else list(column)
    return [cell.item() if hasattr(cell, "item") else cell for cell in listed]
