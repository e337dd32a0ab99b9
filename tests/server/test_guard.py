import asyncio
import json

import pytest

from server.guard import LOOPBACK, MOST_BODY_BYTES, Guard

SECRET = "s" * 32
HERE, ELSEWHERE = "127.0.0.1", "192.0.2.7"
OPERATOR = (b"pp-operator", SECRET.encode())


def app_named(name: str):
    """An application that answers 200 with its name."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": name.encode()})

    return app


def asked(
    path: str, *headers, peer=HERE, method="POST", host=b"platform:8443", merchant_api=True, lengths=(b"0",), **scope
):
    """Status and body of a request; the body of a 200 is the name of the application that answered."""
    sent = []

    async def send(event):
        sent.append(event)

    guard = Guard(
        app_named("flower"), operator_secret=SECRET, merchant_api=app_named("merchant") if merchant_api else None
    )
    hosts = [] if host is None else [(b"host", host)]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "client": None if peer is None else (peer, 40000),
        "headers": [*hosts, *((b"content-length", length) for length in lengths), *headers],
        **scope,
    }
    asyncio.run(guard(scope, None, send))
    return sent[0]["status"], sent[1]["body"]


def status(path: str, *headers, **how) -> int:
    return asked(path, *headers, **how)[0]


FLEET, RUNTIME, CONTROL, MERCHANT = "/v1/fleet/x", "/v1/runtime/x", "/v1/control/x", "/pp/v1/x"


@pytest.mark.parametrize("peer", [*sorted(LOOPBACK), "127.0.0.2", ELSEWHERE, "::ffff:127.0.0.1", "localhost", "", None])
def test_who_reaches_what(peer):
    here = peer in LOOPBACK
    assert asked(FLEET, peer=peer) == (200, b"flower")
    assert asked("/health", peer=peer, method="GET") == (200, b"flower")
    assert asked(MERCHANT, peer=peer) == (200, b"merchant")
    assert status(RUNTIME, peer=peer) == (200 if here else 403)
    assert status(CONTROL, OPERATOR, peer=peer) == (200 if here else 403)
    assert status(CONTROL, peer=peer) == 403


@pytest.mark.parametrize(
    "path",
    ["/", "", "/docs", "/openapi.json", "/redoc", "/metrics", "/v1", "/v1/other/x", "/v2/fleet/x", "/pp/v2/x", "/pp"],
)
def test_everything_else_is_refused_even_to_the_operator(path):
    assert status(path, OPERATOR, method="GET") == 403
    assert status(path, OPERATOR) == 403


def test_a_refusal_says_nothing():
    status_code, body = asked(CONTROL)
    assert (status_code, json.loads(body)) == (403, {"detail": "forbidden"})
    assert body == asked(RUNTIME, peer=ELSEWHERE)[1] == asked("/docs")[1]
    assert asked(CONTROL, method="HEAD") == (403, b"")


@pytest.mark.parametrize(
    "given",
    [
        [],
        [(b"pp-operator", b"")],
        [(b"pp-operator", b"s" * 31)],
        [(b"pp-operator", b"s" * 33)],
        [(b"pp-operator", b"\xff" * 32)],
        [OPERATOR, OPERATOR],
        [(b"pp-operator", b"wrong"), OPERATOR],
        [OPERATOR, (b"pp-operator", b"wrong")],
        [(b"pp_operator", SECRET.encode())],
        [(b"authorization", b"Bearer " + SECRET.encode())],
    ],
)
def test_the_control_routes_take_one_header_with_the_whole_secret(given):
    assert status(CONTROL, *given) == 403
    assert status(CONTROL, OPERATOR) == 200


@pytest.mark.parametrize("name", [b"forwarded", b"x-forwarded-for", b"x-real-ip", b"x-forwarded-host"])
def test_what_came_through_a_proxy_did_not_come_from_this_host(name):
    assert status(RUNTIME, (name, b"127.0.0.1")) == 403
    assert status(CONTROL, OPERATOR, (name, b"127.0.0.1")) == 403
    assert status(RUNTIME, (name, b"127.0.0.1"), peer=ELSEWHERE) == 403
    assert status(FLEET, (name, b"127.0.0.1"), peer=ELSEWHERE) == 200


# (as routed, as sent): a server decodes the second into the first.
SPELLINGS = [
    ("/v1/fleet/../control/x", "/v1/fleet/../control/x"),
    ("/v1/fleet/../control/x", "/v1/fleet/%2e%2e/control/x"),
    ("/v1/fleet/./x", "/v1/fleet/%2E/x"),
    ("/v1/fleet/x", "/v1/fleet/%78"),
    ("/v1/fleet/x", "/v1/%66leet/x"),
    ("/v1/fleet/a/b", "/v1/fleet/a%2fb"),
    ("//v1/fleet/x", "//v1/fleet/x"),
    ("/v1//fleet/x", "/v1//fleet/x"),
    ("/v1/fleet//x", "/v1/fleet//x"),
    ("/v1/fleet/x/", "/v1/fleet/x/"),
    ("/v1/fleet/", "/v1/fleet/"),
    ("/v1/fleet", "/v1/fleet"),
    ("/V1/Fleet/x", "/V1/Fleet/x"),
    ("/v1/fleet/x;a=b", "/v1/fleet/x;a=b"),
    ("/v1/fleet/x?y", "/v1/fleet/x%3Fy"),
    ("/v1/fleet/x#y", "/v1/fleet/x%23y"),
    ("/v1/fleet/x\x00", "/v1/fleet/x%00"),
    ("/v1/fleet/x\n", "/v1/fleet/x%0a"),
    ("/v1/fleet/\u212a", "/v1/fleet/%E2%84%AA"),
    ("/v1/fleet\\x", "/v1/fleet\\x"),
    ("https://platform/v1/fleet/x", "https://platform/v1/fleet/x"),
    ("v1/fleet/x", "v1/fleet/x"),
    ("*", "*"),
    ("/health/", "/health/"),
    ("/Health", "/Health"),
    ("/healthx", "/healthx"),
    ("/pp/v1/", "/pp/v1/"),
    ("/pp/v1/../../v1/control/x", "/pp/v1/../../v1/control/x"),
    ("/v1/control/x", "/v1/fleet/x"),
]


@pytest.mark.parametrize(("routed", "sent"), SPELLINGS)
def test_a_path_has_one_spelling(routed, sent):
    for method in ("GET", "POST"):
        assert status(routed, OPERATOR, raw_path=sent.encode(), method=method) == 403


def test_a_query_is_no_part_of_the_path():
    assert status(FLEET, raw_path=FLEET.encode() + b"?a=%2e") == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "post"])
@pytest.mark.parametrize("path", [FLEET, RUNTIME, CONTROL])
def test_flowers_routes_are_only_posted_to(path, method):
    assert status(path, OPERATOR, method=method) == 403


@pytest.mark.parametrize("method", ["POST", "OPTIONS", "DELETE"])
def test_health_is_only_looked_at(method):
    assert status("/health", method=method) == 403


@pytest.mark.parametrize("host", [None, b"", b"a/v1/fleet/x", b"a?b", b"a#b", b"a b", b"a@b", b"a\\b", b"\xe9"])
def test_a_host_header_that_could_stand_for_a_path_is_refused(host):
    assert status(FLEET, host=host) == 403


def test_two_host_headers_are_refused():
    assert status(FLEET, (b"host", b"other")) == 403
    assert status(FLEET, host=b"[::1]:8443") == 200


def test_without_a_merchant_api_its_paths_are_refused():
    assert status(MERCHANT, merchant_api=False) == 403


def test_a_websocket_is_closed():
    sent = []

    async def send(event):
        sent.append(event)

    scope = {"type": "websocket", "path": FLEET, "client": (HERE, 1), "headers": [OPERATOR]}
    asyncio.run(Guard(app_named("flower"), operator_secret=SECRET)(scope, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_the_lifespan_is_the_inner_applications():
    seen = []

    async def inner(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(Guard(inner, operator_secret=SECRET, merchant_api=inner)({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]


def test_there_is_no_guard_without_a_secret():
    with pytest.raises(ValueError, match="empty"):
        Guard(app_named("flower"), operator_secret="")


@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param((), id="not-said"),
        pytest.param((str(MOST_BODY_BYTES + 1).encode(),), id="a-byte-too-many"),
        pytest.param((b"9" * 5000,), id="absurd"),
        pytest.param((b"0", b"0"), id="said-twice"),
        pytest.param((b"-1",), id="negative"),
        pytest.param((b"0x10",), id="no-number"),
    ],
)
def test_a_fleet_request_whose_body_is_not_bounded_is_refused(lengths):
    assert status(FLEET, lengths=lengths, peer=ELSEWHERE) == 403
    assert status(FLEET, lengths=(str(MOST_BODY_BYTES).encode(),), peer=ELSEWHERE) == 200
