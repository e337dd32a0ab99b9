"""A platform and its merchants as real processes on this machine, driven by the commands that people type.

For the demonstration, the end-to-end tests and the benchmarks: each program has its own folder, its own ports and its
own log; they meet over TLS on loopback and nowhere else.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import httpx

from pp_model.errors import PurchasePowerError
from simulations.ports import free_port

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP_SECONDS = 60.0  # two graces of a merchant's daemon, and as much again on a busy machine
READY_SECONDS = 240.0  # to load PyTorch on a busy machine; most need five
MODULES = {"pp-server": "server.cli", "pp-client": "client.cli"}


class DeploymentError(PurchasePowerError):
    """A program that failed or did not come up; the text says which, and holds what it printed or the end of its log.

    Attributes:
        exit_code: of a command that failed; None where no command ended.
    """

    def __init__(self, text: str, *, exit_code: int | None = None) -> None:
        self.exit_code = exit_code
        super().__init__(text)


class Commands(Protocol):
    """How a command of `pp-server` or `pp-client` is carried out."""

    def __call__(self, program: str, *arguments: str, timeout: float = ...) -> str:
        """See `run`."""


@dataclass(kw_only=True)
class Program:
    """One running program.

    Attributes:
        health: URL that answers 200 once it serves.
        log: what it writes to its terminal.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    health: str
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self, *, wait_seconds: float = READY_SECONDS) -> None:
        """Starts it, and returns when it serves; at once where `wait_seconds` is 0.

        Raises:
            DeploymentError: it ended, or does not serve in time.
        """
        with self.log.open("ab") as output, _signals_held():
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(self.environment)
            )
        if wait_seconds:
            self.wait_ready(wait_seconds)

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Returns when it serves.

        Raises:
            DeploymentError: it ended, or does not serve in time.
        """
        wait_until(lambda: self.ready or not self.alive, seconds, what=f"{self.name} to serve", log=self.log)
        if not self.alive:
            raise DeploymentError(f"{self.name} ended before it served:\n{tail(self.log)}")

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    @property
    def ready(self) -> bool:
        """Whether it says that it serves."""
        try:
            return httpx.get(self.health, timeout=2.0, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def ask_to_stop(self) -> None:
        """SIGTERM; returns at once."""
        if self.process is not None and self.alive:
            self.process.send_signal(signal.SIGTERM)

    def stop(self, *, seconds: float = STOP_SECONDS) -> int:
        """Asks it to end, kills it if it does not, and gives its exit code."""
        self.ask_to_stop()
        return self.wait(seconds)

    def wait(self, seconds: float) -> int:
        """The exit code of a program that was asked to end, or never started; after `seconds` it is killed."""
        if self.process is None:
            return 0
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def kill(self) -> None:
        """SIGKILL: what a power cut looks like to the program."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


