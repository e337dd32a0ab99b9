"""A platform of Flower's stock commands for tests, with its own CA, and the merchants' processes that speak to it.

TLS, node authentication, an isolated ServerApp and a secret for the one that starts it, as a real platform has them.
Everything lives under one folder, Flower's home included; everything that was started is stopped by its handle.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flwr.supernode.start_client_internal as loop
import uvicorn
from flwr.app import Message, MessageType
from flwr.app.message import make_message, remove_content_from_message
from flwr.app.metadata import Metadata
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory

from client.flower_hooks import NOTHING
from simulations.ports import free_port
from tests.support.superlink import authority, node_key, server_certificate

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_SECONDS = 90.0
RUN, NODE = 5, 11  # of a LoopbackSuperNode


def listening(port: int) -> bool:
    """Whether something accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], Any], *, timeout: float, why: Callable[[], str] = lambda: "") -> float:
    """Waits for the condition and gives the seconds that it took; fails, with `why`, when the time is over."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + timeout, why()
        time.sleep(0.02)
    return time.monotonic() - begin


@dataclass(kw_only=True)
class Running:
    """A process that was started here, with its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        """Everything it has written so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, *, timeout: float = START_SECONDS, times: int = 1) -> float:
        """Until the text is in its log so many times; notices an early death."""

        def there() -> bool:
            found = self.said().count(text) >= times
            assert found or self.process.poll() is None, self.said()
            return found

        return wait_until(there, timeout=timeout, why=self.said)

    def stop(self, number: int = signal.SIGTERM, *, timeout: float = 30) -> int:
        """Sends the signal and gives the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout)


