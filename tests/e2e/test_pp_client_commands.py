"""pp-client run as a real process: what it connects to and how often, what its status page says, how it stops."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.metrics import glance
from client.settings import load_settings
from simulations.ports import free_port
from tests.support.market import market
from tests.support.merchant_home import invitation, new_shop
from tests.support.superlink import authority, server_certificate
from tests.support.tls_server import answers_over_tls, health, listening

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
START_SECONDS = 300.0  # SuperNode is refused here, and offers are asked for only while it runs: four tries fit


@contextlib.contextmanager
def daemon(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`pp-client run`, stopped at the end by its handle."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HTTPS_PROXY": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "client.cli", "run", "--config", str(config)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(40)
                finally:
                    process.kill()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def with_ports(config: Path) -> tuple[int, int]:
    """Free ports in merchant.toml; those of the status page."""
    ports = [free_port() for _ in range(3)]
    text = config.read_text()
    head, _, rest = text.partition("[local]")
    rest = rest.partition("\n[")[1] + rest.partition("\n[")[2]
    config.write_text(
        f'{head}[local]\nhealth_http = "127.0.0.1:{ports[0]}"\nhealth_grpc = "127.0.0.1:{ports[1]}"\n'
        f"supernode_port = {ports[2]}\npoll_seconds = 1.0\n{rest}"
    )
    return ports[0], ports[1]


def fetched(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def serves(port: int, service: str) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def events(home: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (home / "log" / "client.jsonl").read_text().splitlines()]


def parts_of(http: int) -> dict[str, bool]:
    return json.loads(fetched(http, "/health")[1])["parts"]


def test_the_daemon_takes_offers_tells_how_it_is_and_stops_in_order(tmp_path):
    with market(tmp_path) as place:
        offer = place.offer()
        http, grpc_port = with_ports(place.config)
        log = tmp_path / "out.log"
        with daemon(place.config, log) as process:
            wait_until(lambda: bool(place.decisions(offer)), process, log)
            wait_until(lambda: "pp_plans_waiting 1.0" in fetched(http, "/metrics")[1], process, log)
            wanted = {"runner": True, "platform": True, "ledger": True}  # nobody serves Flower's own protocol here
            wait_until(lambda: wanted.items() <= parts_of(http).items(), process, log)
            assert set(parts_of(http)) == {*wanted, "supernode"}
            wait_until(lambda: "pp_orders_age_days 1.0" in fetched(http, "/metrics")[1], process, log)
            page = fetched(http, "/metrics")[1]
            assert "pp_epsilon_spent 0.0" in page
            assert "pp_epsilon_left 3.0" in page
            wait_until(lambda: serves(grpc_port, "runner"), process, log)
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0, log.read_text()
        written = [event["event"] for event in events(place.config.parent)]
        assert written[-1] == "daemon stopped"
        assert glance(load_settings(place.config).paths.ledger).charges == 0


def test_a_second_daemon_of_one_folder_says_that_there_is_one(tmp_path):
    with market(tmp_path) as place:
        http, _ = with_ports(place.config)
        log = tmp_path / "out.log"
        with daemon(place.config, log) as process:
            wait_until(lambda: fetched(http, "/health")[0] in (200, 503), process, log)
            second = tmp_path / "second.log"
            with daemon(place.config, second) as other:
                assert other.wait(60) == 2
            assert "already at work" in second.read_text()


def test_a_wrong_authority_sees_one_attempt_in_thirty_seconds_and_the_log_says_what_to_do(tmp_path):
    other = authority()
    cert, key = server_certificate(tmp_path, other)
    attempts: list[float] = []
    over_tls = answers_over_tls(cert, key, health())

    def counted(connection: socket.socket) -> None:
        attempts.append(time.monotonic())
        over_tls(connection)

    with listening(counted) as address:
        made = new_shop(tmp_path / "shop", invitation=invitation(address, ca_pem=authority().pem))
        with_ports(made.config)
        log = tmp_path / "out.log"
        with daemon(made.config, log) as process:
            wait_until(lambda: len(attempts) >= 1, process, log)
            wait_until(lambda: time.monotonic() > attempts[0] + 34, process, log)
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0
    assert 1 <= len(attempts) <= 2
    assert all(later - earlier >= 30 for earlier, later in itertools.pairwise(attempts))
    told = [event for event in events(tmp_path / "shop") if "one attempt in 30 s" in event["event"]]
    assert "not from the pinned authority" in told[0]["why"]
