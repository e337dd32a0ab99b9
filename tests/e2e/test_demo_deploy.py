"""`pp-sim deploy`, as a person runs it: told step by step, and nothing of it left running however it ends."""

import fcntl
import json
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from simulations.deployment import DeploymentError, wait_until
from tests.support.documents import command_lines, fault_of_call
from tests.support.pp_sim import ROOT, command, environment, pp_sim

pytestmark = pytest.mark.e2e

SECONDS = 600.0  # on a busy machine; two minutes on one that is not


def deploy(out, *flags):
    """The finished demonstration."""
    return subprocess.run(
        command("deploy", "--out", str(out), *flags),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def processes_of(out):
    """Numbers of the processes that name the folder on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if str(out).encode() in words:
            found.append(int(folder.name))
    return found


def daemons_of(merchant):
    """Numbers of the merchant's `pp-client run`."""
    found = []
    for number in processes_of(merchant):
        with suppress(FileNotFoundError, ProcessLookupError):
            if b"\0client.cli\0run\0" in Path(f"/proc/{number}/cmdline").read_bytes():
                found.append(number)
    return found


def nothing_runs(out):
    """Fails, and names them, where processes of the demonstration live on."""
    with suppress(DeploymentError):
        wait_until(lambda: not processes_of(out), 30.0, what="the last process to end")
    left = []
    for number in processes_of(out):
        with suppress(FileNotFoundError, ProcessLookupError):
            left.append(
                (Path(f"/proc/{number}/cmdline").read_bytes(), Path(f"/proc/{number}/status").read_text()[:200])
            )
    assert left == []


def begun(out, log):
    """A demonstration whose bakery's daemon has been started, after which the rest is still to come."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command("deploy", "--out", str(out)), cwd=ROOT, env=environment(), stdout=output, stderr=output
        )
    wait_until(lambda: (out / "bakery.log").exists() or process.poll() is not None, SECONDS, what="the bakery", log=log)
    assert process.poll() is None, log.read_text()
    return process


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "deploy"
    done = deploy(out, "--json")
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout), done.stderr


def test_three_merchants_train_a_plan_that_one_of_them_approved_by_hand(demo):
    _, result, told = demo
    assert result["merchants"] == ["bakery", "florist", "grocer"]
    assert Path(result["model"]).is_file()
    assert result["statement"]["charged_rounds"] == result["rounds"] == 5
    assert 1.9 < result["statement"]["charged_epsilon"] <= 2.0
    assert "florist: waiting" in told
    assert f"Approved: {result['offer']}" in told


def test_each_command_is_shown_as_a_person_types_it(demo):
    _, _, told = demo
    shown = "\n".join(line.removeprefix("$ ") for line in told.splitlines() if line.startswith(("$ ", "    --")))
    calls = command_lines(shown)
    assert {tuple(words[:2]) for words in calls} >= {
        *(("pp-server", name) for name in ("init", "up", "merchants", "plan", "run")),
        *(("pp-client", name) for name in ("init", "run", "plans", "approve", "statement", "pull")),
    }
    assert [fault for words in calls if (fault := fault_of_call(words))] == []


def test_nothing_runs_afterwards_and_the_logs_are_where_it_says(demo):
    out, result, told = demo
    assert processes_of(out) == []
    assert "pp-server (0), bakery (0), florist (0), grocer (0)" in " ".join(told.split())
    for log in result["logs"].values():
        assert Path(log).read_text()
        assert log in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["interrupt", "terminate"])
def test_an_interrupted_demonstration_leaves_nothing_running(tmp_path, number):
    out, log = tmp_path / "deploy", tmp_path / "told"
    process = begun(out, log)
    process.send_signal(number)
    assert process.wait(120) == 130
    nothing_runs(out)
    assert "Stopped by hand" in log.read_text()
    assert str(out / "platform" / "log" / "server.jsonl") in log.read_text()


def test_a_demonstration_that_fails_says_why_and_leaves_nothing_running(tmp_path):
    out, log = tmp_path / "deploy", tmp_path / "told"
    process = begun(out, log)
    wait_until(lambda: daemons_of(out / "bakery"), 30.0, what="the bakery's process", log=log)
    [daemon] = daemons_of(out / "bakery")
    subprocess.run(["kill", "-9", str(daemon)], check=True)
    assert process.wait(SECONDS) == 2
    assert "bakery ended before it served" in " ".join(log.read_text().split())
    assert "bakery (-9)" in log.read_text()
    nothing_runs(out)


def test_another_folder_is_left_as_it_is(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    done = pp_sim("deploy", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "holds something else" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_demonstration_that_still_runs_is_not_replaced(tmp_path):
    lock = tmp_path / "platform" / "state" / "up.lock"
    lock.parent.mkdir(parents=True)
    (tmp_path / "demo-deploy.json").write_text("{}")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = pp_sim("deploy", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "still runs" in done.stderr
    assert lock.exists()
