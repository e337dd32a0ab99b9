"""The alert file, and the metrics that its expressions name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
ALERTS, PROMETHEUS = FOLDER / "alerts.yml", FOLDER / "prometheus.yml"
_OWN = {"up"}  # Prometheus adds it to every target
_GROUPING = r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"
_WORDS = {"and", "or", "unless", "bool", "offset"}

Rule = dict[str, Any]


def groups() -> dict[str, list[Rule]]:
    """The rules of each group."""
    return {group["name"]: group["rules"] for group in yaml.safe_load(ALERTS.read_text())["groups"]}


def rules(side: str) -> list[Rule]:
    """The rules for the "platform" or the "merchant"."""
    return groups()[f"purchase-power-{side}"]


def named_in(expression: str) -> set[str]:
    """The metrics that a PromQL expression needs of a scrape."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", expression)
    bare = re.sub(_GROUPING, "", bare)
    words = set(re.findall(r"\b[a-zA-Z_:][a-zA-Z0-9_:]*\b(?!\s*\()", bare))
    called = set(re.findall(r"\b(\w+)\s*\(", bare))
    return {word for word in words - called - _WORDS - _OWN if not re.fullmatch(r"\d\w*", word)}
