"""How a run goes, on the screen: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from pp_model.plan import TrainingPlan
    from server.registry import Registry, RoundRecord


class Watching:
    """Shows the rounds of a plan's current run, out of the registry, as they come. Use it in a `with`.

    Args:
        after_run: id of the last run that is not of interest.
    """

    def __init__(self, registry: Registry, plan: TrainingPlan, *, after_run: int) -> None:
        self._registry, self._plan, self._after = registry, plan, after_run
        self._seen: dict[int, int] = {}
        self._terminal = sys.stderr.isatty()
        self._bar = Progress(
            TextColumn("round"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not self._terminal,
        )
        self._task = self._bar.add_task("round", total=plan.rounds)

    def __enter__(self) -> Watching:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def look(self) -> None:
        """Shows what is new."""
        for run in self._registry.run_records():
            if run.id <= self._after or run.plan_fingerprint != self._plan.fingerprint:
                continue
            if run.id not in self._seen and run.first_round > 1:
                self._line(f"continues with round {run.first_round}")
            rounds = self._registry.rounds(run.id)
            for entry in rounds[self._seen.get(run.id, 0) :]:
                self._show(entry)
            self._seen[run.id] = len(rounds)
            self._bar.update(self._task, completed=run.last_round)

    def _show(self, entry: RoundRecord) -> None:
        if not self._terminal or entry.void or entry.refusals or entry.offenders:
            self._line(round_line(entry, self._plan.rounds))

    def _line(self, text: str) -> None:
        if self._terminal:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


def round_line(entry: RoundRecord, rounds: int) -> str:
    """One round in one line; refusals by code, what could not be used by the merchant's name."""
    parts = [f"round {entry.round}/{rounds}: {entry.completions} of {entry.cohort} released in {entry.seconds:.1f} s"]
    parts += [f"{count} refused ({code})" for code, count in entry.refusals.items()]
    parts += [f"{name}: {code}" for name, code in entry.offenders.items()]
    return "; ".join([*parts, *(["void, asked again"] if entry.void else [])])
