"""What `pp-server up` runs: the guarded SuperLink and Flower's SuperExec, watched, restarted and kept in step."""

from __future__ import annotations

import datetime as dt
import http.client
import json
import logging
import os
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from daemons.health import HealthServer, Status
from daemons.logs import configure_log
from daemons.restarts import RestartPolicy
from daemons.supervisor import Child, State, Supervisor, run_until_signal
from pp_model.errors import PurchasePowerError
from server.home import PlatformHome, ServerConfig, exclusive, host_and_port
from server.metrics import Live, metrics_registry
from server.pki import WARN_DAYS, check_certificate, days_left

if TYPE_CHECKING:
    from server.control import ControlClient
    from server.roster import Roster

SUPERLINK, SUPEREXEC = "superlink", "superexec"
LOOK_SECONDS, RECONCILE_SECONDS, RETRY_SECONDS = 0.5, 15.0, 5.0
TASK_POLL_SECONDS = 0.25  # how often SuperExec asks for a run to start
GRACE_SECONDS = 10.0
_DAY_SECONDS = 86_400.0
_RESTART = RestartPolicy(first_seconds=0.5, longest_seconds=5.0)  # all on this machine: nobody is spared by waiting

log = logging.getLogger(__name__)


def serve(home: PlatformHome, config: ServerConfig, *, address: str) -> int:
    """Runs the platform until SIGTERM or SIGINT; 0 after an orderly stop, 1 if the supervisor failed.

    Args:
        address: host:port under which this machine reaches the TLS port.

    Raises:
        ConfigError: another `up` holds this folder.
        CertificateError: merchants would not trust the certificate.
        PortError: a health port is taken.
    """
    check_certificate(
        ca=home.ca_certificate,
        certificate=home.certificate,
        key=home.certificate_key,
        host=host_and_port(config.address, key="address")[0],
    )
    busy = f"pp-server up runs for {home.root} already (process {{pid}}); stop it first: kill {{pid}}"
    with exclusive(home.lock, busy=busy):
        configure_log(home.log, "INFO")
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log every request
        log.info("platform starts", extra={"platform": config.name, "listen": config.listen, "address": config.address})
        supervisor = Supervisor(children(home, config, address=address), grace_seconds=GRACE_SECONDS)
        watch = _Watch(home, address, supervisor)
        health = HealthServer(
            status=watch.status,
            registry=metrics_registry(home.registry, watch.live),
            http=host_and_port(config.health_http, key="health_http"),
            grpc=host_and_port(config.health_grpc, key="health_grpc"),
        )
        with health, watch:
            code = run_until_signal(supervisor)
        log.info("platform stopped", extra={"exit_code": code})
        return code


def children(home: PlatformHome, config: ServerConfig, *, address: str) -> list[Child]:
    """The two programs. SuperExec starts `flwr-serverapp` for each run; its output is SuperExec's."""
    environment = _environment(home)
    host = config.listen.rpartition(":")[0].strip("[]")
    superlink = [
        *(sys.executable, "-m", "server.superlink"),
        *("--operator-secret-file", str(home.operator_secret), "--registry", str(home.registry)),
        *("--ssl-ca-certfile", str(home.ca_certificate), "--ssl-certfile", str(home.certificate)),
        *("--ssl-keyfile", str(home.certificate_key), "--enable-supernode-auth"),
        *("--database", str(home.superlink_database), "--host", host, "--port", str(config.port)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(home.superexec_secret)),
        "--disable-runtime-dependency-installation",
    ]
    superexec = [
        *(str(Path(sys.executable).with_name("flower-superexec")), "--runtime-api-address", address),
        *("--root-certificates", str(home.ca_certificate)),
        *("--superexec-auth-secret-file", str(home.superexec_secret)),
    ]
    return [
        Child(
            name=SUPERLINK,
            command=superlink,
            environment=environment,
            cwd=home.flower,
            restart=_RESTART,
            ready=_asks_health(address, home.ca_certificate),
        ),
        Child(name=SUPEREXEC, command=superexec, environment=environment, cwd=home.flower, restart=_RESTART),
    ]


