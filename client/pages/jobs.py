"""Long work of the pages: a command of pp-client as a child process, one at a time, with its progress and its end."""

from __future__ import annotations

import datetime as dt
import json
import logging
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from client.progress import LINE, LINES_VARIABLE
from daemons.process import Process
from pp_model.errors import PurchasePowerError

MOST_LINES = 400
KEPT_JOBS = 12
GRACE_SECONDS = 5.0

log = logging.getLogger(__name__)


class BusyError(PurchasePowerError):
    """Something is at work already."""


@dataclass(kw_only=True)
class Job:
    """One piece of work.

    Attributes:
        kind: "score" or "insight", say; the texts below `work.<kind>` are its own.
        about: what it is for, the cutoff's day say; "" for nothing.
        what: what it is at, as the command says it.
        done: share of that, None where it cannot be told.
        code: the exit code; None while it works.
        lines: what it wrote, without the lines of progress; the newest `MOST_LINES`.
    """

    kind: str
    about: str = ""
    began: dt.datetime
    ended: dt.datetime | None = None
    what: str = ""
    done: float | None = None
    code: int | None = None
    cancelled: bool = False
    lines: list[str] = field(default_factory=list)
    reaped: bool = False  # its process is no more, and its number may be another's

    @property
    def over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.code is not None

    @property
    def state(self) -> str:
        """ "working", "done", "cancelled" or "failed"."""
        if self.code is None:
            return "working"
        return "cancelled" if self.cancelled and self.code else "failed" if self.code else "done"

    @property
    def error(self) -> str:
        """The command's own last words, where it failed."""
        said = [line.removeprefix("pp-client: ") for line in self.lines if line.strip()]
        return said[-1] if said and self.state == "failed" else ""

    def take(self, line: str) -> None:
        """Takes in a line of the child."""
        if line.startswith(LINE):
            try:
                at = json.loads(line.removeprefix(LINE))
                self.what = str(at["what"])
                self.done = min(1.0, at["done"] / at["total"]) if at["total"] else None
            except (ValueError, KeyError, TypeError):
                return
            return
        self.lines.append(line)
        del self.lines[:-MOST_LINES]


class Jobs:
    """Starts work and watches it. The children end with this process: the kernel sees to it.

    Args:
        environment: of the children, beside the variable that asks for lines of progress.
        cwd: where they run.
    """

    def __init__(self, *, environment: Mapping[str, str], cwd: Path) -> None:
        self._environment = {**environment, LINES_VARIABLE: "1"}
        self._cwd = cwd
        self._lock = threading.Lock()
        self._process: Process | None = None
        self._jobs: list[Job] = []
        # A child is signalled when the thread that made it ends, and a web server's threads come and go.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="jobs")

    @property
    def all(self) -> list[Job]:
        """The newest first."""
        with self._lock:
            return self._jobs[::-1]

    @property
    def current(self) -> Job | None:
        """What is at work now."""
        with self._lock:
            return self._jobs[-1] if self._jobs and not self._jobs[-1].over else None

    def start(
        self, kind: str, command: Sequence[str], *, about: str = "", on_done: Callable[[Job], None] | None = None
    ) -> Job:
        """Begins the work.

        Args:
            on_done: called in a thread when it has ended well, before it counts as over.

        Raises:
            BusyError: something else is at work.
        """
        job = Job(kind=kind, about=about, began=dt.datetime.now(dt.UTC))
        with self._lock:
            if self._jobs and not self._jobs[-1].over:
                raise BusyError(f"{self._jobs[-1].kind} is at work; wait for its end, or cancel it first")
            self._jobs.append(job)
            del self._jobs[:-KEPT_JOBS]
        try:
            self._process = self._starter.submit(self._spawn, job, command, on_done).result()
        except OSError as error:
            self._end(job, 1, f"it cannot be started: {error.strerror}")
        return job

    def cancel(self) -> None:
        """Ends what is at work: SIGTERM, and after some seconds SIGKILL. Nothing half made is left to be used."""
        with self._lock:
            job, process = (self._jobs[-1] if self._jobs else None), self._process
            if job is None or job.reaped or process is None:
                return
            job.cancelled = True
            process.terminate()

        def insist() -> None:
            with self._lock:
                if not job.reaped:
                    process.kill()

        timer = threading.Timer(GRACE_SECONDS, insist)
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """Ends what is at work, for good."""
        self.cancel()
        self._starter.shutdown(wait=False)

    def _spawn(self, job: Job, command: Sequence[str], on_done: Callable[[Job], None] | None) -> Process:
        def ended(process: Process) -> None:
            with self._lock:
                code, job.reaped = process.reap(), True
            if code == 0 and on_done:
                try:
                    on_done(job)
                except (PurchasePowerError, OSError) as error:
                    log.error("the work's end failed", extra={"error": type(error).__name__})
            self._end(job, code, "")

        return Process(
            command,
            environment=self._environment,
            cwd=self._cwd,
            death_signal=signal.SIGTERM,
            on_line=job.take,
            on_end=ended,
        )

    def _end(self, job: Job, code: int, line: str) -> None:
        with self._lock:
            if line:
                job.lines.append(line)
            job.ended, job.code, self._process = dt.datetime.now(dt.UTC), code, None
