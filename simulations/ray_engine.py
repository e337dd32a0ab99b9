"""A federated run whose merchants answer in Ray's worker processes, on this machine or on a cluster of several.

The workers are the Ray actors of Flower's simulation engine; apps, ledgers and checkpoints are those of
`simulations.federation`. What carries the messages is our Grid and not Flower's `run_simulation`: that is deprecated,
numbers the nodes at random, so that a repeated run sums in another order, and waits without an end for a lost worker.

A cluster is named by the environment variable `RAY_ADDRESS`. Its machines need this program, and the run's folder at
the same path. Without the variable Ray is started here, for this run alone, and only this run knows its token: Ray
listens on every interface, and whoever it believes may run code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import queue
import secrets
import shutil
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.app import make_client_app
from client.ledger import PrivacyLedger, open_ledger
from client.shop import Shop
from flower_edge.records import wire_from_record
from pp_model.accounting import PrivacyEvent
from pp_model.config import from_mapping, to_mapping
from pp_model.errors import ConfigError, PurchasePowerError
from pp_model.plan import TrainingPlan
from pp_model.protocol import task_from_wire
from pp_model.randomness import SecretSource, SystemSource
from pp_model.schema import COLUMNS, OrderLog
from pp_model.serialization import Arrays
from simulations.federation import FIRST_NODE, LEDGERS, Federated, OnRound, counted, train_over
from simulations.grid import InProcessGrid
from simulations.planning import ROUND_TIMEOUT_SECONDS, lineage_of, policy_of
from simulations.scenario import Scenario
from simulations.seeded import SeededSource
from simulations.shops import source_of

START_SECONDS = 180.0  # for all workers to be there; each imports PyTorch first
REACH_SECONDS = 10.0  # for a cluster's address to accept a connection
REPEATS = 2  # of a message whose worker died
KEPT_SHOPS = 256  # merchants whose rows a worker keeps in memory

# For Ray in this process and in those that it starts; it reads them when it is imported.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
if not os.environ.get("RAY_ADDRESS"):
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
# Even so, Ray's processes look up the metadata servers of three clouds, over plain HTTP: it ends at a closed port.
_NO_WEB = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}


class RayEngineError(PurchasePowerError):
    """Ray is not installed, did not start, or its workers cannot be used."""


def federate_ray(
    shops: Mapping[str, OrderLog],
    plan: TrainingPlan,
    init: Arrays,
    scenario: Scenario,
    *,
    directory: Path,
    secret_for: Callable[[str], SecretSource],
    on_round: OnRound | None = None,
) -> Federated:
    """Trains the plan over all shops as `federate` does, every task in a worker process of Ray.

    An interrupted run continues where it stopped, under the same ledgers and with nothing charged twice, whichever of
    the two began it. A task whose worker dies is repeated in another: its ledger knows what it has charged.

    Args:
        directory: on a cluster, one that all machines share. Until the run ends it holds a copy of the orders, for its
            owner's eyes alone.
        secret_for: which kind of source a merchant has; each worker makes its own. `SystemSource` is the operating
            system's. `SeededSource`, for synthetic orders alone, becomes one seeded by scenario, merchant and task: a
            repeated run is equal to the last bit, and no two tasks get the same numbers.

    Raises:
        ConfigError: a source that no worker can make, or a seeded one for real orders.
        LedgerError: a merchant's ledger cannot be used.
        RayEngineError: see the class.
        RunStoppedError: three void rounds in a row; running again resumes.
    """
    _need_ray()
    seeded = _seeded(shops, scenario, secret_for)
    spent = partial(_events, shops, scenario, directory)
    spent()  # trouble with a ledger ends the run before it begins
    with (
        _handed_out(shops, scenario, directory, seeded=seeded) as folder,
        _workers(folder, scenario, most=len(shops)) as workers,
    ):
        grid = _grid(workers, merchants=len(shops), on_round=on_round)
        return train_over(grid, plan, init, directory, spent=spent)


# In each worker process.


@lru_cache(maxsize=1)
def worker(folder: str) -> Worker:
    """The worker of this process, made once: Flower's actor asks for it with every message."""
    return Worker(Path(folder))


