"""The same seeds in one process and over TLS: what a deployment adds to the arithmetic is nothing."""

import hashlib

import pytest

from pp_model.serialization import fingerprint, from_safetensors
from simulations.deployment import Deployment
from simulations.seeded import SeededSource
from tests.support.daemon_with import give_runner
from tests.support.deployed import (
    MERCHANTS,
    await_agreement,
    here,
    offer_plan,
    open_shop,
    rounds_of,
    run_plan,
    settings_of,
)
from tests.support.ledgers import entries
from tests.support.seeded_shop import train_here

pytestmark = pytest.mark.e2e

ROUNDS = 4


@pytest.fixture(scope="module")
def over_tls(tmp_path_factory):
    """A deployment whose three merchants, in test mode, have trained a plan to its end."""
    with Deployment(tmp_path_factory.mktemp("seeded"), commands=here) as deployment:
        deployment.make_platform()
        for name in MERCHANTS:
            open_shop(deployment, name)
            give_runner(deployment, name, "tests.support.seeded_shop")
        deployment.start()
        offer_plan(deployment, "spring", "--min-merchants", "3", "--answer-every", "0", rounds=ROUNDS)
        await_agreement(deployment, "spring", MERCHANTS)
        run_plan(deployment, "spring")
        assert [entry["completions"] for entry in rounds_of(deployment, 1)] == [3] * ROUNDS
        yield deployment


@pytest.fixture(scope="module")
def in_process(over_tls, tmp_path_factory):
    """The folder with the model and the ledgers of the same plan, trained in this process."""
    folder = tmp_path_factory.mktemp("in-process")
    train_here(over_tls, "spring", MERCHANTS, folder=folder)
    return folder


def test_the_model_is_the_same_bit_by_bit(over_tls, in_process):
    deployed = (over_tls.platform_home / "runs" / "spring" / "model.safetensors").read_bytes()
    repeated = (in_process / "model.safetensors").read_bytes()
    assert fingerprint(from_safetensors(deployed)[0]) == fingerprint(from_safetensors(repeated)[0])
    assert hashlib.sha256(deployed).hexdigest() == hashlib.sha256(repeated).hexdigest()


@pytest.mark.parametrize("name", MERCHANTS)
def test_the_ledger_is_the_same_entry_by_entry(over_tls, in_process, name):
    """Tasks, events, prices, the hashes of the sealed replies, and the hash that chains them all."""
    deployed = entries(settings_of(over_tls, name).paths.ledger)
    assert len(deployed) == 1 + 2 * ROUNDS
    assert deployed == entries(in_process / f"{name}.sqlite")


def test_another_seed_gives_another_model(over_tls, in_process, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.support.seeded_shop.secret_of", lambda _: SeededSource(1))
    other = train_here(over_tls, "spring", MERCHANTS, folder=tmp_path)
    assert other.read_bytes() != (in_process / "model.safetensors").read_bytes()
