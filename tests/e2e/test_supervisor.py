"""The supervisor with real processes: what dies comes back in its time, what must end ends, output is only output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from daemons.health import HealthServer, Status
from daemons.process import LINES_KEPT
from daemons.restarts import RestartPolicy
from daemons.supervisor import Child, ChildState, State, Supervisor

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
LIVE = "import signal; signal.pause()"
UP = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: exec(sys.argv[2]))
open(sys.argv[1], 'w').close()
while True: signal.pause()
"""  # touches a file when it is up, and answers SIGTERM as it is told
QUICK = RestartPolicy(first_seconds=0.05, longest_seconds=0.2, jitter=0.0)
NEVER = RestartPolicy(first_seconds=600.0, longest_seconds=600.0)


def child(program: str, *arguments: object, name: str = "child", **changes: Any) -> Child:
    """A child that runs a Python program given as text."""
    command = [sys.executable, "-I", "-u", "-c", program, *map(str, arguments)]
    return Child(**{"name": name, "command": command, "environment": {}, "restart": QUICK, **changes})


def wait_until(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def state(supervisor: Supervisor, name: str = "child") -> ChildState:
    return next(each for each in supervisor.states() if each.name == name)


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def times(path: Path) -> list[float]:
    return [float(line) for line in path.read_text().split()] if path.exists() else []


NOTE_AND_EXIT = "import sys, time; open(sys.argv[1], 'a').write(f'{time.monotonic()}\\n'); sys.exit(int(sys.argv[2]))"


def test_a_child_that_dies_comes_back_after_ever_longer_waits(tmp_path):
    policy = RestartPolicy(first_seconds=0.1, longest_seconds=0.4, jitter=0.0)
    with Supervisor([child(NOTE_AND_EXIT, tmp_path / "starts", 3, restart=policy)]) as supervisor:
        wait_until(lambda: len(times(tmp_path / "starts")) == 5)
        assert state(supervisor).restarts == 4
    starts = times(tmp_path / "starts")
    waits = [later - earlier for earlier, later in pairwise(starts)]
    assert all(wait >= least for wait, least in zip(waits, [0.1, 0.2, 0.4, 0.4], strict=True)), waits


def test_a_child_that_lived_long_enough_starts_again_at_once():
    policy = RestartPolicy(first_seconds=0.01, longest_seconds=600.0, healthy_after_seconds=0.0, jitter=0.0)
    with Supervisor([child("", restart=policy)]) as supervisor:  # 2 to the 20th hundredths would be three hours
        wait_until(lambda: state(supervisor).restarts >= 20)


SAYS_305 = "import sys; print('Exit Code: 305'); sys.exit(1)"
LEAST = {
    "by its exit code": ("import sys; sys.exit(49)", lambda code, _: 1.0 if code == 49 else 0.0),
    "by what it said": (SAYS_305, lambda _, lines: 1.0 if "Exit Code: 305" in lines else 0.0),
}


@pytest.mark.parametrize(("program", "least"), LEAST.values(), ids=LEAST.keys())
def test_an_exit_that_needs_patience_gets_at_least_that(program, least):
    exits: list[float] = []
    policy = RestartPolicy(first_seconds=0.01, longest_seconds=0.02, least_seconds=least)
    with Supervisor([child(program, restart=policy)], on_exit=lambda *_: exits.append(time.monotonic())) as supervisor:
        wait_until(lambda: len(exits) == 1)
        assert state(supervisor).state is State.WAITING
        wait_until(lambda: len(exits) == 3)
    assert min(exits[1] - exits[0], exits[2] - exits[1]) >= 1.0


def test_the_end_of_a_child_is_told_with_its_code_and_last_lines():
    ends: list[tuple[str, int, Sequence[str]]] = []
    program = f"import sys\nfor n in range({LINES_KEPT + 5}): print(n)\nprint('why', file=sys.stderr); sys.exit(49)"
    with Supervisor([child(program, restart=NEVER)], on_exit=lambda *end: ends.append(end)) as supervisor:
        wait_until(lambda: ends != [])
        seen = state(supervisor)
    assert ends == [("child", 49, (*map(str, range(6, LINES_KEPT + 5)), "why"))]
    assert (seen.state, seen.last_exit, seen.pid, seen.restarts) == (State.WAITING, 49, None, 0)
    assert seen.waits_until is not None
    assert 500 < seen.waits_until.timestamp() - time.time() < 750


def test_a_child_killed_by_a_signal_comes_back_as_a_new_process():
    with Supervisor([child(LIVE)]) as supervisor:
        wait_until(lambda: state(supervisor).state is State.RUNNING)
        first = state(supervisor).pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: state(supervisor).pid not in (first, None))
        assert (state(supervisor).last_exit, state(supervisor).restarts) == (-signal.SIGKILL, 1)


