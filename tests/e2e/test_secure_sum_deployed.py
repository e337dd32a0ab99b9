"""Secure sums over TLS: a merchant, then the whole platform are killed in the middle of a round, and the run ends."""

import json
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import numpy as np
import pytest

from agreement.offer import verify_offer
from server.home import PlatformHome
from server.roster import Roster
from simulations.deployment import Deployment, DeploymentError, wait_until
from tests.support.daemon_with import give_runner
from tests.support.deployed import here, offer_plan, open_shop
from tests.support.faults import (
    LATE_SECONDS,
    charged_twice,
    kill_all,
    rounds_played,
    rounds_with,
    tasks_charged,
    training,
)
from tests.support.noting_shop import notes_of
from tests.support.recording_superlink import record

pytestmark = pytest.mark.e2e

NAMES = ("baker", "butcher", "florist", "grocer")
VICTIM, WATCHED = "florist", "butcher"
PLAN, ROUNDS, TIMEOUT = "spring", 30, 30.0
LEAST = 3  # of four, one of them dishonest
AT_LEAST_AFTER = 3  # rounds that are still to come when the platform is killed
PATIENCE = 300.0  # seconds for what a busy machine may take long to do
WORDS = 4  # of each vector are looked for
SAME = 6.0  # standard errors of a correlation: by chance once in 500 million times


