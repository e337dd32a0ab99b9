"""TensorBoard's event files and MLflow's database, each in a folder of this machine. See `server.tracking`.

Both packages are optional, and are loaded when a writer is made.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy.exc import SQLAlchemyError

from server.registry import RoundRecord, RunRecord
from server.tracking import NUMBER, Figures, TrackingError, name_of, seconds_of

EXPERIMENT = "purchase-power"
_PLAN_TAG, _RUN_TAG = "purchase_power.plan", "purchase_power.run"
# MLflow reads them when it is loaded. Its database is a file, so it has nobody to speak to but its makers.
_NOBODY_IS_TOLD = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",  # the log is set up already
}


class TensorBoardWriter:
    """Event files, a folder below `folder` for each run: `tensorboard --logdir FOLDER` shows them.

    A round is one record of an event file, which is read whole or not at all.

    Raises:
        TrackingError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._event = _loaded("tensorboard.compat.proto.event_pb2", "TensorBoard")
        self._summary = _loaded("tensorboard.compat.proto.summary_pb2", "TensorBoard")
        self._files = _loaded("tensorboard.summary.writer.event_file_writer", "TensorBoard")
        self._reading = _loaded("tensorboard.backend.event_processing.event_file_loader", "TensorBoard")
        self._folder = folder
        self._open: dict[int, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._open.values():
            file.close()

    def last(self, run: RunRecord) -> int:
        """See `Writer`."""
        numbers = [
            value.simple_value
            for path in sorted((self._folder / name_of(run)).glob("events.out.tfevents.*"))
            for event in self._reading.LegacyEventFileLoader(str(path)).Load()
            for value in event.summary.value
            if value.tag == NUMBER
        ]
        return int(max(numbers, default=0))

    def write(self, run: RunRecord, entry: RoundRecord, figures: Figures) -> None:
        """See `Writer`."""
        if run.id not in self._open:
            self._open[run.id] = self._files.EventFileWriter(str(self._folder / name_of(run)))
        values = [self._summary.Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        summary = self._summary.Summary(value=values)
        self._open[run.id].add_event(self._event.Event(wall_time=seconds_of(entry), step=entry.round, summary=summary))
        self._open[run.id].flush()

    def end(self, run: RunRecord) -> None:
        """See `Writer`."""
        if file := self._open.pop(run.id, None):
            file.close()


class MlflowWriter:
    """MLflow's database `mlflow.db` in `folder`: `mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db` shows it.

    A round is one transaction of it.

    Raises:
        TrackingError: MLflow is not installed, or the file is none of its databases.
    """

    def __init__(self, folder: Path) -> None:
        os.environ.update(_NOBODY_IS_TOLD)
        tracking = _loaded("mlflow.tracking", "MLflow")
        self._entities = _loaded("mlflow.entities", "MLflow")
        failure = _loaded("mlflow.exceptions", "MLflow").MlflowException
        address = f"sqlite:///{folder.absolute() / 'mlflow.db'}"  # and whatever the environment says, no other
        try:
            self._client = tracking.MlflowClient(tracking_uri=address, registry_uri=address)
            found = self._client.get_experiment_by_name(EXPERIMENT)
            files = (folder.absolute() / "artifacts").as_uri()
            self._experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT, files)
        except (failure, SQLAlchemyError, OSError) as error:
            why = str(error).partition("\n")[0]
            raise TrackingError(f"{address} is no database of MLflow's: {why}; name another folder") from None
        self._runs: dict[int, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is left to write."""

    def last(self, run: RunRecord) -> int:
        """See `Writer`."""
        theirs = self._known(run)
        history = [] if theirs is None else self._client.get_metric_history(theirs, NUMBER)
        return int(max((metric.value for metric in history), default=0))

    def write(self, run: RunRecord, entry: RoundRecord, figures: Figures) -> None:
        """See `Writer`."""
        theirs = self._known(run) or self._new(run, entry)
        when = round(1000 * seconds_of(entry))
        metrics = [self._entities.Metric(name, value, when, entry.round) for name, value in figures.items()]
        self._client.log_batch(theirs, metrics=metrics)

    def end(self, run: RunRecord) -> None:
        """See `Writer`."""
        theirs = self._known(run)
        if theirs is not None:
            self._client.set_terminated(theirs, status="FINISHED" if run.state == "finished" else "FAILED")

    def _known(self, run: RunRecord) -> str | None:
        if run.id not in self._runs:
            wanted = f"tags.`{_RUN_TAG}` = '{run.id}' and tags.`{_PLAN_TAG}` = '{run.plan_fingerprint}'"
            found = self._client.search_runs([self._experiment], filter_string=wanted)
            if not found:
                return None
            self._runs[run.id] = found[0].info.run_id
        return self._runs[run.id]

    def _new(self, run: RunRecord, entry: RoundRecord) -> str:
        tags = {_RUN_TAG: str(run.id), _PLAN_TAG: run.plan_fingerprint}
        made = self._client.create_run(
            self._experiment, start_time=round(1000 * seconds_of(entry)), tags=tags, run_name=name_of(run)
        )
        self._runs[run.id] = str(made.info.run_id)
        return self._runs[run.id]


def _loaded(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TrackingError(
            f"{package} is not installed ({error.name or error} is missing). Install it: "
            "pip install 'purchase-power[tracking]'"
        ) from None
