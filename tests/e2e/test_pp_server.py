"""pp-server as its operator uses it: real processes, TLS on loopback, kills at any time, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agreement.offer import DecisionState, verify_offer
from server.control import ControlClient
from server.home import PlatformHome, server_toml
from server.roster import Roster
from simulations.ports import free_port
from tests.support.flower_platform import Running, running, wait_until
from tests.support.platform import new_platform, public_key_file

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
UP_SECONDS = 90.0
BACK_SECONDS = 30.0


def command(home: PlatformHome, *words: str) -> list[str]:
    return [sys.executable, "-m", "server.cli", *words, "--home", str(home.root)]


def ran(home: PlatformHome, *words: str, exit_code: int = 0) -> str:
    """What a command of the operator printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command(home, *words), env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout + done.stderr


def made_platform(tmp_path: Path) -> PlatformHome:
    """A platform on free ports of this machine."""
    home = new_platform(tmp_path / "p", port=free_port())
    health = {key: f"127.0.0.1:{free_port()}" for key in ("health_http", "health_grpc")}
    home.config_file.write_text(server_toml(replace(home.load_config(), **health)))
    return home


@contextmanager
def up(home: PlatformHome, log: Path) -> Iterator[Running]:
    """`pp-server up`, well."""
    with running(command(home, "up"), home=home.root, log=log) as process:
        wait_until(lambda: well(home), timeout=UP_SECONDS, why=process.said)
        yield process


def health(home: PlatformHome) -> dict[str, object]:
    try:
        answer = httpx.get(f"http://{home.load_config().health_http}/health", timeout=2)
    except httpx.HTTPError:
        return {"ok": False}
    shown: dict[str, object] = answer.json()
    assert (answer.status_code == 200) is shown["ok"]
    return shown


def well(home: PlatformHome) -> bool:
    return health(home)["ok"] is True


def serving(home: PlatformHome) -> bool:
    with grpc.insecure_channel(home.load_config().health_grpc) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def events(home: PlatformHome) -> list[dict[str, object]]:
    return [json.loads(line) for line in home.log.read_text().splitlines()]


def pid_of(home: PlatformHome, child: str) -> int:
    """The process that was started last as this child."""
    started = [e for e in events(home) if e["event"] == "child started" and e["process"] == child]
    pid = started[-1]["pid"]
    assert isinstance(pid, int)
    return pid


