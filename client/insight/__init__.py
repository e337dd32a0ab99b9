"""What a merchant learns of its shop from the scores: one module a report, in the order of the pages.

A report is made when it is asked for, and so is its module: the commands that need none load none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.insight.data import InsightData
    from client.insight.made import Made

Build = Callable[["InsightData"], "Made"]

NAMES = (
    *("portraits", "churn", "campaigns", "demand", "newcomers"),
    *("prices", "returns", "market", "quality", "fairness", "importance"),
)


def _builder(name: str) -> Build:
    def build(data: InsightData) -> Made:
        made: Made = import_module(f"client.insight.{name}").build(data)
        return made

    return build


REPORTS: Mapping[str, Build] = {name: _builder(name) for name in NAMES}
