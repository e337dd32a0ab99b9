"""Telling that a list was made: a line in a file of the merchant's, or a request to an address of its own.

An alert carries counts and the rule's name; ids of customers only where the rule says so.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from client.loopback import is_loopback
from daemons.files import check_private
from pp_model.errors import ConfigError, PurchasePowerError

SIGNATURE_HEADER = "x-purchase-power-signature"
MOST_TRIES = 3
PAUSES_SECONDS = (0.5, 2.0)  # between one try and the next
TRY_SECONDS = 10.0  # of one try as a whole, whatever the other side does
LEAST_KEY_BYTES = 16
_AGAIN = (408, 425, 429)  # and all of 500 and above


@dataclass(frozen=True, kw_only=True)
class Alert:
    """Where to: `file` or `webhook`.

    Attributes:
        file: a line of JSON is added to it; relative to merchant.toml.
        webhook: an https address, or http on this machine.
        token_file: the key that signs requests to the webhook, and nothing else; mode 600; relative to merchant.toml.
        ca_file: the authority behind the webhook's certificate, in PEM; "" takes those that this machine trusts.
    """

    file: str = ""
    webhook: str = ""
    token_file: str = ""
    ca_file: str = ""

    def __post_init__(self) -> None:
        if bool(self.file) == bool(self.webhook):
            raise ConfigError("alert has both or neither of file and webhook; give one")
        if self.file and (self.token_file or self.ca_file):
            raise ConfigError("alert.token_file and alert.ca_file belong to a webhook; leave them out")
        if self.webhook:
            _check_address(self.webhook)
            if not self.token_file:
                raise ConfigError(
                    "missing key alert.token_file: the file with the key that signs requests to the webhook, so that "
                    "it knows them from anybody else's; make one with: openssl rand -hex 32"
                )


class AlertError(PurchasePowerError):
    """An alert was not delivered. The list that it is about is there all the same."""


def send(alert: Alert, body: Mapping[str, Any], *, home: Path) -> None:
    """Delivers the alert.

    Raises:
        AlertError: it was not, and what to do.
        ConfigError: a file of the alert cannot be used.
        PrivateFileError: a private file is missing, or open to others.
    """
    text = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    if alert.file:
        _append(home / alert.file, text + b"\n")
        return
    key = _key(home / alert.token_file)
    context = _tls(home / alert.ca_file if alert.ca_file else None)
    asyncio.run(_post_until_taken(alert.webhook, text, key=key, context=context, request_id=str(body["id"])))


def signature(key: bytes, text: bytes, *, at: int) -> str:
    """The signature header's value: the second it was made, and HMAC-SHA256 of `<second>.<text>` in hex.

    Whoever receives it computes the same with its own copy of the key, compares in constant time, and refuses seconds
    long past, so that nobody can send an old request again.
    """
    return f"t={at},v1={hmac.new(key, str(at).encode() + b'.' + text, hashlib.sha256).hexdigest()}"


def _append(path: Path, line: bytes) -> None:
    """Adds the line in one piece; the file is its owner's alone."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise AlertError(f"the alert's file {path} cannot be written: {error.strerror}. Check its folder.") from None
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        check_private(path)
        try:
            file.write(line)
            os.fsync(file.fileno())
        except OSError as error:
            raise AlertError(f"the alert's file {path} cannot be written: {error.strerror}. Make room.") from None


def _key(path: Path) -> bytes:
    check_private(path)
    key = path.read_bytes().strip()
    if len(key) < LEAST_KEY_BYTES:
        raise ConfigError(
            f"{path} has a key of {len(key)} bytes; at least {LEAST_KEY_BYTES}. Make one with: openssl rand -hex 32"
        )
    return key


def _tls(ca: Path | None) -> ssl.SSLContext:
    # Not ssl.create_default_context, which would write the session keys where an environment variable says.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cafile=ca)
    except (OSError, ssl.SSLError):
        raise ConfigError(f"alert.ca_file {ca} holds no certificate in PEM; check the path") from None
    return context


async def _post_until_taken(address: str, text: bytes, *, key: bytes, context: ssl.SSLContext, request_id: str) -> None:
    for attempt in range(MOST_TRIES):
        try:
            async with asyncio.timeout(TRY_SECONDS):
                status = await _post(address, text, key=key, context=context, request_id=request_id)
        except (httpx.HTTPError, OSError, TimeoutError) as error:
            fault, again = _fault(error), not isinstance(_root(error), ssl.SSLCertVerificationError)
        else:
            if 200 <= status < 300:
                return
            fault, again = _refusal(status), status in _AGAIN or status >= 500
        if not again:
            break
        if attempt + 1 < MOST_TRIES:
            await asyncio.sleep(PAUSES_SECONDS[attempt])
    host = urlsplit(address).netloc  # the path may hold a secret
    raise AlertError(f"the webhook at {host} {fault}. The list is there; the alert was not delivered.")


async def _post(address: str, text: bytes, *, key: bytes, context: ssl.SSLContext, request_id: str) -> int:
    headers = {
        "content-type": "application/json",
        "user-agent": "purchase-power",
        "idempotency-key": request_id,  # a try that was taken, and whose answer was lost, is known again
        SIGNATURE_HEADER: signature(key, text, at=int(time.time())),
    }
    # A connection that is being made must end by a limit of its own: cancelled from outside, it would not be closed.
    limits = httpx.Timeout(TRY_SECONDS, connect=TRY_SECONDS / 3)
    async with (
        httpx.AsyncClient(verify=context, trust_env=False, follow_redirects=False, timeout=limits) as client,
        client.stream("POST", address, content=text, headers=headers) as response,  # its body is of no interest
    ):
        return response.status_code


def _fault(error: Exception) -> str:
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return f"did not answer within {TRY_SECONDS:g} s, {MOST_TRIES} times"
    if isinstance(_root(error), ssl.SSLCertVerificationError):
        return "shows a certificate that is not trusted; check the address, or name its authority as ca_file"
    return f"was not reached, {MOST_TRIES} times; check the address and the network"


def _root(error: BaseException) -> BaseException:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _refusal(status: int) -> str:
    if 300 <= status < 400:
        return f"sends elsewhere (HTTP {status}), which is not followed; write the final address"
    if status in _AGAIN or status >= 500:
        return f"could not take it (HTTP {status}), {MOST_TRIES} times"
    return f"refuses (HTTP {status}); check its address and that it has the same key"


def _check_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or parts.username or parts.password or parts.fragment or port == 0 or not address.isascii():
        raise ConfigError(
            "alert.webhook is not an address like https://example.org/hook, without name or password in it"
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.netloc)):
        raise ConfigError(
            f"alert.webhook begins with {parts.scheme!r}; allowed: https, or http on this machine (127.0.0.1)"
        )
