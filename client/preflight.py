"""Is the platform there, is it the one that was pinned, and do the clocks agree? One connection, in bounded time."""

from __future__ import annotations

import datetime as dt
import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from pp_model.errors import ConfigError, PurchasePowerError

MOST_SKEW_SECONDS = 60.0  # further apart, the platform takes no signed request
_MOST_HEADER_BYTES = 16_384


class PlatformFault(StrEnum):
    """Why the platform is not talked to."""

    NAME = "name_not_found"
    NO_ROUTE = "no_route"
    CLOSED = "port_closed"
    TIMEOUT = "timeout"
    SILENT = "silent"
    RESET = "connection_reset"
    NOT_TLS = "not_tls"
    TLS_TOO_OLD = "tls_too_old"
    TLS = "tls"
    EXPIRED = "certificate_expired"
    NOT_YET_VALID = "certificate_not_yet_valid"
    SELF_SIGNED = "certificate_self_signed"
    AUTHORITY = "certificate_of_another_authority"
    WRONG_NAME = "certificate_of_another_name"
    CLOCK = "clock"
    UNAVAILABLE = "unavailable"
    NOT_A_PLATFORM = "not_a_platform"


_TEMPORARY = {
    PlatformFault.NAME, PlatformFault.NO_ROUTE, PlatformFault.CLOSED, PlatformFault.TIMEOUT, PlatformFault.SILENT,
    PlatformFault.RESET, PlatformFault.UNAVAILABLE,
}  # fmt: skip

_WORDS = {
    PlatformFault.NAME: "the name {host!r} is not known. Check platform.address and this machine's DNS and network.",
    PlatformFault.NO_ROUTE: "no way leads there from this machine. Check its network connection and platform.address.",
    PlatformFault.CLOSED: "nothing listens there. Check platform.address, or wait until the platform is up again.",
    PlatformFault.TIMEOUT: "no answer in {timeout:g} s. Check the address, and let the firewall pass connections out "
    "to this port.",
    PlatformFault.SILENT: "the port is open, but nothing answers within {timeout:g} s. Check that the port is the "
    "platform's, or wait until it is less busy.",
    PlatformFault.RESET: "the connection was cut. Check that the port is the platform's, and what firewall or proxy is "
    "in between; then wait until the platform is up again.",
    PlatformFault.NOT_TLS: "what answers there does not speak TLS. Check the port in platform.address, and that no "
    "proxy answers in the platform's place.",
    PlatformFault.TLS_TOO_OLD: "the server speaks no TLS of version 1.2 or later. Ask the platform to update it; "
    "nothing was sent.",
    PlatformFault.TLS: "the server and this program find no common way to speak TLS. Ask the platform how its server "
    "is set up; nothing was sent.",
    PlatformFault.EXPIRED: "its certificate, or the authority's, has expired by this machine's clock. Check the clock; "
    "if it is right, ask the platform to renew.",
    PlatformFault.NOT_YET_VALID: "its certificate is not valid yet by this machine's clock. Check the clock; if it is "
    "right, tell the platform.",
    PlatformFault.SELF_SIGNED: "its certificate vouches for itself and is not the pinned authority's. Do not go on; "
    "ask the platform by telephone for its invitation file.",
    PlatformFault.AUTHORITY: "its certificate is not from the pinned authority. Do not go on: someone may be in "
    "between, or the platform has a new one; ask by telephone.",
    PlatformFault.WRONG_NAME: "its certificate is for another name than {host!r}. Write the address as the platform's "
    "invitation has it, or ask the platform to add the name.",
    PlatformFault.CLOCK: "this machine's clock and the platform's are {apart:.0f} s apart; allowed: 60. Set this "
    "machine's clock (timedatectl set-ntp true); if it is right, tell the platform.",
    PlatformFault.UNAVAILABLE: "the platform answers that it cannot serve now (HTTP {status}). Wait, or ask it.",
    PlatformFault.NOT_A_PLATFORM: "what answers there is not a purchase-power platform (HTTP {status}). Check host "
    "and port of platform.address.",
}

_VERIFY_FAULTS = {  # OpenSSL's X509_V_ERR_...; what is not here is another authority's
    9: PlatformFault.NOT_YET_VALID,
    10: PlatformFault.EXPIRED,
    18: PlatformFault.SELF_SIGNED,
    62: PlatformFault.WRONG_NAME,
    64: PlatformFault.WRONG_NAME,
}
_TOO_OLD = {"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION"}
_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_TOO_SMALL"}


class PlatformError(PurchasePowerError):
    """The platform cannot be reached, or is not who it should be. Nothing of the merchant's was sent.

    Attributes:
        fault: what is wrong.
        permanent: somebody has to mend it, so it is tried at most once in 30 s.
    """

    def __init__(self, fault: PlatformFault, address: str, **numbers: float) -> None:
        self.fault, self.permanent = fault, fault not in _TEMPORARY
        host = split_address(address)[0]
        super().__init__(f"platform {address}: {_WORDS[fault].format(host=host, **numbers)}")


@dataclass(frozen=True, kw_only=True)
class ServerIdentity:
    """A platform that proved who it is.

    Attributes:
        tls: the version agreed on, such as "TLSv1.3".
        names: what the certificate is for.
        expires: end of the certificate's validity, in UTC.
        skew_seconds: this machine's clock minus the platform's, good to a second or two.
    """

    address: str
    tls: str
    names: tuple[str, ...]
    expires: dt.datetime
    skew_seconds: float


