"""The merchant's pages in a real browser: every page and state, both languages, both colour schemes, a phone, a
keyboard; and the work that is started from them, as real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import expect

from agreement.offer import Offer
from client.agreements import open_agreements
from client.insight import NAMES
from client.pages.examine import examined
from client.pages.jobs import BusyError, Jobs
from client.pages.merchant import Merchant
from client.pages.warm import warm
from daemons.files import write_private
from tests.support.browser import PHONE, WatchedPage, running_chromium, watched_page
from tests.support.merchant_home import TODAY
from tests.support.merchant_pages import (
    DAY,
    SOMEBODY,
    Running,
    daemon_page,
    full_shop,
    offered,
    quiet,
    running_pages,
)
from tests.support.scored import ScoredShop, scored_shop

pytestmark = pytest.mark.e2e
PAGES = ("/", "/plans", "/data", "/model", "/insight", "/insight/quality", "/customer", "/rules", "/jobs", "/privacy")
LOOKS = [("en", False), ("en", True), ("zh", False), ("zh", True)]
DEADLINE = 90.0


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> ScoredShop:
    """Everything is there."""
    shop = full_shop(tmp_path_factory.mktemp("full"))
    folder = shop.settings.paths.agreements.parent / "pages"
    folder.mkdir(mode=0o700)
    write_private(folder / "examined.json", json.dumps(examined(shop.config)).encode())
    return shop


@pytest.fixture(scope="module")
def full(shop) -> Iterator[Running]:
    with daemon_page(shop), running_pages(shop.config) as running:
        warm(Merchant(shop.config))
        yield running


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Iterator[Running]:
    """Nothing has happened yet."""
    shop = scored_shop(tmp_path_factory.mktemp("empty"), model=False)
    quiet(shop)
    with running_pages(shop.config) as running:
        yield running


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Iterator[Running]:
    """Nothing can be read."""
    shop = full_shop(tmp_path_factory.mktemp("broken"))
    paths = shop.settings.paths
    for path in (paths.ledger, paths.agreements, *paths.insight.rglob("*.json"), *paths.scores.glob("*.parquet")):
        path.write_bytes(b"not what it was")
    for path in paths.models.rglob("manifest.json"):
        path.write_bytes(b"{}")
    (shop.config.parent / "rules.toml").write_text("[[rule]]\nname = 1\n", encoding="utf-8")
    with running_pages(shop.config) as running:
        yield running


@pytest.fixture
def merchant(tmp_path) -> ScoredShop:
    """One of its own: a model and orders, and a platform at an address where nobody answers."""
    shop = scored_shop(tmp_path)
    quiet(shop)
    text = shop.config.read_text(encoding="utf-8")
    shop.config.write_text(text.replace('"pp.example.org:8443"', '"127.0.0.1:9"'), encoding="utf-8")
    return shop


def wait_for(condition: Callable[[], object], *, seconds: float = DEADLINE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def offers_of(shop: ScoredShop) -> dict[str, str]:
    return {each.offer.plan.plan_id: each.offer.id for each in open_agreements(shop.settings).all()}


def check(watched: WatchedPage, path: str) -> None:
    """The page as it is: accessible, not wider than the screen, and silent."""
    assert watched.axe() == [], path
    assert watched.sideways() == 0, path
    assert watched.faults == [], path


@pytest.mark.parametrize(("language", "dark"), LOOKS)
def test_every_page_is_accessible_quiet_and_fits_a_phone(chromium, full, shop, language, dark):
    offers = offers_of(shop)
    paths = [*PAGES, *(f"/plans/{offers[name]}" for name in ("autumn", "together", "loud", "spring"))]
    for size in ((1280, 900), PHONE):
        with watched_page(
            chromium, full.origin, language=language, dark=dark, size=size, cookies=full.cookies()
        ) as watched:
            for path in paths:
                page = watched.goto(path)
                drawn = page.locator(".canvas").count()
                assert page.locator(".canvas[data-drawn] svg").count() == drawn
                check(watched, path)
            watched.goto("/customer")
            watched.page.fill("input[name=customer]", SOMEBODY)
            watched.page.click("main button[type=submit]")
            expect(watched.page.locator("h2.who")).to_contain_text(SOMEBODY)
            check(watched, "a customer")


@pytest.mark.parametrize(("language", "dark"), LOOKS)
@pytest.mark.parametrize("state", ["empty", "broken"])
def test_pages_with_nothing_to_show_or_nothing_to_read_are_as_good(chromium, request, state, language, dark):
    running: Running = request.getfixturevalue(state)
    with watched_page(
        chromium, running.origin, language=language, dark=dark, size=PHONE, cookies=running.cookies()
    ) as watched:
        for path in (*PAGES, "/nowhere"):
            watched.goto(path)
            watched.console[:] = [text for text in watched.console if "404" not in text]  # of /nowhere itself
            check(watched, path)
            if state == "empty" and path not in ("/", "/nowhere"):
                assert watched.page.locator(".empty").count() >= 1, path
            if state == "broken" and path not in ("/data", "/customer", "/jobs", "/nowhere", "/insight"):
                assert watched.page.locator(".notice.bad").count() >= 1, path


def test_the_link_logs_a_browser_in_and_leaves_no_token_in_its_address(chromium, full):
    with watched_page(chromium, full.origin) as watched:
        page = watched.goto(f"/login?token={full.token}")
        page.wait_for_url(f"{full.origin}/")
        expect(page.locator("h1")).to_have_text("bakery")
        cookie = next(each for each in page.context.cookies() if each["name"] == "pp_client_session")
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        page.click("text=Log out")
        page.wait_for_url(f"{full.origin}/login")
        page.goto(f"{full.origin}/plans")
        expect(page.locator("h1")).to_have_text("Log in")
        watched.console[:] = [text for text in watched.console if "401" not in text]
        check(watched, "/login")


def test_without_scripts_everything_can_be_read_and_done(chromium, merchant):
    offer = offered(merchant, serial=1, plan_id="spring")
    with running_pages(merchant.config) as running, watched_page(chromium, running.origin, script=False) as watched:
        page = watched.goto(f"/login?token={running.token}")
        page.click("main button")
        expect(page.locator("h1")).to_have_text("bakery")
        page.goto(f"{running.origin}/plans/{offer.id}")
        page.locator("summary").first.click()
        expect(page.locator("figure table")).to_be_visible()
        page.click("text=Take part")
        expect(page.locator(".notice.good")).to_contain_text("Approved.")
    assert stands(merchant, offer) == "approved"


def stands(shop: ScoredShop, offer: Offer) -> str:
    return open_agreements(shop.settings).find(offer.id).state.value


def test_a_person_approves_and_withdraws_and_is_asked_first(chromium, merchant):
    offer = offered(merchant, serial=1, plan_id="spring")
    with (
        running_pages(merchant.config) as running,
        watched_page(chromium, running.origin, cookies=running.cookies()) as watched,
    ):
        page = watched.goto("/")
        page.click("text=Decide")
        page.click("text=Look at it")
        questions: list[str] = []
        page.once("dialog", lambda asked: (questions.append(asked.message), asked.dismiss()))
        page.click("text=Take part")
        assert questions == ["Take part in this plan? It may spend the budget shown."]
        assert stands(merchant, offer) == "waiting"
        page.on("dialog", lambda asked: asked.accept())
        page.click("text=Take part")
        expect(page.locator(".notice.good")).to_contain_text("Approved.")
        assert stands(merchant, offer) == "approved"
        check(watched, "approved")
        page.click("text=Withdraw the approval")
        expect(page.locator("main .badge").first).to_have_text("Refused")
        assert stands(merchant, offer) == "refused"


def test_the_keyboard_reaches_everything_and_shows_where_it_is(chromium, full, shop):
    with watched_page(chromium, full.origin, cookies=full.cookies()) as watched:
        for path in (*PAGES, f"/plans/{offers_of(shop)['together']}"):
            page = watched.goto(path)
            stops = watched.tab_stops()
            assert not [stop for stop in stops if stop.startswith("NO FOCUS SEEN")], path
            assert stops[0] == "a Skip to the content"
            wanted = page.locator("a:visible, button:visible, input:visible, select:visible, summary:visible").count()
            assert len(stops) >= wanted, path  # a date has several stops, a table that scrolls has one


def test_a_plan_is_approved_with_the_keyboard_alone(chromium, merchant):
    offer = offered(merchant, serial=1, plan_id="spring")
    with (
        running_pages(merchant.config) as running,
        watched_page(chromium, running.origin, cookies=running.cookies()) as watched,
    ):
        page = watched.goto(f"/plans/{offer.id}")
        page.on("dialog", lambda asked: asked.accept())
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("() => document.activeElement.innerText") == "Take part":
                break
        page.keyboard.press("Enter")
        expect(page.locator(".notice.good")).to_contain_text("Approved.")
    assert stands(merchant, offer) == "approved"


def test_a_language_once_chosen_stays(chromium, full):
    with watched_page(chromium, full.origin, cookies=full.cookies()) as watched:
        page = watched.goto("/plans")
        page.click("text=中文")
        expect(page.locator("h1")).to_have_text("计划")
        assert page.url == f"{full.origin}/plans"
        page.goto(f"{full.origin}/")
        assert page.locator("html").get_attribute("lang") == "zh-Hans"


def test_scores_are_made_from_the_page_and_downloaded(chromium, merchant):
    with (
        running_pages(merchant.config) as running,
        watched_page(chromium, running.origin, cookies=running.cookies()) as watched,
    ):
        page = watched.goto("/jobs")
        page.fill("form:has(select) input[name=cutoff]", TODAY.isoformat())
        page.click("text=Score everybody")
        expect(page.locator("[data-progress]")).to_be_visible()
        check(watched, "at work")
        watched.goto("/")  # it is at work wherever one looks
        expect(page.locator("[data-progress]")).to_be_visible()
        watched.goto("/jobs")
        expect(page.locator(".jobs .badge")).to_have_text("Done", timeout=1000 * DEADLINE)
        with page.expect_download() as download:
            page.click(f"text=scores-{TODAY}.csv")
        text = Path(download.value.path()).read_text(encoding="utf-8")
        assert text.count("\n") == 301
        assert '"customer-7"' in text or "customer-7," in text
        check(watched, "/jobs")
    path = merchant.settings.paths.agreements.parent / "lists" / f"scores-{TODAY}.csv"
    assert path.stat().st_mode & 0o077 == 0


def test_work_that_fails_says_why_in_the_commands_own_words(chromium, merchant):
    with (
        running_pages(merchant.config) as running,
        watched_page(chromium, running.origin, cookies=running.cookies()) as watched,
    ):
        page = watched.goto("/jobs")
        page.fill("form:has(select) input[name=cutoff]", (TODAY + 60 * DAY).isoformat())
        page.click("text=Score everybody")
        expect(page.locator(".jobs .badge")).to_have_text("Failed", timeout=1000 * DEADLINE)
        expect(page.locator(".jobs .said")).to_contain_text("the orders end more than 7 days before the cutoff")
        check(watched, "/jobs")


def test_the_orders_are_looked_through_from_the_page(chromium, merchant):
    with (
        running_pages(merchant.config) as running,
        watched_page(chromium, running.origin, cookies=running.cookies()) as watched,
    ):
        page = watched.goto("/data")
        page.click("text=Look through the orders now")
        expect(page.locator("#checks")).to_be_visible(timeout=1000 * DEADLINE)
        expect(page.locator(".stats")).to_contain_text("600")
        check(watched, "/data")


def test_real_reports_are_made_from_the_page_and_each_has_a_good_one(chromium, merchant):
    with (
        running_pages(merchant.config) as running,
        watched_page(chromium, running.origin, size=PHONE, cookies=running.cookies()) as watched,
    ):
        page = watched.goto("/jobs")
        page.click("text=Make reports")
        expect(page.locator(".jobs .badge")).not_to_have_text("At work", timeout=2000 * DEADLINE)
        assert not page.locator(".jobs .said").all_inner_texts()
        for language in ("en", "zh"):
            watched.goto(f"/language/{language}?back=/insight")
            for name in NAMES:
                watched.goto(f"/insight/{name}")
                assert page.locator(".notice.bad").count() == 0, name
                check(watched, name)


@pytest.mark.parametrize("waits", [True, False], ids=["cancelled", "once more"])
def test_work_is_one_at_a_time_and_can_be_cancelled(tmp_path, waits):
    jobs = Jobs(environment=dict(os.environ), cwd=tmp_path)
    program = (
        "import os, sys, time\n"
        'sys.stderr.write(\'progress {"what": "reading orders", "done": 1, "total": 4}\\n\')\n'
        "sys.stderr.write(os.environ['PP_PROGRESS_LINES'] + chr(10)); sys.stderr.flush(); "
        f"time.sleep({600 if waits else 0})"
    )
    try:
        job = jobs.start("score", [sys.executable, "-c", program])
        wait_for(lambda: job.lines)
        assert (job.what, job.done, job.lines) == ("reading orders", 0.25, ["1"])
        if waits:
            with pytest.raises(BusyError):
                jobs.start("insight", [sys.executable, "-c", ""])
            jobs.cancel()
        wait_for(lambda: job.over)
        assert job.state == ("cancelled" if waits else "done")
        second = jobs.start("insight", [sys.executable, "-c", "raise SystemExit('pp-client: no model')"])
        wait_for(lambda: second.over)
        assert (second.state, second.error) == ("failed", "no model")
        missing = jobs.start("score", ["/nowhere/program"])
        wait_for(lambda: missing.over)
        assert missing.state == "failed"
    finally:
        jobs.close()


def test_work_is_over_before_its_end_is_told_and_its_file_is_there(tmp_path):
    jobs, seen = Jobs(environment=dict(os.environ), cwd=tmp_path), list[bool]()
    try:
        job = jobs.start("score", [sys.executable, "-c", ""], on_done=lambda done: seen.append(done.over))
        wait_for(lambda: job.over)
    finally:
        jobs.close()
    assert seen == [False]


def test_the_first_page_is_seen_within_a_fifth_of_a_second(chromium, full):
    with watched_page(chromium, full.origin, cookies=full.cookies()) as watched:
        milliseconds = watched.first_paint("/", below=200)
    print(f"first page, seen after {milliseconds:.0f} ms")
    assert milliseconds < 200


def test_the_command_prints_a_link_serves_and_stops_in_order(chromium, merchant):
    command = [
        sys.executable,
        "-P",
        "-m",
        "client.cli",
        "ui",
        "--config",
        str(merchant.config),
        "--address",
        "127.0.0.1:0",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        link = re.search(r"(http://127\.0\.0\.1:\d+)(/login\?token=\S+)", process.stdout.readline())
        assert link
        with watched_page(chromium, link[1]) as watched:
            page = watched.goto(link[2])
            page.wait_for_url(f"{link[1]}/")
            check(watched, "/")
            page.goto(f"{link[1]}/jobs")
            page.click("text=Make reports")
            expect(page.locator("[data-progress]")).to_be_visible()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, err) == (0, "")
    assert "Another browser, once: http://127.0.0.1" in out
