"""What comes out: rows with a bar, tables of them, and the machine that they were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.harness import Spread, digits


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of ours that must not get worse.

    Attributes:
        what: names it; the same text in every run.
        bar: "<= 0.7" or ">= 15", which also says which direction is worse; without a number where none is set: "<=".
        quick: whether the quick form measures the same, so that the check compares it.
        needs: the peer without which it cannot be measured, or "".
    """

    what: str
    ratio: float
    low: float
    high: float
    bar: str
    detail: str = ""
    quick: bool = True
    needs: str = ""

    @property
    def more_is_better(self) -> bool:
        """The direction of the bar."""
        return self.bar.startswith(">")

    @property
    def verdict(self) -> str:
        """Whether the bar is met; not a number never meets one."""
        limit = self.bar.lstrip("<>= ")
        if not limit:
            return "no bar"
        met = self.ratio >= float(limit) if self.more_is_better else self.ratio <= float(limit)
        return "met" if met else "missed"

    def cells(self) -> list[str]:
        """Its line in a table."""
        spread_cell = f"{digits(self.low)}-{digits(self.high)}"
        return [self.what, digits(self.ratio), spread_cell, self.bar.rstrip("<>= "), self.verdict, self.detail]

    def to_json(self) -> dict[str, object]:
        """Its entry in ratios.json."""
        return asdict(self)


def row_of(what: str, measured: Spread, bar: str, *, detail: str = "", quick: bool = True, needs: str = "") -> Row:
    """A row from a spread."""
    return Row(
        what=what,
        ratio=measured.middle,
        low=measured.low,
        high=measured.high,
        bar=bar,
        detail=detail,
        quick=quick,
        needs=needs,
    )


ROW_TITLES = ("What", "ratio", "quartiles", "bar", "", "detail")


def reason(text: str) -> str:
    """Why something was not measured, short enough for a cell."""
    first = text.strip().splitlines()[0].replace("|", "/")
    return f"not measured: {first[:80]}"


def table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    rows = [titles, ["---"] * len(titles), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def rows_table(rows: Sequence[Row]) -> str:
    """The table of the bars."""
    return table(ROW_TITLES, [row.cells() for row in rows])


@dataclass(frozen=True, kw_only=True)
class Report:
    """One page of results.

    Attributes:
        name: of its file, without a suffix.
        text: Markdown below the table of rows: who else was measured, and how.
        versions: of what was measured, by package.
    """

    name: str
    title: str
    rows: Sequence[Row]
    text: str
    versions: Mapping[str, str]

    def page(self) -> str:
        """The whole file."""
        versions = ", ".join(f"{package} {number}" for package, number in sorted(self.versions.items()))
        parts = [f"# {self.title}", f"{machine()}; {versions}.", rows_table(self.rows) if self.rows else "", self.text]
        return "\n\n".join(part for part in parts if part) + "\n"


def machine() -> str:
    """The machine in a few words, without its name."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    kind = names[0] if names else platform.machine()
    return f"{kind}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"
