"""Merchants whose clocks are off, as real processes: up to a minute they take part, beyond it they are told why not."""

import datetime as dt

import pytest

from simulations.deployment import Deployment, wait_until
from tests.support.deployed import here, open_shop, settings_of, with_product
from tests.support.faults import events, plan_of, tasks_charged, training
from tests.support.other_clock import COMPILER, with_clock

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(COMPILER is None, reason="no C compiler to build another clock with"),
]

ROUNDS, TIMEOUT = 3, 120.0  # of the clocks of both sides: a message must not have ended before it comes
WITHIN = {"bakery": 0, "florist": 45, "grocer": -45}  # seconds ahead
BEYOND = {"butcher": 120, "dairy": -120, "brewery": 365 * 86_400}
REFUSED_SECONDS, LEAST_WAIT = 5.0, 30.0


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A platform whose clock is this machine's, and a run of those who may take part."""
    with Deployment(tmp_path_factory.mktemp("clocks"), commands=here) as deployment:
        deployment.make_platform()
        deployment.server.start()
        for name, ahead in (WITHIN | BEYOND).items():
            program = open_shop(deployment, name)
            environment, folder = with_product(program.environment), deployment.root / f"clock-{name}"
            program.environment = with_clock(environment, folder, seconds_ahead=ahead)
            program.start(wait_seconds=0)
        plan_of(deployment, "spring", rounds=ROUNDS, timeout=TIMEOUT, least=len(WITHIN))
        with training(deployment, "spring") as run:
            code = run.wait(300)
            yield deployment, run, code


def test_merchants_whose_clocks_are_less_than_a_minute_off_take_part(town):
    deployment, run, code = town
    assert code == 0, run.output
    assert [set(entry.merchants) for entry in run.rounds] == [set(WITHIN)] * ROUNDS
    for name in WITHIN:
        ends = events(settings_of(deployment, name).paths.log, "child ended")
        assert [end for end in ends if end["process"] == "supernode"] == []


@pytest.mark.parametrize("name", BEYOND)
def test_a_merchant_with_a_wrong_clock_is_refused_at_once_and_told_what_is_wrong(town, name):
    deployment, _, _ = town
    log = settings_of(deployment, name).paths.log
    wait_until(lambda: bool(events(log, "child ended")), 60, what=f"the end of the supernode of {name}", log=log)
    starts = [line for line in events(log, "child started") if line["process"] == "supernode"]
    ends = [line for line in events(log, "child ended") if line["process"] == "supernode"]
    assert seconds_between(starts[0], ends[0]) <= REFUSED_SECONDS
    assert ends[0]["waits_seconds"] >= LEAST_WAIT
    why = events(log, "the platform is not connected to; one attempt in 30 s at most")[0]["why"]
    assert "clock" in why
    assert tasks_charged(deployment, name) == []


def seconds_between(first, second):
    return (dt.datetime.fromisoformat(second["time"]) - dt.datetime.fromisoformat(first["time"])).total_seconds()
