"""pp-client serve as a real process, and clients of both its doors."""

from __future__ import annotations

import contextlib
import json
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx

from client.serving.run import TOKEN_FILE
from tests.support.scored import ScoredShop

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running service.

    Attributes:
        log: what the process wrote.
        ca: of the authority behind its certificate; None where it speaks no TLS.
    """

    shop: ScoredShop
    process: subprocess.Popen[bytes]
    log: Path
    http_port: int
    grpc_port: int
    ca: Path | None

    @property
    def token(self) -> str:
        """What every request shows."""
        return (self.shop.config.parent / "secrets" / TOKEN_FILE).read_text().strip()

    def client(self, *, timeout: float = 30.0) -> httpx.Client:
        """A client that shows the token."""
        scheme, verify = ("http", True) if self.ca is None else ("https", ssl.create_default_context(cafile=self.ca))
        return httpx.Client(
            base_url=f"{scheme}://127.0.0.1:{self.http_port}",
            headers={"authorization": f"Bearer {self.token}"},
            timeout=timeout,
            verify=verify,
            trust_env=False,
        )

    def channel(self) -> grpc.Channel:
        """A channel to the gRPC door."""
        place = f"localhost:{self.grpc_port}"
        if self.ca is None:
            return grpc.insecure_channel(place)
        return grpc.secure_channel(place, grpc.ssl_channel_credentials(self.ca.read_bytes()))

    def health(self) -> dict[str, Any]:
        """What /health says now."""
        with self.client() as client:
            told: dict[str, Any] = json.loads(client.get("/health").content)
            return told


@contextlib.contextmanager
def serving(shop: ScoredShop, log: Path, *arguments: str, ca: Path | None = None) -> Iterator[Served]:
    """The process, ready to answer; stopped at the end by its handle."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "client.cli", "serve", "--config", str(shop.config)]
    command += ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            wait_until(lambda: "gRPC:" in log.read_text(), process, log)
            ports = [int(port) for port in re.findall(r"(?:HTTP: https?://|gRPC: )\S+?:(\d+)", log.read_text())]
            found = Served(shop=shop, process=process, log=log, http_port=ports[0], grpc_port=ports[1], ca=ca)
            wait_until(lambda: found.health()["ok"], process, log)
            yield found
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(60)
                finally:
                    process.kill()
                    process.wait()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits, with a deadline, as long as the process lives."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