class Worker:
    """Answers any merchant's messages, one at a time, from what `_handed_out` put into `folder`.

    A merchant's ledger is open only while its message is answered: the next one may come to another process. The rows
    of the `KEPT_SHOPS` merchants that were asked last stay in memory.
    """

    def __init__(self, folder: Path) -> None:
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        self._folder, self._names, self._seeded = folder, job["merchants"], job["seeded"]
        self._scenario = from_mapping(Scenario, job["scenario"])
        self._shops: dict[int, Shop] = {}

    def __call__(self, message: Message, context: Context) -> Message:
        """The merchant's reply. Its number is in the node's configuration."""
        number = int(context.node_config["merchant"])
        with ExitStack() as stack:  # the reply names the ledger's last entry, after the task is answered
            return make_client_app(lambda _: self._shop(number, message, stack))(message, context)

    def _shop(self, number: int, message: Message, stack: ExitStack) -> Shop:
        ledger = stack.enter_context(_ledger(self._folder.parent, number, self._names[number], self._scenario))
        secret = self._secret(number, message)
        shop = self._shops.pop(number, None) or Shop(
            source=source_of(_load_orders(_orders_file(self._folder, number)), name=self._names[number]),
            ledger=ledger,
            policy=policy_of(self._scenario),
            secret=secret,
            device=self._scenario.device,
        )
        shop.ledger, shop.secret = ledger, secret
        self._shops[number] = shop  # as the one asked last
        if len(self._shops) > KEPT_SHOPS:
            del self._shops[next(iter(self._shops))]
        return shop

    def _secret(self, number: int, message: Message) -> SecretSource:
        if not self._seeded:
            return SystemSource()
        task = task_from_wire(wire_from_record(message.content)).fingerprint
        seed = hashlib.blake2b(f"{self._scenario.seed}|{number}|{task}".encode(), digest_size=8).digest()
        return SeededSource(int.from_bytes(seed, "big"))


# Where the run is led.


def _seeded(shops: Mapping[str, OrderLog], scenario: Scenario, secret_for: Callable[[str], SecretSource]) -> bool:
    """Whether the merchants' noise is seeded; it is only where all orders are made up (checklist D27)."""
    kinds = {type(secret_for(name)) for name in shops}
    if kinds <= {SystemSource}:
        return False
    if kinds == {SeededSource} and scenario.synthetic is not None:
        return True
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    allowed = "SystemSource or SeededSource" if scenario.synthetic is not None else "SystemSource, for orders are real"
    raise ConfigError(f"the merchants' randomness is {names}; allowed for Ray's workers: {allowed}, the same for all")


def _ledger(directory: Path, number: int, name: str, scenario: Scenario) -> PrivacyLedger:
    path = directory / LEDGERS / f"{number:05d}.ledger"
    return open_ledger(path, lineage=lineage_of(name, scenario), budget=scenario.epsilon, delta=scenario.delta)


def _events(shops: Mapping[str, OrderLog], scenario: Scenario, directory: Path) -> dict[str, tuple[PrivacyEvent, ...]]:
    """Each merchant's charged events, out of its ledger, which is made where there is none."""
    (directory / LEDGERS).mkdir(parents=True, exist_ok=True)
    events = {}
    for number, name in enumerate(shops):
        with _ledger(directory, number, name, scenario) as ledger:
            events[name] = ledger.events
    return events


@contextmanager
def _handed_out(shops: Mapping[str, OrderLog], scenario: Scenario, directory: Path, *, seeded: bool) -> Iterator[Path]:
    """A folder with what the workers read once: the orders of each merchant, and whose they are. Gone afterwards."""
    folder = directory.resolve() / "ray"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    try:
        folder.mkdir(mode=0o700)
        for number, log in enumerate(shops.values()):
            columns: dict[str, Any] = {column: getattr(log, column) for column in COLUMNS}
            np.savez(_orders_file(folder, number), num_customers=np.int64(log.num_customers), **columns)
        job = {"scenario": to_mapping(scenario), "merchants": list(shops), "seeded": seeded}
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _orders_file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.npz"


def _load_orders(path: Path) -> OrderLog:
    with np.load(path, allow_pickle=False) as columns:
        return OrderLog(**{name: columns[name] for name in COLUMNS}, num_customers=int(columns["num_customers"]))


