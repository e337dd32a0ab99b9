"""A platform and three merchants as real processes on this machine: each step shown as a person types it, then run."""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from pp_model.errors import ConfigError
from pp_model.plan import Trust
from simulations.deployment import Deployment, DeploymentError, clean_environment, command, run, wait_until
from simulations.export import write_orders_csv
from simulations.scenario import Scenario, load_scenario
from simulations.shops import open_market

PLATFORM, PLAN, BY_HAND = "Demo platform", "spring", "florist"
MERCHANTS = ("bakery", BY_HAND, "grocer")
CUSTOMERS, DECLARED, ROUNDS, EPSILON = 900, 250, 5, 2.0
MARK = "demo-deploy.json"  # in a folder of ours, and in no other

_WIDEST = 100
_OFFER_ID = re.compile(r"offer ([0-9a-f]{16}),")
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # like Ctrl-C: what was started is stopped


def deploy(out: Path, console: Console, *, trust: Trust = "local", as_json: bool = False) -> dict[str, Any]:
    """The demonstration, told on `console`; its result as plain values. However it ends, nothing that it started runs.

    Args:
        out: made new, or the folder of an earlier demonstration, which is replaced.
        trust: who adds the noise.
        as_json: whether the merchant's statement is wanted as a table instead of on the screen.

    Raises:
        ConfigError: `out` holds something else, or an earlier demonstration still runs in it.
        DeploymentError: a program failed; the text holds what it printed.
    """
    began = time.monotonic()
    _prepare(out)
    # For the tables of the commands, which print into a pipe.
    os.environ["COLUMNS"] = str(min(console.width, _WIDEST) if console.is_terminal else _WIDEST)
    show = Narrator(console, out.resolve())
    with _signals_interrupt(), Deployment(out, platform=PLATFORM, commands=show) as deployment:
        try:
            told = _story(deployment, show, trust=trust, as_json=as_json)
        except BaseException as error:
            show.step("Stopped by hand" if isinstance(error, KeyboardInterrupt) else "That failed")
            raise
        finally:
            _stop(deployment, show)
    return {"out": str(out), **told, "logs": _logs(deployment), "seconds": round(time.monotonic() - began, 1)}


