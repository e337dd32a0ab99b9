"""The merchant's requests to the platform: offers, decisions, models, quantiles; each signed, over pinned TLS."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx
from cryptography.hazmat.primitives.asymmetric import ec

from agreement.manifest import ModelManifest, check_file, verify_manifest
from agreement.offer import DecisionState, OfferCode
from agreement.requests import (
    DECISIONS_PATH,
    MARKET_PATH,
    MODELS_PATH,
    OFFERS_PATH,
    VERSION_HEADER,
    sign_request,
)
from agreement.signing import VerifyKey
from client.preflight import PlatformError, PlatformFault, checked_skew, platform_errors, tls_context
from client.settings import MerchantSettings
from pp_model.errors import ConfigError, PurchasePowerError

TIMEOUT_SECONDS = 10.0  # without a byte
LONGEST_SECONDS = 60.0  # of one answer as a whole
MOST_LIST_BYTES = 16 * 2**20
MOST_MODEL_BYTES = 256 * 2**20
MOST_CARD_BYTES = 2**20

_PACKAGE = "purchase-power"
_NOT_FOUND = 404


class RefusedError(PurchasePowerError):
    """The platform is there, and does not do what it was asked.

    Attributes:
        status: of HTTP.
        permanent: always; somebody has to mend it.
    """

    permanent = True

    def __init__(self, address: str, status: int, what: str) -> None:
        self.status = status
        super().__init__(f"platform {address}: {what}")


class PlatformClient:
    """Requests to the one platform that is pinned: no other authority, no proxy, no redirect, nothing of the
    environment. An answer has a bounded size and time. Close it, or use it in a `with`.

    Args:
        clock: now, in UTC.

    Attributes:
        clock_apart: this machine's clock minus the platform's at its last answer, in seconds, good to one; None before.

    Raises:
        PlatformError: from every request: not reached, or not who it should be; `permanent` says which.
        RefusedError: from every request: this merchant's key is not registered there, or the answer makes no sense.
    """

    def __init__(
        self,
        *,
        address: str,
        ca_pem: str,
        node_key: ec.EllipticCurvePrivateKey,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._address, self._key, self._clock = address, node_key, clock
        self.clock_apart: float | None = None
        self._http = httpx.Client(
            base_url=f"https://{address}",
            verify=tls_context(ca_pem),
            trust_env=False,
            follow_redirects=False,
            timeout=TIMEOUT_SECONDS,
            headers={
                "accept-encoding": "identity",  # nothing that is small here and large there
                VERSION_HEADER: _own_version(),
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def offers(self) -> list[bytes]:
        """The signed offers that are open to this merchant, oldest serial first; nothing about them is checked."""
        return self._texts(OFFERS_PATH, "offers")

    def decide(self, offer_id: str, state: DecisionState, code: OfferCode | None) -> None:
        """Tells the platform where an offer stands here: the state and the code, never the reason."""
        body = json.dumps({"offer": offer_id, "state": state.value, "code": code.value if code else None}).encode()
        self._ask("POST", DECISIONS_PATH, body, most_bytes=MOST_CARD_BYTES)

    def models(self, key: VerifyKey) -> list[ModelManifest]:
        """The published models, newest first, each signed with the pinned key.

        Raises:
            SignatureError: one of them is not.
        """
        return [verify_manifest(text, key) for text in self.signed_models()]

    def signed_models(self) -> list[bytes]:
        """The manifests of the published models as they travel; nothing about them is checked."""
        return self._texts(MODELS_PATH, "models")

    def model(self, manifest: ModelManifest) -> bytes:
        """The model's file, which is the one that the manifest means.

        Raises:
            SignatureError: another file.
        """
        data = self._ask("GET", f"{MODELS_PATH}/{manifest.sha256}", most_bytes=MOST_MODEL_BYTES)
        return check_file(data, manifest.sha256, what="model")

    def card(self, manifest: ModelManifest) -> bytes:
        """The model's card, which is the one that the manifest means.

        Raises:
            SignatureError: another card.
        """
        data = self._ask("GET", f"{MODELS_PATH}/{manifest.sha256}/card", most_bytes=MOST_CARD_BYTES)
        return check_file(data, manifest.card_sha256, what="model's card")

    def market(self) -> bytes | None:
        """The federation's quantiles as they were signed, nothing about them checked; None where the platform has none,
        or is of a version that knows none."""
        try:
            texts = self._texts(MARKET_PATH, "markets")
        except RefusedError as error:
            if error.status != _NOT_FOUND:
                raise
            return None
        return texts[0] if texts else None

    def _texts(self, path: str, name: str) -> list[bytes]:
        try:
            table: Any = json.loads(self._ask("GET", path, most_bytes=MOST_LIST_BYTES))
            return [text.encode("ascii") for text in table[name]]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise RefusedError(
                self._address, 200, f"its list of {name} cannot be read; update this program, or tell the platform"
            ) from None

    def _ask(self, method: str, path: str, body: bytes = b"", *, most_bytes: int) -> bytes:
        headers = sign_request(self._key, method=method, path=path, body=body, now=self._clock())
        deadline, received = time.monotonic() + LONGEST_SECONDS, b""
        with platform_errors(self._address, timeout=TIMEOUT_SECONDS, connected=True):
            try:
                with self._http.stream(method, path, content=body, headers=headers) as response:
                    self.clock_apart = _apart(response.headers.get("date", ""), now=self._clock())
                    for part in response.iter_raw():
                        received += part
                        if time.monotonic() > deadline:
                            raise TimeoutError
                        if len(received) > most_bytes:
                            raise RefusedError(self._address, response.status_code, "its answer is too large to be one")
            except httpx.HTTPError as error:
                raise _cause(error, self._address) from None
        if response.is_success:
            return received
        raise self._refusal(response)

    def _refusal(self, response: httpx.Response) -> PurchasePowerError:
        status = response.status_code
        if status in (429, *range(500, 600)):
            return PlatformError(PlatformFault.UNAVAILABLE, self._address, status=status)
        if status == 401:
            try:
                checked_skew(self._address, response.headers.get("date", ""))
            except PlatformError as error:
                return error
            return RefusedError(
                self._address,
                status,
                "it does not know this merchant's key, or has removed it. Send keys/node.pub to the platform "
                "and have it added.",
            )
        if status == _NOT_FOUND:
            return RefusedError(self._address, status, "it does not have what was asked for (HTTP 404)")
        return RefusedError(
            self._address,
            status,
            f"it refuses (HTTP {status}). Check platform.address, and that both sides are updated.",
        )


def platform_client(settings: MerchantSettings) -> PlatformClient:
    """The client of the configured platform.

    Raises:
        ConfigError: the CA certificate or the node key cannot be used.
    """
    try:
        ca_pem = settings.paths.ca.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"{settings.paths.ca} cannot be read; take the certificate from the platform's invitation again"
        ) from None
    return PlatformClient(address=settings.platform.address, ca_pem=ca_pem, node_key=settings.node_key())


def _own_version() -> str:
    try:
        return importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _apart(date: str, *, now: dt.datetime) -> float | None:
    """Seconds from the time in a `date` header to `now`; None where the header is no time."""
    try:
        return (now - parsedate_to_datetime(date)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None


def _cause(error: httpx.HTTPError, address: str) -> Exception:
    """What the library has wrapped, for `platform_errors` to name."""
    if isinstance(error, httpx.ConnectTimeout):
        return PlatformError(PlatformFault.TIMEOUT, address, timeout=TIMEOUT_SECONDS)
    if isinstance(error, httpx.TimeoutException):
        return TimeoutError()
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ConnectionRefusedError):
            return PlatformError(PlatformFault.CLOSED, address)
        if isinstance(inner, OSError):
            return inner
        inner = inner.__cause__ or inner.__context__
    return ConnectionResetError() if isinstance(error, httpx.TransportError) else ValueError()
