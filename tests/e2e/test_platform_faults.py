"""The platform's processes are killed in the middle of a round, one after the other; each time the run is resumed."""

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from agreement.manifest import verify_manifest
from server.chain import verify_chain
from server.home import PlatformHome
from simulations.deployment import Deployment, Program, wait_until
from tests.support.deployed import family, here, settings_of, still_there
from tests.support.faults import (
    LATE_SECONDS,
    charged_twice,
    has_process,
    kill,
    kill_all,
    process_of,
    rounds_played,
    rounds_with,
    small_town,
    tasks_charged,
    training,
)

pytestmark = pytest.mark.e2e

NAMES = ("bakery", "florist", "grocer")
TIMEOUT = 15.0
BACK_SECONDS = 30.0
VICTIMS = ("server.superlink", "flower-superexec", "flwr-serverapp", "everything")
RESUMABLE = 5


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kill.

    Attributes:
        done: rounds that were done when it came.
        back: seconds until the platform's health was 200 again.
        resumed: seconds until the run's command said how to go on; None where the run outlived the kill.
        next_round: seconds until the next round was done.
    """

    victim: str
    done: int
    back: float
    resumed: float | None
    next_round: float


@dataclass(frozen=True, kw_only=True)
class Life:
    """A plan that came to its end, whatever was killed."""

    deployment: Deployment
    plan: str
    rounds: int
    faults: list[Fault]


@pytest.fixture(scope="module", params=[(4, 8), pytest.param((20, 30), marks=pytest.mark.slow)], ids=["4", "20"])
def life(request, tmp_path_factory):
    """The platform's life with so many kills, each of the next victim, over a plan of so many rounds."""
    kills, rounds = request.param
    with Deployment(tmp_path_factory.mktemp("platform"), commands=here) as deployment, ExitStack() as stack:
        plan = small_town(deployment, *NAMES, rounds=rounds, timeout=TIMEOUT, least=2)
        began, faults = time.monotonic(), []
        run = stack.enter_context(training(deployment, plan))
        run.wait_for(lambda: newest(deployment, plan) > 0, 120, what="round")
        for number in range(kills):
            fault, run = killed(deployment, run, stack, VICTIMS[number % len(VICTIMS)])
            print(fault)
            faults.append(fault)
        assert run.wait(rounds * (TIMEOUT + LATE_SECONDS)) == 0, run.output
        print(f"{kills} kills in {time.monotonic() - began:.0f} s")
        yield Life(deployment=deployment, plan=plan, rounds=rounds, faults=faults)


def killed(deployment, run, stack, victim):
    """Kills when a round is half-way, and goes on until the next round is done; with `--resume` where it must be."""
    run.wait_mid_round(NAMES[0])
    done, server = newest(deployment, run.plan), deployment.server
    before, at = family([server]), time.monotonic()
    strike(server, victim)
    wait_until(lambda: len(still_there(before)) < len(before), 10, what=f"the end of {victim}")
    if victim == "everything":
        server.start(wait_seconds=0)
    wait_until(lambda: is_whole(server), 120, what="the platform to be back", log=server.log)
    back, resumed = time.monotonic() - at, None
    wait_until(lambda: run.code is not None or newest(deployment, run.plan) > done, 180, what="an end or a round")
    if newest(deployment, run.plan) <= done:
        resumed = time.monotonic() - at
        assert run.code == RESUMABLE, run.output
        assert f"run {run.plan} --resume" in run.output.splitlines()[-1]
        run = stack.enter_context(training(deployment, run.plan, "--resume"))
        run.wait_for(lambda: newest(deployment, run.plan) > done, 120, what="round")
    return Fault(victim=victim, done=done, back=back, resumed=resumed, next_round=time.monotonic() - at), run


def strike(server: Program, victim: str) -> None:
    """Kills the victim among the platform's processes."""
    if victim == "everything":
        kill_all(server)
    else:
        kill(process_of(server, victim))


def is_whole(server):
    """Whether all that `pp-server up` keeps running does run, and its health is 200."""
    return server.ready and all(has_process(server, words) for words in ("server.superlink", "flower-superexec"))


def newest(deployment, plan):
    """The last round that is done."""
    return max((entry.round for entry in rounds_played(deployment, plan) if entry.checkpoint), default=0)


def test_the_platform_is_back_within_thirty_seconds_of_each_kill(life):
    assert [fault for fault in life.faults if fault.back > BACK_SECONDS] == []


def test_each_kill_costs_at_most_one_round(life):
    runs = json.loads(life.deployment.pp_server("runs", "--json"))
    resumes = [fault for fault in life.faults if fault.resumed is not None]
    assert [run["state"] for run in runs] == ["failed"] * len(resumes) + ["finished"]
    begun = [run["first_round"] for run in runs[1:]]
    assert all(first > fault.done for first, fault in zip(begun, resumes, strict=True)), (begun, resumes)
    done = [entry.round for entry in rounds_played(life.deployment, life.plan) if entry.checkpoint]
    assert done == list(range(1, life.rounds + 1))


def test_everybody_takes_part_again(life):
    assert set(rounds_played(life.deployment, life.plan)[-1].merchants) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_nobody_is_charged_twice_for_a_task_nor_for_more_than_the_rounds_and_the_kills(life, name):
    charged, used = (
        len(tasks_charged(life.deployment, name)),
        rounds_with(rounds_played(life.deployment, life.plan), name),
    )
    assert charged_twice(life.deployment, name) == []
    assert used <= charged <= life.rounds  # the task of a lost round comes again, and is paid for already
    with settings_of(life.deployment, name).open_ledger() as ledger:
        assert len(ledger.charges()) == charged


def test_the_models_chain_leads_from_the_plan_to_the_file(life, tmp_path):
    export = tmp_path / "export"
    [model] = json.loads(life.deployment.pp_server("models", "--json"))
    life.deployment.pp_server("export", str(model["id"]), "--out", str(export))
    key = PlatformHome(life.deployment.platform_home).verify_key()
    manifest = verify_manifest((export / "manifest.json").read_bytes(), key)
    links = json.loads((export / "chain.json").read_text())
    verify_chain(
        links, head=manifest.chain_head, plan_fingerprint=manifest.plan_fingerprint, model_sha256=manifest.sha256
    )
    assert [link["content"]["round"] for link in links if link["kind"] == "round"] == list(range(1, life.rounds + 1))


@pytest.mark.parametrize("name", NAMES)
def test_each_merchant_can_have_the_model(life, name, tmp_path):
    life.deployment.pp_client(name, "pull", "--out", str(tmp_path / name))
    [model] = (tmp_path / name).rglob("model.safetensors")
    run_folder = PlatformHome(life.deployment.platform_home).run_folder(life.plan)
    assert model.read_bytes() == (run_folder / "model.safetensors").read_bytes()
