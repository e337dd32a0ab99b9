"""Two published models side by side: where they come from, how their plans differ, and how far apart they are.

All of it is public or was released: plans, prices, the check on made-up customers, the published arrays.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pp_model.config import to_mapping
from pp_model.errors import ArraysError, ConfigError
from pp_model.plan import TrainingPlan
from pp_model.serialization import Arrays, from_safetensors, shapes_of
from server.registry import ModelRecord, Registry


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two.

    Attributes:
        rounds: of its plan.
        merchants: the most whose releases were in one round of it.
        lineage: its number, then that of the model it goes back to or was trained from, and so on to the first.
    """

    model: ModelRecord
    plan_id: str
    rounds: int
    merchants: int
    lineage: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A value in which the plans differ.

    Attributes:
        key: with its tables, like dp.noise_multiplier.
        first, second: as text; "" where the plan has no such key.
    """

    key: str
    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far the second model's parameters are from the first's.

    Attributes:
        norm: L2 norm of the difference of all arrays together.
        relative: the same over the first's norm; infinite where that is 0 and the models differ.
        arrays: the norm by array.
    """

    norm: float
    relative: float
    arrays: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models side by side.

    Attributes:
        plan: in which values their plans differ, by key.
        distance: None where the models have other shapes, or a file is gone or was changed.
    """

    first: Side
    second: Side
    plan: tuple[Difference, ...]
    distance: Distance | None


def compare_models(registry: Registry, first: int, second: int) -> Comparison:
    """The two models with these numbers.

    Raises:
        ConfigError: there is no such model.
    """
    models = {record.id: record for record in registry.models()}
    for number in (first, second):
        if number not in models:
            raise ConfigError(f"there is no model {number}; there are: {', '.join(map(str, models)) or 'none'}")
    plans = [registry.plan(models[number].run) for number in (first, second)]
    one, two = (_side(models, number, registry, plan) for number, plan in zip((first, second), plans, strict=True))
    return Comparison(
        first=one,
        second=two,
        plan=plan_differences(*plans),
        distance=_distance(_arrays(one.model), _arrays(two.model)),
    )


def plan_differences(first: TrainingPlan, second: TrainingPlan) -> tuple[Difference, ...]:
    """The values in which two plans differ, by key."""
    one, two = _flat(to_mapping(first)), _flat(to_mapping(second))
    return tuple(
        Difference(key=key, first=one.get(key, ""), second=two.get(key, ""))
        for key in sorted({*one, *two})
        if one.get(key, "") != two.get(key, "")
    )


def _side(models: Mapping[int, ModelRecord], number: int, registry: Registry, plan: TrainingPlan) -> Side:
    return Side(
        model=models[number],
        plan_id=plan.plan_id,
        rounds=plan.rounds,
        merchants=registry.largest_cohort(plan),
        lineage=tuple(_lineage(models, number)),
    )


def _lineage(models: Mapping[int, ModelRecord], number: int) -> list[int]:
    found: list[int] = []
    record = models.get(number)
    while record is not None and record.id not in found:
        found.append(record.id)
        before = record.parent if record.rollback_of is None else record.rollback_of
        record = None if before is None else models.get(before)
    return found


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            found[f"{prefix}{name}"] = ", ".join(map(_text, value))
        else:
            found[f"{prefix}{name}"] = _text(value)
    return found


def _text(value: object) -> str:
    if isinstance(value, Mapping):  # a merchant on the roster of a secure sum
        return str(value.get("name", ""))
    return str(value)


def _arrays(model: ModelRecord) -> Arrays | None:
    try:
        data = Path(model.file).read_bytes()
        return from_safetensors(data)[0] if hashlib.sha256(data).hexdigest() == model.sha256 else None
    except (OSError, ArraysError):
        return None


def _distance(first: Arrays | None, second: Arrays | None) -> Distance | None:
    if first is None or second is None or shapes_of(first) != shapes_of(second):
        return None
    apart = {name: _norm(second[name].astype(np.float64) - first[name].astype(np.float64)) for name in sorted(first)}
    norm = math.hypot(*apart.values())
    length = math.hypot(*(_norm(array.astype(np.float64)) for array in first.values()))
    relative = 0.0 if norm == 0 else norm / length if length > 0 else math.inf
    return Distance(norm=norm, relative=relative, arrays=apart)


def _norm(array: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(array))
