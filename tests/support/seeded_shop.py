"""A merchant in test mode: all is as in a shop, but noise and batches come from a seed, so that a run can be repeated.

As a program, `python -m tests.support.seeded_shop --config merchant.toml`, it is the runner of such a merchant.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.app import make_client_app
from client.ledger import open_ledger
from client.settings import load_settings
from client.shop import Shop
from client.shop_main import run_shop
from daemons.logs import configure_log
from pp_model.model import trainable_shapes
from server.app import ServerSettings, make_server_app
from server.home import PlatformHome
from server.run_folder import RunFolder
from simulations.deployment import Deployment
from simulations.federation import FIRST_NODE
from simulations.grid import InProcessGrid
from simulations.seeded import SeededSource
from tests.support.deployed import settings_of

Other = Callable[[Message], Message]


def secret_of(merchant: str) -> SeededSource:
    """The merchant's randomness, the same in every process."""
    return SeededSource(zlib.crc32(merchant.encode()))


def train_here(
    deployment: Deployment, plan: str, shops: Sequence[str], *, folder: Path, others: Mapping[str, Other] | None = None
) -> Path:
    """The model file of a plan of the deployment, trained once more in this process, out of the merchants' own files.

    The ledgers are new ones, `folder`/NAME.sqlite; everything else of a merchant is what its merchant.toml says.

    Args:
        others: who answers with messages of the test's choice, by name.
    """
    home = PlatformHome(deployment.platform_home)
    run = RunFolder(home.run_folder(plan))
    training = run.offer(home.verify_key()).plan
    others = others or {}
    # The latest name has the lowest number: the order of the sum is that of the names.
    nodes = dict(enumerate(sorted([*shops, *others], reverse=True), FIRST_NODE))
    settings = ServerSettings(
        plan=training,
        initial=run.init(training),
        trainable=trainable_shapes(training.model),
        directory=folder,
        registry=folder / "registry.sqlite",
        merchants=lambda: nodes,
    )
    configs = {node: {"merchant": name} for node, name in nodes.items()}
    with _one_thread(), _open(deployment, shops, folder) as opened:
        app = _app(opened, others)
        with InProcessGrid(app, node_configs=configs) as grid:
            make_server_app(lambda _: settings)(grid, grid.server_context())
    return folder / "model.safetensors"


@contextmanager
def _open(deployment: Deployment, names: Sequence[str], folder: Path) -> Iterator[dict[str, Shop]]:
    with ExitStack() as stack:
        shops = {}
        for name in names:
            settings = settings_of(deployment, name)
            policy = settings.policy
            ledger = open_ledger(
                folder / f"{name}.sqlite", lineage=settings.lineage, budget=policy.epsilon_budget, delta=policy.delta
            )
            shops[name] = Shop(
                source=settings.source(),
                ledger=stack.enter_context(ledger),
                policy=policy,
                secret=secret_of(name),
                device=settings.local.device,
            )
        yield shops


def _app(shops: Mapping[str, Shop], others: Mapping[str, Other]) -> ClientApp:
    honest, app = make_client_app(lambda context: shops[str(context.node_config["merchant"])]), ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        other = others.get(str(context.node_config["merchant"]))
        return other(message) if other else honest(message, context)

    return app


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a deployment's processes: the order of a sum of floats depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main() -> int:
    """As `client.shop_main.main`, with the merchant's own seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True, type=Path)
    settings = load_settings(parser.parse_args().config)
    configure_log(None, "INFO")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_shop(settings, stop=stop, secret=secret_of(settings.merchant))
    return 0


if __name__ == "__main__":
    sys.exit(main())
