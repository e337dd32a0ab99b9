"""What the runner says of itself to this machine's status page: a small private file beside the ledger."""

from __future__ import annotations

import datetime as dt
import json
import logging
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

from daemons.files import write_private
from pp_model.config import from_mapping, to_mapping
from pp_model.errors import ConfigError

FILE_NAME = "runner.json"


@dataclass(frozen=True, kw_only=True)
class ShopStatus:
    """The runner at one moment. None of it leaves the machine.

    Attributes:
        pid: of the process that wrote it.
        ready: whether it takes tasks.
        newest_order: day of the newest order when they were last looked through; "" before.
        answered: tasks that were answered with a release since the process started.
        refused: tasks refused since then, by code.
        last_task: time (UTC) of the last task, whatever became of it; "" before.
        fault: why the orders could not be read beforehand; "" where they could.
    """

    pid: int
    ready: bool = False
    newest_order: str = ""
    answered: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    last_task: str = ""
    fault: str = ""


def read_status(folder: Path) -> ShopStatus | None:
    """The last one written in the folder; None where there is none."""
    try:
        return from_mapping(ShopStatus, json.loads((folder / FILE_NAME).read_text(encoding="ascii")))
    except (OSError, ValueError, TypeError, ConfigError):
        return None


class StatusKeeper(logging.Handler):
    """Keeps the status file up to date; as a log handler it counts what becomes of tasks.

    A disk that does not take the file costs the file, never a task.
    """

    def __init__(self, folder: Path, *, pid: int) -> None:
        super().__init__()
        self._folder, self._status = folder, ShopStatus(pid=pid)
        self._writing = threading.RLock()
        self.update()

    def update(self, **changes: object) -> None:
        """The status with `changes`, written down."""
        with self._writing:
            self._status = replace(self._status, **changes)  # type: ignore[arg-type]
            try:
                text = json.dumps(to_mapping(self._status)).encode("ascii")
                write_private(self._folder / FILE_NAME, text, replace=True)
            except OSError:
                return

    def emit(self, record: logging.LogRecord) -> None:
        """Takes in an event of `client.task`; others are none of ours."""
        event, code = record.getMessage(), str(getattr(record, "code", ""))
        if event not in ("task refused", "task trained"):
            return
        with self._writing:
            refused, answered = dict(self._status.refused), self._status.answered
            if event == "task refused":
                refused[code] = refused.get(code, 0) + 1
            when = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="seconds")
            self.update(refused=refused, answered=answered + (event == "task trained"), last_task=when)
