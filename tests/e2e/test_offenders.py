"""A merchant that sends what it should not, and one without budget: the run goes on, and the model is the others'."""

import pytest

from pp_model.accounting import PrivacyEvent, noise_multiplier_for
from pp_model.serialization import fingerprint, from_safetensors
from simulations.deployment import Deployment
from tests.support.daemon_with import give_runner
from tests.support.deployed import (
    await_agreement,
    charges,
    here,
    offer_plan,
    open_shop,
    rounds_of,
    run_plan,
    settings_of,
)
from tests.support.hostile_runner import OFFENCES, what_passes
from tests.support.seeded_shop import train_here

pytestmark = pytest.mark.e2e

HONEST = ("bakery", "florist")
HOSTILE, POOR = "grocer", "pauper"
ROUNDS = len(OFFENCES)


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """After a run of two honest merchants in test mode, one that offends in every round, and one without budget."""
    with Deployment(tmp_path_factory.mktemp("offenders"), commands=here) as deployment:
        deployment.make_platform()
        for name in (*HONEST, HOSTILE, POOR):
            open_shop(deployment, name)
        for name in HONEST:
            give_runner(deployment, name, "tests.support.seeded_shop")
        give_runner(deployment, HOSTILE, "tests.support.hostile_runner")
        deployment.start()
        offer_plan(deployment, "spring", "--round-timeout", "60", "--answer-every", "0", rounds=ROUNDS, epsilon="2.5")
        await_agreement(deployment, "spring", [*HONEST, HOSTILE, POOR])
        spend_the_budget(deployment, POOR)
        run_plan(deployment, "spring")
        yield deployment


def spend_the_budget(deployment, name):
    """Another plan has cost nearly all of it since this one was approved."""
    settings = settings_of(deployment, name)
    sigma = noise_multiplier_for(epsilon=2.999, delta=settings.policy.delta, sample_rate=1.0, num_steps=1)
    with settings.open_ledger() as ledger:
        event = PrivacyEvent(sample_rate=1.0, noise_multiplier=sigma, num_steps=1)
        ledger.charge("another task", event, plan="another plan", most_tasks=None)


def test_every_round_is_done_in_spite_of_all(town):
    played = rounds_of(town, 1)
    assert [(entry["round"], entry["void"], entry["cohort"]) for entry in played] == [
        (number, False, 4) for number in range(1, ROUNDS + 1)
    ]


@pytest.mark.parametrize("number", range(ROUNDS), ids=[offence.name for offence in OFFENCES])
def test_the_offender_is_named_with_its_code_and_its_answer_is_not_used(town, number):
    entry, expected = rounds_of(town, 1)[number], OFFENCES[number].code
    if expected is None:  # what a merchant may release
        assert (entry["offenders"], entry["merchants"]) == ({}, sorted([*HONEST, HOSTILE]))
    else:
        assert (entry["offenders"], entry["merchants"]) == ({HOSTILE: expected}, list(HONEST))


def test_a_merchant_over_budget_refuses_by_a_code_and_is_charged_nothing(town):
    assert [entry["refusals"] for entry in rounds_of(town, 1)] == [{"budget": 1}] * ROUNDS
    assert [charge["task"] for charge in charges(town, POOR)] == ["another task"]


def test_the_offender_and_the_poor_do_not_move_the_model(town, tmp_path):
    """The same plan with the same seeds, by the honest merchants and by what the platform may not refuse."""
    repeated = train_here(town, "spring", HONEST, folder=tmp_path, others={HOSTILE: what_passes})
    deployed = town.platform_home / "runs" / "spring" / "model.safetensors"
    assert model(deployed) == model(repeated)


def model(file):
    return fingerprint(from_safetensors(file.read_bytes())[0])
