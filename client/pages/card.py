"""A model's card, which is Markdown of the platform's, as plain parts: headings, paragraphs and tables of text.

Nothing in it becomes markup: a template writes the texts, escaped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

MOST_LINES = 2_000
_RULE = re.compile(r"\|[\s:|]*-[\s:|-]*\|")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of the card.

    Attributes:
        level: of a heading, 1 to 6.
        rows: of a table, cells of text; the first row is its head, where it says anything.
    """

    kind: Literal["heading", "text", "table"]
    text: str = ""
    level: int = 0
    rows: tuple[tuple[str, ...], ...] = ()


def blocks_of(card: str) -> list[Block]:
    """The card's parts in order; what is none of the known ones is text."""
    found: list[Block] = []
    text: list[str] = []
    rows: list[tuple[str, ...]] = []

    def close() -> None:
        if text:
            found.append(Block(kind="text", text=" ".join(text)))
            text.clear()
        if rows:
            found.append(Block(kind="table", rows=tuple(rows)))
            rows.clear()

    for raw in card.splitlines()[:MOST_LINES]:
        line = raw.strip()
        marks = len(line) - len(line.lstrip("#"))
        if not line:
            close()
        elif 1 <= marks <= 6 and line[marks : marks + 1] == " ":
            close()
            found.append(Block(kind="heading", text=_plain(line[marks:]), level=marks))
        elif line.startswith("|") and line.endswith("|") and len(line) > 1:
            if text:
                close()
            if not _RULE.fullmatch(line):
                rows.append(tuple(_plain(cell) for cell in line[1:-1].split("|")))
        else:
            if rows:
                close()
            text.append(_plain(line))
    close()
    return found


def _plain(text: str) -> str:
    return text.strip().replace("**", "")
