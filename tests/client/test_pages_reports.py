"""The pages of reports, customers, rules, data and the model: full, empty, and where something cannot be read."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from client.insight import NAMES
from client.insight.rules_run import OUTCOMES_FILE, RuleOutcome, rules_file
from client.insight.store import cutoff_folder
from client.pages.customer import row_of
from client.pages.data import drift_of
from client.pages.examine import NETWORK, examined
from client.pages.merchant import Merchant
from client.pages.rules import rules_of
from daemons.files import write_private
from pp_model.config import to_mapping
from tests.support.merchant_pages import (
    CUTOFF,
    DAY,
    SOMEBODY,
    Browser,
    Running,
    full_shop,
    portraits,
    put_report,
    quiet,
    running_pages,
)
from tests.support.orders import row, write_csv
from tests.support.scored import ScoredShop, scored_shop
from web.words import phrase

RULES = """
[[rule]]
name = "Keep the best"
when = [{ column = "tier", equals = "high" }, { column = "churn_risk", at_least = 0.6 }]
then = "list"
purpose = "retention"
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> ScoredShop:
    return full_shop(tmp_path_factory.mktemp("merchant"))


@pytest.fixture(scope="module")
def pages(shop) -> Iterator[Running]:
    with running_pages(shop.config) as running:
        yield running


@pytest.fixture
def browser(pages) -> Browser:
    return pages.browser()


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Iterator[Browser]:
    """A merchant to whom nothing has happened yet."""
    shop = scored_shop(tmp_path_factory.mktemp("new"), model=False)
    quiet(shop)
    with running_pages(shop.config) as running:
        yield running.browser()


def text_of(page: str) -> str:
    return re.sub(r"<[^>]*>", " ", page)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", NAMES)
def test_every_report_has_a_page_in_both_languages(browser, name, language):
    answer = browser.get(f"/insight/{name}", **{"accept-language": language})
    assert answer.status_code == 200
    for shown in ("300", "1,234.56", "1,000.00 – 1,500.00"):
        assert shown in answer.text
    assert f"/insight/{CUTOFF}/files/{name}.customers.csv" in answer.text
    assert "<script>alert(1)</script>" not in answer.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text


@pytest.mark.parametrize(
    "path", ["/", "/plans", "/data", "/model", "/insight", "/insight/churn", "/customer", "/rules", "/jobs"]
)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_new_merchants_pages_say_what_is_missing_and_what_to_do(empty, path, language):
    answer = empty.get(path, **{"accept-language": language})
    assert answer.status_code == 200
    assert 'class="empty"' in answer.text
    assert "None" not in text_of(answer.text)


def test_the_privacy_page_of_a_new_merchant_is_empty_and_no_fault(empty):
    answer = empty.get("/privacy")
    assert answer.status_code == 200
    assert 'class="empty"' in answer.text


def test_a_report_that_is_not_known_is_not_there(browser):
    assert browser.get("/insight/salaries").status_code == 404


def test_an_earlier_cutoff_is_shown_when_it_is_asked_for_and_the_newest_otherwise(shop, browser):
    earlier = CUTOFF - 30 * DAY
    put_report(shop, "churn", cutoff=earlier)
    assert f"/insight/{earlier}/files/" in browser.get(f"/insight/churn?cutoff={earlier}").text
    for asked in ("", "?cutoff=1999-01-01", "?cutoff=../.."):
        assert f"/insight/{CUTOFF}/files/" in browser.get(f"/insight/churn{asked}").text


def test_a_report_with_nothing_to_show_says_why(shop, browser):
    put_report(shop, "market", empty=phrase("insight_page.none"), figures=(), charts=(), tables=())
    answer = browser.get("/insight/market")
    assert "No reports were made yet." in answer.text


def test_a_damaged_report_is_told_on_its_page_and_the_others_are_shown(shop, browser):
    path = cutoff_folder(shop.settings.paths.insight, CUTOFF) / "returns.json"
    kept = path.read_bytes()
    write_private(path, b"{", replace=True)
    try:
        answer = browser.get("/insight/returns")
        assert (answer.status_code, 'role="alert"' in answer.text) == (200, True)
        assert browser.get("/insight").text.count("1,234.56") == len(NAMES) - 2  # market is empty, see above
    finally:
        write_private(path, kept, replace=True)


def test_a_customer_is_found_by_the_merchants_own_id(browser):
    answer = browser.post("/customer", customer=f" {SOMEBODY} ")
    assert answer.status_code == 200
    text = text_of(answer.text)
    assert SOMEBODY in text
    assert "7.00" in text  # expected spend
    assert "Large baskets" in text
    assert "bread &amp; butter" in text


@pytest.mark.parametrize("asked", ["customer-9999", "' OR 1=1 --", "<b>x</b>", "customer", "Customer-7", "中文"])
def test_an_id_that_nobody_has_finds_nobody_and_is_shown_as_text(browser, asked):
    answer = browser.post("/customer", customer=asked)
    assert answer.status_code == 200
    assert "Nobody with that id was scored." in answer.text
    assert "<b>x</b>" not in answer.text


def test_a_customers_id_is_in_no_address_and_no_log(browser, caplog):
    caplog.set_level(logging.DEBUG)
    answer = browser.post("/customer", customer=SOMEBODY)
    assert SOMEBODY in answer.text
    assert SOMEBODY not in str(answer.url)
    assert not [link for link in re.findall(r'(?:href|action)="([^"]*)"', answer.text) if SOMEBODY in link]
    assert SOMEBODY not in caplog.text


