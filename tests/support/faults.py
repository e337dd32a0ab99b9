"""What goes wrong on purpose in a deployment of real processes, and what is looked at afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from server.home import PlatformHome
from server.registry import Registry, RoundRecord
from simulations.deployment import Deployment, DeploymentError, Program, clean_environment, command, tail, wait_until
from tests.support.deployed import charges, family, offer_plan, open_shop

LATE_SECONDS = 5.0  # how long after its deadline a round may end
LOOK_SECONDS = 0.02
MANY_ROUNDS = 400  # more than a test plays; it stops the run when it has seen enough


def small_town(deployment: Deployment, *names: str, epsilon: str = "1", rounds: int, timeout: float, least: int) -> str:
    """A platform and merchants, started, and the name of a signed plan: who is late, is missed after `timeout`."""
    deployment.make_platform()
    deployment.server.start()
    for name in names:
        open_shop(deployment, name)
        deployment.merchants[name].start(wait_seconds=0)
    plan_of(deployment, "spring", epsilon=epsilon, rounds=rounds, timeout=timeout, least=least)
    for name in names:
        deployment.merchants[name].wait_ready()
    return "spring"


def plan_of(deployment: Deployment, name: str, *, epsilon: str = "1", rounds: int, timeout: float, least: int) -> None:
    """A signed plan of a linear model."""
    flags = ["--round-timeout", str(timeout), "--min-merchants", str(least), "--encoder", "linear", "--init", "none"]
    offer_plan(deployment, name, *flags, rounds=rounds, epsilon=epsilon)


class Training:
    """`pp-server run` as a process of its own, and every round at the moment when it is over.

    Attributes:
        ended: moment of each round's record, of the monotonic clock, in order.
    """

    def __init__(self, deployment: Deployment, plan: str, *flags: str) -> None:
        self._deployment, self.plan = deployment, plan
        self._log = deployment.root / f"run-{time.monotonic_ns()}.log"
        line = command("pp-server", "run", plan, "--home", str(deployment.platform_home), "--wait", "120", *flags)
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=clean_environment()
            )
        self.ended: list[float] = []
        self._before = len(rounds_played(deployment, plan))
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def output(self) -> str:
        """What it printed."""
        return self._log.read_text(encoding="utf-8")

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    @property
    def rounds(self) -> list[RoundRecord]:
        """The rounds since it was started."""
        return rounds_played(self._deployment, self.plan)[self._before :]

    def wait(self, seconds: float) -> int:
        """Its exit code.

        Raises:
            DeploymentError: it does not end in time.
        """
        wait_until(lambda: self.code is not None, seconds, what=f"the end of run {self.plan}", log=self._log)
        return self._process.wait()

    def wait_for(self, moment: Callable[[], bool], seconds: float, *, what: str) -> None:
        """Returns when `moment` has come.

        Raises:
            DeploymentError: it has not in time, or the command has ended before.
        """
        deadline = time.monotonic() + seconds
        while not moment():
            if time.monotonic() > deadline or self.code is not None:
                raise DeploymentError(f"no {what} (exit code {self.code}):\n{tail(self._log)}")
            time.sleep(LOOK_SECONDS)

    def wait_round_with(self, names: Sequence[str], seconds: float, *, after: int = 0) -> RoundRecord:
        """The first round of number `after` or later, counted from this start, that used exactly these releases."""
        found: list[RoundRecord] = []

        def came() -> bool:
            found[:] = [entry for entry in self.rounds[after:] if set(entry.merchants) == set(names)]
            return bool(found)

        self.wait_for(came, seconds, what=f"round of {', '.join(names)}")
        return found[0]

    def wait_mid_round(self, name: str, seconds: float = 60.0) -> None:
        """Returns when the merchant has just been charged for a task, and the round of it is not over."""
        seen = len(tasks_charged(self._deployment, name))

        def charged() -> bool:
            return len(tasks_charged(self._deployment, name)) > seen

        self.wait_for(charged, seconds, what=f"charge of {name}")

    def slowest(self) -> float:
        """The longest time between the ends of two rounds that followed each other, in seconds."""
        return max(after - before for before, after in pairwise(self.ended))

    def stop(self) -> None:
        """Ends the command alone: the run goes on."""
        self._over.set()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)

    def _watch(self) -> None:
        known = self._before
        while not self._over.wait(0.1):
            now = len(rounds_played(self._deployment, self.plan))
            self.ended += [time.monotonic()] * (now - known)
            known = now


@contextmanager
def training(deployment: Deployment, plan: str, *flags: str) -> Iterator[Training]:
    """A `Training` that ends with the block."""
    started = Training(deployment, plan, *flags)
    try:
        yield started
    finally:
        started.stop()


def rounds_played(deployment: Deployment, plan: str) -> list[RoundRecord]:
    """All rounds of a plan, over all its runs, in the order in which they were played."""
    with Registry(PlatformHome(deployment.platform_home).registry) as registry:
        runs = [run.id for run in registry.run_records() if run.plan_id == plan]
        return [entry for run in runs for entry in registry.rounds(run)]


def rounds_with(rounds: Sequence[RoundRecord], name: str) -> int:
    """For how many rounds the merchant's release came. A void round is played again with the same task: it is one."""
    return len({entry.round for entry in rounds if name in entry.merchants})


def tasks_charged(deployment: Deployment, name: str) -> list[str]:
    """The task of every charge in a merchant's ledger, in order."""
    return [str(charge["task"]) for charge in charges(deployment, name)]


def charged_twice(deployment: Deployment, name: str) -> list[str]:
    """The tasks that have more than one charge."""
    return [task for task, times in Counter(tasks_charged(deployment, name)).items() if times > 1]


def process_of(program: Program, words: str) -> int:
    """The number of the one process below a program whose command line has these words.

    Raises:
        DeploymentError: there is none, or there are several.
    """
    found = [pid for pid, _ in family([program]) if words in _command_line(pid)]
    if len(found) != 1:
        raise DeploymentError(f"{program.name} has {len(found)} processes {words!r}; expected one")
    return found[0]


def has_process(program: Program, words: str) -> bool:
    """Whether some process below a program has these words in its command line."""
    return any(words in _command_line(pid) for pid, _ in family([program]))


def kill(pid: int) -> None:
    """SIGKILL; one that has ended by itself is as dead."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_all(program: Program) -> None:
    """SIGKILL to the program and everything below it at once, as a power cut does: nobody signs off."""
    assert program.process is not None
    below = {pid for pid, _ in family([program])} - {program.process.pid}
    for pid in [*below, program.process.pid]:  # the supervisor last: its children would get its SIGTERM before our kill
        kill(pid)
    program.process.wait()


def events(log: Path, event: str) -> list[dict[str, Any]]:
    """The lines of a structured log about one event."""
    if not log.exists():
        return []
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line.get("event") == event]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
