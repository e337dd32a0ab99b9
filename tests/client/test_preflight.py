"""Who answers at the platform's address, tried against real servers, one for each thing that may be wrong."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from client.preflight import (
    PlatformError,
    PlatformFault,
    check_platform,
    checked_skew,
    platform_errors,
    split_address,
    tls_context,
)
from pp_model.errors import ConfigError
from tests.support.superlink import DAY, Authority, authority, server_certificate
from tests.support.tls_server import (
    Handle,
    answers_over_tls,
    answers_plainly,
    cuts,
    drips,
    health,
    listening,
    never_answers,
)

TIMEOUT = 0.6
CA = authority()
TEMPORARY = {
    PlatformFault.NAME,
    PlatformFault.NO_ROUTE,
    PlatformFault.CLOSED,
    PlatformFault.TIMEOUT,
    PlatformFault.SILENT,
    PlatformFault.RESET,
    PlatformFault.UNAVAILABLE,
}

Server = Callable[[Path], AbstractContextManager[str]]


def over_tls(
    issuer: Authority | None = CA,
    *,
    answer: bytes | None = None,
    ahead: float = 0,
    newest: ssl.TLSVersion | None = None,
    **certificate,
) -> Server:
    """A platform in all but what the arguments say."""

    def start(folder: Path) -> AbstractContextManager[str]:
        cert, key = server_certificate(folder, issuer, **certificate)
        date = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=ahead)
        return listening(answers_over_tls(cert, key, answer or health(date=date), newest=newest))

    return start


@contextlib.contextmanager
def closed(folder: Path):
    """A port that nobody listens on, and that nobody else can take."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def unknown(folder: Path) -> AbstractContextManager[str]:
    return contextlib.nullcontext("nowhere.invalid:8443")