@dataclass
class Narrator:
    """Shows each command as a person would type it, runs it, and shows what it printed. See `deployment.Commands`.

    Attributes:
        root: is shown as a person in the current folder would write it.
        brief: what commands print is left out.
    """

    console: Console
    root: Path
    brief: bool = False

    def __call__(self, program: str, *arguments: str, timeout: float = 300.0) -> str:
        """Types and runs a command; what it printed.

        Raises:
            DeploymentError: it failed.
        """
        self.typed(program, *arguments)
        printed = run(program, *arguments, timeout=timeout)
        if not self.brief:
            self.printed(printed)
        return printed

    def step(self, title: str, about: str = "") -> None:
        """A heading, and what is going to happen in a sentence or two."""
        self.console.print()
        self.console.rule(Text(title, style="bold"), align="left", style="dim")
        if about:
            self.console.print(Text(textwrap.fill(about, min(self.console.width, _WIDEST)), style="italic"))

    def typed(self, program: str, *arguments: str, after: str = "") -> None:
        """One command line, on several lines where it is long."""
        text = self._local(command_text(program, *arguments))
        self.console.print(Text.assemble(("\n$ ", "dim"), (text, "bold cyan"), after), soft_wrap=True)

    def printed(self, text: str) -> None:
        """What a program printed, folded at words below its own beginning."""
        for line in self._local(text).strip("\n").splitlines():
            words = line.lstrip()
            indent = " " * (2 + len(line) - len(words))
            shown = textwrap.fill(
                words,
                min(self.console.width, _WIDEST),
                initial_indent=indent,
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
            self.console.print(Text(shown), soft_wrap=True)

    def line(self, text: str) -> None:
        """One line that a program prints while others are at work."""
        self.console.print(Text.assemble(("  | ", "dim"), self._local(text)), soft_wrap=True)

    def _local(self, text: str) -> str:
        return text.replace(str(self.root), local_path(self.root))


def local_path(path: Path) -> str:
    """As a person in the current folder writes it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def command_text(program: str, *arguments: str) -> str:
    """A command as a shell takes it; a long one goes on, flag by flag, on the next lines."""
    lines, words = [program], [shlex.quote(argument) for argument in arguments]
    for word in words:
        if word.startswith("--") and len(lines[-1]) + len(word) > _WIDEST - 20:
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {word}"
    return " \\\n".join(lines)


def _story(deployment: Deployment, show: Narrator, *, trust: Trust, as_json: bool) -> dict[str, Any]:
    scenario = load_scenario("demo", {"merchants": len(MERCHANTS), "synthetic": {"customers": CUSTOMERS, "days": 760}})
    _open_platform(deployment, show)
    _open_shops(deployment, show, scenario)
    offer = _sign_plan(deployment, show, scenario, trust=trust)
    _train(deployment, show, offer, asked=MERCHANTS if trust == "secure_sum" else (BY_HAND,))
    show.step("What a customer is promised", "The bakery's privacy statement, out of its own ledger.")
    show.brief = as_json
    statement = deployment.pp_client("bakery", "statement", *(["--json"] if as_json else []))
    show.brief = False
    show.step("The model", "Every merchant may have it; it is kept only if the platform's signature holds.")
    deployment.pp_client("bakery", "pull")
    [model] = deployment.merchant_home("bakery").glob("state/models/*/model.safetensors")
    told: dict[str, Any] = {"plan": PLAN, "offer": offer, "rounds": ROUNDS, "merchants": list(MERCHANTS)}
    return {**told, "model": str(model), "statement": json.loads(statement) if as_json else statement}


def _open_platform(deployment: Deployment, show: Narrator) -> None:
    programs = local_path(Path(sys.executable).parent)
    show.step(
        "The platform",
        f"It coordinates and holds no order. The commands are in {programs}; all files are below "
        f"{local_path(show.root)}, all connections stay on this machine, all shops are made up. Free ports are written "
        "into server.toml and merchant.toml.",
    )
    deployment.make_platform()
    show.typed("pp-server", "up", "--home", str(deployment.platform_home), after=" &")
    deployment.server.start(wait_seconds=0)


def _open_shops(deployment: Deployment, show: Narrator, scenario: Scenario) -> None:
    show.step(
        "Three merchants",
        "Each makes its own folder, key and budget out of the platform's invitation, and sends its public key. "
        f"The bakery and the grocer approve plans up to epsilon {EPSILON:g} by themselves; the {BY_HAND} wants to be "
        "asked.",
    )
    deployment.server.wait_ready()
    shops = open_market(scenario).shops
    for name, log in zip(MERCHANTS, shops.values(), strict=True):
        orders = write_orders_csv(log, deployment.root / f"{name}.csv")
        deployment.make_merchant(name, orders, *_answers(name), keys={"poll_seconds": "1.0"})
        show.typed("pp-client", "run", "--config", str(deployment.merchant_home(name) / "merchant.toml"), after=" &")
        deployment.merchants[name].start(wait_seconds=0)
        show.brief = True  # the others print the same
    for merchant in deployment.merchants.values():
        merchant.wait_ready()
    show.brief = False
    deployment.pp_server("merchants", "list")


def _answers(name: str) -> list[str]:
    today = dt.datetime.now(dt.UTC).date()
    approve = ("ask",) if name == BY_HAND else ("automatic", "--approve-under", f"{EPSILON:g}")
    return [
        *("--population", f"customers of the {name}", "--epsilon", "3", "--delta", "1e-5"),
        *("--declared-customers", str(DECLARED), "--period", "demo", "--approve", *approve),
        *("--period-starts", str(today), "--period-ends", str(today + dt.timedelta(days=180))),
    ]


def _sign_plan(deployment: Deployment, show: Narrator, scenario: Scenario, *, trust: Trust) -> str:
    """The id of the signed offer."""
    show.step("A plan", "What is computed and what it costs in privacy is public and fixed before anybody is asked.")
    when = ("--holdout", str(scenario.cutoff), "--horizon-days", str(scenario.horizon_days))
    size = ("--rounds", str(ROUNDS), "--min-merchants", str(len(MERCHANTS)), "--trust", trust)
    deployment.pp_server("plan", "new", PLAN, "--epsilon", f"{EPSILON:g}", *when, *size)
    deployment.pp_server("plan", "price", PLAN)
    found = _OFFER_ID.search(deployment.pp_server("plan", "sign", PLAN))
    assert found is not None
    return found[1]


def _train(deployment: Deployment, show: Narrator, offer: str, *, asked: Sequence[str]) -> None:
    if len(asked) > 1:
        about = "In a secure sum each merchant asks a person before it adds up with new ones: all three decide by hand."
    else:
        about = f"All three must approve. The {BY_HAND} reads the offer and decides by hand."
    show.step("The run", about)
    arguments = ("run", PLAN, "--wait", "240", "--home", str(deployment.platform_home))
    with _beside(show, "pp-server", *arguments) as (process, lines):
        wait_until(
            lambda: (
                process.poll() is not None or all(any(f"{name}: waiting" in line for line in lines) for name in asked)
            ),
            240.0,
            what=f"the {' and the '.join(asked)} to get the offer",
            log=deployment.server.log,
        )
        if process.poll() is None:
            deployment.pp_client(BY_HAND, "plans")
            for name in asked:
                deployment.pp_client(name, "approve", offer[:6], "--yes")
                show.brief = True  # the others print the same
            show.brief = False
        code = process.wait(300.0)
    if code:
        raise DeploymentError("\n".join(["pp-server run failed:", *lines]), exit_code=code)


@contextmanager
def _beside(show: Narrator, program: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Sequence[str]]]:
    """A command that runs while others do, with the lines that it has printed so far. It ends with the block."""
    show.typed(program, *arguments, after=" &")
    lines: list[str] = []
    process = subprocess.Popen(
        command(program, *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environment(),
    )

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            show.line(lines[-1])

    reader = threading.Thread(target=read, name="reader", daemon=True)
    reader.start()
    try:
        yield process, lines
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
        reader.join(10.0)
        if process.stdout is not None:
            process.stdout.close()


def _stop(deployment: Deployment, show: Narrator) -> None:
    """Ends every program and says how each ended and where its log is. A second Ctrl-C does not get in between."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *_SIGNALS)}
    try:
        started = [p.name for p in (deployment.server, *deployment.merchants.values()) if p.process is not None]
        codes = deployment.stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    show.step("Stopped", f"All that was started has ended: {', '.join(f'{n} ({codes[n]})' for n in started) or '-'}.")
    show.printed("\n".join(f"{name + ':':<11}{path}" for name, path in _logs(deployment).items()))


def _logs(deployment: Deployment) -> dict[str, str]:
    """Each program's log, one JSON line an event; beside the folder stands what it wrote to its terminal."""
    folders = {"pp-server": deployment.platform_home / "log" / "server.jsonl"}
    folders |= {name: deployment.merchant_home(name) / "log" / "client.jsonl" for name in deployment.merchants}
    return {name: str(path) for name, path in folders.items()}


def _prepare(out: Path) -> None:
    """An empty folder with our mark.

    Raises:
        ConfigError: it holds something else, or programs of an earlier demonstration still run in it.
    """
    mark = out / MARK
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not mark.is_file():
            raise ConfigError(f"{out} holds something else; choose another --out")
        if held := next(filter(_held, out.glob("*/state/*.lock")), None):
            raise ConfigError(
                f"a program of an earlier demonstration still runs in {held.parents[1]}. See it with pgrep -af "
                f"{shlex.quote(str(out.resolve()))}, stop it with kill and its number, and try again"
            )
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps({"made": dt.datetime.now(dt.UTC).isoformat(timespec="seconds")}) + "\n", "utf-8")


def _held(lock: Path) -> bool:
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end this process as Ctrl-C does, so that what it started is stopped."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before: Mapping[signal.Signals, Any] = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
