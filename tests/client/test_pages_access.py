"""Who sees what: every route without a login, every form without its token, and what looking changes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route

from client.cli import exit_code
from client.insight.store import cutoff_folder
from client.pages.app import merchant_app
from client.pages.jobs import Jobs
from client.pages.login import Login
from client.pages.merchant import Merchant
from client.pages.server import serve_pages
from daemons.exit_codes import Exit
from pp_model.errors import ConfigError
from tests.support.merchant_pages import CUTOFF, SOMEBODY, Running, full_shop, running_pages
from tests.support.scored import ScoredShop

VALUES = {
    "offer": "",
    "cutoff": CUTOFF.isoformat(),
    "file": "portraits.customers.csv",
    "name": "churn",
    "language": "zh",
}
OPEN = {"/login", "/language/{language}"}
SECRETS = ("bakery", "spring", SOMEBODY, "Fair Prices", "customers of the web shop")


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> ScoredShop:
    return full_shop(tmp_path_factory.mktemp("merchant"))


@pytest.fixture(scope="module")
def pages(shop) -> Iterator[Running]:
    with running_pages(shop.config) as running:
        yield running


def routes(shop: ScoredShop) -> list[tuple[str, str]]:
    """Every method and path of the program, with values for what its paths leave open."""
    app = merchant_app(
        Merchant(shop.config), jobs=Jobs(environment={}, cwd=shop.config.parent), login=Login(on_link=lambda _: None)
    )
    found = [(method, route.path) for route in app.routes if isinstance(route, Route) for method in route.methods or ()]
    assert len(found) > 25
    return found


def filled(path: str) -> str:
    return re.sub(r"{(\w+)(:\w+)?}", lambda found: VALUES[found[1]] or "0" * 16, path)


def tree(folder: Path) -> dict[str, str]:
    """Every file below the folder, with a hash of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_without_a_login_no_route_shows_or_does_anything(shop, pages):
    before = tree(shop.config.parent)
    with httpx.Client(base_url=pages.origin, trust_env=False) as stranger:
        for method, path in routes(shop):
            if path in OPEN:
                continue
            headers = {"origin": pages.origin} if method == "POST" else {}
            answer = stranger.request(method, filled(path), headers=headers)
            assert answer.status_code in (401, 403), (method, path)
            assert not [secret for secret in SECRETS if secret in answer.text], (method, path)
    assert tree(shop.config.parent) == before


def test_a_form_without_its_token_or_from_elsewhere_changes_nothing(shop, pages):
    before, browser = tree(shop.config.parent), pages.browser()
    for method, path in routes(shop):
        if method != "POST" or path in OPEN:
            continue
        assert browser.post(filled(path), token="").status_code == 403, path
        elsewhere = browser.client.post(
            filled(path), data={"form_token": browser.form_token}, headers={"origin": "http://evil.example"}
        )
        assert elsewhere.status_code == 403, path
    assert tree(shop.config.parent) == before
    assert pages.jobs.all == []


def test_looking_changes_no_file(shop, pages):
    before, browser = tree(shop.config.parent), pages.browser()
    for method, path in routes(shop):
        if method == "GET":
            assert browser.get(filled(path)).status_code in (200, 303, 404), path
    assert tree(shop.config.parent) == before


def test_a_link_logs_in_once_and_looking_at_it_does_not_use_it(pages):
    token = pages.token
    with httpx.Client(base_url=pages.origin, trust_env=False) as browser:
        origin = {"origin": pages.origin}
        assert browser.get("/login", params={"token": token}).status_code == 200
        assert browser.get("/").status_code == 401
        first = browser.post("/login", data={"token": token}, headers=origin)
        assert (first.status_code, first.headers["location"]) == (303, "/")
        cookie = first.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert browser.get("/").status_code == 200
    with httpx.Client(base_url=pages.origin, trust_env=False) as another:
        again = another.post("/login", data={"token": token}, headers={"origin": pages.origin})
        assert again.status_code == 403
        assert another.get("/").status_code == 401
    assert pages.token != token


@pytest.mark.parametrize("token", ["", "wrong", "é" * 20, "x" * 5_000])
def test_a_wrong_link_logs_nobody_in_and_leaves_the_right_one_alone(pages, token):
    before = pages.token
    answer = httpx.post(
        f"{pages.origin}/login", data={"token": token}, headers={"origin": pages.origin}, trust_env=False
    )
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert pages.token == before


def test_a_login_from_another_page_is_refused(pages):
    answer = httpx.post(
        f"{pages.origin}/login", data={"token": pages.token}, headers={"origin": "http://evil.example"}, trust_env=False
    )
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_who_logs_out_is_out(pages):
    browser = pages.browser()
    assert browser.post("/logout").status_code == 303
    assert browser.get("/").status_code == 401


def test_the_pages_are_not_known_under_another_name(pages):
    assert pages.browser().get("/", host="shop.example").status_code == 421


HOSTILE_FILES = [
    *("merchant.toml", "../merchant.toml", "..%2f..%2f..%2fmerchant.toml", "portraits.json", "%2e%2e", "."),
    *("..%5cmerchant.toml", "portraits.customers.csv%00", "/etc/passwd", "%2fetc%2fpasswd", "rules.json", ""),
]


@pytest.mark.parametrize("file", HOSTILE_FILES)
@pytest.mark.parametrize("cutoff", [CUTOFF.isoformat(), "..", "2020-01-01", "%2e%2e"])
def test_only_the_lists_that_a_report_names_are_given_out(pages, cutoff, file):
    answer = pages.browser().get(f"/insight/{cutoff}/files/{file}")
    assert answer.status_code in (401, 404)  # 401: the path leads to another page, and out of the session
    assert "epsilon_budget" not in answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize("file", HOSTILE_FILES)
def test_only_files_of_scores_are_given_out(pages, file):
    answer = pages.browser().get(f"/jobs/lists/{file}")
    assert answer.status_code == 404
    assert "epsilon_budget" not in answer.text


def test_a_link_in_place_of_a_list_is_not_followed(shop, pages):
    folder = cutoff_folder(shop.settings.paths.insight, CUTOFF)
    place, kept = folder / "churn.customers.csv", folder / "kept"
    place.rename(kept)
    place.symlink_to(shop.config)
    try:
        assert pages.browser().get(f"/insight/{CUTOFF}/files/churn.customers.csv").status_code == 404
    finally:
        place.unlink()
        kept.rename(place)


def test_a_list_is_given_out_whole_as_a_file(shop, pages):
    answer = pages.browser().get(f"/insight/{CUTOFF}/files/portraits.customers.csv")
    path = cutoff_folder(shop.settings.paths.insight, CUTOFF) / "portraits.customers.csv"
    assert answer.content == path.read_bytes()
    assert answer.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize("address", ["0.0.0.0:8480", "192.168.1.7:8480", "[::]:8480", "shop.example:80", ":8480"])
def test_an_address_that_others_reach_is_refused_with_the_reason(shop, address):
    with pytest.raises(ConfigError) as refused:
        serve_pages(shop.config, address=address, open_browser=False, say=lambda _: None)
    assert exit_code(refused.value) is Exit.BAD_INPUT
    assert "127.0.0.1" in str(refused.value)
