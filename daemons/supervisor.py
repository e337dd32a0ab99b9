"""Keeps child processes running: starts, restarts with back-off, tells their state, stops them in order."""

from __future__ import annotations

import datetime as dt
import logging
import math
import queue
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from daemons.process import Process
from daemons.restarts import RestartPolicy
from daemons.with_parent import CANNOT_RUN

log = logging.getLogger(__name__)
output = logging.getLogger("output")

READY_EVERY_SECONDS = 0.25
_LAST_WAIT_SECONDS = 5.0  # for the kernel to bury what was killed
_Answer = TypeVar("_Answer")


class State(StrEnum):
    """What a child does."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class Child:
    """A program to keep running.

    Attributes:
        environment: all of its environment; nothing is inherited from the supervisor.
        ready: whether it serves. Asked every `READY_EVERY_SECONDS` from start until it once says yes; an exception is a
            no. It holds up the supervisor, so it answers within a second. None: running from the start.
        death_signal: what the kernel sends it if the supervisor dies without a word (Linux).
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    cwd: Path | None = None
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    ready: Callable[[], bool] | None = None
    death_signal: signal.Signals = signal.SIGTERM


@dataclass(frozen=True, kw_only=True)
class ChildState:
    """A child at one moment, for health and metrics.

    Attributes:
        pid: None while there is no process.
        waits_until: next start (UTC) of a waiting child, else None.
        last_exit: exit code, minus a signal's number, or None before the first end.
    """

    name: str
    state: State
    pid: int | None
    waits_until: dt.datetime | None
    last_exit: int | None
    restarts: int


@dataclass
class _Slot:
    """What the supervisor's thread, and no other, knows of a child. Times are of the monotonic clock."""

    child: Child
    state: State = State.STOPPED
    process: Process | None = None
    started: float = 0.0
    due: float = 0.0
    kill_at: float = math.inf
    failures: int = 0
    starts: int = 0
    last_exit: int | None = None
    restart_asked: bool = False

    def seen(self) -> ChildState:
        wait = dt.timedelta(seconds=self.due - time.monotonic())
        return ChildState(
            name=self.child.name,
            state=self.state,
            pid=self.process.pid if self.process else None,
            waits_until=dt.datetime.now(dt.UTC) + wait if self.state is State.WAITING else None,
            last_exit=self.last_exit,
            restarts=max(0, self.starts - 1),
        )


