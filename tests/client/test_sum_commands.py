"""pp-client in a secure sum: what a merchant is shown of the others, and how a changed key is agreed to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest

from agreement.offer import DecisionState, OfferCode
from client.agreements import open_agreements
from client.cli import main
from client.peers import roster_fingerprint
from client.plan_view import MOST_NAMES
from daemons.exit_codes import Exit
from pp_model.integer_sum import secure_epsilons
from pp_model.plan import Peer, SecureSumPlan, TrainingPlan
from server.roster import Roster
from tests.support.market import Market, market, market_plan
from tests.support.plans import tiny_server

OTHERS = {"anna": "SHA256:a", "bert": "SHA256:b"}


@pytest.fixture
def place(tmp_path):
    with market(tmp_path) as running:
        yield running


@pytest.fixture
def pp_client(place, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs a command; its exit code and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--config", str(place.config)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def sum_plan(place: Market, others: dict[str, str] | None = None, *, plan_id: str = "spring") -> TrainingPlan:
    """A secure sum of the market's merchant and others, all of whom must be left."""
    with Roster(place.registry) as roster:
        own = roster.merchants()[0]
    keys = {own.name: own.fingerprint, **(others or OTHERS)}
    return market_plan(
        plan_id=plan_id,
        trust="secure_sum",
        secure_sum=SecureSumPlan(
            roster=tuple(Peer(name=name, key=key) for name, key in keys.items()), dishonest=1, rounds_per_block=3
        ),
        server=tiny_server(min_completions=len(keys)),
    )


def test_plans_says_who_adds_up_and_what_it_costs_by_who_is_honest(place, pp_client):
    plan = place.offer(sum_plan(place)).plan
    code, out, _ = pp_client("plans")
    text = " ".join(out.split())
    alone, helped, own = (f"{math.ceil(100 * epsilon) / 100:.2f}" for epsilon in secure_epsilons(plan).values())
    assert code == Exit.DONE
    for words in (
        "the platform sees only the sum over 3 merchants (bakery, anna, bert), of at least 3 of them in each round",
        f"Roster {roster_fingerprint(plan.secure_sum)}: ask another of them, by telephone",
        f"At delta 1e-05, epsilon is {alone} against a platform that no merchant helps, {helped} (the price above) "
        f"against one that 1 of them help, and {own} if all the others do",
        f"for one customer of this shop epsilon {helped} at delta 1e-05",
        "waits for you",
    ):
        assert words in text


def test_plans_without_a_sum_says_nothing_of_one(place, pp_client):
    place.offer()
    assert "merchants (" not in pp_client("plans")[1]
    assert json.loads(pp_client("plans", "--json")[1])["plans"][0]["secure_sum"] is None


def test_a_long_roster_is_shown_by_its_first_names_and_their_number(place, pp_client):
    others = {f"shop {number:02}": f"SHA256:{number}" for number in range(20)}
    plan = place.offer(sum_plan(place, others)).plan
    text = " ".join(pp_client("plans")[1].split())
    assert f"shop {MOST_NAMES - 2:02} and {21 - MOST_NAMES} more)" in text
    assert f"shop {MOST_NAMES - 1:02}" not in text
    assert roster_fingerprint(plan.secure_sum) in text


def test_plans_json_gives_the_sum_its_three_epsilons_and_their_delta(place, pp_client):
    plan = place.offer(sum_plan(place)).plan
    (entry,) = json.loads(pp_client("plans", "--json")[1])["plans"]
    assert entry["secure_sum"] == {
        "merchants": ["bakery", "anna", "bert"],
        "roster": roster_fingerprint(plan.secure_sum),
        "fewest_survivors": 3,
        "dishonest": 1,
        "delta": 1e-5,
        "epsilon": secure_epsilons(plan),
    }
    assert entry["secure_sum"]["epsilon"]["with_dishonest"] == entry["price"]["epsilon"]["1"]


def test_a_changed_key_is_approved_by_naming_the_merchant_and_not_otherwise(place, pp_client):
    first = place.offer(sum_plan(place))
    pp_client("plans")
    assert pp_client("approve", first.id, "--yes")[0] == Exit.DONE
    swapped = place.offer(sum_plan(place, {**OTHERS, "bert": "SHA256:new"}, plan_id="swapped"))
    assert "refused (policy)" in pp_client("plans")[1]
    for flags in ([], ["--changed-key", "anna"]):
        code, _, err = pp_client("approve", swapped.id, "--yes", *flags)
        assert code == Exit.NOT_ALLOWED
        assert "--changed-key bert" in err
        assert "Traceback" not in err
    assert open_agreements(place.settings).find(swapped.id).code is OfferCode.POLICY
    code, out, _ = pp_client("approve", swapped.id, "--yes", "--changed-key", "anna", "--changed-key", "bert")
    assert (code, "Approved" in out) == (Exit.DONE, True)
    assert open_agreements(place.settings).find(swapped.id).state is DecisionState.APPROVED


def test_the_statement_of_a_sum_names_whose_honesty_it_rests_on(place, pp_client):
    offer = place.offer(sum_plan(place))
    plan = offer.plan
    pp_client("plans")
    code, out, _ = pp_client("statement", "--plan", offer.id)
    text = " ".join(out.split())
    assert code == Exit.DONE
    assert "At least 2 honest merchants must be left in each round" in text
    assert "this merchant's own share of the noise would be all that is left" in text
    assert roster_fingerprint(plan.secure_sum) in text
