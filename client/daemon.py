"""The merchant's daemon: keeps SuperNode and runner alive, asks for offers, and says how all of it is.

It never sees an order: the runner does, and speaks to nobody but the SuperNode of this machine. Connections go out.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from client.agreements import open_agreements
from client.connect import PERMANENT, TEMPORARY
from client.metrics import DaemonState, glance, metrics_registry
from client.offer_poll import OfferPoll
from client.platform import platform_client
from client.preflight import split_address
from client.settings import MerchantSettings
from client.shop_status import FILE_NAME, read_status
from daemons.files import check_private
from daemons.health import HealthServer, Status
from daemons.logs import configure_log
from daemons.restarts import RestartPolicy
from daemons.supervisor import Child, ChildState, State, Supervisor, run_until_signal
from pp_model.errors import ConfigError

SUPERNODE, RUNNER = "supernode", "runner"
GRACE_SECONDS = 15.0  # SuperNode signs off in three; a task in hand is given again to the next runner
REFUSED_WAIT_SECONDS = 65.0  # the platform counts a node that vanished as there for sixty
PERMANENT_WAIT_SECONDS = 30.0
_BAD_INPUT = 2
_REFUSED_CODE = 305 & 0xFF  # what a parent sees of Flower's 305
_KEPT_VARIABLES = (
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)  # fmt: skip

log = logging.getLogger(__name__)


def run(settings: MerchantSettings, *, config: Path, shop_command: Sequence[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT; the exit code: 0 after an orderly stop.

    Args:
        config: the file that `settings` were read from.
        shop_command: the runner's command; a test may give another.

    Raises:
        ConfigError: another daemon runs in this folder, or a key cannot be used.
        PrivateFileError: a key or secret is missing, or open to others.
        LedgerError: the ledger cannot vouch for what was spent.
        PortError: the port of the status page is taken.
    """
    configure_log(settings.paths.log, "INFO")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each time that it asks
    command = shop_command or python("client.shop_main", "--config", str(config.absolute()))
    with ExitStack() as stack:
        stack.enter_context(_alone(settings))
        _check_files(settings)
        state: list[Supervisor] = []
        poll = OfferPoll(
            stack.enter_context(platform_client(settings)),
            open_agreements(settings),
            settings,
            may_ask=lambda: may_ask(state[0].states()),
        )
        supervisor = Supervisor(
            [supernode_child(settings), runner_child(settings, command, pid=lambda: _pid(state[0].states(), RUNNER))],
            grace_seconds=GRACE_SECONDS,
            on_exit=_explain,
        )
        state.append(supervisor)
        stack.enter_context(_health(settings, supervisor, poll))
        stop = threading.Event()
        asking = threading.Thread(target=poll.run, args=(stop,), name="offers", daemon=True)
        asking.start()
        log.info("daemon started", extra={"merchant": settings.merchant, "platform": settings.platform.address})
        try:
            return run_until_signal(supervisor)
        finally:
            stop.set()
            asking.join(timeout=GRACE_SECONDS)
            log.info("daemon stopped")


def supernode_child(settings: MerchantSettings) -> Child:
    """Flower's SuperNode, tightened, started only where the platform has proved who it is."""
    paths, port = settings.paths, settings.local.supernode_port
    supernode = python(
        "client.supernode",
        *("--superlink", settings.platform.address, "--root-certificates", str(paths.ca)),
        *("--auth-supernode-private-key", str(paths.node_key), "--isolation", "process"),
        *("--host", "127.0.0.1", "--port", str(port), "--superexec-auth-secret-file", str(paths.runtime_secret)),
    )
    return Child(
        name=SUPERNODE,
        command=python("client.connect", settings.platform.address, str(paths.ca), *supernode),
        environment=child_environment(settings, os.environ),
        cwd=settings.home,
        restart=RestartPolicy(least_seconds=supernode_wait),
        ready=lambda: _listens(port),
    )


def runner_child(settings: MerchantSettings, command: Sequence[str], *, pid: Callable[[], int | None]) -> Child:
    """The process that reads the orders and answers tasks."""
    folder = settings.paths.agreements.parent

    def ready() -> bool:
        status = read_status(folder)
        return status is not None and status.ready and status.pid == pid()

    return Child(
        name=RUNNER,
        command=command,
        environment=child_environment(settings, os.environ),
        cwd=settings.home,
        restart=RestartPolicy(least_seconds=lambda code, _: PERMANENT_WAIT_SECONDS if code == _BAD_INPUT else 0.0),
        ready=ready,
    )


