"""rules.toml: which customers go on which list, and who is told how many they are. Conditions only, no code.

[[rule]]
name = "Keep the best"
when = [{ column = "tier", equals = "high" }, { column = "churn_risk", at_least = 0.6 }]
then = "list"
purpose = "retention"
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from client.insight.alerts import Alert
from client.score_file import SCHEMA
from client.settings import read_table
from client.sources.contract import SLICE
from pp_model.config import from_mapping
from pp_model.errors import ConfigError

FILE = "rules.toml"
MOST_RULES, MOST_CONDITIONS, LONGEST_NAME = 100, 20, 80
PURPOSES = ("retention", "win_back", "campaign", "service", "stock_planning")
# What a purpose is refused for, by what its name has in it: the model was never tested for these, and they would harm.
REFUSED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "credit": (
        "a score says nothing of whether a person can pay or will; decisions on credit need a model, a procedure and a "
        "right to object that are made for them",
        ("credit", "loan", "lend", "debt", "solven", "insur"),
    ),
    "fraud": (
        "an unusual customer is no dishonest one; the model never saw a proven fraud, so a list of suspects would be "
        "made of chance",
        ("fraud", "accus", "suspect", "crim", "blacklist"),
    ),
    "pricing": (
        "a price for one person, made by what it is expected to bear, is not what its orders were given for, and is "
        "against the law in places; offers to whole groups are campaigns",
        ("pric", "surcharge", "markup"),
    ),
}
COLUMNS: Mapping[str, Literal["number", "text", "yes_or_no"]] = {
    field.name: "text"
    if pa.types.is_string(field.type)
    else "yes_or_no"
    if pa.types.is_boolean(field.type)
    else "number"
    for field in SCHEMA
    if field.name != "customer_id"  # a rule is about a kind of customer, never about one
}
_CHECKS = ("at_least", "at_most", "equals", "one_of")
_EXPECTED = {"number": "a number", "text": "a text", "yes_or_no": "true or false"}
Value = str | float | bool


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What must hold of one column: bounds, or one of some values. A missing value fulfils none.

    Attributes:
        one_of: () where bounds are given; `equals` is one of one.
    """

    column: str
    at_least: float = -math.inf
    at_most: float = math.inf
    one_of: tuple[Value, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Given:
    name: str
    then: Literal["list"]
    purpose: str
    include_customers: bool = False
    alert: Alert | None = None
    at_least_customers: int = 1
    only_changes: bool = False

    def __post_init__(self) -> None:
        if not (self.name.strip() and len(self.name) <= LONGEST_NAME and self.name.isprintable()):
            raise ConfigError(
                f"name is {self.name[:LONGEST_NAME]!r}; expected 1 to {LONGEST_NAME} printable characters"
            )
        check_purpose(self.purpose)
        if not self.at_least_customers >= 1:
            raise ConfigError(f"at_least_customers is {self.at_least_customers}; allowed: 1 or more")
        for key in ("include_customers", "only_changes"):
            if getattr(self, key) and self.alert is None:
                raise ConfigError(
                    f"{key} is true, and there is no alert that it could be about; add one or leave it out"
                )


@dataclass(frozen=True, kw_only=True)
class Rule(_Given):
    """One rule: all conditions together choose the customers of a list, for a purpose.

    Attributes:
        include_customers: whether the alert carries their ids.
        at_least_customers: fewer raise no alert.
        only_changes: an alert only where a customer is on the list that was not on it at the cutoff before.
    """

    when: tuple[Condition, ...]

    @property
    def slug(self) -> str:
        """The name as a part of a file's name: ASCII; for names without letters of it, a fingerprint."""
        text = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:40].rstrip("-")
        return text if text and self.name.isascii() else f"rule-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"


def check_purpose(purpose: str) -> None:
    """Returns if a list may be made for that.

    Raises:
        ConfigError: it may not, and why; or it is not known.
    """
    plain = purpose.casefold()
    for what, (why, stems) in REFUSED.items():
        if any(stem in plain for stem in stems):
            raise ConfigError(
                f"purpose is {purpose[:60]!r}: lists for {what} are refused, because {why}. See docs/insight.md. "
                f"Allowed: {', '.join(PURPOSES)}"
            )
    if purpose not in PURPOSES:
        raise ConfigError(f"purpose is {purpose[:60]!r}; allowed: {', '.join(PURPOSES)}")