def of_home(home: PlatformHome) -> list[str]:
    """The command lines of all processes that name this folder."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if folder.name.isdigit() and str(home.root) in line and int(folder.name) != os.getpid():
            found.append(line)
    return found


def control(home: PlatformHome) -> ControlClient:
    return ControlClient(f"127.0.0.1:{home.load_config().port}", home.ca_certificate, home.read_operator_secret())


def test_a_platform_comes_up_takes_merchants_survives_kills_and_leaves_nothing_behind(tmp_path):
    home = made_platform(tmp_path)
    keys = {name: str(public_key_file(tmp_path, name)) for name in ("bakery", "florist")}
    assert "when it is" in ran(home, "merchants", "add", "bakery", "--key", keys["bakery"])
    with up(home, tmp_path / "up.log") as process:
        wait_until(lambda: serving(home), timeout=5)  # it looks every half second
        assert "runs for" in ran(home, "up", exit_code=2)
        assert "It can connect now" in ran(home, "merchants", "add", "florist", "--key", keys["florist"])
        with control(home) as client:
            assert sorted(node.name for node in client.nodes()) == ["bakery", "florist"]
        assert f"{'bakery'} is out" in ran(home, "merchants", "remove", "bakery")
        with control(home) as client:
            assert [node.name for node in client.nodes()] == ["florist"]
        assert "used before" in ran(home, "merchants", "add", "bakery", "--key", keys["bakery"], exit_code=2)
        ran(home, "merchants", "remove", "bakery")
        took = {}
        for child in ("superlink", "superexec"):
            before = pid_of(home, child)
            os.kill(before, signal.SIGKILL)
            wait_until(lambda child=child, before=before: pid_of(home, child) != before, timeout=BACK_SECONDS)
            took[child] = wait_until(lambda: well(home), timeout=BACK_SECONDS, why=process.said)
        print(f"back after kill -9: {took}")
        with control(home) as client:
            assert [node.name for node in client.nodes()] == ["florist"]
        assert process.stop() == 0
    assert of_home(home) == []
    secrets = [home.operator_secret.read_text(), home.superexec_secret.read_text()]
    written = home.log.read_text() + process.said()
    assert not [secret for secret in secrets if secret in written]
    for path in home.root.rglob("*"):
        assert path.is_symlink() or path.is_dir() or not path.stat().st_mode & 0o077 or "flower" in path.parts, path


def test_nothing_outlives_a_platform_that_was_killed_and_it_comes_up_again(tmp_path):
    home = made_platform(tmp_path)
    with up(home, tmp_path / "up.log") as process:
        process.stop(signal.SIGKILL)
        wait_until(lambda: of_home(home) == [], timeout=20, why=lambda: str(of_home(home)))
    with up(home, tmp_path / "again.log") as process:
        assert process.stop() == 0


def test_a_run_is_started_watched_stopped_by_void_rounds_and_says_how_to_go_on(tmp_path):
    home = made_platform(tmp_path)
    key = str(public_key_file(tmp_path, "bakery"))
    ran(home, "merchants", "add", "bakery", "--key", key)
    flags = ["--epsilon", "3", "--holdout", "2025-05-01", "--horizon-days", "60", "--encoder", "linear"]
    ran(home, "plan", "new", "may", *flags, "--rounds", "2", "--min-merchants", "1", "--round-timeout", "2")
    ran(home, "plan", "sign", "may")
    with up(home, tmp_path / "up.log"):
        said = ran(home, "run", "may", "--wait", "1", exit_code=3)
        assert "0 of 1 approved" in said
        assert "not heard of: bakery" in said
        offer = verify_offer((home.plans / "may.offer.json").read_bytes(), home.verify_key())
        with Roster(home.registry) as roster:
            roster.decide(offer.id, "bakery", DecisionState.APPROVED, None)
        said = ran(home, "run", "may", exit_code=5)  # nobody is connected, so no round is valid
        assert "Approved by bakery" in said
        assert said.count("round 1/2: 0 of 0 released") == 3
        assert "too few valid releases" in said
        assert f"pp-server run may --resume --home {home.root}" in said
        (shown,) = json.loads(ran(home, "runs", "--json"))
        assert (shown["plan_id"], shown["state"], shown["last_round"]) == ("may", "failed", 0)
        wait_until(lambda: [e["event"] for e in events(home)].count("round void") == 3, timeout=10)
        with control(home) as client:
            details = client.run_status(int((home.run_folder("may") / "flower-run.txt").read_text())).details
        assert details == "ServerApp failed with exception: the run stopped"
        assert "taken back" in ran(home, "run", "may", "--stop")
    assert of_home(home) == []


@pytest.mark.parametrize("name", ["secrets/operator", "keys/server.key", "state"])
def test_a_platform_whose_secrets_others_can_read_does_not_come_up(tmp_path, name):
    home = made_platform(tmp_path)
    path = home.root / name
    path.chmod(path.stat().st_mode | 0o044)
    assert "chmod" in ran(home, "up", exit_code=6)
    assert not home.log.exists()


def test_a_platform_whose_certificate_merchants_would_refuse_does_not_come_up(tmp_path):
    home = made_platform(tmp_path)
    config = replace(home.load_config(), address="other.invalid:8443")
    home.config_file.write_text(server_toml(config))
    assert "would not be trusted as other.invalid" in ran(home, "up", exit_code=2)
