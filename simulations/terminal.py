"""The short table at the end of a run: the model against its baselines, what it cost, and where the report is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from simulations.compare import COMPARED, METRIC, delta_text, epsilon_of, epsilon_text, metric_text, plain


def result_table(result: Mapping[str, Any], *, report: Path | None = None) -> Table:
    """The run and each of its baselines, one line each; below them the price in privacy and the report's place."""
    table = Table(title=Text(plain(result["name"])), caption=_caption(result, report), caption_justify="left")
    table.add_column("Model", overflow="fold")
    for key in COMPARED:
        table.add_column(METRIC[key].title, justify="right", no_wrap=True)
    _add(table, "This run", result, style="bold")
    for key, entry in (result.get("baselines") or {}).items():
        _add(table, entry.get("label") or key, entry, style="")
    return table


def _add(table: Table, name: str, entry: Mapping[str, Any], *, style: str) -> None:
    figures = (metric_text(key, entry.get(key)) for key in COMPARED)
    table.add_row(Text(plain(name)), *(Text(figure) for figure in figures), style=style)


def _caption(result: Mapping[str, Any], report: Path | None) -> Text:
    if math.isfinite(epsilon_of(result["epsilon"])):
        lines = [
            f"Customer-level privacy: epsilon {epsilon_text(result['epsilon'])} at one shop, "
            f"{epsilon_text(result['epsilon_two_merchants'])} for a person of two shops, "
            f"delta {delta_text(result['delta'])}.",
        ]
    else:
        lines = ["NO PRIVACY: epsilon is infinite."]
    lines.append("MAE in currency units; lower is better for log loss, MAE and decile MAPE.")
    if report is not None:
        lines.append(f"Report: {plain(report)}")
    return Text("\n".join(lines))
