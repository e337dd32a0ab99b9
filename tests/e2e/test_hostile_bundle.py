"""Checklist: what the platform ships. A hostile bundle, the stock SuperNode that runs it, and ours that does not."""

import json
import signal
import sqlite3
import sys
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from simulations.ports import free_port
from tests.support.flower_platform import (
    BIN,
    Platform,
    Running,
    listening,
    running,
    stock_platform,
    wait_until,
    write_bundle,
)

pytestmark = pytest.mark.e2e

ORDERS = "customer,amount\nQuetzalcoatl Vandersloot,719384.65\n"

HOSTILE = """
import os, pathlib, socket
pathlib.Path({marker!r}).write_text("ran")
pathlib.Path({loot!r}).write_text(pathlib.Path({orders!r}).read_text())
import client
socket.create_connection(("127.0.0.1", {port}), timeout=5).close()
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.train()
def train(message, context):
    return Message(RecordDict({{"who": ConfigRecord({{"name": "shipped"}})}}), reply_to=message)
"""

HARMLESS = "from flwr.clientapp import ClientApp\napp = ClientApp()\n"

# Sends a message of each kind, and writes a JSON line for each: what the replies said, and the seconds it took.
SERVER = """
import json, pathlib, time
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    out = pathlib.Path({out!r})
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.1)
    for kind in {kinds!r}:
        content = RecordDict({{"c": ConfigRecord({{"seconds": {seconds!r}}})}})
        begin = time.monotonic()
        messages = [Message(content, node, kind, ttl={timeout!r}) for node in nodes]
        ids, replies = set(grid.push_messages(messages)), []
        while ids and time.monotonic() < begin + {timeout!r}:
            came = list(grid.pull_messages(ids))
            ids -= {{reply.metadata.reply_to_message_id for reply in came}}
            replies += came
            time.sleep(0.05)
        said = [r.error.reason if r.has_error() else {{k: dict(v) for k, v in r.content.items()}} for r in replies]
        with out.open("a") as lines:
            lines.write(json.dumps([said, round(time.monotonic() - begin, 2)]) + "\\n")
"""

# The merchant's own app: says its name, how often it was called, and takes as long as it is asked to.
PINNED = """
import pathlib, sys, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from client.runner import run_app
app, calls = ClientApp(), pathlib.Path(sys.argv.pop(1))
@app.train()
def train(message, context):
    with calls.open("a") as lines:
        lines.write("called\\n")
    time.sleep(float(message.content["c"]["seconds"]))
    return Message(RecordDict({"who": ConfigRecord({"name": "pinned"})}), reply_to=message)
run_app(app, sys.argv[1:])
"""

PINNED_SAID = {"who": {"name": "pinned"}}
SHIPPED_SAID = {"who": {"name": "shipped"}}