@pytest.mark.parametrize(
    "wrong", [{"command": ["/no/such/program"]}, {"cwd": Path("/no/such/folder")}], ids=["command", "folder"]
)
def test_a_command_that_cannot_start_waits_and_says_why(wrong):
    ends: list[tuple[str, int, Sequence[str]]] = []
    with Supervisor([child(LIVE, restart=NEVER, **wrong)], on_exit=lambda *end: ends.append(end)) as supervisor:
        wait_until(lambda: ends != [])
        assert state(supervisor).state is State.WAITING
    assert ends[0][:2] == ("child", 127)
    assert "No such file or directory" in ends[0][2][-1]


def test_a_function_that_raises_does_not_end_the_supervisor():
    def wrong(*_: object) -> Any:
        raise ValueError("no")

    policy = RestartPolicy(first_seconds=0.05, longest_seconds=0.1, least_seconds=wrong)
    with Supervisor([child("", restart=policy)], on_exit=wrong) as supervisor:
        wait_until(lambda: state(supervisor).restarts >= 2)
        assert not supervisor.failed


def test_a_child_is_starting_until_it_says_that_it_is_ready(tmp_path):
    def ready() -> bool:
        return bool((tmp_path / "ready").read_text())  # raises until the file is there

    with Supervisor([child(LIVE, ready=ready)]) as supervisor:
        wait_until(lambda: state(supervisor).pid is not None)
        assert state(supervisor).state is State.STARTING
        (tmp_path / "ready").write_text("yes")
        wait_until(lambda: state(supervisor).state is State.RUNNING)
    assert state(supervisor).state is State.STOPPED


def test_a_restart_on_request_is_prompt_and_no_failure(tmp_path):
    ends: list[object] = []
    gentle = child(UP, tmp_path / "up", "sys.exit(5)", ready=(tmp_path / "up").exists, restart=NEVER)
    with Supervisor([gentle, child(LIVE, name="other")], on_exit=lambda *end: ends.append(end)) as supervisor:
        wait_until(lambda: all(each.state is State.RUNNING for each in supervisor.states()))
        first, other = supervisor.states()
        supervisor.restart("child")
        wait_until(lambda: state(supervisor).pid not in (first.pid, None))
        assert (state(supervisor).last_exit, state(supervisor).restarts) == (5, 1)  # it was asked, not killed
        assert (ends, state(supervisor, "other").pid) == ([], other.pid)
        with pytest.raises(KeyError, match="nobody"):
            supervisor.restart("nobody")


def test_a_request_is_no_short_cut_past_a_wait(tmp_path):
    waits = child(NOTE_AND_EXIT, tmp_path / "starts", 1, restart=NEVER)
    with Supervisor([waits, child(LIVE, name="other")]) as supervisor:
        wait_until(lambda: state(supervisor).state is State.WAITING)
        supervisor.restart("child")
        supervisor.restart("other")  # done after the request before
        wait_until(lambda: state(supervisor, "other").restarts == 1)
        assert state(supervisor).state is State.WAITING
    assert len(times(tmp_path / "starts")) == 1


