"""What the pages say, and what they never say."""

import datetime as dt
import json
import re
import sqlite3
import time
from contextlib import closing

import pytest

from agreement.offer import DecisionState, OfferCode
from pp_model.accounting import epsilon_spent
from pp_model.protocol import RefusalCode
from server.aggregation import RejectionCode
from server.dashboard.access import OPERATOR, VIEWER, Address
from server.dashboard.app import ADDRESSES, FOLDER
from server.dashboard.audit import Action
from server.dashboard.charts import answers_of_rounds, quality_of_rounds
from server.dashboard.reading import registry_of, thinned
from server.public_check import Finding
from server.registry import Registry
from server.roster import Roster
from tests.support.dashboard import client_of, posted
from tests.support.platform import new_platform, public_key_file
from tests.support.platform_town import MERCHANTS, new_desk, new_town
from web.site import LANGUAGE_COOKIE
from web.words import Words


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return new_town(tmp_path_factory.mktemp("town") / "platform")


@pytest.fixture
def desk(town):
    return new_desk(town.home)


@pytest.fixture
def client(desk):
    return client_of(desk, role=OPERATOR)


def text(page):
    """What a person reads: no markup, one space between words."""
    page = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", page))


def rows(page):
    return [text(row).strip() for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL)]


def when_priced(desk, client, path):
    """The page when its plan's price was worked out."""
    deadline = time.monotonic() + 60
    while (answer := client.get(path)).text.count("being worked out") or "…" in text(answer.text):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return answer.text


def test_the_overview_says_what_runs_and_what_asks_for_attention(town, client):
    page = text(client.get("/").text)
    assert f"Run {town.runs['running']} · autumn" in page
    assert "Round 18 is being asked for" in page
    assert "Merchants 5" in page
    assert "Newest model 2" in page


def test_merchants_are_shown_with_connection_last_sight_version_and_decisions(client, desk):
    client.get("/merchants")
    shown = when_known(client, "/merchants", "connected")
    by_name = {row.split()[0]: row for row in rows(shown)}
    assert "connected" in by_name["bakery"]
    assert "0.4.0" in by_name["bakery"]
    assert "offline" in by_name["grocer"]
    assert "silent" in by_name["grocer"]
    assert "refused: 1" in by_name["grocer"]
    assert "never connected" in by_name["winebar"]
    assert "antiques" in by_name


def when_known(client, path, word):
    """The page when what it has to learn in the background is on it."""
    deadline = time.monotonic() + 20
    while word not in (page := client.get(path).text):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return page


def test_without_a_platform_nobody_is_said_to_be_connected(town):
    client = client_of(new_desk(town.home, up=False), role=VIEWER)
    assert "unknown" in client.get("/merchants").text
    page = text(when_known(client, "/merchants", "it is not known who is connected"))
    assert not re.search(r"(bakery|florist|toyshop) connected", page)
    assert "the platform is not up" in text(client.get("/").text)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("finished", "finished"),
        ("failed", "stopped before its end"),
        ("void", "no round of it counted"),
        ("running", "Round 18 is being asked for"),
        ("sums", "Secure sum"),
    ],
)
def test_a_run_says_how_it_stands(town, client, kind, said):
    assert said in text(client.get(f"/runs/{town.runs[kind]}").text)


def test_a_run_whose_deadline_is_long_past_is_overdue(town, desk, client):
    with Registry(town.home.registry) as registry:
        run = town.runs["sums"]
        registry.ask_round(run, 10, deadline=dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5))
    assert "The deadline has passed" in text(client.get(f"/runs/{run}").text)
    assert f"Run {run} should have heard" in text(client.get("/").text)
    with Registry(town.home.registry) as registry:
        registry.ask_round(run, 10, deadline=dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5))


def test_a_round_shows_its_releases_its_refusals_by_code_its_norm_and_its_check(town, desk, client):
    with registry_of(desk) as registry:
        last = registry.rounds(town.runs["finished"])[-1]
    first_row = rows(client.get(f"/runs/{town.runs['finished']}/rounds").text)[1]
    assert first_row.startswith("40 3 / 5 1 × nobody approved it there 1")
    assert f"{last.norm:.3g}" in first_row
    assert f"{last.log_loss:.3g}" in first_row
    assert "good" in first_row


def test_with_local_noise_an_answer_that_could_not_be_used_is_shown_by_name(town, client):
    page = client.get(f"/runs/{town.runs['finished']}").text
    assert any(row.startswith("toyshop longer than the plan allows") for row in rows(page))