class Shop:
    """A merchant's folder, and the commands that it starts."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        folder.mkdir()
        self.home, self.platform, self.port = folder, platform, free_port()
        self.key, self.secret = platform.register("bakery"), folder / "secret"
        self.secret.write_bytes(b"a secret of the shop's own, 32 bytes long")
        self.orders, self.calls = folder / "orders.csv", folder / "calls"
        self.orders.write_text(ORDERS)
        (folder / "pinned.py").write_text(PINNED)

    @contextmanager
    def supernode(self, log: str = "supernode.log"):
        arguments = self.platform.supernode_arguments(self.key, port=self.port, secret=self.secret)
        command = [sys.executable, "-m", "client.supernode", *arguments]
        with running(command, home=self.home, log=self.home / log) as process:
            process.wait_for("SuperNode ID")
            yield process

    @contextmanager
    def stock_supernode(self):
        command = [
            BIN / "flower-supernode",
            *self.platform.supernode_arguments(self.key, port=self.port, secret=None),
        ]
        with running(command, home=self.home, log=self.home / "stock.log") as process:
            process.wait_for("SuperNode ID")
            yield process

    def runner(self):
        command = [sys.executable, "pinned.py", str(self.calls), "--address", f"127.0.0.1:{self.port}"]
        return running([*command, "--secret-file", str(self.secret)], home=self.home, log=self.home / "runner.log")

    def called(self) -> int:
        """How often the app has been called."""
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


class Run:
    """A bundle in a folder of its own, and what its ServerApp wrote down."""

    def __init__(
        self, folder: Path, *, client: str = HARMLESS, seconds: float = 0.0, kinds: tuple[str, ...] = ("train",)
    ):
        folder.mkdir()
        self.out = folder / "out.jsonl"
        server = SERVER.format(out=str(self.out), kinds=kinds, seconds=seconds, timeout=100.0)
        self.bundle = write_bundle(folder / "bundle", server=server, client=client)

    def rounds(self) -> list[tuple[list[object], float]]:
        """The replies of every round so far, and the seconds that it took."""
        return [tuple(json.loads(line)) for line in self.out.read_text().splitlines()] if self.out.exists() else []

    def wait(self, *, rounds: int, why: Running, timeout: float = 150) -> list[tuple[list[object], float]]:
        """`rounds()`, when there are so many."""
        wait_until(lambda: len(self.rounds()) >= rounds, timeout=timeout, why=why.said)
        return self.rounds()


@pytest.fixture
def platform(tmp_path):
    with stock_platform(tmp_path / "platform") as platform:
        yield platform


@pytest.fixture
def shop(platform, tmp_path):
    return Shop(platform, tmp_path / "shop")


@contextmanager
def merchant(shop: Shop):
    """SuperNode and runner, as the merchant starts them."""
    with ExitStack() as stack:
        yield stack.enter_context(shop.supernode()), stack.enter_context(shop.runner())


def hostile(shop: Shop) -> str:
    marker, loot = shop.home / "marker", shop.home / "loot"
    return HOSTILE.format(marker=str(marker), loot=str(loot), orders=str(shop.orders), port=shop.port)


def seconds_told(platform: Platform) -> float:
    """What merchants have told the platform about how long their apps ran."""
    with closing(sqlite3.connect(platform.home / "state.db")) as state:
        return float(state.execute("SELECT SUM(clientapp_runtime) FROM run").fetchone()[0])


def test_a_hostile_bundle_runs_never_and_training_goes_on(platform, shop, tmp_path):
    run = Run(tmp_path / "run", client=hostile(shop), kinds=("train",) * 3)
    with merchant(shop) as (supernode, _):
        platform.start_run(run.bundle)
        rounds = run.wait(rounds=3, why=platform.superlink)
        assert [said for said, _ in rounds] == [[PINNED_SAID]] * 3
        assert shop.called() == 3
        assert supernode.stop() == 0
    assert not (shop.home / "marker").exists()
    assert not (shop.home / "loot").exists()
    assert list((shop.home / "flower").rglob("*.py")) == []  # nothing was unpacked
    assert "[Fleet.GetFab]" not in platform.superlink.said()  # nor fetched
    assert seconds_told(platform) == 0.0
    assert sorted(seconds for _, seconds in rounds)[1] < 4.0


def test_the_same_bundle_does_run_in_stock_flower_so_the_check_can_fail(platform, shop, tmp_path):
    run = Run(tmp_path / "run", client=hostile(shop))
    with shop.stock_supernode():
        platform.start_run(run.bundle)
        rounds = run.wait(rounds=1, why=platform.superlink)
    assert [said for said, _ in rounds] == [[SHIPPED_SAID]]
    assert (shop.home / "marker").read_text() == "ran"
    assert (shop.home / "loot").read_text() == ORDERS
    assert "[Fleet.GetFab]" in platform.superlink.said()
    assert seconds_told(platform) > 0.0


def test_what_is_not_training_is_refused_by_a_code_and_never_reaches_the_app(platform, shop, tmp_path):
    run = Run(tmp_path / "run", kinds=("evaluate", "query", "train.metrics", "train"))
    with merchant(shop):
        platform.start_run(run.bundle)
        rounds = run.wait(rounds=4, why=platform.superlink)
    codes = [said[0].get("scalars", {}).get("code") for said, _ in rounds]
    assert codes == ["bad_task", "bad_task", "bad_task", None]
    assert shop.called() == 1


def test_a_runner_killed_in_the_middle_of_a_task_is_given_it_again(platform, shop, tmp_path):
    run = Run(tmp_path / "run", seconds=2.0)
    with shop.supernode():
        with shop.runner() as runner:
            platform.start_run(run.bundle)
            wait_until(lambda: shop.called() == 1, timeout=90, why=platform.superlink.said)
            runner.stop(signal.SIGKILL)
        with shop.runner():
            (said, seconds) = run.wait(rounds=1, why=platform.superlink)[0]
    assert said == [PINNED_SAID]
    assert shop.called() == 2
    assert seconds < 45.0  # stock Flower: a minute, and an error


def test_after_sigterm_a_supernode_signs_off_and_a_restart_works_at_once(platform, shop, tmp_path):
    run = Run(tmp_path / "run", kinds=("train",))
    with shop.supernode() as supernode:
        assert supernode.stop() == 0
    assert "[Fleet.DeactivateNode] Deactivated" in platform.superlink.said()
    wait_until(lambda: not listening(shop.port), timeout=10)
    with shop.supernode("second.log"), shop.runner():
        platform.start_run(run.bundle)
        assert run.wait(rounds=1, why=platform.superlink)[0][0] == [PINNED_SAID]


def test_a_runner_outlives_its_supernode(platform, shop, tmp_path):
    run = Run(tmp_path / "run", kinds=("train",))
    with shop.runner() as runner:
        runner.wait_for("supernode does not answer")
        for log in ("first.log", "second.log"):
            with shop.supernode(log) as supernode:
                assert supernode.stop() == 0
            wait_until(lambda: not listening(shop.port), timeout=10)
        with shop.supernode("third.log"):
            platform.start_run(run.bundle)
            assert run.wait(rounds=1, why=platform.superlink)[0][0] == [PINNED_SAID]
        assert runner.process.poll() is None
        assert runner.stop() == 0
