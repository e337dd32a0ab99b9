"""Checklist: D5 (what is configured is what is meant: nothing unknown, nothing guessed).

Tables into dataclasses: every key known, every key present, every type right, and the message names the key.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pp_model.config import from_mapping, to_mapping
from pp_model.errors import ConfigError


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float
    kind: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    count: int
    name: str
    on: bool
    inner: Inner
    days: tuple[dt.date, ...]
    colour: Colour
    columns: Mapping[str, str]
    limit: float | None = None
    labels: tuple[str, ...] = dataclasses.field(default_factory=tuple)


TABLE: dict[str, Any] = {
    "count": 3,
    "name": "x",
    "on": True,
    "inner": {"rate": 0.5, "kind": "b"},
    "days": ["2025-12-31"],
    "colour": "red",
    "columns": {"customer_id": "CustomerID"},
}

outers = st.builds(
    Outer,
    count=st.integers(),
    name=st.text(),
    on=st.booleans(),
    inner=st.builds(Inner, rate=st.floats(allow_nan=False), kind=st.sampled_from(["a", "b"])),
    days=st.lists(st.dates(), max_size=3).map(tuple),
    colour=st.sampled_from(Colour),
    columns=st.dictionaries(st.text(), st.text(), max_size=3),
    limit=st.none() | st.floats(allow_nan=False),
    labels=st.lists(st.text(), max_size=3).map(tuple),
)


@given(outers)
def test_a_configuration_comes_back_from_its_plain_form(outer):
    assert from_mapping(Outer, to_mapping(outer)) == outer


def test_a_table_becomes_the_object_it_describes():
    assert from_mapping(Outer, TABLE) == Outer(
        count=3,
        name="x",
        on=True,
        inner=Inner(rate=0.5, kind="b"),
        days=(dt.date(2025, 12, 31),),
        colour=Colour.RED,
        columns={"customer_id": "CustomerID"},
    )


@pytest.mark.parametrize("key", ["count", "name", "on", "inner", "days", "colour", "columns"])
def test_a_missing_key_is_named(key):
    with pytest.raises(ConfigError, match=f"missing key run.{key}"):
        from_mapping(Outer, {k: v for k, v in TABLE.items() if k != key}, path="run")


def test_an_unknown_key_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown key inner\.rat; known keys here: kind, rate"):
        from_mapping(Outer, {**TABLE, "inner": {"rat": 0.5}})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("count", 3.0),
        ("count", True),
        ("count", "3"),
        ("count", None),
        ("name", 3),
        ("on", 1),
        ("on", "true"),
        ("inner", 3),
        ("inner", [0.5]),
        ("inner.rate", True),
        ("inner.rate", "0.5"),
        ("inner.rate", None),
        ("inner.rate", 10**400),
        ("inner.kind", "c"),
        ("inner.kind", ["a"]),
        ("days", "2025-12-31"),
        ("days[0]", "31.12.2025"),
        ("days[0]", 20251231),
        ("days[0]", dt.datetime(2025, 12, 31, 1)),
        ("colour", "green"),
        ("colour", ["red"]),
        ("columns", ["customer_id"]),
        ("columns.customer_id", 3),
        ("limit", "high"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_and_its_key_named(key, value):
    table: dict[str, Any] = {**TABLE, "inner": dict(TABLE["inner"]), "columns": dict(TABLE["columns"])}
    if key == "days[0]":
        table["days"] = [value]
    elif "." in key:
        table[key.split(".")[0]][key.split(".")[1]] = value
    else:
        table[key] = value
    with pytest.raises(ConfigError) as caught:
        from_mapping(Outer, table)
    assert str(caught.value).startswith(f"{key} is ")


def test_an_integer_is_good_enough_for_a_float_and_becomes_one():
    rate = from_mapping(Inner, {"rate": 2}).rate
    assert (rate, type(rate)) == (2.0, float)


def test_equal_objects_have_equal_plain_forms():
    assert str(to_mapping(Inner(rate=2))) == str(to_mapping(Inner(rate=2.0)))


def test_a_native_date_is_accepted():
    assert from_mapping(Outer, {**TABLE, "days": [dt.date(2025, 1, 2)]}).days == (dt.date(2025, 1, 2),)
