"""Two of three merchants lose the network for 90 s in the middle of a round; nothing hangs, nothing storms.

One merchant's connections are reset and refused, the other's take bytes and never answer.
"""

import time
from dataclasses import dataclass

import pytest

from simulations.deployment import Deployment
from tests.support.deployed import here, open_shop
from tests.support.faults import (
    LATE_SECONDS,
    MANY_ROUNDS,
    Training,
    charged_twice,
    plan_of,
    rounds_with,
    tasks_charged,
    training,
)
from tests.support.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TIMEOUT, CUT_SECONDS = 10.0, 90.0
NAMES = ("bakery", "florist", "grocer")
CUTS = {"florist": "refused", "grocer": "silent"}
BACK_SECONDS = 60.0
ATTEMPTS_A_SECOND = 1.0  # SuperNode's heartbeat and its look for tasks, both backing off, and the poll for offers


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A run with its cut, when it was stopped.

    Attributes:
        attempts: when each merchant tried to connect during the cut, in seconds from its begin.
        back: seconds from the mending to the end of the first round that used each merchant's release again.
        during: rounds that ended while the network was cut.
    """

    deployment: Deployment
    run: Training
    attempts: dict[str, list[float]]
    back: dict[str, float]
    during: int


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """The run until both merchants are back by themselves."""
    with Deployment(tmp_path_factory.mktemp("cut"), commands=here) as deployment:
        deployment.make_platform()
        deployment.server.start()
        with TcpProxy(deployment.port) as refused, TcpProxy(deployment.port) as silent:
            proxies = {"florist": refused, "grocer": silent}
            for name in NAMES:
                keys = {"address": f'"{proxies[name].address}"'} if name in proxies else {}
                open_shop(deployment, name, keys=keys)
            plan_of(deployment, "spring", rounds=MANY_ROUNDS, timeout=TIMEOUT, least=1)
            for name in NAMES:
                deployment.merchants[name].start(wait_seconds=0)
            for name in NAMES:
                deployment.merchants[name].wait_ready()
            with training(deployment, "spring") as run:
                run.wait_round_with(NAMES, 90)
                run.wait_mid_round("florist")
                seen = cut_off(deployment, run, proxies)
                run.wait_round_with(NAMES, 60, after=len(run.rounds))
                deployment.pp_server("run", "spring", "--stop")
                run.wait(60)
            yield seen


def cut_off(deployment, run, proxies):
    """Cuts, waits, mends, and waits for those who were cut off."""
    began, before = time.monotonic(), len(run.rounds)
    for name, proxy in proxies.items():
        proxy.cut(CUTS[name])
    run.wait_for(lambda: time.monotonic() >= began + CUT_SECONDS, CUT_SECONDS + 5, what="end of the cut")
    during, mended = len(run.rounds) - before, time.monotonic()
    attempts = {name: proxy.tried_between(began, mended) for name, proxy in proxies.items()}
    for proxy in proxies.values():
        proxy.mend()
    back = {}
    while absent := proxies.keys() - back.keys():
        rounds = run.rounds[before + during :]
        back |= {name: time.monotonic() - mended for name in absent if rounds_with(rounds, name)}
        assert time.monotonic() < mended + 180, (absent, run.output)
        time.sleep(0.1)
    print("attempts:", {name: len(tried) for name, tried in attempts.items()})
    print("seconds back:", {name: round(seconds, 1) for name, seconds in back.items()}, "rounds:", during)
    return Seen(deployment=deployment, run=run, attempts=attempts, back=back, during=during)


def test_every_round_ends_by_its_deadline(cut):
    assert max(entry.seconds for entry in cut.run.rounds) <= TIMEOUT + LATE_SECONDS
    assert cut.run.slowest() <= TIMEOUT + LATE_SECONDS
    assert cut.during >= CUT_SECONDS / (TIMEOUT + LATE_SECONDS)
    assert not any(entry.void for entry in cut.run.rounds[:-1])  # the last may be the one that was stopped


@pytest.mark.parametrize("name", CUTS)
def test_a_merchant_is_back_by_itself(cut, name):
    assert cut.back[name] < BACK_SECONDS


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_costs_at_most_one_round(cut, name):
    stopped = 1  # the round under way when the run was stopped
    charged, used = len(tasks_charged(cut.deployment, name)), rounds_with(cut.run.rounds, name)
    assert used <= charged <= used + 1 + stopped
    assert charged_twice(cut.deployment, name) == []


@pytest.mark.parametrize("name", CUTS)
def test_nobody_storms_a_platform_that_is_away(cut, name):
    tried = cut.attempts[name]
    assert len(tried) <= ATTEMPTS_A_SECOND * CUT_SECONDS
    later = [moment for moment in tried if moment >= CUT_SECONDS / 2]  # the waits have grown by then
    assert len(later) <= ATTEMPTS_A_SECOND * CUT_SECONDS / 4
