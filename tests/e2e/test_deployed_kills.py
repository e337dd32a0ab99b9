"""Checklist: D24, D25. The runners of four real merchants die at twenty named places of their tasks.

Each kill is in another round of one run over TLS; the supervisor starts the runner again, the SuperNode gives the task
again, and the round goes on.
"""

import json
from collections import defaultdict
from itertools import pairwise

import pytest

from simulations.deployment import Deployment
from tests.support.deployed import here, open_shop, settings_of, with_product
from tests.support.faults import charged_twice, events, plan_of, rounds_with, tasks_charged, training
from tests.support.kill_points import POINTS
from tests.support.killing_shop import POINTS as POINTS_FILE
from tests.support.killing_shop import diary_of, points_left

pytestmark = pytest.mark.e2e

NAMES = ("bakery", "florist", "grocer", "butcher")
KILLS = len(POINTS) // len(NAMES)  # of each merchant's runner
ROUNDS, TIMEOUT = KILLS + 1, 60.0
POINTS_OF = {name: list(POINTS)[number :: len(NAMES)] for number, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The deployment and its run, which came to its end."""
    with Deployment(tmp_path_factory.mktemp("kills"), commands=here) as deployment:
        deployment.make_platform()
        deployment.server.start()
        for name in NAMES:
            program, home = open_shop(deployment, name), deployment.merchant_home(name)
            (home / POINTS_FILE).write_text("".join(f"{point}\n" for point in POINTS_OF[name]))
            program.command = [program.command[0], "-m", "tests.support.killing_shop", "daemon", *program.command[-1:]]
            program.environment = with_product(program.environment)
            program.start(wait_seconds=0)
        plan_of(deployment, "spring", rounds=ROUNDS, timeout=TIMEOUT, least=len(NAMES) - 1)
        for name in NAMES:
            deployment.merchants[name].wait_ready()
        with training(deployment, "spring") as run:
            assert run.wait(ROUNDS * TIMEOUT) == 0, run.output
            print(run.output)
            yield deployment, run


def test_every_runner_died_at_each_of_its_points(killed):
    deployment, _ = killed
    for name in NAMES:
        home = deployment.merchant_home(name)
        assert [what for word, what, _ in diary_of(home) if word == "armed"] == POINTS_OF[name]
        assert points_left(home) == []
        ends = events(settings_of(deployment, name).paths.log, "child ended")
        assert [(end["process"], end["exit_code"]) for end in ends] == [("runner", -9)] * KILLS


@pytest.mark.parametrize("name", NAMES)
def test_whatever_a_runner_that_died_has_looked_at_or_answered_is_charged(killed, name):
    lives = lives_of(killed[0].merchant_home(name))
    assert len(lives) == KILLS + 1
    seen = set()
    for life, next_life in pairwise(lives):
        seen |= {task for word, task in life if word in ("looked", "answered")}
        assert seen <= {task for word, task in next_life if word == "charged"}  # as the dead runner left the ledger


def lives_of(home):
    """What each runner wrote down."""
    lives = []
    for word, what, _ in diary_of(home):
        if word == "started":
            lives.append([])
        lives[-1].append((word, what))
    return lives


@pytest.mark.parametrize("name", NAMES)
def test_a_kill_costs_no_more_than_a_round(killed, name):
    deployment, run = killed
    charged, used = tasks_charged(deployment, name), rounds_with(run.rounds, name)
    assert charged_twice(deployment, name) == []
    assert used <= len(charged) <= min(ROUNDS, used + KILLS)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_sealed_is_what_is_sent_however_often(killed, name):
    deployment, _ = killed
    seen = defaultdict(set)
    for word, task, digest in diary_of(deployment.merchant_home(name)):
        if word in ("found", "answered"):
            seen[task].add(digest)
    assert [task for task, digests in seen.items() if len(digests) != 1] == []
    assert len(seen) == rounds_with(killed[1].rounds, name)


def test_points_after_the_seal_found_their_bytes_again(killed):
    """The look at the bytes is not an empty one: each of these four was killed with a sealed reply in the file."""
    deployment, _ = killed
    late = list(POINTS)[list(POINTS).index("sealed") :]
    for name in NAMES:
        diary = diary_of(deployment.merchant_home(name))
        answers = [word for word, _, _ in diary if word == "found"]
        assert len(answers) >= sum(point in late for point in POINTS_OF[name])


def test_no_round_lost_anybody(killed):
    deployment, run = killed
    assert [set(entry.merchants) for entry in run.rounds] == [set(NAMES)] * ROUNDS
    [record] = json.loads(deployment.pp_server("runs", "--json"))
    assert record["state"] == "finished"