@dataclass(frozen=True, kw_only=True)
class Life:
    """A plan that came to its end, whoever was killed.

    Attributes:
        merchant_killed: rounds that were over when the merchant was.
        lost: the round that was begun when the platform was, and never ended.
    """

    deployment: Deployment
    merchant_killed: int
    lost: set[int]

    @property
    def rounds(self):
        """All rounds that ended, over both runs."""
        return rounds_played(self.deployment, PLAN)


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A platform and four merchants who have agreed to add up in secret, connected."""
    with Deployment(tmp_path_factory.mktemp("sums"), commands=here) as deployment:
        deployment.make_platform()
        record(deployment)
        deployment.server.start(wait_seconds=PATIENCE)
        for name in NAMES:
            open_shop(deployment, name)
            give_runner(deployment, name, "tests.support.noting_shop")
            deployment.merchants[name].start(wait_seconds=0)
        flags = ("--encoder", "linear", "--init", "none", "--round-timeout", str(TIMEOUT), "--answer-every", "0")
        offer_plan(deployment, PLAN, "--trust", "secure_sum", "--min-merchants", str(LEAST), *flags, rounds=ROUNDS)
        for name in NAMES:
            deployment.merchants[name].wait_ready(PATIENCE)
        with suppress(DeploymentError):  # that nobody has approved it yet
            deployment.pp_server("run", PLAN, "--wait", "0")
        for name in NAMES:
            agree(deployment, name)
        wait_until(lambda: all_there(deployment), PATIENCE, what="all merchants", log=deployment.server.log)
        yield deployment


def offered(deployment, name):
    """The plan as `pp-client plans` shows it, and None before it does."""
    return next(iter(json.loads(deployment.pp_client(name, "plans", "--json"))["plans"]), None)


def agree(deployment, name):
    """A person at the merchant says yes: it has never added up with the others."""
    wait_until(lambda: offered(deployment, name) is not None, PATIENCE, what=f"an offer for {name}")
    found = offered(deployment, name)
    assert found["state"] == "waiting"
    deployment.pp_client(name, "approve", found["id"][:8], "--yes")


def all_there(deployment):
    home = PlatformHome(deployment.platform_home)
    offer = verify_offer((home.plans / f"{PLAN}.offer.json").read_bytes(), home.verify_key())
    with Roster(home.registry) as roster:
        approved = set(roster.approved_nodes(offer.id).values())
    listed = json.loads(deployment.pp_server("merchants", "list", "--json"))
    return approved == set(NAMES) == {merchant["name"] for merchant in listed if merchant["state"] == "online"}


@pytest.fixture(scope="module")
def life(town):
    """The town after the whole run."""
    began = time.monotonic()
    with ExitStack() as stack:
        run = stack.enter_context(training(town, PLAN))
        run.wait_round_with(NAMES, PATIENCE)
        run.wait_mid_round(VICTIM, PATIENCE)
        kill_all(town.merchants[VICTIM])
        merchant_killed = len(rounds_played(town, PLAN))
        town.merchants[VICTIM].start(wait_seconds=0)
        run.wait_round_with([name for name in NAMES if name != VICTIM], PATIENCE, after=merchant_killed)
        run.wait_round_with(NAMES, PATIENCE, after=merchant_killed)
        run.wait_mid_round(WATCHED, PATIENCE)
        kill_all(town.server)
        begun = int((PlatformHome(town.platform_home).run_folder(PLAN) / "begun.txt").read_text())
        assert begun <= ROUNDS - AT_LEAST_AFTER
        lost = {begun} - {entry.round for entry in rounds_played(town, PLAN)}
        town.server.start(wait_seconds=PATIENCE)
        wait_until(lambda: run.code is not None, PATIENCE, what="the end of the command", log=town.server.log)
        wait_until(lambda: all_there(town), PATIENCE, what="all merchants", log=town.server.log)
        run = stack.enter_context(training(town, PLAN, "--resume"))
        assert run.wait(ROUNDS * (TIMEOUT + LATE_SECONDS)) == 0, run.output
        print(f"{time.monotonic() - began:.0f} s; killed after round {merchant_killed} and in round {begun}")
        yield Life(deployment=town, merchant_killed=merchant_killed, lost=lost)


def test_every_merchant_is_shown_the_same_roster_and_what_it_assumes(town):
    shown = [offered(town, name)["secure_sum"] for name in NAMES]
    assert len({each["roster"] for each in shown}) == 1
    assert [each["merchants"] for each in shown] == [sorted(NAMES)] * len(NAMES)
    assert [(each["fewest_survivors"], each["dishonest"]) for each in shown] == [(LEAST, 1)] * len(NAMES)
    for name in NAMES:
        assert shown[0]["roster"] in " ".join(town.pp_client(name, "plans").split())


def test_the_run_ends_and_every_merchant_can_have_the_model(life, tmp_path):
    town = life.deployment
    assert [run["state"] for run in json.loads(town.pp_server("runs", "--json"))] == ["failed", "finished"]
    published = (PlatformHome(town.platform_home).run_folder(PLAN) / "model.safetensors").read_bytes()
    for name in NAMES:
        town.pp_client(name, "pull", "--out", str(tmp_path / name))
        [model] = (tmp_path / name).rglob("model.safetensors")
        assert model.read_bytes() == published


def test_no_round_is_asked_twice_and_the_one_of_the_kill_alone_is_missing(life):
    played = [entry.round for entry in life.rounds]
    assert sorted(set(played)) == played
    assert set(range(1, ROUNDS + 1)) - set(played) == life.lost


def test_a_round_has_enough_merchants_or_is_void(life):
    assert [entry for entry in life.rounds if not entry.void and len(entry.merchants) < LEAST] == []
    assert sum(not entry.void for entry in life.rounds) >= ROUNDS // 2


def test_a_merchant_that_was_killed_is_missed_and_comes_back_with_a_later_block(life):
    after = life.rounds[life.merchant_killed :]
    assert [entry for entry in after if not entry.void and VICTIM not in entry.merchants] != []
    assert set(after[-1].merchants) == set(NAMES)


def test_every_round_ends_by_its_deadline(life):
    """A round with a set-up before it has as long again for that."""
    assert max(entry.seconds for entry in life.rounds) <= 2 * TIMEOUT + LATE_SECONDS


@pytest.mark.parametrize("name", NAMES)
def test_every_task_is_charged_once_and_nobody_is_over_its_budget(life, name):
    charged, used = tasks_charged(life.deployment, name), rounds_with(life.rounds, name)
    assert charged_twice(life.deployment, name) == []
    assert used <= len(charged) <= ROUNDS
    found = offered(life.deployment, name)
    assert found["ledger"]["epsilon_spent"] <= found["price"]["epsilon"]["1"]


def test_the_statement_names_what_it_rests_on(life):
    for name in NAMES:
        said = " ".join(life.deployment.pp_client(name, "statement").split())
        assert f"{LEAST} of the {len(NAMES)} merchants" in said
        assert offered(life.deployment, name)["secure_sum"]["roster"] in said


def test_what_the_platform_received_of_a_merchant_is_what_it_masked_and_nothing_of_what_it_added(life):
    town = life.deployment
    received = (town.root / "received").read_bytes()
    for name in NAMES:
        notes = notes_of(town.merchant_home(name))
        assert [found for plain, _ in notes for found in words_in(received, plain)] == []
        came = [sent for _, sent in notes if len(words_in(received, sent)) == WORDS]  # the search finds what is there
        assert len(came) >= len(notes) // 2  # not all: of two requests at once, the parts are written down in turns


def test_nothing_below_the_platforms_folder_has_a_word_of_what_a_merchant_added(life):
    town = life.deployment
    kept = [path.read_bytes() for path in town.platform_home.rglob("*") if path.is_file()]
    for plain, _ in notes_of(town.merchant_home(WATCHED)):
        assert [found for data in kept for found in words_in(data, plain)] == []


def test_what_was_sent_does_not_go_with_what_was_added(life):
    for name in NAMES:
        plain, sent = np.concatenate(notes_of(life.deployment.merchant_home(name)), axis=1)
        assert not go_together(plain, sent)
        assert go_together(plain, plain + np.uint64(2**33))  # the same check, where a mask is missing


def words_in(data, values):
    """Which of the first values of eight bytes are in the data."""
    return [int(value) for value in values[:WORDS] if value and value.astype("<u8").tobytes() in data]


def go_together(first, second):
    numbers = [np.sign(x) * np.log1p(np.abs(x)) for x in (first.view(np.int64) / 1.0, second.view(np.int64) / 1.0)]
    return abs(np.corrcoef(*numbers)[0, 1]) > SAME / np.sqrt(len(first))


def test_a_word_of_what_was_added_would_be_found_in_what_was_received():
    plain = np.array([2**34 + 12345, 2**64 - 2**33 + 7], np.uint64)
    assert words_in(b"x" * 5 + plain.tobytes() + b"y", plain) == [int(value) for value in plain]
    assert words_in(b"x" * 100, plain) == []
