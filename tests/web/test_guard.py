"""What stands before every page: names, bodies, headers, and forms that are really ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.support.served import served
from web.guard import FORM_TOKEN, LOOPBACK_NAMES, MOST_BODY_BYTES, SECURITY_HEADERS, checked_form
from web.sessions import COOKIE, Sessions
from web.site import LANGUAGE_COOKIE, Place, Site, set_session

ROOT = Path(__file__).parents[2]
SESSIONS = Sessions()


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Iterator[str]:
    """A small program with a page, a form and a fault."""
    tmp_path = tmp_path_factory.mktemp("site")
    (tmp_path / "hello.html.j2").write_text(
        '{% extends "base.html.j2" %}{% block title %}x{% endblock %}{% block main %}{{ text }}{% endblock %}',
        encoding="utf-8",
    )
    for language in ("en", "zh"):
        (tmp_path / f"{language}.toml").write_text('[mine]\nname = "N"\nplace = "P"', encoding="utf-8")
    site = Site(name="mine.name", templates=tmp_path, words=tmp_path, places=(Place(path="/", text="mine.place"),))

    def session_of(request: Request):
        return SESSIONS.find(request.cookies.get(COOKIE))

    def hello(request: Request) -> Response:
        return site.page(request, "hello.html.j2", session=session_of(request), text=request.query_params.get("q", ""))

    async def change(request: Request) -> Response:
        session = session_of(request)
        assert session
        fields = await checked_form(request, session)
        return PlainTextResponse(",".join(f"{name}={value}" for name, value in fields.items()))

    def fails(_: Request) -> Response:
        raise ValueError("customer-77 in the text of an error")

    def enter(_: Request) -> Response:
        token, _session = SESSIONS.begin("ann", "merchant")
        answer = PlainTextResponse("in")
        set_session(answer, token, secure=True)
        return answer

    routes = [
        Route("/", hello),
        Route("/change", change, methods=["POST"]),
        Route("/fails", fails),
        Route("/enter", enter),
    ]
    app = site.app(routes, names=LOOPBACK_NAMES, session_of=session_of)
    with served(app) as place:
        yield place


@pytest.fixture
def client(origin) -> Iterator[httpx.Client]:
    """A browser of somebody who is logged in."""
    token, _ = SESSIONS.begin("ann", "merchant")
    with httpx.Client(base_url=origin, cookies={COOKIE: token}, trust_env=False) as asked:
        yield asked


def ours(client: httpx.Client) -> str:
    """The origin of a page of ours."""
    return str(client.base_url).rstrip("/")


def form(client: httpx.Client, **fields: str) -> dict[str, str]:
    session = SESSIONS.find(client.cookies[COOKIE])
    assert session
    return {FORM_TOKEN: session.form_token, **fields}


@pytest.mark.parametrize("path", ["/", "/static/app.css", "/nowhere", "/fails", "/static/nowhere"])
def test_every_answer_binds_the_browser(client, path):
    answer = client.get(path)
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_only_what_is_the_same_for_everybody_is_kept_by_a_browser(client):
    assert client.get("/").headers["cache-control"] == "no-store"
    assert client.get("/static/nowhere").headers["cache-control"] == "no-store"
    assert "max-age" in client.get("/static/app.css").headers["cache-control"]


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.2", "localhost.evil", "127.0.0.1:8000x"]
)
def test_a_page_is_not_known_under_another_name(client, host):
    assert client.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"])
def test_a_page_is_known_under_the_names_of_this_machine(client, host):
    assert client.get("/", headers={"host": host}).status_code == 200


def test_a_body_that_is_too_long_is_refused_whether_it_says_so_or_not(client):
    said = client.post("/change", content=b"x" * (MOST_BODY_BYTES + 1))
    unsaid = client.post("/change", content=iter([b"x" * MOST_BODY_BYTES, b"x"]))
    assert (said.status_code, unsaid.status_code) == (413, 413)


def test_a_form_of_ours_is_taken_and_its_token_is_no_field(client):
    answer = client.post(
        "/change", data=form(client, a="1", b="two"), headers={"origin": ours(client), "sec-fetch-site": "same-origin"}
    )
    assert (answer.status_code, answer.text) == (200, "a=1,b=two")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "OURS", "sec-fetch-site": "cross-site"},
    ],
    ids=lambda headers: " ".join(f"{name}:{value}" for name, value in headers.items()),
)
def test_a_form_of_another_page_is_refused_even_with_its_token(client, headers):
    sent = {name: ours(client) if value == "OURS" else value for name, value in headers.items()}
    assert client.post("/change", data=form(client), headers=sent).status_code == 403


@pytest.mark.parametrize("token", ["", "wrong", None])
def test_a_form_without_the_sessions_token_is_refused(client, token):
    data = {} if token is None else {FORM_TOKEN: token}
    assert client.post("/change", data=data, headers={"origin": ours(client)}).status_code == 403


def test_a_page_says_hostile_text_as_text(client):
    answer = client.get("/", params={"q": "<img src=x onerror=alert(1)>{{ 7 * 7 }}"})
    assert "&lt;img src=x onerror=alert(1)&gt;{{ 7 * 7 }}" in answer.text


def test_an_error_of_ours_is_told_without_its_text(client):
    answer = client.get("/fails")
    assert answer.status_code == 500
    assert "customer-77" not in answer.text


def test_the_session_cookie_is_for_our_pages_and_no_script(client):
    cookie = client.get("/enter").headers["set-cookie"].lower()
    for part in ("httponly", "samesite=strict", "secure", "path=/"):
        assert part in cookie


def test_the_language_is_the_one_chosen_then_the_browsers_then_english(client):
    def language(**headers: str) -> str:
        return client.get("/", headers=headers).text.split('<html lang="')[1].split('"')[0]

    assert language() == "en"
    assert language(**{"accept-language": "fr, zh-CN;q=0.9, en;q=0.8"}) == "zh-Hans"
    client.get("/language/zh")
    assert client.cookies[LANGUAGE_COOKIE] == "zh"
    assert language(**{"accept-language": "en"}) == "zh-Hans"


@pytest.mark.parametrize(
    "back", ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "/\nx"]
)
def test_the_choice_of_a_language_leads_nowhere_else(client, back):
    answer = client.get("/language/en", params={"back": back})
    assert answer.headers["location"] == "/"


def test_a_language_that_is_none_is_not_there(client):
    assert client.get("/language/xx").status_code == 404


@pytest.mark.parametrize(
    "path", ["/static/../guard.py", "/static/%2e%2e/guard.py", "/static/vendor/..%2f..%2fguard.py"]
)
def test_no_file_beside_the_static_ones_is_given_out(client, path):
    assert client.get(path).status_code == 404
