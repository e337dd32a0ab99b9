"""TOML tables and JSON objects into frozen dataclasses: every key known, every key present, every type right."""

from __future__ import annotations

import dataclasses
import datetime as dt
import types
import typing
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar, cast

from pp_model.errors import ConfigError

T = TypeVar("T")


def from_mapping(kind: type[T], table: Mapping[str, Any], *, path: str = "") -> T:
    """A `kind` (a dataclass) made of `table`, checked key by key.

    Nested dataclasses are read from nested tables, tuples from lists, dates from ISO strings, enums from their
    values. An integer is accepted where a float is meant, never the reverse.

    Args:
        path: where the table stands, for messages ("plan.model").

    Raises:
        ConfigError: names the key that is unknown, missing or of the wrong type, and what was expected.
    """
    prefix = f"{path}." if path else ""
    hints = _hints(cast(Any, kind))
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(table) - set(fields)):
        raise ConfigError(f"unknown key {prefix}{unknown[0]}; known keys here: {', '.join(sorted(fields))}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _convert(hints[name], table[name], f"{prefix}{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"missing key {prefix}{name}; add it")
    return kind(**values)


def to_mapping(value: Any) -> Any:
    """The plain form of a configuration: dicts, lists, strings, numbers. The inverse of `from_mapping`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = _hints(type(value))
        items = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        # 64 given for a float is 64.0: equal objects have equal plain forms, and so equal fingerprints
        return {name: float(item) if hints[name] is float else to_mapping(item) for name, item in items.items()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_mapping(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_mapping(item) for item in value]
    if isinstance(value, dt.date):
        return value.isoformat()
    return value


@lru_cache(maxsize=128)
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, path)
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(f"{path} is {value!r}; allowed: {', '.join(map(repr, args))}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(args[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return {str(key): _convert(args[1], item, f"{path}.{key}") for key, item in value.items()}
    elif isinstance(hint, type):
        if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
            return from_mapping(hint, value, path=path)
        if issubclass(hint, Enum):
            try:
                return hint(value)
            except ValueError:
                allowed = ", ".join(repr(member.value) for member in hint)
                raise ConfigError(f"{path} is {value!r}; allowed: {allowed}") from None
        if hint is dt.date and isinstance(value, str):
            try:
                return dt.date.fromisoformat(value)
            except ValueError:
                raise ConfigError(f"{path} is {value!r}; expected a date like 2025-12-31") from None
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:
                raise ConfigError(f"{path} is an integer too large for a number with a fraction") from None
        # bool is an int and datetime is a date, but neither is what was meant
        if isinstance(value, hint) and (hint is type(value) or not isinstance(value, bool | dt.datetime)):
            return value
    expected = getattr(hint, "__name__", str(hint))
    raise ConfigError(f"{path} is {value!r}; expected {expected}")