def read_rules(path: Path, *, slices: Collection[str]) -> tuple[Rule, ...]:
    """The rules of a file, in its order; none where there is no file.

    Args:
        slices: labels of the declared columns.

    Raises:
        ConfigError: names the file, the rule and the key that is missing, unknown or wrong.
    """
    if not path.exists():
        return ()
    table = read_table(path)
    known = {**COLUMNS, **{f"{SLICE}{label}": "text" for label in slices}}
    try:
        if unknown := sorted(set(table) - {"rule"}):
            raise ConfigError(f"unknown key {unknown[0]}; known keys here: rule")
        given = table.get("rule", [])
        if not (isinstance(given, list) and all(isinstance(each, Mapping) for each in given)):
            raise ConfigError("rule is not a list; begin each rule with a line [[rule]]")
        if len(given) > MOST_RULES:
            raise ConfigError(f"there are {len(given)} rules; allowed: {MOST_RULES}")
        rules = tuple(_rule(each, place + 1, known) for place, each in enumerate(given))
        for place, rule in enumerate(rules):
            if rule.slug in {other.slug for other in rules[:place]}:
                raise ConfigError(f"rule {place + 1}, {rule.name!r}: another rule has this name; give each its own")
        return rules
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _rule(table: Mapping[str, Any], number: int, known: Mapping[str, str]) -> Rule:
    named = table.get("name")
    try:
        if "when" not in table:
            raise ConfigError("missing key when; add it")
        given = from_mapping(_Given, {key: value for key, value in table.items() if key != "when"})
        when = table["when"]
        if not (isinstance(when, list) and 1 <= len(when) <= MOST_CONDITIONS):
            raise ConfigError(f"when is not a list of 1 to {MOST_CONDITIONS} conditions like {{ column = ... }}")
        conditions = tuple(_condition(each, f"when[{place}]", known) for place, each in enumerate(when))
        return Rule(**{name: getattr(given, name) for name in given.__dataclass_fields__}, when=conditions)
    except ConfigError as error:
        called = f", {named[:LONGEST_NAME]!r}" if isinstance(named, str) else ""
        raise ConfigError(f"rule {number}{called}: {error}") from None


def _condition(table: Any, path: str, known: Mapping[str, str]) -> Condition:
    if not isinstance(table, Mapping):
        raise ConfigError(f'{path} is not a table; write it like {{ column = "score", at_least = 60 }}')
    if unknown := sorted(set(table) - {"column", *_CHECKS}):
        raise ConfigError(f"unknown key {path}.{unknown[0]}; known keys here: column, {', '.join(_CHECKS)}")
    column = table.get("column")
    if not isinstance(column, str) or column not in known:
        raise ConfigError(f"{path}.column is {column!r:.60}; known columns: {', '.join(known)}")
    checks, kind = set(table) - {"column"}, known[column]
    if checks <= {"at_least", "at_most"} and checks:
        if kind != "number":
            raise ConfigError(
                f"{path}.{min(checks)} is about {column}, which is {_EXPECTED[kind]}; use equals or one_of"
            )
        low, high = (
            _number(table[name], f"{path}.{name}") if name in checks else beyond
            for name, beyond in (("at_least", -math.inf), ("at_most", math.inf))
        )
        if low > high:
            raise ConfigError(f"{path} asks for at_least above at_most, which nothing fulfils")
        return Condition(column=column, at_least=low, at_most=high)
    if len(checks) != 1:
        raise ConfigError(f"{path} has {len(checks)} checks; give at_least, at_most or both, or equals, or one_of")
    values = table["one_of"] if "one_of" in checks else [table["equals"]]
    if not (isinstance(values, list) and values):
        raise ConfigError(f"{path}.one_of is not a list of values")
    return Condition(column=column, one_of=tuple(_value(value, kind, f"{path}.{min(checks)}") for value in values))


def _number(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{path} is {value!r:.60}; expected a number")
    return float(value)


def _value(value: Any, kind: str, path: str) -> Value:
    if kind == "number":
        return _number(value, path)
    if isinstance(value, bool) != (kind == "yes_or_no") or not isinstance(value, str | bool):
        raise ConfigError(f"{path} is {value!r:.60}; expected {_EXPECTED[kind]}")
    return value
