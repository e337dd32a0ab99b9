"""A run under the public check: judged after every round, put back when the model collapses, stopped at the second."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pp_model.errors import CheckpointError
from pp_model.plan import TrainingPlan
from server.checkpoints import load_latest, save_checkpoint, write_atomically
from server.optimizer import ServerOptimizer
from server.public_check import Finding, Guard, PublicCheck, Verdict
from server.rounds import RunStoppedError, TrainingState

MOST_COLLAPSES = 1  # after which training goes on; the next one ends the run

log = logging.getLogger(__name__)


class Watch:
    """One run's guard and its last good state, in a folder of their own, so that a resumed run continues under them.

    The last good state is the newest one at most half a margin above the best verdict. The optimiser starts anew where
    the model is put back: a poisoned update stays in its moments for a hundred rounds.

    Args:
        initial: the run's state before its first round.
        directory: for `guard.json` and the good state's checkpoint; one folder for one plan.

    Raises:
        CheckpointError: what is in the folder is not this run's.
    """

    def __init__(self, plan: TrainingPlan, initial: TrainingState, *, directory: Path) -> None:
        self._plan, self._directory = plan, directory
        self._check = PublicCheck(plan.model, plan.features)
        self._good = load_latest(directory, plan) or initial
        self._guard = self._load() or Guard(best=self._check.judge(initial.arrays))

    def resumed(self, state: TrainingState) -> TrainingState:
        """Where to go on from the latest checkpoint: from the good state, where that was kept later."""
        return self._good if self._good.round > state.round else state

    def after(
        self, state: TrainingState, *, tell: Callable[[Verdict, Finding], None] = lambda *_: None
    ) -> TrainingState:
        """What training goes on from after a round that moved the model: the same state, or the last good one.

        A state that is put back has the round of the one it replaces: a round is asked once.

        Args:
            tell: told what was found, before anything follows from it.

        Raises:
            RunStoppedError: the model has collapsed for the second time; the good state is kept, and a run that
                resumes goes on from there.
        """
        verdict = self._check.judge(state.arrays)
        self._guard, finding = self._guard.judged(verdict, round=state.round)
        tell(verdict, finding)
        if finding is Finding.COLLAPSED:
            return self._put_back(state, verdict)
        if finding is Finding.GOOD:
            self._keep(state)
        self._save()
        return state

    def final(self, state: TrainingState) -> TrainingState:
        """What to publish after the last round: a model that was bad at the end is the last good one instead."""
        return state if not self._guard.bad else replace(self._good, round=state.round)

    def judge(self, state: TrainingState) -> Verdict:
        """How good the model is that would be published now."""
        return self._check.judge(state.published)

    def _put_back(self, state: TrainingState, verdict: Verdict) -> TrainingState:
        since, stop = self._good.round, self._guard.collapses >= MOST_COLLAPSES
        # Who runs again after a stop is given as much again.
        self._guard = replace(self._guard.put_back(), collapses=0) if stop else self._guard.put_back()
        optimizer = ServerOptimizer(plan=self._plan.server, rounds=self._plan.rounds)
        renewed = TrainingState(round=state.round, arrays=self._good.arrays, optimizer=optimizer)
        self._keep(renewed)
        self._save()
        figures = {"log_loss": round(verdict.log_loss, 4), "spend_error": round(verdict.spend_error, 4)}
        log.warning("model collapsed", extra={"round": state.round, "back_to": since, **figures, "stop": stop})
        if stop:
            raise RunStoppedError(
                f"round {state.round}: the model has collapsed again on made-up customers (log loss of buying "
                f"{verdict.log_loss:.2f}, best {self._guard.best.log_loss:.2f}; spend off by "
                f"{verdict.spend_error:.2f} in the logarithm, best {self._guard.best.spend_error:.2f}). The model "
                f"stands as after round {since}. Some merchant's updates are not what the plan computes: with local "
                "trust, --aggregation norm_filter names those that are far too long; remove them, then run again."
            )
        return renewed

    def _keep(self, state: TrainingState) -> None:
        save_checkpoint(self._directory, state, self._plan, keep=1)
        self._good = state

    def _save(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file, json.dumps(self._guard.to_numbers()).encode())

    def _load(self) -> Guard | None:
        try:
            return Guard.from_numbers(json.loads(self._file.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(f"{self._file} is damaged; restore the folder from a copy, or remove it") from None

    @property
    def _file(self) -> Path:
        return self._directory / "guard.json"
