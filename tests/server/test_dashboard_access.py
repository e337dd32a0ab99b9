"""Every address x every role x every method, made from the application's routes; and forms, cookies and host names."""

import re
from types import SimpleNamespace

import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from server.dashboard import app as dashboard_app
from server.dashboard.access import EVERYBODY, MEMBERS, NOBODY, OPERATOR, OPERATORS, VIEWER, Address
from server.dashboard.app import make_app
from server.registry import Registry
from tests.support.dashboard import ORIGIN, client_of, declared, form_token, posted, undeclared
from tests.support.platform_town import MERCHANTS, PASSWORDS, new_desk, new_town
from web.guard import FORM_TOKEN, SECURITY_HEADERS
from web.sessions import COOKIE, Sessions

ROLES = (NOBODY, VIEWER, OPERATOR)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "MADEUP")
SECRETS = (*MERCHANTS, "spring", "autumn", "together", "olga", "victor", "SHA256:")
FILLED = {"run": "1", "model": "1", "plan": "spring"}


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return new_town(tmp_path_factory.mktemp("town") / "platform")


@pytest.fixture
def desk(town):
    return new_desk(town.home)


def paths(desk):
    """Each declared path, filled in, with the roles of each of its methods."""
    found = {}
    for route in declared(make_app(desk)):
        path = re.sub(r"\{(\w+)(:\w+)?\}", lambda name: FILLED[name[1]], route.path)
        for method in route.methods:
            found.setdefault(path, {})[method] = route.roles
    return found


def leaks(desk, app=None, only=""):
    """What somebody gets who should not: "method path as role: status"."""
    found = []
    for path, allowed in paths(desk).items():
        if only and path != only:
            continue
        for role in ROLES:
            client = client_of(desk, role=role, app=app)
            for method in METHODS:
                answer = client.request(method, path)
                if role in allowed.get(method, ()):
                    continue
                said = answer.text.replace(path, "")  # the address that was asked is no news
                told = [secret for secret in SECRETS if secret in said] if role == NOBODY else []
                shut = answer.status_code in (401, 403, 405) or (
                    answer.status_code == 303 and answer.headers["location"] == "/login"
                )
                if told or not shut:
                    found.append(f"{method} {path} as {role}: {answer.status_code} {told}")
    return found


def test_no_address_answers_a_role_that_it_does_not_declare_whatever_the_method(desk):
    matrix = paths(desk)
    assert len(matrix) >= 24
    assert leaks(desk) == []


def test_every_address_answers_the_roles_that_it_declares(desk):
    for path, allowed in paths(desk).items():
        for role in allowed.get("GET", ()):
            answer = client_of(desk, role=role).get(path)
            at_home = path == "/login" and role != NOBODY
            assert answer.status_code == (303 if at_home else 200), (path, role)


def test_every_route_of_the_application_declares_its_roles(desk):
    assert undeclared(make_app(desk)) == []


def test_a_route_without_declared_roles_would_be_noticed(desk):
    app = make_app(desk)
    app.router.routes.insert(0, Route("/everything", lambda _: PlainTextResponse("all of it")))
    assert undeclared(app) == ["/everything"]


def test_a_route_that_declares_too_much_would_be_noticed(desk, monkeypatch):
    audit = next(address for address in dashboard_app.ADDRESSES if address.path == "/audit")
    open_one = Address(path="/audit", roles=EVERYBODY, answer=audit.answer)
    monkeypatch.setattr(dashboard_app, "ADDRESSES", (open_one,))
    wide = make_app(desk)
    monkeypatch.undo()
    assert [leak.partition(":")[0] for leak in leaks(desk, app=wide, only="/audit")] == [
        f"{method} /audit as {role}" for role in (NOBODY, VIEWER) for method in ("GET", "HEAD")
    ]


def test_what_is_for_operators_alone_and_what_is_for_everybody_is_no_accident():
    by_roles = {
        roles: {a.path for a in dashboard_app.ADDRESSES if a.roles == roles} for roles in (OPERATORS, EVERYBODY)
    }
    assert by_roles[OPERATORS] == {"/audit", "/audit/entries.jsonl", "/models/{model:int}/rollback"}
    assert by_roles[EVERYBODY] == {"/login"}
    assert {address.roles for address in dashboard_app.ADDRESSES} == {EVERYBODY, MEMBERS, OPERATORS}


def test_a_viewer_goes_back_to_no_model_with_a_whole_form_either(town, desk):
    client = client_of(desk, role=VIEWER)
    assert posted(client, "/models/1/rollback").status_code == 403
    with Registry(town.home.registry) as registry:
        assert len(registry.models()) == 2


def test_a_viewer_is_told_no_and_it_is_written_down(desk):
    client = client_of(desk, role=VIEWER)
    assert client.get("/audit").status_code == 403
    newest = desk.audit.entries(most=1)[0]
    assert (newest.who, newest.action, newest.subject) == ("victor", "denied", "/audit")