def test_in_a_secure_sum_nothing_of_one_merchant_but_its_presence(town, client):
    page = client.get(f"/runs/{town.runs['sums']}").text
    said = [row for row in rows(page) if any(name in row for name in MERCHANTS)]
    assert said == ["bakery 9", "florist 9", "grocer 9", "toyshop 5"]  # in how many rounds it took part
    by_code = [row for row in rows(page) if row.startswith(("longer than the plan allows", "no answer in time"))]
    assert by_code == ["longer than the plan allows 6", "no answer in time 3"]  # a line for each merchant would tell


def test_the_rounds_as_a_file_have_no_names(town, client, desk):
    for run in town.runs.values():
        answer = client.get(f"/runs/{run}/rounds.csv")
        assert answer.headers["content-disposition"] == f'attachment; filename="run-{run}-rounds.csv"'
        assert not any(name in answer.text for name in MERCHANTS)
    newest = desk.audit.entries(most=1)[0]
    assert (newest.action, newest.subject) == ("download", f"run-{run}-rounds.csv")


def test_older_rounds_are_a_page_further(town, client):
    page = client.get(f"/runs/{town.runs['second']}").text
    assert f'href="/runs/{town.runs["second"]}?before=36"' in page
    older = rows(client.get(f"/runs/{town.runs['second']}/rounds?before=11").text)
    assert [row.split()[0] for row in older[1:11]] == [str(at) for at in range(10, 0, -1)]


def test_a_plan_shows_its_price_for_one_and_for_two_merchants(town, desk, client):
    page = when_priced(desk, client, "/plans/of/spring")
    with registry_of(desk) as registry:
        plan = registry.plan(town.runs["finished"])
    for merchants in (1, 2):
        epsilon = epsilon_spent(plan.events, delta=plan.delta, merchants=merchants)
        shown = re.search(rf"epsilon, {'one merchant' if merchants == 1 else 'two merchants'} ([\d.]+)", text(page))
        assert epsilon <= float(shown[1]) < epsilon + 0.0011  # rounded up: a bound stays one


def test_a_secure_sum_shows_its_three_prices(desk, client):
    page = text(when_priced(desk, client, "/plans/of/together"))
    for who in ("Platform alone", "Platform with helpers", "All others together"):
        assert re.search(rf"{who} \d", page)


def test_a_plan_says_who_decided_what_and_who_is_silent(desk, client):
    page = text(client.get("/plans/of/winter").text)
    assert "bakery approved" in page
    assert "florist waiting" in page
    assert "grocer refused over its budget" in page
    assert "Not heard of yet: toyshop, winebar" in page


def test_a_plan_that_cannot_be_read_is_said_to_be_so_and_has_no_page(client):
    assert any("broken cannot be read" in row for row in rows(client.get("/plans").text))
    assert client.get("/plans/of/broken").status_code == 404


@pytest.mark.parametrize("name", ["..%2fkeys%2fplan-signing", "%2e%2e", "spring.toml", "nothing", "spring%00"])
def test_no_plan_is_found_outside_the_plans(client, name):
    assert client.get(f"/plans/of/{name}").status_code == 404


def test_a_model_shows_where_it_comes_from(town, client):
    page = text(client.get(f"/models/{town.models[1]}").text)
    assert "trained from model 1" in page
    assert "Log loss of buying 0.49" in page


def test_two_models_are_compared_side_by_side(town, client):
    page = client.get("/compare?first=1&second=2").text
    assert "dp.noise_multiplier 1.5 1.8" in rows(page)
    assert "Distance of the parameters" in text(page)
    assert client.get("/compare?first=1&second=99").status_code == 200


def test_going_back_publishes_the_older_model_and_is_written_down(tmp_path):
    desk = new_desk(new_town(tmp_path / "p").home)
    client = client_of(desk, role=OPERATOR)
    answer = posted(client, "/models/1/rollback")
    assert answer.headers["location"] == "/models/3?done=rollback"
    assert "this is now the newest model" in text(client.get(answer.headers["location"]).text)
    done, asked = desk.audit.entries(most=2)
    assert (asked.action, asked.subject, asked.who) == ("rollback_asked", "model 1", "olga")
    assert (done.action, done.subject) == ("rollback_done", "model 1 as model 3")
    answer = posted(client, "/models/1/rollback")  # merchants have it already
    assert answer.status_code == 409
    assert desk.audit.entries(most=1)[0].action == "rollback_failed"
    with registry_of(desk) as registry:
        assert len(registry.models()) == 3


def test_a_viewer_sees_no_button_to_go_back(town, desk):
    assert "/rollback" not in client_of(desk, role=VIEWER).get("/models/1").text
    assert "/rollback" in client_of(desk, role=OPERATOR).get("/models/1").text