def test_a_child_outlives_the_thread_that_asked_for_it(tmp_path):
    supervisor = Supervisor([child(UP, tmp_path / "up", "sys.exit(5)", restart=NEVER), child("", name="other")])

    def start() -> None:
        supervisor.start()
        wait_until((tmp_path / "up").exists)

    starter = threading.Thread(target=start)
    starter.start()
    starter.join()
    lives = state(supervisor, "other").restarts
    try:
        wait_until(lambda: state(supervisor, "other").restarts == lives + 3)  # time enough to die
        assert (state(supervisor).state, state(supervisor).last_exit) == (State.RUNNING, None)
    finally:
        supervisor.stop()


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace_and_the_others_are_not_kept_waiting(tmp_path):
    deaf = child(UP, tmp_path / "up", "print('deaf')", ready=(tmp_path / "up").exists)
    with Supervisor([child(LIVE, name="first"), deaf], grace_seconds=1.0) as supervisor:
        wait_until(lambda: all(each.state is State.RUNNING for each in supervisor.states()))
        began = time.monotonic()
        supervisor.ask_to_stop()
        wait_until(lambda: state(supervisor, "first").state is State.STOPPED)
        assert time.monotonic() - began < 1.0
        assert state(supervisor).state is State.RUNNING
        supervisor.join()
    assert 1.0 <= time.monotonic() - began < 4.0
    assert [each.last_exit for each in supervisor.states()] == [-signal.SIGTERM, -signal.SIGKILL]


def test_what_a_child_started_ends_with_it(tmp_path):
    program = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', sys.argv[1]]).pid)"
    ends: list[tuple[str, int, Sequence[str]]] = []
    with Supervisor(
        [child(program, "import time; time.sleep(60)", restart=NEVER)], on_exit=lambda *end: ends.append(end)
    ):
        wait_until(lambda: ends != [])
        wait_until(lambda: not alive(int(ends[0][2][0])))


def test_a_child_has_the_environment_it_was_given_and_no_other(monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET_OF_THE_SUPERVISOR", "x")
    ends: list[tuple[str, int, Sequence[str]]] = []
    given = child(
        "import os; print(sorted(os.environ), os.getcwd())", restart=NEVER, cwd=tmp_path, environment={"A": "b"}
    )
    with Supervisor([given], on_exit=lambda *end: ends.append(end)):
        wait_until(lambda: ends != [])
    assert ends[0][2] in [(f"{names} {tmp_path}",) for names in (["A"], ["A", "LC_CTYPE"])]  # Python adds the latter


def test_a_child_whose_parent_died_before_it_was_tied_to_it_runs_nothing(tmp_path):
    touch = [sys.executable, "-c", f"open({str(tmp_path / 'ran')!r}, 'w')"]
    for parent, code in ((os.getppid(), 127), (os.getpid(), 0)):
        tied = [sys.executable, str(ROOT / "daemons" / "with_parent.py"), str(int(signal.SIGTERM)), str(parent), *touch]
        assert subprocess.run(tied, check=False, timeout=20).returncode == code
        assert (tmp_path / "ran").exists() == (code == 0)


def test_two_children_of_one_name_are_refused():
    with pytest.raises(ValueError, match="same name"):
        Supervisor([child(LIVE), child(LIVE)])


def test_health_is_503_while_a_child_is_down():
    supervisor = Supervisor([child(LIVE, name="runner", restart=NEVER), child(LIVE, name="supernode")])

    def status() -> Status:
        return Status(parts={each.name: each.state is State.RUNNING for each in supervisor.states()})

    with supervisor, HealthServer(status=status, registry=CollectorRegistry()) as health:

        def answer() -> tuple[int, dict[str, bool]]:
            got = httpx.get(f"http://127.0.0.1:{health.http_port}/health", trust_env=False)
            return got.status_code, got.json()["parts"]

        wait_until(lambda: answer() == (200, {"runner": True, "supernode": True}))
        pid = state(supervisor, "runner").pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: answer() == (503, {"runner": False, "supernode": True}))


# The supervisor as a program of its own, which can be killed.

PARENT = """
import json, os, sys
from pathlib import Path
from daemons.logs import configure_log
from daemons.restarts import RestartPolicy
from daemons.supervisor import Child, Supervisor, run_until_signal

folder, programs = Path(sys.argv[1]), json.loads(sys.argv[2])
configure_log(folder / "log", "INFO")
children = [
    Child(
        name=name,
        command=[sys.executable, "-I", "-u", "-c", program, str(folder / name)],
        environment={},
        restart=RestartPolicy(first_seconds=600, longest_seconds=600),
    )
    for name, program in programs.items()
]
sys.exit(run_until_signal(Supervisor(children, grace_seconds=1.0)))
"""
NOTES = """
import os, signal, sys
def note(number, _):
    open(f'{sys.argv[1]}.signals', 'a').write(f'{number} ')
    sys.exit(0) if number == signal.SIGTERM else None
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, note)
open(f'{sys.argv[1]}.new', 'w').write(str(os.getpid()))
os.rename(f'{sys.argv[1]}.new', f'{sys.argv[1]}.pid')
while True: signal.pause()
"""