def split_address(address: str) -> tuple[str, int]:
    """Host, without the brackets of IPv6, and port of host:port."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def tls_context(ca_pem: str) -> ssl.SSLContext:
    """TLS of version 1.2 or later with a server whose certificate comes from the authority in `ca_pem` and no other.

    Raises:
        ConfigError: there is no certificate in it.
    """
    # Not ssl.create_default_context, which would write the session keys where an environment variable says.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError):
        raise ConfigError(
            "the platform's CA file holds no certificate in PEM; take it from the platform's invitation again"
        ) from None
    return context


def check_platform(address: str, ca_pem: str, timeout: float = 4.0) -> ServerIdentity:
    """Who answers at `address` (host:port): one handshake and one GET /health, all within `timeout` seconds.

    Raises:
        PlatformError: for anything but a healthy platform with a certificate of the pinned authority and a clock
            like ours.
        ConfigError: `ca_pem` holds no certificate.
    """
    context = tls_context(ca_pem)
    host, port = split_address(address)
    deadline = time.monotonic() + timeout
    with platform_errors(address, timeout=timeout):
        raw = _connected(host, port, deadline)
    with raw, platform_errors(address, timeout=timeout, connected=True):
        raw.settimeout(_left(deadline))
        with context.wrap_socket(raw, server_hostname=host) as channel:
            certificate: dict[str, Any] = channel.getpeercert() or {}
            tls = channel.version() or ""
            status, date = _health(channel, address, deadline)
    if status != 200:
        fault = PlatformFault.UNAVAILABLE if status >= 500 or status == 429 else PlatformFault.NOT_A_PLATFORM
        raise PlatformError(fault, address, status=status)
    return ServerIdentity(
        address=address,
        tls=tls,
        names=tuple(str(name) for _, name in certificate.get("subjectAltName", ())),
        expires=dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), dt.UTC),
        skew_seconds=checked_skew(address, date),
    )


def checked_skew(address: str, date: str) -> float:
    """This machine's clock minus the time in a `date` header, in seconds; 0 where the header is no time.

    Raises:
        PlatformError: CLOCK.
    """
    try:
        theirs = parsedate_to_datetime(date)
        skew = (dt.datetime.now(dt.UTC) - theirs).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    if not abs(skew) <= MOST_SKEW_SECONDS:
        raise PlatformError(PlatformFault.CLOCK, address, apart=abs(skew))
    return skew


@contextmanager
def platform_errors(address: str, *, timeout: float, connected: bool = False) -> Iterator[None]:
    """Whatever sockets and TLS raise becomes a `PlatformError` that says what to do."""
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        fault = _fault(error, connected=connected)
        raise PlatformError(fault, address, timeout=timeout, status=0) from None


def _fault(error: Exception, *, connected: bool) -> PlatformFault:
    match error:
        case ssl.SSLCertVerificationError():
            return _VERIFY_FAULTS.get(error.verify_code, PlatformFault.AUTHORITY)
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return PlatformFault.RESET
        case ssl.SSLError():
            reason = getattr(error, "reason", None)  # not every one has it
            if reason in _TOO_OLD:
                return PlatformFault.TLS_TOO_OLD
            return PlatformFault.NOT_TLS if reason in _NO_TLS else PlatformFault.TLS
        case TimeoutError():
            return PlatformFault.SILENT if connected else PlatformFault.TIMEOUT
        case socket.gaierror():
            return PlatformFault.NAME
        case ConnectionRefusedError():
            return PlatformFault.CLOSED
        case OSError():
            cut = connected or isinstance(error, ConnectionError)
            return PlatformFault.RESET if cut else PlatformFault.NO_ROUTE
        case _:
            return PlatformFault.NOT_A_PLATFORM


def _connected(host: str, port: int, deadline: float) -> socket.socket:
    """A connection to the first of the host's addresses that takes one."""
    failure: OSError = TimeoutError()
    for family, kind, protocol, _, place in _looked_up(host, port, deadline):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(_left(deadline))
            connection.connect(place)
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure


def _looked_up(host: str, port: int, deadline: float) -> list[Any]:
    """`getaddrinfo` in a thread: it knows no timeout of its own."""
    found: list[Any] = []

    def look_up() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.append(error if isinstance(error, OSError) else socket.gaierror(str(error)))

    thread = threading.Thread(target=look_up, name="look-up", daemon=True)
    thread.start()
    thread.join(_left(deadline))
    if not found:
        raise socket.gaierror("no answer in time")
    if isinstance(found[0], OSError):
        raise found[0]
    return list(found[0])


def _health(channel: ssl.SSLSocket, address: str, deadline: float) -> tuple[int, str]:
    """Status and `date` header of GET /health. Read here and not by `http.client`, which a dripping server can hold."""
    channel.sendall(f"GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode("ascii"))
    received = b""
    while b"\r\n\r\n" not in received and len(received) < _MOST_HEADER_BYTES:
        channel.settimeout(_left(deadline))
        if not (part := channel.recv(4096)):
            break
        received += part
    first, _, rest = received.partition(b"\r\n")
    words = first.split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not (words[1].isdigit() and len(words[1]) == 3):
        raise http.client.BadStatusLine("")
    return int(words[1]), http.client.parse_headers(io.BytesIO(rest)).get("date", "")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
