"""HTTP requests of a merchant to the platform, signed with its node key. TLS keeps them secret; this says who asks."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import re
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agreement.node_keys import fingerprint_of, load_public, public_text
from pp_model.errors import ConfigError, PurchasePowerError

KEY_HEADER, TIME_HEADER, SIGNATURE_HEADER = "pp-key", "pp-time", "pp-signature"
VERSION_HEADER = "pp-version"  # of the program that asks; not signed: nothing is decided by it
MOST_SECONDS_APART = 60

# The merchant API: its routes, below the platform's address.
OFFERS_PATH, DECISIONS_PATH, MODELS_PATH = "/pp/v1/offers", "/pp/v1/decisions", "/pp/v1/models"
MARKET_PATH = "/pp/v1/market"

_ALGORITHM = ec.ECDSA(hashes.SHA384())
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,31}")


class RequestError(PurchasePowerError):
    """A request that nobody we can name has signed, or not just now."""


def sign_request(
    key: ec.EllipticCurvePrivateKey, *, method: str, path: str, body: bytes, now: dt.datetime
) -> dict[str, str]:
    """The headers that make a request the merchant's own.

    Args:
        path: with the query, if there is one.
        now: in UTC.
    """
    time = now.isoformat(timespec="seconds")
    signature = key.sign(_text(method, path, time, body), _ALGORITHM)
    return {
        KEY_HEADER: public_text(key.public_key()).decode(),
        TIME_HEADER: time,
        SIGNATURE_HEADER: base64.b64encode(signature).decode(),
    }


def verify_request(headers: Mapping[str, str], *, method: str, path: str, body: bytes, now: dt.datetime) -> str:
    """The fingerprint of the node key that signed the request. Whether it is a merchant's is for the caller to know.

    Args:
        headers: with lower-case names.
        now: in UTC.

    Raises:
        RequestError: no valid signature, or a time more than `MOST_SECONDS_APART` from ours.
    """
    try:
        key = load_public(headers[KEY_HEADER].encode())
        signature = base64.b64decode(headers[SIGNATURE_HEADER], validate=True)
        time = headers[TIME_HEADER]
        apart = abs((now - dt.datetime.fromisoformat(time)).total_seconds())
        key.verify(signature, _text(method, path, time, body), _ALGORITHM)
    except (KeyError, ValueError, TypeError, binascii.Error, ConfigError, InvalidSignature):
        raise RequestError("the request is not signed by a merchant's node key") from None
    if not apart <= MOST_SECONDS_APART:
        raise RequestError(f"the request was signed {apart:.0f} s from the platform's time; set the clock")
    return fingerprint_of(key)


def stated_version(headers: Mapping[str, str]) -> str:
    """The version of the program that asks, as it says; "" where it says none, or one of another form.

    Args:
        headers: with lower-case names.
    """
    stated = headers.get(VERSION_HEADER, "")
    return stated if _VERSION.fullmatch(stated) else ""


def _text(method: str, path: str, time: str, body: bytes) -> bytes:
    return f"purchase-power request\n{method}\n{path}\n{time}\n{hashlib.sha256(body).hexdigest()}".encode()