class Deployment:
    """A platform and merchants below one folder. A context manager: what it started, it stops.

    Args:
        root: an empty folder, or one that is made.
        platform: the platform's name.
        commands: carries out the commands; `run` gives each a process of its own, as a shell does.
    """

    def __init__(self, root: Path, *, platform: str = "fair", commands: Commands | None = None) -> None:
        self.root, self._commands = root.resolve(), commands or run
        self.root.mkdir(parents=True, exist_ok=True)
        self.port, self.merchants = free_port(), dict[str, Program]()
        self._ports = [free_port(), free_port()]
        self._name = platform
        self.server = Program(
            name="pp-server",
            command=command("pp-server", "up", "--home", str(self.platform_home)),
            environment=clean_environment(),
            health=f"http://127.0.0.1:{self._ports[0]}/health",
            log=self.root / "pp-server.log",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> dict[str, int]:
        """Stops all programs that run; the exit code of each."""
        programs = [*self.merchants.values(), self.server]
        for program in programs:
            program.ask_to_stop()  # all at once, then wait for each
        return {program.name: program.wait(STOP_SECONDS) for program in programs}

    @property
    def platform_home(self) -> Path:
        """The platform's folder."""
        return self.root / "platform"

    def merchant_home(self, name: str) -> Path:
        """A merchant's folder."""
        return self.root / name

    def make_platform(self, *flags: str) -> None:
        """`pp-server init`."""
        address = f"127.0.0.1:{self.port}"
        self._commands("pp-server", "init", str(self.platform_home), "--name", self._name, "--address", address,
            "--listen", address, "--san", "localhost", *flags)  # fmt: skip
        http, grpc = (f'"127.0.0.1:{port}"' for port in self._ports)
        set_keys(self.platform_home / "server.toml", {"health_http": http, "health_grpc": grpc})

    def make_merchant(self, name: str, orders: Path, *flags: str, keys: Mapping[str, str] | None = None) -> Program:
        """`pp-client init` with the platform's invitation, and `pp-server merchants add`.

        Args:
            flags: more flags of `pp-client init`.
            keys: lines of merchant.toml to change, as TOML values.
        """
        home = self.merchant_home(name)
        invitation = str(self.platform_home / "invitation.toml")
        self._commands(
            "pp-client", "init", str(home), "--invitation", invitation, "--name", name, "--orders", str(orders), *flags
        )
        ports = [free_port() for _ in range(3)]
        local = {
            "health_http": f'"127.0.0.1:{ports[0]}"',
            "health_grpc": f'"127.0.0.1:{ports[1]}"',
            "supernode_port": str(ports[2]),
        }
        set_keys(home / "merchant.toml", {**local, **(keys or {})})
        self.pp_server("merchants", "add", name, "--key", str(home / "keys" / "node.pub"))
        self.merchants[name] = Program(
            name=name,
            command=command("pp-client", "run", "--config", str(home / "merchant.toml")),
            environment=clean_environment(),
            health=f"http://127.0.0.1:{ports[0]}/health",
            log=self.root / f"{name}.log",
        )
        return self.merchants[name]

    def start(self, *, seconds: float = READY_SECONDS) -> None:
        """The platform, then all merchants at once; returns when all serve.

        Raises:
            DeploymentError: one ended, or does not serve within `seconds`.
        """
        self.server.start(wait_seconds=seconds)
        for merchant in self.merchants.values():
            merchant.start(wait_seconds=0)
        for merchant in self.merchants.values():
            merchant.wait_ready(seconds)

    def pp_server(self, *arguments: str, timeout: float = 300.0) -> str:
        """What a command of the platform prints.

        Raises:
            DeploymentError: it failed; the text is what it printed.
        """
        return self._commands("pp-server", *arguments, "--home", str(self.platform_home), timeout=timeout)

    def pp_client(self, name: str, *arguments: str, timeout: float = 300.0) -> str:
        """What a command of a merchant prints.

        Raises:
            DeploymentError: it failed; the text is what it printed.
        """
        config = str(self.merchant_home(name) / "merchant.toml")
        return self._commands("pp-client", *arguments, "--config", config, timeout=timeout)


def command(program: str, *arguments: str) -> list[str]:
    """The command line that starts `pp-server` or `pp-client` with this interpreter."""
    return [sys.executable, "-m", MODULES[program], *arguments]


def run(program: str, *arguments: str, timeout: float = 300.0) -> str:
    """What a command prints.

    Raises:
        DeploymentError: it failed; the text is what it printed.
    """
    done = subprocess.run(
        command(program, *arguments),
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        shown = " ".join([program, *arguments])
        raise DeploymentError(
            f"{shown} ended with {done.returncode}:\n{done.stdout}{done.stderr}", exit_code=done.returncode
        )
    return done.stdout


def clean_environment() -> dict[str, str]:
    """This process's environment without what would reach beyond this machine."""
    dropped = re.compile(r"(?i)^(https?|all|no)_proxy$|^FLWR_")
    kept = {name: value for name, value in os.environ.items() if not dropped.match(name)}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def set_keys(path: Path, values: Mapping[str, str]) -> None:
    """Changes the lines `key = ...` of a TOML file; comments and the rest stay.

    Raises:
        DeploymentError: a key has no line, or several.
    """
    text = path.read_text(encoding="utf-8")
    for key, value in values.items():
        line = f"{key} = {value}"
        text, count = re.subn(rf"(?m)^#?\s*{re.escape(key)} = .*$", lambda _, line=line: line, text)  # type: ignore[misc]
        if count != 1:
            raise DeploymentError(f"{path} has {count} lines for {key!r}; expected one")
    path.write_text(text, encoding="utf-8")


@contextmanager
def _signals_held() -> Iterator[None]:
    """What would end this process waits until the block is over: a program that was begun, and that nobody has noted
    yet, would run on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    ending = [number for number in _ENDING if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in ending}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for came_number in came:
            signal.raise_signal(came_number)


def wait_until(moment: Callable[[], bool], seconds: float, *, what: str, log: Path | None = None) -> None:
    """Returns as soon as `moment` has come.

    Raises:
        DeploymentError: it has not within `seconds`; holds the end of `log`.
    """
    deadline = time.monotonic() + seconds
    while not moment():
        if time.monotonic() > deadline:
            raise DeploymentError(f"waited {seconds:g} s for {what}\n{tail(log) if log else ''}")
        time.sleep(0.1)


def tail(path: Path, *, lines: int = 30) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