def _environment(home: PlatformHome) -> dict[str, str]:
    """All that the children get. No proxy, no Python path and no Flower setting of the caller's goes on to them."""
    return {
        # SuperExec finds flwr-serverapp there.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]),
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYTHONSAFEPATH": "1",  # a file in the folder that they run in is no module
        "PYTHONUNBUFFERED": "1",
        "HOME": str(home.flower),
        "FLWR_HOME": str(home.flower),
        "PP_SERVER_HOME": str(home.root.absolute()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_LOG_LEVEL": "WARNING",  # else a line for every look at a run
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": str(TASK_POLL_SECONDS),
        "OMP_NUM_THREADS": "1",
        "LANG": "C.UTF-8",
    }


def _asks_health(address: str, ca: Path) -> Callable[[], bool]:
    host, port = host_and_port(address, key="address")
    context = ssl.create_default_context(cafile=str(ca))

    def healthy() -> bool:
        connection = http.client.HTTPSConnection(host, port, timeout=0.8, context=context)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return healthy


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """What was done so that exactly the roster's merchants are the SuperLink's nodes.

    Attributes:
        refused: why a merchant could not be registered, by name.
        online: names of the merchants that are connected.
    """

    registered: tuple[str, ...]
    online: frozenset[str]
    unregistered: int
    refused: Mapping[str, str]


def reconcile(roster: Roster, client: ControlClient) -> Reconciled:
    """Registers the merchants that the SuperLink does not know, and unregisters all nodes that are no merchant's.

    Raises:
        ControlError: the SuperLink cannot be reached.
    """
    from server.control import ControlError

    nodes = {node.public_key: node for node in client.nodes()}
    registered, refused, online = [], {}, set()
    for merchant in roster.merchants():
        node = nodes.pop(merchant.public_key, None)
        try:
            node_id = node.node_id if node else client.register(merchant.name, merchant.public_key.encode())
        except ControlError as error:
            if error.reason != "refused":
                raise
            refused[merchant.name] = str(error)
            continue
        if node is None:
            registered.append(merchant.name)
        elif node.status == "online":
            online.add(merchant.name)
        if merchant.node_id != node_id:
            roster.set_node(merchant.name, node_id)
    for node in nodes.values():
        client.unregister(node.node_id)
    return Reconciled(registered=tuple(registered), unregistered=len(nodes), refused=refused, online=frozenset(online))


class _Watch:
    """A thread that reconciles when the SuperLink comes up and every quarter of a minute, and looks at the certificate
    daily."""

    def __init__(self, home: PlatformHome, address: str, supervisor: Supervisor) -> None:
        self._home, self._address, self._supervisor = home, address, supervisor
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._in_step = False
        self._online: frozenset[str] | None = None
        self._pid: int | None = None
        self._due = 0.0
        self._certificate_due = 0.0
        self._last_round: int | None = None

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(GRACE_SECONDS)

    def status(self) -> Status:
        """How the platform is; `merchants` says whether the SuperLink knows exactly the roster's."""
        states = {state.name: state for state in self._supervisor.states()}
        parts = {name: state.state is State.RUNNING for name, state in states.items()}
        return Status(
            parts={**parts, "merchants": self._in_step},
            details={
                "restarts": {name: state.restarts for name, state in states.items()},
                "certificate_days_left": _certificate_days(self._home),
            },
        )

    def live(self) -> Live:
        """What the metrics say beside the registry."""
        return Live(
            children=self._supervisor.states(), online=self._online, certificate_days=_certificate_days(self._home)
        )

    def _run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            try:
                self._look()
            except Exception as error:
                self._in_step, self._online, self._due = False, None, time.monotonic() + RETRY_SECONDS
                log.warning("merchants not brought in step; trying again", extra={"error": type(error).__name__})

    def _look(self) -> None:
        now = time.monotonic()
        if now >= self._certificate_due:
            self._certificate_due = now + _DAY_SECONDS
            self._warn_of_expiry()
        self._log_rounds()
        superlink = next(state for state in self._supervisor.states() if state.name == SUPERLINK)
        if superlink.state is not State.RUNNING:
            self._in_step, self._online = False, None
            return
        if superlink.pid != self._pid or now >= self._due:
            self._due, self._pid = now + RECONCILE_SECONDS, superlink.pid
            self._bring_in_step()

    def _log_rounds(self) -> None:
        """Into the one log, out of the registry: SuperExec throws away what the runs' own processes write."""
        from server.registry import Registry
        from server.roster import Roster

        if self._last_round is None:
            Roster(self._home.registry).close()  # makes its tables, for who only reads
        with Registry(self._home.registry) as registry:
            news = registry.rounds_after(self._last_round or 0)
        if self._last_round is not None:
            for _, run, entry in news:
                fields = {"run_id": run, "round": entry.round, "cohort": entry.cohort, "completions": entry.completions}
                troubles = {"refusals": dict(entry.refusals), "offenders": dict(entry.offenders)}
                log.info(
                    "round void" if entry.void else "round done",
                    extra={**fields, **{name: json.dumps(value) for name, value in troubles.items() if value}},
                )
        self._last_round = max([self._last_round or 0, *(number for number, _, _ in news)])

    def _bring_in_step(self) -> None:
        # Imported here: Flower and PyTorch take seconds, and the children should not wait for them.
        from server.control import ControlClient
        from server.roster import Roster

        secret = self._home.read_operator_secret()
        with (
            Roster(self._home.registry) as roster,
            ControlClient(self._address, self._home.ca_certificate, secret) as client,
        ):
            done = reconcile(roster, client)
        for name in done.registered:
            log.info("merchant registered", extra={"merchant": name})
        for name in done.refused:
            log.error("merchant not registered: its key was used before; it needs a new one", extra={"merchant": name})
        if done.unregistered:
            log.info("nodes unregistered", extra={"nodes": done.unregistered})
        self._in_step, self._online = not done.refused, done.online

    def _warn_of_expiry(self) -> None:
        days = _certificate_days(self._home)
        if days < WARN_DAYS:
            log.warning("the certificate expires; run pp-server renew and start up again", extra={"days_left": days})


def _certificate_days(home: PlatformHome) -> int:
    try:
        return days_left(home.certificate.read_bytes(), now=dt.datetime.now(dt.UTC))
    except (OSError, PurchasePowerError):
        return -1
