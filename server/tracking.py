"""Rounds out of the registry into TensorBoard's or MLflow's own files, for whoever looks at curves there.

Only what was released or is public goes there: counts, refusals by code, the norm of the aggregate, the check on
made-up customers, and what the rounds have cost. No merchant is named. A run does not know that it is watched: this
reads the registry, and writes to files on this machine; nothing is sent anywhere.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from pp_model.accounting import epsilon_spent
from pp_model.errors import PurchasePowerError
from pp_model.plan import TrainingPlan
from server.registry import Registry, RoundRecord, RunRecord

NUMBER = "registry_round"  # the round's number in the registry, written with its figures: by it a round is known again

Figures = Mapping[str, float]


class TrackingError(PurchasePowerError):
    """Figures cannot be written: a package is missing, or the folder is not what it should be."""


class Writer(Protocol):
    """Where figures go. A context manager: at its end all is on the disk."""

    def last(self, run: RunRecord) -> int:
        """The number in the registry of the last round that is there of this run; 0 where none is."""

    def write(self, run: RunRecord, entry: RoundRecord, figures: Figures) -> None:
        """One round, whole or not at all."""

    def end(self, run: RunRecord) -> None:
        """The run is over."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Tracker:
    """Writes each round once, in order, however often it is stopped and started.

    Args:
        told: (rounds written, rounds there are) after each round.
    """

    def __init__(
        self, registry: Registry, writer: Writer, *, told: Callable[[int, int], None] = lambda *_: None
    ) -> None:
        self._registry, self._writer, self._told = registry, writer, told
        self._last: dict[int, int] = {}
        self._ended: set[int] = set()
        self._seen = 0  # no round up to this number is of interest any more

    def catch_up(self) -> int:
        """Writes what is new; how many rounds that were."""
        runs = {run.id: run for run in self._registry.run_records()}
        fresh = self._fresh(runs)
        for done, (number, run, entry) in enumerate(fresh, start=1):
            plan = self._registry.plan(run.id)
            self._writer.write(run, entry, {**figures_of(entry, plan), NUMBER: float(number)})
            self._last[run.id] = number
            self._told(done, len(fresh))
        for run in runs.values():
            if run.state != "running" and run.id not in self._ended:
                self._ended.add(run.id)
                self._writer.end(run)
        return len(fresh)

    def _fresh(self, runs: Mapping[int, RunRecord]) -> list[tuple[int, RunRecord, RoundRecord]]:
        rows = self._registry.rounds_after(self._seen)
        newest = {run: number for number, run, _ in rows}
        fresh: list[tuple[int, RunRecord, RoundRecord]] = []
        waiting: list[int] = []
        for number, run, entry in rows:
            known = runs.get(run)
            judged = entry.void or entry.finding or number < newest[run]
            if known is None or (known.state == "running" and not judged):  # it was recorded a moment ago
                waiting.append(number)
            elif number > self._last_of(known):
                fresh.append((number, known, entry))
        self._seen = min(waiting) - 1 if waiting else max((number for number, _, _ in rows), default=self._seen)
        return fresh

    def _last_of(self, run: RunRecord) -> int:
        if run.id not in self._last:
            self._last[run.id] = self._writer.last(run)
        return self._last[run.id]


def figures_of(entry: RoundRecord, plan: TrainingPlan) -> dict[str, float]:
    """What is written of a round: by name, all of it released or public."""
    found: dict[str, float] = {
        "cohort": entry.cohort,
        "completions": entry.completions,
        "void": float(entry.void),
        "epsilon": epsilon_spent([plan.event.times(entry.round)], delta=plan.delta),
    }
    found |= {f"refusals/{code}": float(count) for code, count in entry.refusals.items()}
    if not entry.void:
        found["norm"] = entry.norm
    if entry.log_loss is not None and entry.spend_error is not None:
        found |= {"public_check/log_loss": entry.log_loss, "public_check/spend_error": entry.spend_error}
    return found


def open_writer(kind: str, folder: Path) -> Writer:
    """The writer "tensorboard" or "mlflow" into a folder, made where it is missing.

    Raises:
        TrackingError: its package is not installed.
    """
    from server.tracking_writers import MlflowWriter, TensorBoardWriter  # which need this module

    folder.mkdir(parents=True, exist_ok=True)
    return TensorBoardWriter(folder) if kind == "tensorboard" else MlflowWriter(folder)


def name_of(run: RunRecord) -> str:
    """A run's name there: the plan's, with what tells it from every other run of any platform."""
    return f"{run.plan_id}-run-{run.id}-{run.plan_fingerprint[:8]}"


def seconds_of(entry: RoundRecord) -> float:
    """When a round ended, as seconds since 1970; 0 where an earlier version recorded it."""
    return dt.datetime.fromisoformat(entry.ended).timestamp() if entry.ended else 0.0