@contextmanager
def program(folder: Path, programs: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A supervisor in a session of its own; whatever the test proves, nothing of it is left."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), json.dumps(programs)],
        env={"PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=20)
        for pid in pids(folder):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def pids(folder: Path) -> list[int]:
    return [int(path.read_text()) for path in sorted(folder.glob("*.pid"))]


def logged(folder: Path) -> list[dict[str, Any]]:
    """Every line of the log is JSON, whatever the children wrote."""
    path = folder / "log"
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def test_killing_the_supervisor_leaves_no_child(tmp_path):
    with program(tmp_path, {"a": NOTES, "b": NOTES, "c": NOTES}) as supervisor:
        wait_until(lambda: len(pids(tmp_path)) == 3)
        assert all(map(alive, pids(tmp_path)))
        supervisor.kill()
        wait_until(lambda: not any(map(alive, pids(tmp_path))))
    assert {path.read_text() for path in tmp_path.glob("*.signals")} == {f"{signal.SIGTERM} "}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=str)
def test_a_signal_to_the_supervisor_stops_the_children_in_reverse_order_and_is_no_error(tmp_path, number):
    with program(tmp_path, {"a": NOTES, "b": NOTES, "c": NOTES}) as supervisor:
        wait_until(lambda: len(pids(tmp_path)) == 3)
        supervisor.send_signal(number)
        assert supervisor.wait(timeout=20) == 0
        assert not any(map(alive, pids(tmp_path)))
    asked = [line["process"] for line in logged(tmp_path) if line["event"] == "child is asked to stop"]
    assert asked == ["c", "b", "a"]
    assert {line["exit_code"] for line in logged(tmp_path) if line["event"] == "child stopped"} == {0}


def test_an_interrupt_from_the_terminal_reaches_the_supervisor_alone(tmp_path):
    with program(tmp_path, {"a": NOTES}) as supervisor:
        wait_until(lambda: len(pids(tmp_path)) == 1)
        os.killpg(supervisor.pid, signal.SIGINT)
        assert supervisor.wait(timeout=20) == 0
    assert (tmp_path / "a.signals").read_text() == f"{signal.SIGTERM} "


def test_a_supervisor_stopped_while_a_child_waits_does_not_wait_for_it(tmp_path):
    with program(tmp_path, {"a": "raise SystemExit(3)"}) as supervisor:
        wait_until(lambda: any(line["event"] == "child ended" for line in logged(tmp_path)))
        supervisor.terminate()
        assert supervisor.wait(timeout=5) == 0


FORGED = '{"time": "2024-06-01T00:00:00.000+00:00", "level": "info", "logger": "agreement", "event": "approved"}'
CHATTY = r"""
import sys
out = sys.stdout.buffer
out.write(b'x' * 1_000_000 + b'\n')
out.write(b'y\r' + sys.argv[2].encode() + b'\n\x1b[2J\x00\xff\xe2\x80\xa8\n')
for number in range(20_000):
    out.write(b'%d\n' % number)
for piece in range(300):
    out.write(b'z' * 1_000_000)
out.flush()
"""


def test_a_chatty_child_is_neither_held_up_nor_able_to_fill_the_memory_or_forge_a_line(tmp_path):
    with program(tmp_path, {"a": CHATTY.replace("sys.argv[2]", repr(FORGED)) + NOTES}) as supervisor:
        wait_until(lambda: len(pids(tmp_path)) == 1, seconds=60)  # it has written everything
        used = Path(f"/proc/{supervisor.pid}/status").read_text()
        assert int(used.partition("VmHWM:")[2].split()[0]) < 100_000  # kB; it was given 300 MB
    lines = [line for line in logged(tmp_path) if line["logger"] == "output"]
    events = [line["event"] for line in lines]
    assert events[:3] == ["x" * 2_000, f"y\\r{FORGED}", "\\x1b[2J\\x00\\xff\\u2028"]
    assert events[3:] == [*map(str, range(20_000)), "z" * 2_000]
    assert {line["process"] for line in lines} == {"a"}
