"""`pp-client serve`: both doors in one process and one event loop, until a signal."""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime as dt
import gc
import logging
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from client.insight.data import load_data
from client.loopback import is_loopback
from client.models import KeptModel, newest_kept
from client.serving.bearer import Bearer, open_bearer
from client.serving.desk import Desk
from client.serving.grpc_api import GrpcDoor
from client.serving.hot_swap import Keeper, told
from client.serving.http_api import make_app
from client.serving.http_door import MOST_CONNECTIONS, HttpDoor
from client.serving.http_guard import Guard
from client.serving.limits import Gate
from client.serving.metrics import Metrics
from client.serving.schemas import Health, RefusedText
from client.serving.service import Service
from client.serving.snapshot import Snapshot, snapshot_of
from client.serving.tls import Certificate, read_certificate
from client.settings import MerchantSettings
from daemons.web_server import Address, listening
from pp_model.errors import ConfigError

GRACE_SECONDS = 10
_SWITCH_SECONDS = 0.0005  # the loop waits so long for a worker that computes; ten times as long by default
TOKEN_FILE = "serving"  # in the merchant's folder of secrets

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What is served, where and how.

    Attributes:
        http, grpc: host and port; port 0 lets the kernel choose. None: no gRPC.
        certificate, key: PEM files; both or neither. Needed unless both addresses are on loopback.
        models: the folder of `pull_newest`.
        cutoff: today, as far as the model sees; None: this machine's date, every day anew.
        stale: allows orders that end long before the cutoff.
        reread_seconds: after which the orders are read again.
        workers, waiting: requests at work, and places for those who wait.
        answer_seconds: longest from coming to answer.
    """

    http: Address
    grpc: Address | None
    certificate: Path | None
    key: Path | None
    models: Path
    cutoff: dt.date | None
    stale: bool
    reread_seconds: float
    workers: int
    waiting: int
    answer_seconds: float

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("--certificate and --key belong together; give both or neither")
        for name, address in (("--http", self.http), ("--grpc", self.grpc)):
            if address is not None and self.certificate is None and not is_loopback(address[0]):
                raise ConfigError(
                    f"{name} {address[0]} is reached from other machines, and then only with TLS; give --certificate "
                    "and --key, or an address of this machine alone, such as 127.0.0.1"
                )


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the doors are, once they are open."""

    http: int
    grpc: int | None


def serve(settings: MerchantSettings, options: ServeOptions, *, opened: Callable[[Ports], None]) -> None:
    """Serves until SIGTERM or SIGINT, in the main thread; SIGHUP has the orders read again.

    Args:
        opened: is told when the doors are open; the first snapshot may not be there yet.

    Raises:
        PurchasePowerError: a port, the certificate or the token cannot be used, or the first snapshot cannot be made.
    """
    certificate = None
    if options.certificate is not None and options.key is not None:
        certificate = read_certificate(options.certificate, options.key, now=dt.datetime.now(dt.UTC))
    bearer = open_bearer(settings.paths.runtime_secret.parent / TOKEN_FILE)
    asyncio.run(_serve(_keeper(settings, options), options, bearer, certificate, opened))


async def _serve(
    keeper: Keeper,
    options: ServeOptions,
    bearer: Bearer,
    certificate: Certificate | None,
    opened: Callable[[Ports], None],
) -> None:
    sys.setswitchinterval(_SWITCH_SECONDS)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, keeper.ask)
    async with AsyncExitStack() as stack:
        gate = Gate(workers=options.workers, waiting=options.waiting, seconds=options.answer_seconds)
        stack.callback(gate.close)
        desk = Desk(service=Service(lambda: keeper.current), gate=gate, metrics=Metrics(keeper, gate))
        http_port, http_running = await _open_http(stack, desk, keeper, options, bearer, certificate)
        grpc_door, grpc_port = None, None
        if options.grpc is not None:
            grpc_door = GrpcDoor(desk, bearer=bearer)
            grpc_port = await grpc_door.start(options.grpc, certificate)
            stack.push_async_callback(grpc_door.stop, GRACE_SECONDS)
        opened(Ports(http=http_port, grpc=grpc_port))
        ending: set[asyncio.Future[Any]] = {asyncio.create_task(stop.wait()), http_running}
        loading = _beside(keeper.load_first)
        await asyncio.wait({loading, *ending}, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            return
        loading.result()  # raises what it raised
        gc.freeze()  # what is here stays: to look through all of it again and again would hold up answers
        log.info("serving", extra=told(keeper.current))
        _keep_looking(stack, keeper)
        if grpc_door is not None:
            await grpc_door.tell(serving=True)
        await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping")


async def _open_http(
    stack: AsyncExitStack,
    desk: Desk,
    keeper: Keeper,
    options: ServeOptions,
    bearer: Bearer,
    certificate: Certificate | None,
) -> tuple[int, asyncio.Task[None]]:
    """The port, and what runs until the door is closed."""
    app = make_app(desk, lambda: health_of(keeper))
    turned_away = partial(desk.metrics.turned_away, "http")
    guard = Guard(app, bearer=bearer, loopback=is_loopback(options.http[0]), turned_away=turned_away)
    door = HttpDoor(guard, certificate=certificate, grace_seconds=GRACE_SECONDS, turned_away=turned_away)
    open_socket = listening(options.http, backlog=MOST_CONNECTIONS)
    port = int(open_socket.getsockname()[1])
    running = asyncio.create_task(door.serve([open_socket]))

    async def close() -> None:
        door.should_exit = True
        await running

    stack.push_async_callback(close)
    return port, running


def _beside(work: Callable[[], None]) -> asyncio.Future[None]:
    """The work in a thread of its own, which does not hold up the end of the program."""
    done: concurrent.futures.Future[None] = concurrent.futures.Future()

    def run() -> None:
        try:
            work()
        except Exception as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return asyncio.wrap_future(done)


def _keep_looking(stack: AsyncExitStack, keeper: Keeper) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=keeper.run, args=(stop,), name="keeper", daemon=True)
    thread.start()
    stack.callback(stop.set)  # what it may be reading is not waited for


def _keeper(settings: MerchantSettings, options: ServeOptions) -> Keeper:
    def newest() -> KeptModel:
        return newest_kept(options.models, settings.plan_key)

    def load(cutoff: dt.date, model: KeptModel) -> Snapshot:
        data = load_data(
            settings,
            cutoff=cutoff,
            models=model,
            progress=lambda _what, _total: lambda _steps: None,
            stale=options.stale,
        )
        return snapshot_of(data)

    def today() -> dt.date:
        return options.cutoff or dt.datetime.now().astimezone().date()  # the merchant's own clock is this machine's

    return Keeper(newest=newest, load=load, models=options.models, cutoff=today, reread_seconds=options.reread_seconds)


def health_of(keeper: Keeper) -> Health:
    """How the service is."""
    shop = keeper.current
    found = [RefusedText(what=each.what, why=each.why, at=each.at) for each in keeper.refused.values()]
    if shop is None:
        return Health(ok=False, refused=found)
    return Health(
        ok=True,
        model_id=shop.data.model_id,
        model=shop.data.model,
        cutoff=shop.data.cutoff,
        newest_order=shop.newest_order,
        loaded_at=keeper.loaded_at,
        refused=found,
    )