@contextmanager
def running(command: Sequence[str | Path], *, home: Path, log: Path, **environment: str) -> Iterator[Running]:
    """The process, with Flower's home in `home`; it and what it started are killed at the end if still there."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=home,
            env=surroundings(home, **environment),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Running(process=process, log=log)
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own group: it and its children, nobody else
        process.wait()


def surroundings(home: Path, **more: str) -> dict[str, str]:
    """The environment of a process: this Python first, the product importable, Flower at home in `home`."""
    return {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "FLWR_HOME": str(home / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        **more,
    }


@dataclass(kw_only=True)
class Platform:
    """A running platform; `home` holds its keys, logs and Flower's home."""

    home: Path
    port: int
    superlink: Running

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        return self.home / "ca.crt"

    def flwr(self, *arguments: str | Path) -> dict[str, Any]:
        """What the command says, as JSON."""
        done = subprocess.run(
            [str(BIN / "flwr"), *map(str, arguments), "--format", "json"],
            cwd=self.home,
            env=surroundings(self.home),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        assert answer.get("success", True), done.stdout
        return answer

    def register(self, name: str) -> Path:
        """A new merchant's private key, its public one registered."""
        path, public_line = node_key(self.home, name)
        public = self.home / f"{name}.pub"
        public.write_bytes(public_line)
        self.flwr("supernode", "register", public, "test", "--name", name)
        return path

    def start_run(self, bundle: Path) -> int:
        """The number of the run that was started from the bundle's folder."""
        return int(self.flwr("run", bundle, "test")["run-id"])

    def supernode_arguments(self, key: Path, *, port: int, secret: Path | None) -> list[str]:
        """What flower-supernode is started with; without a secret it runs apps itself, as stock Flower does."""
        isolation = (
            ["--isolation", "subprocess"]
            if secret is None
            else ["--isolation", "process", "--superexec-auth-secret-file", str(secret)]
        )
        return [
            *("--root-certificates", str(self.ca), "--superlink", self.address),
            *("--auth-supernode-private-key", str(key), "--host", "127.0.0.1", "--port", str(port)),
            *isolation,
        ]


@contextmanager
def stock_platform(home: Path) -> Iterator[Platform]:
    """flower-superlink and flower-superexec, ready to take merchants and runs."""
    home.mkdir(parents=True)
    ca = authority()
    (home / "ca.crt").write_bytes(ca.pem)
    certificate, key = server_certificate(home, ca)
    secret, port = home / "superexec", free_port()
    secret.write_bytes(os.urandom(32))
    (home / "flower").mkdir()
    (home / "flower" / "config.toml").write_text(
        f'[superlink.test]\naddress = "127.0.0.1:{port}"\nroot-certificates = {json.dumps(str(home / "ca.crt"))}\n'
    )
    superlink = [
        *(BIN / "flower-superlink", "--ssl-ca-certfile", home / "ca.crt", "--ssl-certfile", certificate),
        *("--ssl-keyfile", key, "--enable-supernode-auth", "--database", home / "state.db"),
        *("--host", "127.0.0.1", "--port", str(port), "--isolation", "process"),
        *("--superexec-auth-secret-file", secret, "--disable-runtime-dependency-installation"),
        *("--health-server-address", f"127.0.0.1:{free_port()}"),
    ]
    superexec = [
        *(BIN / "flower-superexec", "--runtime-api-address", f"localhost:{port}"),
        *("--root-certificates", home / "ca.crt", "--superexec-auth-secret-file", secret),
    ]
    with ExitStack() as stack:
        link = stack.enter_context(running(superlink, home=home, log=home / "superlink.log"))
        wait_until(lambda: _up(link, port), timeout=START_SECONDS, why=link.said)
        stack.enter_context(running(superexec, home=home, log=home / "superexec.log"))
        yield Platform(home=home, port=port, superlink=link)


def _up(process: Running, port: int) -> bool:
    assert process.process.poll() is None, process.said()
    return listening(port)


def write_bundle(folder: Path, *, server: str, client: str) -> Path:
    """A bundle whose ServerApp is `app` of the module text `server`, and whose ClientApp is that of `client`."""
    (folder / "client").mkdir(parents=True)
    (folder / "client" / "__init__.py").write_text("")
    (folder / "client" / "app.py").write_text(client)
    (folder / "platform_side.py").write_text(server)
    project = """
        [project]
        name = "shipped"
        version = "1.0.0"
        description = "What a platform ships."
        license = "Apache-2.0"
        dependencies = []
        [tool.flwr.app]
        publisher = "platform"
        fab-include = ["**/*.py"]
        [tool.flwr.app.components]
        serverapp = "platform_side:app"
        clientapp = "client.app:app"
        [tool.flwr.app.config]
        answer = 42
    """
    text = "\n".join(line.strip() for line in project.splitlines())
    tomllib.loads(text)
    (folder / "pyproject.toml").write_text(text)
    return folder


class LoopbackSuperNode:
    """SuperNode's memory, loop functions and runtime API in this process; what a platform does is a method call.

    Flower's own parts, tightened by our hooks where the test has applied them.
    """

    def __init__(self, *, secret: bytes) -> None:
        self.factory = NodeStateFactory(ObjectStoreFactory())
        self.state: Any = self.factory.state()
        self.state.set_node_id(NODE)
        config = uvicorn.Config(
            create_app(self.factory, secret), host="127.0.0.1", port=0, log_level="warning", lifespan="off", ws="none"
        )
        self._server = uvicorn.Server(config)

    def __enter__(self) -> LoopbackSuperNode:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})
        self._thread.start()
        wait_until(lambda: self._server.started, timeout=20)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        self._listener.close()

    def give(self, content: Any, *, kind: str = MessageType.TRAIN, root: Any = None, **run: Any) -> Message:
        """A message from the platform, taken in by Flower's loop; `root` are other bytes under the message's name.

        Args:
            run: what the platform says about the run.
        """
        message = _from_platform(content, kind)
        parts = get_all_nested_objects(root or message)
        tree = get_object_tree(root or message)
        message.metadata.__dict__["_message_id"] = tree.object_id
        with no_object_id_recompute():
            contents = {name: part.deflate() for name, part in parts.items()}
        taken = loop._pull_and_store_message(
            state=self.state,
            object_store=self.state.object_store,
            node_config={"of": "the node"},
            receive=lambda: (remove_content_from_message(message), tree),
            get_run=lambda number: dataclasses.replace(Run.create_empty(number), fab_hash=NOTHING.hash_str, **run),
            get_fab=lambda *_: NOTHING,
            pull_object=lambda _, name: contents[name],
            confirm_message_received=lambda *_: None,
            trusted_entities=None,
        )
        assert taken == RUN
        return message

    def replies(self, count: int, *, timeout: float = 20.0) -> list[Message]:
        """The replies as SuperNode would send them, when so many have come; their messages are over with that."""
        found: list[Message] = []

        def came() -> bool:
            for reply in self.state.get_messages_legacy(is_reply=True):
                found.append(self._whole(reply))
                asked = reply.metadata.reply_to_message_id
                self.state.delete_messages(message_ids=[reply.metadata.message_id, asked])
            return len(found) >= count

        wait_until(came, timeout=timeout, why=lambda: f"{len(found)} of {count} replies")
        return found

    def _whole(self, reply: Message) -> Message:
        if reply.has_error():
            return reply
        name = reply.metadata.message_id
        store = self.state.object_store
        parts = {part.object_id: store.get(part.object_id) for part in iterate_object_tree(store.get_object_tree(name))}
        whole = inflate_object_from_contents(name, parts)
        assert isinstance(whole, Message)
        return whole


def _from_platform(content: Any, kind: str) -> Message:
    metadata = Metadata(
        run_id=RUN,
        message_id="",
        src_node_id=1,
        dst_node_id=NODE,
        reply_to_message_id="",
        group_id="1",
        created_at=time.time(),
        ttl=600.0,
        message_type=kind,
    )
    return make_message(metadata=metadata, content=content)