def test_ids_that_look_like_numbers_are_compared_as_texts(tmp_path):
    import pyarrow as pa
    import pyarrow.csv as pc

    table = portraits().slice(0, 2).set_column(0, "customer_id", pa.array(["007", "7"]))
    path = tmp_path / "list.csv"
    pc.write_csv(table, path)
    path.chmod(0o600)
    found = [row_of(path, each) for each in ("7", "007", "0")]
    assert [each and each["expected_spend_cents"] for each in found] == [100, 0, None]


def test_the_rules_and_whom_they_found_are_shown(shop, browser):
    path = shop.config.parent / "rules.toml"
    path.write_text(RULES, encoding="utf-8")
    (found,) = rules_of(shop.settings, None)
    outcome = RuleOutcome(
        name=found.rule.name,
        purpose="retention",
        file=rules_file(found.rule),
        customers=41,
        compared_with=None,
        new=41,
        gone=0,
        alert="none",
    )
    folder = cutoff_folder(shop.settings.paths.insight, CUTOFF)
    write_private(folder / OUTCOMES_FILE, json.dumps([to_mapping(outcome)]).encode(), replace=True)
    write_private(folder / outcome.file, b"customer_id\nx\n", replace=True)
    try:
        text = text_of(browser.get("/rules").text)
        assert "Keep the best" in text
        assert "Chance of not buying is at least 0.6" in text
        assert "41" in text
        assert browser.get(f"/insight/{CUTOFF}/files/{outcome.file}").text == "customer_id\nx\n"
    finally:
        path.unlink()
        (folder / OUTCOMES_FILE).unlink()


def test_a_rule_for_a_refused_purpose_is_told_and_why(shop, browser):
    path = shop.config.parent / "rules.toml"
    path.write_text(RULES.replace("retention", "credit"), encoding="utf-8")
    try:
        answer = browser.get("/rules")
        assert answer.status_code == 200
        assert "lists for credit are refused" in text_of(answer.text)
    finally:
        path.unlink()


def test_the_orders_are_looked_through_without_the_network_and_without_a_cell(tmp_path):
    shop = scored_shop(tmp_path, model=False)
    rows = [row("ann", "2026-01-02 03:04:05"), row("quetzal@canary.example", "no date"), row("", "2026-02-02")]
    write_csv(shop.orders, rows)
    text = shop.config.read_text(encoding="utf-8")
    shop.config.write_text(text.replace('bad_rows = "error"', 'bad_rows = "skip"'), encoding="utf-8")
    found: dict[str, Any] = examined(shop.config)
    checks = {each["check"] for each in found["findings"]}
    assert {"configuration", "orders", "ledger"} <= checks
    assert not checks & set(NETWORK)
    assert found["orders"]["rows"] == 3
    assert {each["reason"] for each in found["orders"]["skipped"]} == {"bad_timestamp", "empty_customer"}
    assert "quetzal" not in json.dumps(found)


def test_what_was_looked_at_is_shown_with_its_reasons(shop, browser):
    found = examined(shop.config)
    found["orders"]["skipped"] = [{"reason": "bad_amount", "count": 3, "line": 17}]
    folder = shop.settings.paths.agreements.parent / "pages"
    folder.mkdir(mode=0o700, exist_ok=True)
    write_private(folder / "examined.json", json.dumps(found).encode(), replace=True)
    english, chinese = (text_of(browser.get("/data", **{"accept-language": each}).text) for each in ("en", "zh"))
    for text in (english, chinese):
        assert re.search(r"\b17\b", text)
        assert "600" in text
    assert "Unreadable amount" in english
    assert "无法读取的金额" in chinese
    write_private(folder / "examined.json", b'{"format": 1}', replace=True)
    assert 'role="alert"' in browser.get("/data").text


def test_the_drift_is_of_the_two_newest_scorings(shop, tmp_path):
    found = drift_of(Merchant(shop.config))
    assert found
    assert (found.cutoff, found.before) == (CUTOFF, CUTOFF - 30 * DAY)
    assert [moved.name.key for moved in found.moved] == [
        f"drift.name.{name}" for name in ("score", "recency", "visits", "basket")
    ]
    assert all(sum(value or 0 for value in series.values) == pytest.approx(1) for series in found.chart.series)
    assert drift_of(Merchant(scored_shop(tmp_path, model=False).config)) is None


def test_the_model_is_shown_with_its_card_as_text(shop, browser):
    text = browser.get("/model").text
    assert "verified just now" in text
    assert "<h3>A model</h3>" in text


def test_a_model_that_is_not_what_was_signed_is_told_and_nothing_of_it_is_shown(tmp_path):
    shop = scored_shop(tmp_path)
    quiet(shop)
    (card,) = shop.settings.paths.models.glob("*/model_card.md")
    card.chmod(0o600)
    card.write_text("# Trust <me>\n")
    with running_pages(shop.config) as running:
        answer = running.browser().get("/model")
    assert answer.status_code == 200
    assert 'role="alert"' in answer.text
    assert "Trust" not in answer.text


def test_a_configuration_that_breaks_while_the_pages_run_is_told_and_mended_without_a_restart(tmp_path):
    shop = scored_shop(tmp_path, model=False)
    quiet(shop)
    text = shop.config.read_text(encoding="utf-8")
    with running_pages(shop.config) as running:
        browser = running.browser()
        shop.config.write_text(text.replace("epsilon_budget", "epsilon_budgt"), encoding="utf-8")
        broken = browser.get("/")
        assert (broken.status_code, "epsilon_budgt" in broken.text) == (500, True)
        shop.config.write_text(text, encoding="utf-8")
        assert browser.get("/").status_code == 200