def test_the_audit_page_says_whether_the_chain_holds(tmp_path):
    desk = new_desk(new_platform(tmp_path / "p"))
    client = client_of(desk, role=OPERATOR)
    for _ in range(3):
        desk.audit.append(Action.LOGIN, who="olga")
    assert "The chain holds" in text(client.get("/audit").text)
    with closing(sqlite3.connect(tmp_path / "p" / "state" / "audit.sqlite")) as db, db:
        db.execute("UPDATE entries SET body = replace(body, 'olga', 'else') WHERE seq = 2")
    assert "entry 2 was changed" in text(client.get("/audit").text)


def test_the_audit_log_can_be_taken_away_and_that_is_its_last_entry(desk, client):
    lines = client.get("/audit/entries.jsonl").text.splitlines()
    newest = desk.audit.entries(most=1)[0]
    assert json.loads(lines[-1])["hash"] == newest.hash
    assert newest.action == "download"


def test_pages_change_nothing_in_the_registry(town, desk):
    def contents():
        with Registry(town.home.registry) as registry:
            return "\n".join(registry._db.iterdump())

    before = contents()
    for role in (VIEWER, OPERATOR):
        client = client_of(desk, role=role)
        for path in every_page():
            assert client.get(path).status_code in (200, 303, 403), path
    assert contents() == before


def every_page():
    for address in ADDRESSES:
        if not address.posts:
            yield re.sub(r"\{(\w+)(:\w+)?\}", lambda name: {"plan": "together"}.get(name[1], "1"), address.path)


def test_a_registry_that_is_opened_for_reading_cannot_be_written(desk):
    with registry_of(desk) as registry, pytest.raises(sqlite3.OperationalError, match="readonly"):
        registry._db.execute("DELETE FROM runs")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_empty_platform_has_every_page_and_says_how_to_begin(tmp_path, language):
    client = client_of(new_desk(new_platform(tmp_path / "p")), role=OPERATOR)
    client.cookies.set(LANGUAGE_COOKIE, language, domain="127.0.0.1")
    for path in ("/", "/merchants", "/runs", "/plans", "/models", "/compare", "/audit", "/account"):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert f'<html lang="{"zh-Hans" if language == "zh" else "en"}">' in answer.text
    assert "pp-server merchants add" in client.get("/merchants").text


def test_a_registry_that_is_gone_is_said_and_no_page_is_empty(tmp_path):
    desk = new_desk(new_platform(tmp_path / "p"))
    client = client_of(desk, role=OPERATOR)
    for file in (tmp_path / "p" / "state").glob("registry.sqlite*"):
        file.unlink()
    answer = client.get("/runs")
    assert answer.status_code == 503
    assert "cannot be read right now" in text(answer.text)


def test_names_are_text_wherever_they_are_shown(tmp_path):
    desk = new_desk(new_platform(tmp_path / "p"))
    name = "<img src=x onerror=alert(1)>'\"&"
    with Roster(desk.home.registry) as roster:
        roster.add(name, public_key_file(tmp_path, "shop").read_bytes())
    page = client_of(desk, role=VIEWER).get("/merchants").text
    assert "&lt;img src=x onerror=alert(1)&gt;&#39;&#34;&amp;" in page
    assert "<img src=x" not in page


def test_every_code_state_action_and_role_has_its_words():
    keys = Words([FOLDER / "words"]).keys
    codes = {code.value for codes in (RefusalCode, RejectionCode, OfferCode) for code in codes}
    states = {state.value for states in (Finding, DecisionState) for state in states}
    assert {f"code.{code}" for code in codes} <= keys
    assert {f"state.{state}" for state in states} <= keys
    assert {f"action.{action.value}" for action in Action} <= keys
    assert {f"code.{name.removeprefix('code.')}" for name in keys if name.startswith("code.")} == {
        f"code.{code}" for code in codes
    }


def test_every_page_is_said_in_chinese(town, desk):
    client = client_of(desk, role=OPERATOR)
    client.cookies.set(LANGUAGE_COOKIE, "zh", domain="127.0.0.1")
    for path in every_page():
        answer = client.get(path)
        if answer.headers.get("content-type", "").startswith("text/html"):
            assert re.search("[\u4e00-\u9fff]", text(answer.text)), path


def test_a_long_run_is_thinned_and_keeps_its_last_round(desk, town):
    with registry_of(desk) as registry:
        rounds = registry.rounds(town.runs["second"])
    assert thinned(rounds, most=7)[-1] == rounds[-1]
    assert len(thinned(rounds * 50)) <= 400
    assert len(answers_of_rounds(rounds * 50).categories) <= 60
    assert [chart.kind for chart in quality_of_rounds([])] == ["line", "line"]


def test_all_that_changes_something_is_a_form():
    changing = {address.path for address in ADDRESSES if address.posts}
    assert changing == {"/login", "/logout", "/account", "/models/{model:int}/rollback"}
    assert all(isinstance(address, Address) and address.roles for address in ADDRESSES)
