"""A person's yes and no on the page: they change what the commands change, and refusals are in plain words."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import pytest

from agreement.offer import Offer
from client.agreements import open_agreements
from client.cli import main
from client.decisions import local_user
from client.ledger import open_ledger
from client.pages.merchant import Merchant
from client.pages.privacy import key_sentences, statement_of
from daemons.exit_codes import Exit
from pp_model.plan import Peer, SecureSumPlan
from tests.support.merchant_pages import Browser, approve, charge, offered, quiet, running_pages
from tests.support.plans import tiny_dp, tiny_server
from tests.support.scored import ScoredShop, scored_shop


@pytest.fixture
def shop(tmp_path) -> ScoredShop:
    """Its platform is at an address where nobody answers."""
    shop = scored_shop(tmp_path, model=False)
    quiet(shop)
    text = shop.config.read_text(encoding="utf-8")
    shop.config.write_text(text.replace('"pp.example.org:8443"', '"127.0.0.1:9"'), encoding="utf-8")
    return shop


@pytest.fixture
def browser(shop) -> Iterator[Browser]:
    with running_pages(shop.config) as running:
        yield running.browser()


def stands(shop: ScoredShop, offer: Offer) -> tuple[str, str, str]:
    found = open_agreements(shop.settings).find(offer.id)
    return found.state.value, found.code.value if found.code else "", found.by


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def test_a_plan_that_waits_is_priced_in_plain_words(shop, browser):
    offer = offered(shop, serial=1, plan_id="spring")
    text = text_of(browser.get(f"/plans/{offer.id}").text)
    assert "Waits for you" in text
    assert re.search(r"the whole plan costs epsilon 0\.\d\d at delta 1e-5", text)
    assert "after the whole plan" in text
    assert offer.plan.fingerprint in text


def test_an_approval_on_the_page_is_an_approval_by_the_person_who_runs_it(shop, browser):
    offer = offered(shop, serial=1)
    answer = browser.post(f"/plans/{offer.id}/approve")
    assert answer.status_code == 303
    assert stands(shop, offer) == ("approved", "", local_user())
    page = text_of(browser.get(answer.headers["location"]).text)
    assert "Approved. The platform was not reached" in page
    assert not shop.settings.paths.ledger.exists()  # a yes spends nothing


def test_the_page_and_the_command_leave_the_same_behind(tmp_path, capsys):
    kept = []
    for way in ("page", "command"):
        shop = scored_shop(tmp_path / way, model=False)
        quiet(shop)
        shop.config.write_text(shop.config.read_text().replace('"pp.example.org:8443"', '"127.0.0.1:9"'))
        offer = offered(shop, serial=1)
        if way == "page":
            with running_pages(shop.config) as running:
                browser = running.browser()
                browser.post(f"/plans/{offer.id}/approve")
                browser.post(f"/plans/{offer.id}/reject")
        else:
            assert main(["approve", offer.id, "--yes", "--config", str(shop.config)]) == Exit.DONE
            assert main(["reject", offer.id, "--yes", "--config", str(shop.config)]) == Exit.DONE
        history = open_agreements(shop.settings).history(offer.id)
        kept.append([(event.by, event.state, event.code) for event in history])
    assert kept[0] == kept[1]
    assert len(kept[0]) == 3


def test_a_refusal_withdraws_an_approval_and_can_be_taken_back_by_nobody_but_a_person(shop, browser):
    offer = offered(shop, serial=1)
    browser.post(f"/plans/{offer.id}/approve")
    assert browser.post(f"/plans/{offer.id}/reject").status_code == 303
    assert stands(shop, offer) == ("refused", "rejected", local_user())
    text = text_of(browser.get(f"/plans/{offer.id}").text)
    assert "A person at this shop said no." in text


def test_a_plan_over_the_budget_is_refused_in_plain_words_with_its_numbers(shop, browser):
    with open_ledger(
        shop.settings.paths.ledger, lineage=shop.settings.lineage, budget=3.0, delta=1e-5
    ):  # begun, so that the page reads a real one
        pass
    offer = offered(shop, serial=1, rounds=40, dp=tiny_dp(sample_rate=0.2, noise_multiplier=0.8))
    assert stands(shop, offer)[:2] in (("refused", "budget"), ("refused", "policy"))
    answer = browser.post(f"/plans/{offer.id}/approve")
    assert answer.status_code == 409
    assert "Nothing was changed." in text_of(answer.text)
    assert stands(shop, offer)[0] == "refused"


def test_a_plan_against_the_policy_is_refused_in_plain_words(shop, browser):
    offer = offered(shop, serial=1, dp=tiny_dp(noise_multiplier=0.1))
    answer = browser.post(f"/plans/{offer.id}/approve")
    assert answer.status_code == 409
    text = text_of(answer.text)
    assert "Your own policy, in merchant.toml, does not allow this plan." in text
    assert "least_noise_multiplier" in text
    chinese = browser.get(f"/plans/{offer.id}", **{"accept-language": "zh"}).text
    assert "您在 merchant.toml 中的策略不允许它。" in chinese


@pytest.mark.parametrize("offer_id", ["0" * 16, "zz", "..", "%2e%2e"])
def test_an_offer_that_nobody_made_is_not_there_and_cannot_be_approved(browser, offer_id):
    assert browser.get(f"/plans/{offer_id}").status_code in (200, 404)  # "..": the list of plans
    assert browser.post(f"/plans/{offer_id}/approve").status_code in (404, 405, 409)


def sum_offer(shop: ScoredShop, serial: int, florist: str) -> Offer:
    from agreement.node_keys import fingerprint_of

    own = fingerprint_of(shop.settings.node_key().public_key())
    peers = {"bakery": own, "florist": florist, "grocer": "SHA256:grocer", "bookshop": "SHA256:bookshop"}
    return offered(
        shop,
        serial=serial,
        plan_id=f"sum-{serial}",
        trust="secure_sum",
        secure_sum=SecureSumPlan(
            roster=tuple(Peer(name=name, key=key) for name, key in peers.items()), dishonest=1, rounds_per_block=5
        ),
        server=tiny_server(min_completions=3),
    )


def test_a_secure_sum_shows_the_roster_to_compare_and_a_changed_key_needs_a_persons_word(shop, browser):
    first = sum_offer(shop, 1, "SHA256:florist")
    page = browser.get(f"/plans/{first.id}").text
    assert re.search(r"<code>[0-9a-f]{4}(-[0-9a-f]{4}){7}</code>", page)
    assert browser.post(f"/plans/{first.id}/approve").status_code == 303
    second = sum_offer(shop, 2, "SHA256:somebody-else")
    assert 'name="changed:florist"' in browser.get(f"/plans/{second.id}").text
    assert browser.post(f"/plans/{second.id}/approve").status_code == 409
    assert stands(shop, second)[0] == "refused"
    assert browser.post(f"/plans/{second.id}/approve", **{"changed:florist": "1"}).status_code == 303
    assert stands(shop, second)[0] == "approved"


def test_a_damaged_store_of_plans_approves_nothing_and_is_told(shop, browser):
    offer = offered(shop, serial=1)
    shop.settings.paths.agreements.write_bytes(b"not a database" * 300)
    assert 'role="alert"' in browser.get("/plans").text
    assert browser.post(f"/plans/{offer.id}/approve").status_code == 409
    overview = browser.get("/")
    assert overview.status_code == 200


def test_a_damaged_ledger_shows_no_number_and_approves_nothing(shop, browser):
    offer = offered(shop, serial=1)
    shop.settings.paths.ledger.write_bytes(b"not a database" * 300)
    page = browser.get("/").text
    assert "cannot vouch for what was spent" in page
    assert 'class="gauge"' not in page
    assert browser.post(f"/plans/{offer.id}/approve").status_code == 409
    assert stands(shop, offer)[0] == "waiting"


def test_the_key_sentences_say_the_numbers_of_the_whole_statement(shop):
    offer = offered(shop, serial=1, rounds=4)
    approve(shop, offer)
    charge(shop, offer, rounds=2)
    statement = statement_of(Merchant(shop.config))
    whole = " ".join(text for _, text in statement.paragraphs())
    said = {name: str(value) for _, text in key_sentences(statement) for name, value in text.values.items()}
    for name in ("epsilon", "two", "spent", "budget", "factor", "after"):
        assert said[name] in whole, name
    assert (said["charged"], said["rounds"]) == ("2", "4")


def test_a_plan_without_noise_is_said_to_protect_nobody(shop):
    statement = statement_of_loud(shop)
    headings = [heading.key for heading, _ in key_sentences(statement)]
    assert headings[0] == "privacy.nothing"
    assert "privacy.promise" not in headings


def statement_of_loud(shop: ScoredShop):
    offered(shop, serial=1)
    statement = statement_of(Merchant(shop.config))
    infinite = {count: float("inf") for count in statement.promise.plan_epsilon}
    return dataclasses.replace(statement, promise=dataclasses.replace(statement.promise, plan_epsilon=infinite))
