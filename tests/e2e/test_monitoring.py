"""What Prometheus would scrape of a platform and its merchants while they train: every metric that an alert names."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from simulations.deployment import Deployment, Program, clean_environment, command, wait_until
from tests.support.alerts import named_in, rules
from tests.support.deployed import RUN_SECONDS, await_agreement, here, offer_plan, open_shop

pytestmark = pytest.mark.e2e

MERCHANTS = ("bakery", "florist")
Scrape = dict[str, dict[tuple[str, ...], float]]  # by metric: value by the labels' values


def scrape(program: Program) -> Scrape:
    answer = httpx.get(program.health.replace("/health", "/metrics"), timeout=10, trust_env=False)
    assert answer.status_code == 200
    found: Scrape = {}
    for family in text_string_to_metric_families(answer.text):
        found.setdefault(family.name, {})  # a family without a sample yet
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


@pytest.fixture(scope="module")
def scrapes(tmp_path_factory) -> Iterator[tuple[list[Scrape], list[Scrape]]]:
    """Those of the platform, and those of one merchant, from before a run to after it."""
    with Deployment(tmp_path_factory.mktemp("watched"), commands=here) as deployment:
        deployment.make_platform()
        for name in MERCHANTS:
            open_shop(deployment, name)
        deployment.start(seconds=300)
        offer_plan(deployment, "spring", rounds=4)
        await_agreement(deployment, "spring", MERCHANTS)
        bakery = deployment.merchants["bakery"]
        platform, merchant = [scrape(deployment.server)], [scrape(bakery)]
        line = command("pp-server", "run", "spring", "--home", str(deployment.platform_home))
        run = subprocess.Popen(line, env=clean_environment(), stdout=subprocess.DEVNULL)

        def over() -> bool:
            platform.append(scrape(deployment.server))
            return run.poll() is not None

        try:
            wait_until(over, RUN_SECONDS, what="the run to end", log=deployment.server.log)
        finally:
            run.kill()
            run.wait()
        assert run.returncode == 0
        wait_until(
            lambda: bool(connected(deployment.server)), 60, what="the platform to look again", log=deployment.server.log
        )
        platform.append(scrape(deployment.server))
        merchant.append(scrape(bakery))
        yield platform, merchant


def connected(server: Program) -> bool:
    return set(scrape(server).get("pp_server_merchant_connected", {}).items()) == {((n,), 1.0) for n in MERCHANTS}


@pytest.mark.parametrize("side", ["platform", "merchant"])
def test_every_metric_of_an_alert_is_in_a_real_scrape(scrapes, side):
    seen = set().union(*(scrapes[0] if side == "platform" else scrapes[1]))
    wanted = set().union(*(named_in(rule["expr"]) for rule in rules(side)))
    assert wanted - seen == set()


def test_a_run_is_seen_to_go_on_with_a_deadline_and_to_end(scrapes):
    platform, _ = scrapes
    key = ("spring", "1")
    assert "pp_server_run_running" not in platform[0] or key not in platform[0]["pp_server_run_running"]
    asked = [
        one["pp_server_run_deadline_seconds"][key] for one in platform if one.get("pp_server_run_deadline_seconds")
    ]
    assert asked
    assert max(asked) <= 90
    last = platform[-1]
    assert last["pp_server_run_running"][key] == 0
    assert last["pp_server_run_rounds_done"][key] == last["pp_server_run_rounds_planned"][key] == 4
    assert last["pp_server_rounds_total"][()] >= 4
    assert last["pp_server_public_check_log_loss"][key] > 0
    assert last["pp_server_model_number"][()] == 1
    assert 0 <= last["pp_server_model_age_seconds"][()] < RUN_SECONDS


def test_the_merchants_are_connected_were_seen_a_moment_ago_and_say_their_version(scrapes):
    last = scrapes[0][-1]
    assert {name: value for (name,), value in last["pp_server_merchant_connected"].items()} == dict.fromkeys(
        MERCHANTS, 1.0
    )
    assert all(0 <= seconds < 180 for seconds in last["pp_server_merchant_unseen_seconds"].values())
    assert {version for _, version in last["pp_server_merchant_info"]} != {""}


def test_the_merchant_sees_its_own_budget_and_clock_and_the_platform_sees_neither(scrapes):
    platform, merchant = scrapes
    assert merchant[-1]["pp_epsilon_left"][()] < merchant[0]["pp_epsilon_left"][()]
    assert abs(merchant[-1]["pp_clock_apart_seconds"][()]) < 5
    assert merchant[-1]["pp_ledger_readable"][()] == 1
    assert not [name for one in platform for name in one if "epsilon" in name or "orders" in name]