def supernode_wait(code: int, last_lines: Sequence[str]) -> float:
    """Least seconds before the SuperNode is started again after this end."""
    if _was_refused(code, last_lines):
        return REFUSED_WAIT_SECONDS
    return PERMANENT_WAIT_SECONDS if code in (PERMANENT, _BAD_INPUT) else 0.0


def may_ask(states: Sequence[ChildState]) -> bool:
    """Whether the platform may be asked for offers: not before SuperNode's start has looked at it, nor while SuperNode
    waits, unless the platform was only away. So a wrong platform, or one that knows no such key, sees one attempt at a
    time, and not two."""
    supernode = next(state for state in states if state.name == SUPERNODE)
    return supernode.state is State.RUNNING or supernode.last_exit == TEMPORARY


def child_environment(settings: MerchantSettings, environment: Mapping[str, str]) -> dict[str, str]:
    """All of a child's environment: no proxy, no one's configuration but this merchant's, no call home."""
    kept = {name: environment[name] for name in _KEPT_VARIABLES if name in environment}
    return {
        **kept,
        "FLWR_HOME": str(settings.paths.flower_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": "*",
        "PYTHONUNBUFFERED": "1",
    }


def python(module: str, *arguments: str) -> list[str]:
    """A command that runs a module of this program; nothing is imported from the folder that it runs in."""
    return [sys.executable, "-P", "-m", module, *arguments]


@contextmanager
def _alone(settings: MerchantSettings) -> Iterator[None]:
    """Holds the folder: two daemons of one merchant would fight for its node and its tasks."""
    path = settings.paths.agreements.parent / "daemon.lock"
    with os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR, 0o600), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"a pp-client run is already at work in {settings.home}; stop that one first") from None
        yield


def _check_files(settings: MerchantSettings) -> None:
    paths = settings.paths
    for path in (paths.node_key.parent, paths.runtime_secret.parent, paths.node_key, paths.runtime_secret):
        check_private(path)
    settings.open_ledger().close()  # an unusable one is told now, and not by refused tasks
    paths.flower_home.mkdir(mode=0o700, exist_ok=True)
    (paths.agreements.parent / FILE_NAME).unlink(missing_ok=True)


def _health(settings: MerchantSettings, supervisor: Supervisor, poll: OfferPoll) -> HealthServer:
    def status() -> Status:
        states = supervisor.states()
        parts = {state.name: state.state is State.RUNNING for state in states}
        parts |= {"platform": poll.connected, "ledger": glance(settings.paths.ledger) is not None}
        children = {s.name: {"state": s.state.value, "restarts": s.restarts, "last_exit": s.last_exit} for s in states}
        return Status(parts=parts, details={"children": children, "plans_waiting": poll.waiting})

    def metrics() -> DaemonState:
        return DaemonState(
            connected=poll.connected,
            clock_apart=poll.clock_apart,
            waiting=poll.waiting,
            children=supervisor.states(),
        )

    return HealthServer(
        status=status,
        registry=metrics_registry(settings, metrics),
        http=split_address(settings.local.health_http),
        grpc=split_address(settings.local.health_grpc),
    )


def _explain(name: str, code: int, last_lines: Sequence[str]) -> None:
    """What an end means and what to do, for whoever reads the log."""
    last = last_lines[-1] if last_lines else ""
    if name == SUPERNODE and _was_refused(code, last_lines):
        log.error(
            "the platform refused this node",
            extra={
                "why": "its key is not registered there, or it vanished a moment ago and counts as connected for "
                "another minute. It is tried again in 65 s or more. If this comes back, send keys/node.pub to the "
                "platform and ask to be added."
            },
        )
    elif name == SUPERNODE and code == PERMANENT:
        log.error("the platform is not connected to; one attempt in 30 s at most", extra={"why": last})
    elif name == RUNNER and code == _BAD_INPUT:
        log.error("the runner cannot start; correct what its last line says", extra={"why": last})


def _was_refused(code: int, last_lines: Sequence[str]) -> bool:
    return code == _REFUSED_CODE or any("Exit Code: 305" in line for line in last_lines)


def _pid(states: Sequence[ChildState], name: str) -> int | None:
    return next((state.pid for state in states if state.name == name), None)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
    except OSError:
        return False
    return True
