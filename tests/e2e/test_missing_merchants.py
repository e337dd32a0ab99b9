"""None, one, two and three of four merchants are missing from a running deployment whose rounds need two."""

import time

import pytest

from simulations.deployment import Deployment
from tests.support.deployed import here, open_shop
from tests.support.faults import (
    LATE_SECONDS,
    MANY_ROUNDS,
    charged_twice,
    plan_of,
    rounds_with,
    tasks_charged,
    training,
)

pytestmark = pytest.mark.e2e

TIMEOUT, LEAST = 8.0, 2
NAMES = ("bakery", "florist", "grocer", "butcher")
VOID_ROUNDS = 3  # in a row, and the run stops


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """Four merchants, of whom the butcher never started."""
    with Deployment(tmp_path_factory.mktemp("missing"), commands=here) as deployment:
        deployment.make_platform()
        deployment.server.start()
        for name in NAMES:
            open_shop(deployment, name)
        plan_of(deployment, "spring", rounds=MANY_ROUNDS, timeout=TIMEOUT, least=LEAST)
        for name in NAMES[:3]:
            deployment.merchants[name].start(wait_seconds=0)
        for name in NAMES[:3]:
            deployment.merchants[name].wait_ready()
        yield deployment


@pytest.fixture(scope="module")
def until_too_few(town):
    """The run with three, four, three and two merchants, and how it ended when one was left."""
    merchants = town.merchants
    with training(town, "spring") as run:
        run.wait_round_with(NAMES[:3], 90)
        merchants["butcher"].start()
        run.wait_round_with(NAMES, 60)
        stopped = []
        for name in ("butcher", "grocer"):
            assert merchants[name].stop() == 0
            stopped.append(name)
            run.wait_round_with([other for other in NAMES if other not in stopped], 60, after=len(run.rounds))
        assert merchants["florist"].stop() == 0
        began = time.monotonic()
        code = run.wait((VOID_ROUNDS + 1) * (TIMEOUT + LATE_SECONDS) + 30)
        print("seconds until it stopped:", round(time.monotonic() - began, 1))
        yield run, code, time.monotonic() - began


def test_rounds_go_on_without_those_who_are_missing_and_end_by_their_deadlines(until_too_few):
    run, _, _ = until_too_few
    assert max(entry.seconds for entry in run.rounds) <= TIMEOUT + LATE_SECONDS
    assert run.slowest() <= TIMEOUT + LATE_SECONDS
    assert {len(entry.merchants) for entry in run.rounds if not entry.void} == {4, 3, 2}


def test_with_too_few_a_run_stops_in_bounded_time_and_says_how_to_go_on(until_too_few):
    run, code, seconds = until_too_few
    assert code == 5
    assert seconds <= (VOID_ROUNDS + 1) * (TIMEOUT + LATE_SECONDS)
    assert "run spring --resume" in run.output.splitlines()[-1]
    assert [entry.void for entry in run.rounds[-VOID_ROUNDS:]] == [True] * VOID_ROUNDS


def test_a_round_that_nobody_could_use_is_not_sent(town, until_too_few):
    run, _, _ = until_too_few
    assert len(tasks_charged(town, "bakery")) <= rounds_with(run.rounds, "bakery") + 1  # asked as the florist left
    for name in NAMES:
        assert charged_twice(town, name) == []


def test_a_run_that_stopped_goes_on_where_it_was_when_merchants_are_back(town, until_too_few):
    before = len(until_too_few[0].rounds)
    town.merchants["grocer"].start()
    with training(town, "spring", "--resume") as run:
        back = run.wait_round_with(("bakery", "grocer"), 120)
        assert back.round == max(entry.round for entry in until_too_few[0].rounds[:before] if not entry.void) + 1
        town.pp_server("run", "spring", "--stop")
        run.wait(60)
