"""A newcomer's way, by commands: a platform and three merchants over TLS, from init to the pulled model."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from agreement.manifest import verify_manifest
from client.platform import RefusedError, platform_client
from pp_model.serialization import from_safetensors
from server.chain import verify_chain
from server.home import PlatformHome
from simulations.deployment import Deployment, DeploymentError, wait_until
from tests.support.deployed import (
    MERCHANTS,
    charges,
    family,
    here,
    offer_plan,
    open_shop,
    rounds_of,
    run_plan,
    settings_of,
    still_there,
)

pytestmark = pytest.mark.e2e

ROUNDS = 3
EPSILON = 1.0
CHECKUP = "doctor.txt"


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """The bakery takes part by its policy, the florist and the grocer are asked; all of them serve."""
    with Deployment(tmp_path_factory.mktemp("town")) as deployment:
        deployment.make_platform()
        deployment.server.start()
        open_shop(deployment, "bakery")
        open_shop(deployment, "florist", approve="ask")
        open_shop(deployment, "grocer", approve="ask")
        (deployment.root / CHECKUP).write_text(deployment.pp_client("bakery", "doctor"))
        for merchant in deployment.merchants.values():
            merchant.start(wait_seconds=0)
        for merchant in deployment.merchants.values():
            merchant.wait_ready()
        yield deployment


def say(town, merchant, word, plan):
    """`pp-client approve` or `reject`, by hand, of the offer that `pp-client plans` shows."""
    offers = json.loads(here("pp-client", "plans", "--json", "--config", config(town, merchant)))["plans"]
    [offer] = [offer for offer in offers if offer["plan_id"] == plan]
    assert offer["state"] == "waiting"
    return town.pp_client(merchant, word, offer["id"], "--yes")


def config(town, merchant):
    return str(town.merchant_home(merchant) / "merchant.toml")


@pytest.fixture(scope="module")
def spring(town):
    """What `run` printed: the bakery and the florist have trained, the grocer has rejected."""
    offer_plan(town, "spring", rounds=ROUNDS, epsilon=str(EPSILON))
    with pytest.raises(DeploymentError, match="1 of 2 approved") as stopped:
        run_plan(town, "spring", wait="8")
    assert stopped.value.exit_code == 3  # the offer stays out
    say(town, "grocer", "reject", "spring")
    say(town, "florist", "approve", "spring")
    return run_plan(town, "spring")


def test_doctor_finds_no_fault_before_the_daemon_starts(town):
    levels = [line.split()[0] for line in (town.root / CHECKUP).read_text().splitlines()[:-2]]
    assert len(levels) > 10
    assert set(levels) <= {"ok", "warning", "skipped"}


def test_a_price_is_shown_before_anything_is_signed(town, spring):
    price = json.loads(town.pp_server("plan", "price", "spring", "--json"))
    assert price["rounds"] == ROUNDS
    assert 0.9 * EPSILON < price["epsilon"]["1"] <= EPSILON < price["epsilon"]["2"]


def test_a_run_says_who_approved_and_where_the_model_is(town, spring):
    assert "Approved by bakery, florist." in spring
    assert str(town.platform_home / "runs" / "spring" / "model.safetensors") in spring


def test_each_merchant_that_approved_is_charged_once_a_round(town, spring):
    for name in ("bakery", "florist"):
        assert len({charge["task"] for charge in charges(town, name)}) == len(charges(town, name)) == ROUNDS


def test_a_merchant_that_rejected_is_never_asked(town, spring):
    assert charges(town, "grocer") == []
    assert [(played["cohort"], played["merchants"]) for played in rounds_of(town, 1)] == [
        (2, ["bakery", "florist"])
    ] * ROUNDS


def test_runs_and_models_say_what_was_trained(town, spring):
    [run] = json.loads(town.pp_server("runs", "--json"))
    assert (run["plan_id"], run["state"], run["last_round"]) == ("spring", "finished", ROUNDS)
    [model] = json.loads(town.pp_server("models", "--json"))
    assert 0.9 * EPSILON < model["epsilon"] <= EPSILON


def test_an_export_proves_itself_and_is_what_merchants_pull(town, spring, tmp_path):
    town.pp_server("export", "1", "--out", str(tmp_path / "export"))
    files = {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()}
    manifest = verify_manifest(files["manifest.json"], settings_of(town, "bakery").plan_key)
    assert manifest.sha256 == hashlib.sha256(files["model.safetensors"]).hexdigest()
    links = json.loads(files["chain.json"])
    verify_chain(
        links,
        head=manifest.chain_head,
        plan_fingerprint=manifest.plan_fingerprint,
        model_sha256=manifest.sha256,
    )
    for name in MERCHANTS:  # the one that did not take part may have it, too
        pulled = here("pp-client", "pull", "--out", str(tmp_path / name), "--config", config(town, name))
        assert ("did not take part" in pulled) == (name == "grocer")
        [model] = (tmp_path / name).rglob("model.safetensors")
        assert model.read_bytes() == files["model.safetensors"]


def test_a_model_that_was_changed_is_not_exported(town, spring, tmp_path):
    model = town.platform_home / "runs" / "spring" / "model.safetensors"
    published = model.read_bytes()
    model.write_bytes(published[:-1] + bytes([published[-1] ^ 1]))
    try:
        with pytest.raises(DeploymentError, match="not what was published") as refused:
            here("pp-server", "export", "1", "--out", str(tmp_path / "no"), "--home", str(town.platform_home))
    finally:
        model.write_bytes(published)
    assert refused.value.exit_code == 6


def test_budget_and_statement_say_what_was_charged(town, spring, tmp_path):
    budget = json.loads(town.pp_client("bakery", "budget", "--json"))
    assert len(budget["charges"]) == ROUNDS
    assert 0.9 * EPSILON < budget["epsilon_spent"] <= EPSILON
    assert "3 task(s)" in here("pp-client", "budget", "--config", config(town, "bakery"))
    text = town.pp_client("bakery", "statement")
    assert "3 of the plan's 3 rounds were charged so far" in text
    table = json.loads(here("pp-client", "statement", "--json", "--config", config(town, "bakery")))
    page = tmp_path / "statement.html"
    here("pp-client", "statement", "--html", str(page), "--config", config(town, "bakery"))
    assert table["charged_rounds"] == ROUNDS
    assert "3 of the plan&#39;s 3 rounds" in page.read_text() or "3 of the plan's 3 rounds" in page.read_text()


def test_status_pages_say_that_all_is_well_and_what_is_left_of_epsilon(town, spring):
    spent = json.loads(here("pp-client", "budget", "--json", "--config", config(town, "bakery")))["epsilon_spent"]
    for program in (town.server, town.merchants["bakery"]):
        health = httpx.get(program.health, trust_env=False)
        assert (health.status_code, health.json()["ok"]) == (200, True)
        assert all(health.json()["parts"].values())
    metrics = metrics_of(town.merchants["bakery"])
    assert metrics["pp_epsilon_spent"] == pytest.approx(spent, abs=1e-9)
    assert metrics["pp_epsilon_left"] == pytest.approx(3.0 - spent, abs=1e-9)
    assert metrics["pp_tasks_charged_total"] == ROUNDS
    assert metrics_of(town.server)['pp_server_child_up{child="superlink"}'] == 1.0


def metrics_of(program):
    lines = httpx.get(program.health.replace("/health", "/metrics"), trust_env=False).text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_a_plan_that_was_trained_to_its_end_is_not_run_again(town, spring):
    assert "model 1" in run_plan(town, "spring")
    assert len(json.loads(town.pp_server("runs", "--json"))) == 1
    assert len(charges(town, "bakery")) == ROUNDS


@pytest.fixture(scope="module")
def summer(town, spring):
    """A second run; the grocer, who takes part in this one, is removed in the middle of it."""
    rounds = 5
    offer_plan(town, "summer", "--round-timeout", "40", rounds=rounds, epsilon="0.5")
    with pytest.raises(DeploymentError, match="1 of 2 approved"):
        run_plan(town, "summer", wait="8")
    for name in ("florist", "grocer"):
        say(town, name, "approve", "summer")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_plan, town, "summer")
        wait_until(
            lambda: running.done() or one_round_is_over(town), 240, what="a round of summer", log=town.server.log
        )
        here("pp-server", "merchants", "remove", "grocer", "--home", str(town.platform_home))
        before = len(charges(town, "grocer"))
        with platform_client(settings_of(town, "grocer")) as client, pytest.raises(RefusedError) as refused:
            client.offers()
        running.result()
    return {"charged_before": before, "status": refused.value.status, "rounds": rounds}


def one_round_is_over(town):
    runs = json.loads(here("pp-server", "runs", "--json", "--home", str(town.platform_home)))
    return runs[-1]["plan_id"] == "summer" and runs[-1]["last_round"] >= 1


def test_a_removed_merchant_is_out_at_once_and_the_run_goes_on(town, summer):
    assert summer["status"] == 401
    played = rounds_of(town, 2)
    assert [entry["round"] for entry in played if not entry["void"]] == list(range(1, summer["rounds"] + 1))
    assert "grocer" in played[0]["merchants"]
    assert "grocer" not in played[-1]["merchants"]
    assert [entry["cohort"] for entry in played][-1] == 2
    # What was under way when it was removed may still be charged.
    after = len(charges(town, "grocer"))
    assert summer["charged_before"] <= after <= summer["charged_before"] + 1 < summer["rounds"]


def test_the_platform_knows_a_removed_merchant_no_more(town, summer):
    listed = json.loads(town.pp_server("merchants", "list", "--json"))
    assert {merchant["name"] for merchant in listed} == {"bakery", "florist"}
    assert {merchant["state"] for merchant in listed} == {"online"}
    page = httpx.get(town.merchants["grocer"].health, trust_env=False).json()
    assert page["parts"]["platform"] is False


def test_the_second_model_comes_from_the_plans_own_starting_point(town, summer):
    model = PlatformHome(town.platform_home).run_folder("summer") / "model.safetensors"
    arrays, metadata = from_safetensors(model.read_bytes())
    assert arrays
    assert json.loads(metadata["plan"])["plan_id"] == "summer"


def test_sigterm_stops_every_process_that_was_started(town, summer):
    started = family([town.server, *town.merchants.values()])
    assert len(still_there(started)) >= 2 + 3 * len(MERCHANTS)  # each with two children; one may just be starting anew
    assert town.stop() == dict.fromkeys(["pp-server", *MERCHANTS], 0)
    assert still_there(started) == set()