FORMS = [("/account", {"old": "x", "new": "y", "again": "y"}), ("/logout", {}), ("/models/1/rollback", {})]


@pytest.mark.parametrize(("path", "fields"), FORMS, ids=[path for path, _ in FORMS])
def test_a_form_without_its_token_or_from_elsewhere_changes_nothing(desk, path, fields):
    client, other = client_of(desk, role=OPERATOR), client_of(desk, role=OPERATOR)
    token, before = form_token(client), desk.audit.entries(most=1)[0].seq
    tries = [
        (fields, {}),
        ({**fields, FORM_TOKEN: ""}, {}),
        ({**fields, FORM_TOKEN: token[:-1]}, {}),
        ({**fields, FORM_TOKEN: form_token(other)}, {}),
        ({**fields, FORM_TOKEN: token}, {"Origin": "https://evil.example"}),
        ({**fields, FORM_TOKEN: token}, {"Origin": "null"}),
        ({**fields, FORM_TOKEN: token}, {"Origin": "http://127.0.0.1:9999"}),
        ({**fields, FORM_TOKEN: token}, {"Sec-Fetch-Site": "cross-site"}),
        ({**fields, FORM_TOKEN: token}, {"Sec-Fetch-Site": "same-site"}),
    ]
    for data, headers in tries:
        assert client.post(path, data=data, headers=headers).status_code == 403, (data, headers)
    assert desk.audit.entries(most=1)[0].seq == before
    assert client.get("/").status_code == 200  # still logged in


