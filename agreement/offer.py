"""A plan that the platform offers: to whom, from when until when, under which serial number, and signed."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from agreement.signing import SignatureError, SigningKey, VerifyKey, canonical_json
from pp_model.config import from_mapping, to_mapping
from pp_model.errors import ConfigError, PurchasePowerError
from pp_model.plan import TrainingPlan

OFFER_VERSION = 1
EVERYBODY = ("*",)
KIND = "offer"
_KEYS = {"version", "platform", "serial", "issued", "not_before", "expires", "audience", "plan"}


class OfferCode(StrEnum):
    """Why a merchant does not take an offer. A fixed list: nothing else about a refusal leaves the merchant."""

    SIGNATURE = "signature"  # not signed with the pinned key, or changed since
    VERSION = "version"  # of a version that this program does not speak
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    ADDRESSEE = "addressee"  # for other merchants
    REPLAYED = "replayed"  # an older offer of a plan of which a newer one is known
    POLICY = "policy"  # the merchant's policy does not allow the plan
    BUDGET = "budget"  # the whole run would pass what is left of the budget
    REJECTED = "rejected"  # a person at the merchant said no


class DecisionState(StrEnum):
    """Where an offer stands at a merchant."""

    WAITING = "waiting"  # for a person
    APPROVED = "approved"
    REFUSED = "refused"  # with an `OfferCode`


class OfferError(PurchasePowerError):
    """An offer that is not taken.

    Attributes:
        code: the reason, as the platform is told it.
    """

    def __init__(self, code: OfferCode, text: str) -> None:
        self.code = code
        super().__init__(text)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One plan as offered.

    Attributes:
        platform: the platform's name.
        serial: rises with every offer that a platform signs.
        issued, not_before, expires: in UTC, to the second; tasks are taken from `not_before` and before `expires`.
        audience: fingerprints of the merchants' node keys, or `EVERYBODY`.
    """

    platform: str
    serial: int
    issued: dt.datetime
    not_before: dt.datetime
    expires: dt.datetime
    audience: tuple[str, ...]
    plan: TrainingPlan

    def __post_init__(self) -> None:
        for name in ("issued", "not_before", "expires"):
            moment: dt.datetime = getattr(self, name)
            if moment.utcoffset() != dt.timedelta(0) or moment.microsecond:
                raise ConfigError(f"offer.{name} is {moment.isoformat()}; expected whole seconds in UTC")
        if not self.not_before < self.expires:
            raise ConfigError(f"offer.expires is {self.expires.isoformat()}; it must come after not_before")
        if self.serial < 1:
            raise ConfigError(f"offer.serial is {self.serial}; allowed: 1 or more")
        if not self.audience or not all(self.audience):
            raise ConfigError('offer.audience is empty; name the merchants\' key fingerprints, or "*" for everybody')
        if not 1 <= len(self.platform) <= 80:
            raise ConfigError(f"offer.platform has {len(self.platform)} characters; allowed: 1 to 80")

    @cached_property
    def id(self) -> str:
        """Sixteen hexadecimal digits of the document's SHA-256: what a person types."""
        return hashlib.sha256(canonical_json(self.document).encode()).hexdigest()[:16]

    @property
    def document(self) -> dict[str, Any]:
        """Plain values; what is signed."""
        return {
            "version": OFFER_VERSION,
            "platform": self.platform,
            "serial": self.serial,
            **{name: getattr(self, name).isoformat() for name in ("issued", "not_before", "expires")},
            "audience": list(self.audience),
            "plan": to_mapping(self.plan),
        }


def sign_offer(offer: Offer, key: SigningKey) -> bytes:
    """The offer as it travels; `verify_offer` is the inverse."""
    return key.sign(KIND, offer.document)


def verify_offer(data: bytes, key: VerifyKey) -> Offer:
    """The offer that the owner of `key` signed.

    Raises:
        OfferError: SIGNATURE for anything that was not signed so, VERSION for a valid one that we cannot read.
    """
    try:
        document = key.verify(KIND, data)
    except SignatureError as error:
        raise OfferError(OfferCode.SIGNATURE, str(error)) from None
    plan = document.get("plan")
    versions = (document.get("version"), plan.get("version") if isinstance(plan, Mapping) else None)
    if versions[0] != OFFER_VERSION or set(document) != _KEYS or not isinstance(plan, Mapping):
        raise OfferError(
            OfferCode.VERSION,
            f"the offer is of version {versions[0]!r:.20}; this program reads {OFFER_VERSION}. Update it.",
        )
    try:
        return _read(document, plan)
    except (ConfigError, ValueError, TypeError) as error:
        raise OfferError(
            OfferCode.VERSION, f"the offer is signed, but cannot be read: {error}. Update the program."
        ) from None


def check_offer(offer: Offer, *, now: dt.datetime, addressee: str, newest_serial: int) -> None:
    """Returns if the offer may be considered by the merchant whose key has the fingerprint `addressee`.

    Args:
        now: in UTC.
        newest_serial: the highest serial known of any other offer of the same `plan_id`; 0 where there is none.

    Raises:
        OfferError: NOT_YET_VALID, EXPIRED, ADDRESSEE or REPLAYED.
    """
    check_dates(offer, now=now)
    if offer.audience != EVERYBODY and addressee not in offer.audience:
        raise OfferError(OfferCode.ADDRESSEE, f"offer {offer.id} is for {len(offer.audience)} other merchant(s)")
    if offer.serial <= newest_serial:
        raise OfferError(
            OfferCode.REPLAYED,
            f"offer {offer.id} has serial {offer.serial}; another one ({newest_serial}) of plan {offer.plan.plan_id!r} "
            "is known. Ask the platform for a new offer.",
        )


def check_dates(offer: Offer, *, now: dt.datetime) -> None:
    """Returns if the offer is valid at `now`, in UTC.

    Raises:
        OfferError: NOT_YET_VALID or EXPIRED.
    """
    if now < offer.not_before:
        raise OfferError(
            OfferCode.NOT_YET_VALID,
            f"offer {offer.id} is valid from {offer.not_before:%Y-%m-%d %H:%M} UTC; if that is past, set the clock",
        )
    if not now < offer.expires:
        raise OfferError(
            OfferCode.EXPIRED,
            f"offer {offer.id} ended on {offer.expires:%Y-%m-%d %H:%M} UTC; ask for a new one, or set the clock",
        )


def _read(document: Mapping[str, Any], plan: Mapping[str, Any]) -> Offer:
    texts = [document[name] for name in ("platform", "issued", "not_before", "expires")]
    if (
        not all(isinstance(text, str) for text in (*texts, *document["audience"]))
        or type(document["serial"]) is not int
    ):
        raise ConfigError("offer: a value of the wrong type")
    offer = Offer(
        platform=document["platform"],
        serial=document["serial"],
        issued=dt.datetime.fromisoformat(document["issued"]),
        not_before=dt.datetime.fromisoformat(document["not_before"]),
        expires=dt.datetime.fromisoformat(document["expires"]),
        audience=tuple(document["audience"]),
        plan=from_mapping(TrainingPlan, plan, path="plan"),
    )
    if canonical_json(offer.document) != canonical_json(document):
        raise ConfigError("offer: a value in another form than this program writes")
    return offer
