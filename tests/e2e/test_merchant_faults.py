"""Five merchants' processes are killed in the middle of a round, each in another way; the run goes on without them.

Nobody signs off, so the platform asks them in vain for a minute; every round ends by its deadline all the same, and
each merchant takes part again by itself.
"""

import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from client.daemon import REFUSED_WAIT_SECONDS
from daemons.restarts import RestartPolicy
from simulations.deployment import Deployment, wait_until
from tests.support.deployed import ROOT, family, here, settings_of, still_there
from tests.support.faults import (
    LATE_SECONDS,
    MANY_ROUNDS,
    Training,
    charged_twice,
    events,
    kill,
    kill_all,
    process_of,
    rounds_with,
    small_town,
    tasks_charged,
    training,
)

pytestmark = pytest.mark.e2e

TIMEOUT = 15.0
RUNNER, SUPERNODE, SUPERVISOR, ALL, ALL_FOR_LONG = NAMES = ("bakery", "florist", "grocer", "butcher", "dairy")
OUTAGE_SECONDS = 65.0
START_SECONDS = 50.0  # of a daemon until its first release, on a machine that is busy with others
REFUSED_SECONDS = REFUSED_WAIT_SECONDS * (1 + RestartPolicy().jitter)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A run with its faults, when it was stopped.

    Attributes:
        back: seconds from each merchant's fault to the end of the first round that used its release again.
        orphans: processes that outlived a supervisor that was killed.
    """

    deployment: Deployment
    run: Training
    back: dict[str, float]
    orphans: set[tuple[int, int]]


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """All faults in one round, and the run until everybody is back."""
    with Deployment(tmp_path_factory.mktemp("faults"), commands=here) as deployment:
        plan = small_town(deployment, *NAMES, rounds=MANY_ROUNDS, timeout=TIMEOUT, least=1)
        with training(deployment, plan) as run:
            run.wait_round_with(NAMES, 90)
            run.wait_mid_round(ALL)
            seen = break_all(deployment, run)
            run.wait_round_with(NAMES, 60, after=len(run.rounds))
            deployment.pp_server("run", plan, "--stop")
            run.wait(60)
        yield seen


def break_all(deployment, run):
    """Breaks one thing at each merchant, and returns when all of them have taken part again."""
    programs = deployment.merchants
    before, at = len(run.rounds), time.monotonic()
    kill_all(programs[ALL_FOR_LONG])
    kill_all(programs[ALL])
    kill(process_of(programs[RUNNER], "client.shop_main"))
    kill(process_of(programs[SUPERNODE], "client.supernode"))
    children = family([programs[SUPERVISOR]])
    programs[SUPERVISOR].kill()
    programs[ALL].start(wait_seconds=0)
    wait_until(lambda: not still_there(children), 30, what="the end of what a killed supervisor left")
    orphans = still_there(children)
    programs[SUPERVISOR].start(wait_seconds=0)
    back, is_long_over = {}, False
    while absent := set(NAMES) - back.keys():
        if not is_long_over and time.monotonic() > at + OUTAGE_SECONDS:
            programs[ALL_FOR_LONG].start(wait_seconds=0)
            is_long_over = True
        rounds = run.rounds[before + 1 :]  # the one in which it happened may still have used a release
        back |= {name: time.monotonic() - at for name in absent if rounds_with(rounds, name)}
        assert time.monotonic() < at + 240, (absent, run.output)
        assert run.code is None, run.output
        time.sleep(0.1)
    print("seconds back:", {name: round(seconds, 1) for name, seconds in back.items()})
    return Seen(deployment=deployment, run=run, back=back, orphans=orphans)


def test_every_round_ends_by_its_deadline(faults):
    assert max(entry.seconds for entry in faults.run.rounds) <= TIMEOUT + LATE_SECONDS
    assert faults.run.slowest() <= TIMEOUT + LATE_SECONDS


def test_a_round_in_which_processes_die_waits_for_nothing_but_them(faults):
    late = [entry for entry in faults.run.rounds if "no_reply" in entry.offenders.values()]
    assert {name for entry in late for name in entry.offenders} >= {ALL, SUPERNODE}


@pytest.mark.parametrize("name", NAMES)
def test_nobody_is_charged_twice_for_a_task(faults, name):
    assert charged_twice(faults.deployment, name) == []


@pytest.mark.parametrize("name", NAMES)
def test_whose_release_was_used_is_charged_and_at_most_the_round_of_the_fault_is_charged_in_vain(faults, name):
    charged, used = len(tasks_charged(faults.deployment, name)), rounds_with(faults.run.rounds, name)
    stopped = 1  # the round under way when the run was stopped
    assert used <= charged <= used + 1 + stopped


def test_each_merchant_takes_part_again(faults):
    assert faults.back[RUNNER] < START_SECONDS
    assert faults.back[SUPERVISOR] < START_SECONDS + TIMEOUT  # its children signed off: nothing has to be waited for
    for name in (SUPERNODE, ALL):  # they vanished, so the platform refuses them for a minute
        assert 60 < faults.back[name] < REFUSED_SECONDS + START_SECONDS + TIMEOUT
    assert faults.back[ALL_FOR_LONG] < OUTAGE_SECONDS + START_SECONDS + TIMEOUT


def test_children_end_with_a_killed_supervisor(faults):
    assert faults.orphans == set()


def test_a_refused_node_waits_and_is_told_why(faults):
    for name in (SUPERNODE, ALL):
        log = settings_of(faults.deployment, name).paths.log
        assert len(events(log, "the platform refused this node")) == 1
        ends = [line for line in events(log, "child ended") if line["process"] == "supernode"]
        assert [line["waits_seconds"] >= REFUSED_WAIT_SECONDS for line in ends[-1:]] == [True]
    assert not events(settings_of(faults.deployment, SUPERVISOR).paths.log, "the platform refused this node")


SIGNALLED = """
import sys, threading, time
from client.runner import stop_at_signals
stop = stop_at_signals()
print("ready", flush=True)
ends = time.monotonic() + 2
while time.monotonic() < ends:
    stop.wait(0.0001) if not stop.is_set() else time.sleep(0)
print("stopped" if stop.is_set() else "went on", flush=True)
"""


def test_a_runner_is_stopped_by_any_number_of_signals_at_any_moment():
    with subprocess.Popen(
        [sys.executable, "-c", SIGNALLED], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as runner:
        try:
            assert runner.stdout.readline() == "ready\n"
            began = time.monotonic()
            while time.monotonic() < began + 1.5:
                runner.send_signal(signal.SIGTERM)
            assert runner.communicate(timeout=20)[0] == "stopped\n"
        finally:
            runner.kill()