def test_a_form_of_this_page_and_session_is_taken(desk):
    client = client_of(desk, role=OPERATOR)
    answer = posted(client, "/logout", Origin=ORIGIN, **{"Sec-Fetch-Site": "same-origin"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert client.get("/").status_code == 303


def login(client, name="olga", password=PASSWORDS["olga"], **headers):
    return client.post("/login", data={"name": name, "password": password}, headers=headers)


def test_the_login_cookie_can_be_used_by_this_site_alone(desk):
    answer = login(client_of(desk))
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    (cookie,) = [value for name, value in answer.headers.multi_items() if name == "set-cookie"]
    assert re.fullmatch(rf"{COOKIE}=[\w-]{{43}}; HttpOnly; Path=/; SameSite=strict", cookie)


def test_over_tls_the_login_cookie_travels_over_tls_alone(town):
    desk = new_desk(town.home, secure=True)
    answer = login(client_of(desk, origin="https://127.0.0.1:8490"))
    assert "; Secure" in answer.headers["set-cookie"]


def test_a_login_that_another_page_sends_is_refused(desk):
    client = client_of(desk)
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        answer = login(client, **headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


def test_a_session_that_was_planted_before_the_login_is_worth_nothing_after_it(desk):
    attacker = client_of(desk, role=VIEWER)
    planted = attacker.cookies[COOKIE]
    victim = client_of(desk)
    victim.cookies.set(COOKIE, "planted-by-somebody", domain="127.0.0.1")
    given = login(victim).headers["set-cookie"].split(";")[0].removeprefix(f"{COOKIE}=")
    assert given not in ("planted-by-somebody", planted)
    other = client_of(desk)
    other.cookies.set(COOKIE, planted, domain="127.0.0.1")
    login(other)
    assert attacker.get("/").status_code == 303  # the one that was handed over ended with the login


@pytest.mark.parametrize("fields", [{"name": "olga", "password": "wrong"}, {"name": "nobody", "password": "wrong"}, {}])
def test_who_is_refused_is_told_the_same_whatever_was_wrong(desk, fields):
    answer = client_of(desk).post("/login", data=fields)
    assert answer.status_code == 401
    assert "This name and this password do not belong together" in answer.text
    assert "wrong" not in re.sub("<[^>]*>", "", answer.text).replace("This name", "")
    assert "set-cookie" not in answer.headers


def test_a_failed_login_is_written_down_without_what_was_typed_for_a_name_that_there_is_not(desk):
    client = client_of(desk)
    login(client, password="wrong password")
    assert desk.audit.entries(most=1)[0].subject == "olga"
    login(client, name=PASSWORDS["olga"])  # typed into the wrong field
    newest = desk.audit.entries(most=1)[0]
    assert (newest.action, newest.subject, newest.who) == ("login_failed", "", "")
    assert PASSWORDS["olga"] not in desk.audit.lines()


def test_guessing_is_slowed_for_the_right_password_too_and_not_for_another_name(desk):
    client = client_of(desk)
    codes = [login(client, password=f"wrong {at}").status_code for at in range(8)]
    assert codes == [401] * 5 + [429] * 3
    assert login(client).status_code == 429
    assert login(client, name="victor", password=PASSWORDS["victor"]).status_code == 303


def test_the_old_password_cannot_be_guessed_through_the_account_page_either(desk):
    client = client_of(desk, role=VIEWER)
    fields = {"old": "wrong", "new": "a b c d e f g h i", "again": "a b c d e f g h i"}
    assert [posted(client, "/account", fields).status_code for _ in range(7)] == [400] * 5 + [429] * 2


def test_a_password_that_is_changed_elsewhere_ends_every_session_of_the_account(town, desk):
    client, bystander = client_of(desk, role=VIEWER), client_of(desk, role=OPERATOR)
    assert client.get("/").status_code == 200
    desk.accounts.set_password("victor", PASSWORDS["victor"])
    assert client.get("/").headers["location"] == "/login"
    assert client.get("/runs/live").status_code == 401
    assert bystander.get("/").status_code == 200


def test_who_is_removed_is_out_at_once_and_stays_out_when_the_name_comes_again(desk):
    client = client_of(desk, role=VIEWER)
    desk.accounts.remove("victor")
    assert client.get("/").status_code == 303
    desk.accounts.add("victor", PASSWORDS["victor"], "operator")
    assert client.get("/").status_code == 303
    desk.accounts.remove("victor")
    desk.accounts.add("victor", PASSWORDS["victor"], "viewer")


def test_a_new_password_logs_all_others_of_the_account_out_and_oneself_in_again(desk):
    client, other = client_of(desk, role=VIEWER), client_of(desk, role=VIEWER)
    new = "seven small boats at sea"
    answer = posted(client, "/account", {"old": PASSWORDS["victor"], "new": new, "again": new})
    assert answer.headers["location"] == "/account?done=password"
    assert client.get("/").status_code == 200
    assert other.get("/").status_code == 303
    assert desk.accounts.verify("victor", new) is not None
    desk.accounts.set_password("victor", PASSWORDS["victor"])


def test_what_a_page_asks_for_by_itself_keeps_no_session_alive(town):
    clock = SimpleNamespace(now=0.0)
    desk = new_desk(town.home)
    object.__setattr__(desk, "sessions", Sessions(idle_seconds=100, clock=lambda: clock.now))
    client = client_of(desk, role=VIEWER)
    for _ in range(6):
        clock.now += 20
        status = client.get("/live").status_code
    assert status == 401
    client = client_of(desk, role=VIEWER)
    for _ in range(6):
        clock.now += 20
        status = client.get("/").status_code
    assert status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/login",
        "/nothing",
        "/runs/999",
        "/runs/abc",
        "/static/app.css",
        "/static/nothing",
        "/language/en",
        "/live",
    ],
)
def test_every_answer_has_the_headers_that_bind_the_browser(desk, path):
    for role in (NOBODY, OPERATOR):
        for method in ("GET", "POST", "DELETE"):
            answer = client_of(desk, role=role).request(method, path)
            assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS
            kept = path == "/static/app.css" and method == "GET"
            assert answer.headers["cache-control"] == ("public, max-age=3600" if kept else "no-store")


def test_an_answer_of_a_page_that_failed_has_them_too_and_says_nothing_of_the_fault(desk, monkeypatch):
    def fails(ask):
        raise RuntimeError("a secret")

    monkeypatch.setattr(dashboard_app, "ADDRESSES", (Address(path="/", roles=EVERYBODY, answer=fails),))
    answer = client_of(desk, app=make_app(desk)).get("/")
    assert answer.status_code == 500
    assert "a secret" not in answer.text
    assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "", "127.0.0.1:8490.evil"]
)
def test_under_another_name_nothing_is_answered(desk, host):
    client = client_of(desk, role=OPERATOR)
    answer = client.get("/", headers={"Host": host})
    assert (answer.status_code, answer.text) == (421, "this page is not known under that name\n")


@pytest.mark.parametrize(
    "back",
    ["https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil", "javascript:alert(1)", "/\r\nX: y"],
)
def test_the_choice_of_language_leads_nowhere_else(desk, back):
    answer = client_of(desk).get("/language/zh", params={"back": back})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_the_choice_of_language_leads_back_with_its_query(desk):
    answer = client_of(desk).get("/language/zh", params={"back": "/compare?first=1&second=2"})
    assert answer.headers["location"] == "/compare?first=1&second=2"


def test_no_redirection_of_the_dashboard_follows_what_is_asked(desk):
    for path in paths(desk):
        for query in ("next", "back", "url", "redirect", "return_to"):
            answer = client_of(desk).get(path, params={query: "https://evil.example"})
            assert answer.headers.get("location", "/login") == "/login"


def test_a_body_that_is_too_long_is_not_read(desk):
    answer = client_of(desk, role=OPERATOR).post("/login", data={"name": "x" * 70_000})
    assert answer.status_code == 413
