"""The platform's Flower ServerApp: resume or begin, train the plan, publish the model."""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from pp_model.errors import CheckpointError, ConfigError
from pp_model.plan import TrainingPlan
from pp_model.serialization import Arrays, Shapes, fingerprint, shapes_of
from server.checkpoints import KEEP, load_latest, save_checkpoint, write_atomically
from server.model_card import publish_model
from server.registry import Registry
from server.rounds import RoundOutcome, TrainingState, initial_state
from server.secure_strategy import SecureSumStrategy
from server.strategy import AnchorBook, PurchasePowerStrategy
from server.watch import Watch

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What the platform must know to run one plan.

    Attributes:
        initial: all arrays of the model before the first round; their fingerprint is the plan's `init_fingerprint`.
        trainable: names and shapes of those that merchants train and release.
        directory: for `checkpoints/`, `model.safetensors` and `model_card.md`; one folder for one plan.
        registry: SQLite file.
        parent_model: id in the registry of the model that `initial` is, if it is one.
        public_check: whether the model is watched on made-up customers; false only where it is no model, in a test.
        keep_checkpoints: how many of the last rounds to keep; None keeps them all.
        merchants: the name of each node that may be asked, looked up anew in every round; None: all that are connected.
        anchors: how far each merchant's ledger was when last seen; None: nobody keeps count.
        sign: called with the id of the published model, before the run is finished.
    """

    plan: TrainingPlan
    initial: Arrays
    trainable: Shapes
    directory: Path
    registry: Path
    parent_model: int | None = None
    public_check: bool = True
    keep_checkpoints: int | None = KEEP
    merchants: Callable[[], Mapping[int, str]] | None = None
    anchors: AnchorBook | None = None
    sign: Callable[[Registry, int], None] | None = None

    def __post_init__(self) -> None:
        if fingerprint(self.initial) != self.plan.init_fingerprint:
            raise ConfigError(
                f"the initial arrays have the fingerprint {fingerprint(self.initial)[:12]}..., the plan says "
                f"{self.plan.init_fingerprint[:12] or 'none'}...; use the arrays that the plan was made with"
            )
        shapes = shapes_of(self.initial)
        for name, shape in self.trainable.items():
            if shapes.get(name) != tuple(shape):
                raise ConfigError(f"trainable array {name!r} of shape {tuple(shape)} is not in the initial arrays")

    @property
    def begun_file(self) -> Path:
        """The number of the last round of a secure sum that anybody was asked for."""
        return self.directory / "begun.txt"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.directory / "checkpoints"


def make_server_app(settings_for: Callable[[Context], ServerSettings]) -> ServerApp:
    """The app that Flower runs; `settings_for` says what to train from the run's context."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        train_and_publish(grid, settings_for(context))

    return app


def train_and_publish(grid: Grid, settings: ServerSettings) -> int:
    """The registry's id of the published model, trained from the latest checkpoint or from the start.

    Raises:
        CheckpointError: the folder's checkpoints are of another plan, or all damaged.
        RunStoppedError: three void rounds in a row; running again resumes.
    """
    plan = settings.plan
    start = initial_state(plan, settings.initial)
    state = load_latest(settings.checkpoints, plan) or start
    watch = Watch(plan, start, directory=settings.checkpoints / "watch") if settings.public_check else None
    if watch is not None:
        state = watch.resumed(state)
    if plan.secure_sum is not None:
        state = replace(state, round=max(state.round, _begun(settings.begun_file, plan)))  # asked once, ever
    with Registry(settings.registry) as registry:
        run = registry.start_run(plan, first_round=state.round + 1)

        names: dict[int, str] = {}  # of all who were ever asked: who is removed in the middle of a round keeps its name

        def merchants() -> Mapping[int, str]:
            current = settings.merchants() if settings.merchants else {}
            names.update(current)
            return current

        def record(outcome: RoundOutcome, seconds: float) -> None:
            registry.record_round(run, outcome, seconds=seconds, names=names)

        def save(state: TrainingState) -> None:
            path = save_checkpoint(settings.checkpoints, state, plan, keep=settings.keep_checkpoints)
            registry.record_checkpoint(run, state.round, hashlib.sha256(path.read_bytes()).hexdigest())

        def begin(round: int) -> None:
            if plan.secure_sum is not None:
                write_atomically(settings.begun_file, str(round).encode())
            wait = dt.timedelta(seconds=plan.server.round_timeout_seconds)
            registry.ask_round(run, round, deadline=dt.datetime.now(dt.UTC) + wait)

        def after(state: TrainingState) -> TrainingState:
            if watch is None:
                return state
            return watch.after(state, tell=lambda *found: registry.record_check(run, state.round, *found))

        common: dict[str, Any] = {
            "plan": plan,
            "state": state,
            "trainable": settings.trainable,
            "record": record,
            "save": save,
            "after": after,
            "merchants": merchants if settings.merchants else None,
            "anchors": settings.anchors,
            "begin": begin,
        }
        secure = plan.secure_sum is not None
        strategy = SecureSumStrategy(**common) if secure else PurchasePowerStrategy(**common)
        try:
            strategy.summary()
            final = strategy.start(grid)
            if watch is not None:
                final = watch.final(final)
            model = publish_model(
                settings.directory,
                plan,
                final.published,
                registry=registry,
                run=run,
                merchants=registry.largest_cohort(plan),
                parent=settings.parent_model,
                verdict=watch.judge(final) if watch else None,
            )
            if settings.sign:
                settings.sign(registry, model)
        except BaseException:
            registry.end_run(run, "failed")
            raise
        registry.end_run(run, "finished")
    log.info("model published", extra={"run_id": run, "model_id": model})
    return model


def _begun(file: Path, plan: TrainingPlan) -> int:
    """The last round that was begun; 0 before any.

    Raises:
        CheckpointError: the file was changed by hand.
    """
    try:
        begun = int(file.read_text())
    except FileNotFoundError:
        return 0
    except ValueError:
        begun = -1
    if not 0 <= begun <= plan.rounds:
        raise CheckpointError(f"{file} holds no round of the plan; restore the folder from a copy")
    return begun