class Supervisor:
    """Children that run until `stop`: whoever ends, with whatever code, is started again as its policy says.

    One thread owns everything; the others leave it messages, so all methods may be called from any thread, and
    `ask_to_stop` from a signal handler too. As a context manager it starts and stops.

    Args:
        children: started in this order, stopped in the reverse one.
        grace_seconds: between SIGTERM, to all at once, and SIGKILL to whoever is left.
        on_exit: (name, exit code, last lines) of a child that ended by itself; runs in the supervisor's thread.
        chance: uniform in [0, 1), for the jitter.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        grace_seconds: float = 10.0,
        on_exit: Callable[[str, int, Sequence[str]], None] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._slots = {child.name: _Slot(child) for child in children}
        if len(self._slots) != len(children):
            raise ValueError(f"two children have the same name: {[child.name for child in children]}")
        self._grace_seconds, self._on_exit, self._chance = grace_seconds, on_exit, chance
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._give_up_at = math.inf  # finite: stopping
        self._failed = False
        self._publish()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def failed(self) -> bool:
        """Whether it gave up because of an error of its own; all children are killed then."""
        return self._failed

    def start(self) -> None:
        """Starts all children, once, without waiting for them."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Stops all children and then the supervisor; returns at once."""
        self._inbox.put(self._begin_stop)

    def join(self) -> None:
        """Waits until it has stopped."""
        self._thread.join()

    def stop(self) -> None:
        """Stops all children; returns when they are gone, `grace_seconds` and five seconds later at the latest."""
        if self._thread.ident is not None:
            self.ask_to_stop()
            self.join()

    def restart(self, name: str) -> None:
        """Stops the child, with grace, and starts it again at once. One that waits goes on waiting: no short cut."""
        self._inbox.put(partial(self._begin_restart, self._slots[name]))

    def states(self) -> tuple[ChildState, ...]:
        """All children, in the order of their start."""
        return self._states

    # Below, everything runs in the supervisor's thread.

    def _run(self) -> None:
        try:
            for slot in self._slots.values():
                slot.state, slot.due = State.WAITING, time.monotonic()
            while self._step() < self._give_up_at and not self._finished():
                self._take_message()
        except Exception:
            self._failed = True
            log.critical("the supervisor failed and kills its children", exc_info=True)
        finally:
            for slot in reversed(self._slots.values()):
                if slot.process is not None:
                    log.error("child did not end in time", extra={"child": slot.child.name})
                    slot.process.kill()
                slot.state = State.STOPPED
            self._publish()

    def _finished(self) -> bool:
        return self._give_up_at < math.inf and not any(slot.process for slot in self._slots.values())

    def _take_message(self) -> None:
        """Acts on the next message, or returns when something is due."""
        dues = [slot.due for slot in self._slots.values() if slot.state is State.WAITING]
        dues += [slot.kill_at for slot in self._slots.values()]
        if any(slot.state is State.STARTING for slot in self._slots.values()):
            dues.append(time.monotonic() + READY_EVERY_SECONDS)
        due = min([self._give_up_at, *dues])
        try:
            message = self._inbox.get(timeout=max(0.0, due - time.monotonic()) if due < math.inf else None)
        except queue.Empty:
            return
        message()

    def _step(self) -> float:
        """Does what is due; the time it is now."""
        for slot in self._slots.values():
            if slot.state is State.WAITING and slot.due <= time.monotonic():
                self._launch(slot)
            if slot.state is State.STARTING and self._is_ready(slot.child):
                slot.state = State.RUNNING
                log.info("child runs", extra={"child": slot.child.name})
        for slot in reversed(self._slots.values()):
            if slot.process is not None and slot.kill_at <= time.monotonic():
                log.warning("child ignored SIGTERM and is killed", extra={"child": slot.child.name})
                slot.process.kill()
                slot.kill_at = math.inf
        self._publish()
        return time.monotonic()

    def _launch(self, slot: _Slot) -> None:
        child, slot.state, slot.started = slot.child, State.STARTING, time.monotonic()
        slot.starts += 1
        try:
            slot.process = Process(
                child.command,
                environment=child.environment,
                cwd=child.cwd,
                death_signal=child.death_signal,
                on_line=partial(output.info, extra={"child": child.name}),
                on_end=lambda process: self._inbox.put(partial(self._ended, slot, process)),
            )
        except OSError as error:
            self._died(slot, CANNOT_RUN, (f"could not be started: {error.strerror}",))
            return
        log.info("child started", extra={"child": child.name, "pid": slot.process.pid})

    def _ended(self, slot: _Slot, process: Process) -> None:
        code, slot.process, slot.kill_at = process.reap(), None, math.inf
        slot.last_exit = code
        if self._give_up_at < math.inf:
            slot.state = State.STOPPED
            log.info("child stopped", extra={"child": slot.child.name, "exit_code": code})
        elif slot.restart_asked:
            slot.restart_asked, slot.state, slot.due = False, State.WAITING, time.monotonic()
        else:
            self._died(slot, code, process.last_lines)

    def _died(self, slot: _Slot, code: int, last_lines: Sequence[str]) -> None:
        name, policy, now = slot.child.name, slot.child.restart, time.monotonic()
        slot.last_exit = code
        slot.failures = policy.failures(slot.failures, lived_seconds=now - slot.started)
        least = self._answer(partial(policy.least_seconds, code, last_lines), otherwise=policy.longest_seconds)
        wait = policy.delay_seconds(slot.failures, least_seconds=least, chance=self._chance())
        slot.state, slot.due = State.WAITING, now + wait
        self._publish()
        log.warning("child ended", extra={"child": name, "exit_code": code, "waits_seconds": round(wait, 1)})
        if self._on_exit is not None:
            self._answer(partial(self._on_exit, name, code, last_lines), otherwise=None)

    def _begin_restart(self, slot: _Slot) -> None:
        if slot.process is not None and not slot.restart_asked and self._give_up_at == math.inf:
            slot.restart_asked = True
            self._terminate(slot)

    def _begin_stop(self) -> None:
        if self._give_up_at < math.inf:
            return
        self._give_up_at = time.monotonic() + self._grace_seconds + _LAST_WAIT_SECONDS
        for slot in reversed(self._slots.values()):
            slot.state = State.STOPPED if slot.process is None else slot.state
            self._terminate(slot)

    def _terminate(self, slot: _Slot) -> None:
        if slot.process is not None:
            log.info("child is asked to stop", extra={"child": slot.child.name})
            slot.process.terminate()
            slot.kill_at = time.monotonic() + self._grace_seconds

    def _answer(self, ask: Callable[[], _Answer], *, otherwise: _Answer, level: int = logging.WARNING) -> _Answer:
        """What the caller's function says; `otherwise` if it raises, which must not end the supervisor."""
        try:
            return ask()
        except Exception:
            log.log(level, "a function given to the supervisor raised", exc_info=True)
            return otherwise

    def _is_ready(self, child: Child) -> bool:
        return child.ready is None or self._answer(child.ready, otherwise=False, level=logging.DEBUG)

    def _publish(self) -> None:
        self._states = tuple(slot.seen() for slot in self._slots.values())


def run_until_signal(supervisor: Supervisor) -> int:
    """Runs the supervisor, in the main thread, until SIGTERM or SIGINT; the exit code of the program.

    0 after an orderly stop, 1 if the supervisor failed. The signal handlers are as before afterwards.
    """
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: supervisor.ask_to_stop()) for number in numbers}
    try:
        supervisor.start()
        supervisor.join()
    finally:
        supervisor.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
    return 1 if supervisor.failed else 0