@contextlib.contextmanager
def full(folder: Path):
    """A port on which connections are neither taken nor refused: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def plain(handle: Handle) -> Server:
    def start(folder: Path) -> AbstractContextManager[str]:
        return listening(handle)

    return start


def dripping(folder: Path) -> AbstractContextManager[str]:
    return listening(drips(*server_certificate(folder, CA)))


FAULTS = [
    pytest.param(unknown, PlatformFault.NAME, "DNS", id="name not known"),
    pytest.param(closed, PlatformFault.CLOSED, "platform.address", id="port closed"),
    pytest.param(full, PlatformFault.TIMEOUT, "firewall", id="no answer to a connection"),
    pytest.param(plain(never_answers), PlatformFault.SILENT, "less busy", id="silent"),
    pytest.param(dripping, PlatformFault.SILENT, "less busy", id="dripping"),
    pytest.param(plain(cuts), PlatformFault.RESET, "firewall", id="reset"),
    pytest.param(plain(answers_plainly), PlatformFault.NOT_TLS, "does not speak TLS", id="plain HTTP"),
    pytest.param(over_tls(newest=ssl.TLSVersion.TLSv1_1), PlatformFault.TLS_TOO_OLD, "1.2 or later", id="TLS 1.1"),
    pytest.param(over_tls(not_before=-3 * DAY, not_after=-DAY), PlatformFault.EXPIRED, "Check the clock", id="expired"),
    pytest.param(
        over_tls(not_before=DAY, not_after=3 * DAY), PlatformFault.NOT_YET_VALID, "Check the clock", id="not yet valid"
    ),
    pytest.param(over_tls(authority()), PlatformFault.AUTHORITY, "by telephone", id="CA of the same name"),
    pytest.param(over_tls(authority("another")), PlatformFault.AUTHORITY, "by telephone", id="CA of another name"),
    pytest.param(over_tls(None), PlatformFault.SELF_SIGNED, "by telephone", id="self-signed"),
    pytest.param(over_tls(hosts=["elsewhere.example"]), PlatformFault.WRONG_NAME, "another name", id="wrong name"),
    pytest.param(over_tls(hosts=["127.0.0.2"]), PlatformFault.WRONG_NAME, "another name", id="wrong number"),
    pytest.param(over_tls(ahead=90), PlatformFault.CLOCK, "timedatectl", id="our clock is behind"),
    pytest.param(over_tls(ahead=-90), PlatformFault.CLOCK, "timedatectl", id="our clock is ahead"),
    pytest.param(over_tls(answer=health("404 No")), PlatformFault.NOT_A_PLATFORM, "HTTP 404", id="another web site"),
    pytest.param(over_tls(answer=b"220 mail\r\n\r\n"), PlatformFault.NOT_A_PLATFORM, "host", id="another protocol"),
    pytest.param(over_tls(answer=health("503 No")), PlatformFault.UNAVAILABLE, "HTTP 503", id="cannot serve now"),
]


@pytest.mark.parametrize(("server", "fault", "remedy"), FAULTS)
def test_what_is_not_the_platform_is_refused_in_time_with_its_own_remedy(server, fault, remedy, tmp_path):
    with server(tmp_path) as address:
        began = time.monotonic()
        with pytest.raises(PlatformError, match=remedy) as caught:
            check_platform(address, CA.pem.decode(), TIMEOUT)
        took = time.monotonic() - began

    assert caught.value.fault is fault
    assert caught.value.permanent == (fault not in TEMPORARY)
    assert address in str(caught.value)
    assert took < TIMEOUT + 1


def test_every_fault_has_a_server_that_shows_it():
    shown = {case.values[1] for case in FAULTS}
    assert set(PlatformFault) - shown == {PlatformFault.TLS, PlatformFault.NO_ROUTE}  # see below


def test_the_platform_says_who_it_is(tmp_path):
    with over_tls(hosts=["localhost", "127.0.0.1"])(tmp_path) as address:
        found = check_platform(address, CA.pem.decode(), 5)

    assert found.address == address
    assert found.tls == "TLSv1.3"
    assert found.names == ("localhost", "127.0.0.1")
    assert abs(found.expires - (dt.datetime.now(dt.UTC) + DAY)) < dt.timedelta(minutes=5)
    assert abs(found.skew_seconds) < 30


def test_tls_of_version_1_2_will_do(tmp_path):
    with over_tls(newest=ssl.TLSVersion.TLSv1_2)(tmp_path) as address:
        assert check_platform(address, CA.pem.decode(), 5).tls == "TLSv1.2"


def test_a_name_that_is_never_looked_up_in_time_ends_in_time_too(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(2))
    began = time.monotonic()
    with pytest.raises(PlatformError) as caught:
        check_platform("slow.example:8443", CA.pem.decode(), 0.2)
    assert caught.value.fault is PlatformFault.NAME
    assert time.monotonic() - began < 1


def test_neither_the_environment_nor_the_systems_authorities_are_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other.pem"))
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "session-keys"))
    (tmp_path / "other.pem").write_bytes(CA.pem)

    context = tls_context(authority("pinned").pem.decode())
    assert len(context.get_ca_certs()) == 1
    with over_tls()(tmp_path) as address, pytest.raises(PlatformError):
        check_platform(address, authority("pinned").pem.decode(), 5)
    assert not (tmp_path / "session-keys").exists()


def test_a_ca_file_without_a_certificate_is_named_before_anything_is_asked():
    for text in ("", "not a certificate", "-----BEGIN CERTIFICATE-----\nxxxx\n-----END CERTIFICATE-----\n"):
        with pytest.raises(ConfigError, match="invitation"):
            check_platform("127.0.0.1:1", text)


@pytest.mark.parametrize(
    ("address", "parts"),
    [("pp.example.org:8443", ("pp.example.org", 8443)), ("[::1]:80", ("::1", 80)), ("10.0.0.1:1", ("10.0.0.1", 1))],
)
def test_an_address_is_a_host_and_a_port(address, parts):
    assert split_address(address) == parts


@pytest.mark.parametrize("date", ["", "yesterday", "Sun, 99 Nov 2026 07:00:00 GMT", "Sun, 22 Nov 2026 07:00:00 -0000"])
def test_a_date_that_is_none_says_nothing_about_the_clock(date):
    assert checked_skew("pp.example.org:8443", date) == 0


@pytest.mark.parametrize(
    ("error", "connected", "fault"),
    [
        pytest.param(ConnectionResetError(), True, PlatformFault.RESET, id="cut in the middle"),
        pytest.param(OSError(errno.ENETUNREACH, "no route"), False, PlatformFault.NO_ROUTE, id="network down"),
        pytest.param(OSError(errno.ENETDOWN, "down"), True, PlatformFault.RESET, id="network down in the middle"),
        pytest.param(ssl.SSLError(1, "of a kind not seen before"), True, PlatformFault.TLS, id="another fault of TLS"),
    ],
)
def test_what_sockets_raise_has_a_remedy_in_every_request(error, connected, fault):
    with pytest.raises(PlatformError) as caught, platform_errors("p.example:1", timeout=1, connected=connected):
        raise error
    assert caught.value.fault is fault