def _grid(workers: Workers, *, merchants: int, on_round: OnRound | None) -> InProcessGrid:
    count, app = counted(on_round), ClientApp()
    app.train()(workers.answer)
    return InProcessGrid(
        app,
        node_configs={FIRST_NODE + number: {"merchant": number} for number in range(merchants)},
        workers=workers.size,
        on_round=lambda asked, _: count(asked),
    )


# Ray.


def _need_ray() -> None:
    if find_spec("ray") is None:
        raise RayEngineError(
            "the engine ray needs the package ray; install purchase-power[ray], or choose another engine"
        )


@contextmanager
def _workers(folder: Path, scenario: Scenario, *, most: int) -> Iterator[Workers]:
    with _ray():
        yield Workers(folder, most=most, gpus=1.0 if scenario.device.startswith("cuda") else 0.0)


@contextmanager
def _ray() -> Iterator[None]:
    """Ray, connected or started, and left or stopped at the end, in whatever way that comes."""
    import ray

    if ray.is_initialized():
        raise RayEngineError("this process uses Ray already; call ray.shutdown() first")
    with _sigterm_kept():
        try:
            _connect(os.environ.get("RAY_ADDRESS", ""))
            yield
        finally:
            ray.shutdown()


def _connect(cluster: str) -> None:
    import ray

    own: dict[str, Any] = {} if cluster else {"include_dashboard": False}
    try:
        _reach(cluster)
        with warnings.catch_warnings(), _environment({} if cluster else _NO_WEB):
            warnings.simplefilter("ignore", FutureWarning)  # of what a later Ray will do
            ray.init(address=cluster or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:
        doing = f"connect to {cluster} (RAY_ADDRESS)" if cluster else "start on this machine"
        raise RayEngineError(f"Ray did not {doing}: {_last_line(error)}") from error


def _reach(cluster: str) -> None:
    """Raises OSError at once where nobody listens; Ray itself would try for minutes."""
    host, _, port = cluster.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """For the processes that are started inside."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ |= changes
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray puts a handler of its own, which ends this process in order, and leaves it there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


class Workers:
    """Flower's Ray actors: as many as the cluster has room for, and no more than `most`.

    An actor whose process dies is started anew, and its message repeated.

    Attributes:
        size: how many there are.

    Raises:
        RayEngineError: none fits, or they cannot read `folder` within `START_SECONDS`.
    """

    def __init__(self, folder: Path, *, most: int, gpus: float) -> None:
        import ray
        from flwr.simulation.ray_transport.ray_actor import ClientAppActor, pool_size_from_resources

        needs = {"num_cpus": 1.0, "num_gpus": gpus}
        try:
            self.size = min(most, pool_size_from_resources(dict(needs)))
        except ValueError:
            raise RayEngineError(
                f"no machine of Ray's has room for a worker ({needs}); give Ray more, or choose another device"
            ) from None
        kind: Any = ClientAppActor  # what Ray's decorator makes of the class
        kind = kind.options(**needs, max_restarts=-1, max_task_retries=REPEATS)
        actors = [kind.remote() for _ in range(self.size)]
        ready = [actor.run.remote(partial(_ready, str(folder)), None, "", None) for actor in actors]
        try:
            ray.get(ready, timeout=START_SECONDS)
        except ray.exceptions.GetTimeoutError:
            raise RayEngineError(
                f"Ray's workers were not ready within {START_SECONDS:g} seconds; are its machines busy or full?"
            ) from None
        except ray.exceptions.RayError as error:
            raise RayEngineError(
                f"Ray's workers cannot use the run's folder {folder} ({_last_line(error)}); every machine needs this "
                "program, and the folder at the same path"
            ) from None
        self._ray, self._app = ray, partial(worker, str(folder))
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for actor in actors:
            self._idle.put(actor)

    def answer(self, message: Message, context: Context) -> Message:
        """The reply of the merchant that `context` names. `size` threads may ask at the same time."""
        actor = self._idle.get()
        try:
            future = actor.run.remote(self._app, message, "", context)
            _, reply, _ = self._ray.get(future, timeout=ROUND_TIMEOUT_SECONDS)
        except self._ray.exceptions.GetTimeoutError:
            self._ray.kill(actor, no_restart=False)  # it hangs; the next message finds a new process
            raise
        finally:
            self._idle.put(actor)
        return reply  # type: ignore[no-any-return]


def _ready(folder: str) -> Callable[..., None]:
    worker(folder)
    return lambda **_: None


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
