"""The dashboard over TLS, as the real program and in a real browser; a browser for each test, as each trusts others."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import warnings
from contextlib import suppress

import httpx
import pytest
from playwright.sync_api import Error

from daemons.files import write_private
from server.pki import new_authority, new_certificate
from tests.support.browser import running_chromium, watched_page
from tests.support.dashboard import real_program
from tests.support.platform import new_platform
from tests.support.platform_town import PASSWORDS, new_desk
from web.sessions import COOKIE

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def over_tls(tmp_path_factory):
    """The real program with a certificate for 127.0.0.1 of an authority of its own: its port, and the authority."""
    folder = tmp_path_factory.mktemp("tls")
    home, now = new_platform(folder / "p"), dt.datetime.now(dt.UTC)
    home.registry.touch(mode=0o600)
    new_desk(home)
    authority = new_authority("Example", now=now)
    pair = new_certificate(authority, ["127.0.0.1"], now=now)
    (folder / "ui.crt").write_bytes(pair.certificate + authority.certificate)
    write_private(folder / "ui.key", pair.key)
    given = ("--certificate", str(folder / "ui.crt"), "--key", str(folder / "ui.key"))
    with real_program(home, folder / "ui.log", *given) as port:
        yield port, authority.certificate


def test_over_tls_somebody_logs_in_looks_and_logs_out_with_a_cookie_for_tls_alone(over_tls):
    port, authority = over_tls
    origin = f"https://127.0.0.1:{port}"
    with running_chromium(authority=authority) as trusting, watched_page(trusting, origin, language="en") as watched:
        page = watched.goto("/login")
        page.get_by_label("Name").fill("olga")
        page.get_by_label("Password").fill(PASSWORDS["olga"])
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"{origin}/")
        (found,) = [each for each in page.context.cookies() if each["name"] == COOKIE]
        wanted = {"secure": True, "httpOnly": True, "sameSite": "Strict", "path": "/", "domain": "127.0.0.1"}
        assert {name: found.get(name) for name in wanted} == wanted
        assert page.evaluate("document.cookie") == ""
        assert watched.goto("/merchants").locator("main h1").count() == 1
        page.click("text=中文")
        assert all(each["secure"] for each in page.context.cookies())
        assert watched.axe() == []
        page.get_by_role("button", name="退出登录").click()
        page.wait_for_url(f"{origin}/login")
        assert [each["name"] for each in page.context.cookies() if each["name"] == COOKIE] == []
        page.goto(f"{origin}/merchants")
        assert page.url == f"{origin}/login"
        assert watched.faults == []


def test_a_browser_that_does_not_know_the_authority_sees_no_page(over_tls):
    port, authority = over_tls
    origin = f"https://127.0.0.1:{port}"
    with (
        running_chromium() as browser,
        watched_page(browser, origin) as watched,
        pytest.raises(Error, match="ERR_CERT_AUTHORITY_INVALID"),
    ):
        watched.goto("/login")
    trust = ssl.create_default_context(cadata=authority.decode("ascii"))
    assert httpx.get(f"{origin}/login", verify=trust, trust_env=False).status_code == 200  # chain, dates and name


def test_plain_http_and_old_tls_get_nothing_from_that_port(over_tls):
    port, authority = over_tls
    with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
        plain.sendall(b"GET /login HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answer = b""
        with suppress(ConnectionResetError):
            while piece := plain.recv(4096):
                answer += piece
    assert b"HTTP" not in answer
    assert len(answer) < 16  # an alert at most
    old = ssl.create_default_context(cadata=authority.decode("ascii"))
    with warnings.catch_warnings(action="ignore"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")  # as a client of those days; it is the server that must refuse
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as wire,
        pytest.raises(ssl.SSLError, match=r"ALERT|UNEXPECTED_EOF"),
    ):
        old.wrap_socket(wire, server_hostname="127.0.0.1")
