"""Asks the platform for offers, looks at each, and tells it where each stands: a state and a code, no more."""

from __future__ import annotations

import datetime as dt
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from agreement.offer import DecisionState, OfferCode, OfferError
from client.agreements import Agreement, Agreements, within_budget
from client.platform import PlatformClient, RefusedError
from client.preflight import PlatformError
from client.settings import MerchantSettings
from pp_model.errors import PurchasePowerError

LONGEST_WAIT_SECONDS = 60.0
PERMANENT_WAIT_SECONDS = 60.0  # what somebody has to mend is not asked for more often, whatever poll_seconds is
JITTER = 0.2
_SAY_AGAIN_SECONDS = 600.0
_LOOK_AGAIN_SECONDS = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What became of the offers that are open.

    Attributes:
        unreadable: of offers that are not signed with the pinned key, or not of this version: why.
    """

    agreements: tuple[Agreement, ...]
    unreadable: tuple[OfferError, ...]


def take_offers(
    client: PlatformClient, agreements: Agreements, settings: MerchantSettings, *, now: dt.datetime
) -> Taken:
    """Fetches what is offered and considers each under the merchant's policy and budget; durable when this returns.

    Raises:
        PlatformError, RefusedError: the platform was not reached, or does not answer this merchant.
        AgreementsError, LedgerError: what is approved or spent cannot be vouched for.
    """
    afford, taken, unreadable = within_budget(settings), [], []
    for data in client.offers():
        try:
            taken.append(agreements.consider(data, policy=settings.policy, afford=afford, now=now))
        except OfferError as error:
            unreadable.append(error)
    return Taken(agreements=tuple(taken), unreadable=tuple(unreadable))


class OfferPoll:
    """Polls for as long as the daemon runs. One thread runs it; the properties are read by others.

    Args:
        may_ask: whether the platform may be asked now; see `client.daemon.may_ask`.
        chance: uniform in [0, 1), for the jitter.
    """

    def __init__(
        self,
        client: PlatformClient,
        agreements: Agreements,
        settings: MerchantSettings,
        *,
        may_ask: Callable[[], bool] = lambda: True,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._client, self._agreements, self._settings = client, agreements, settings
        self._may_ask, self._chance = may_ask, chance
        self._told: dict[str, tuple[DecisionState, OfferCode | None]] = {}
        self._failures, self._said, self._said_at = 0, "", 0.0
        self._answered_at: float | None = None
        self.waiting = 0

    @property
    def connected(self) -> bool:
        """Whether the platform answered lately."""
        lately = 3 * self._settings.local.poll_seconds + 2.0
        return self._answered_at is not None and time.monotonic() - self._answered_at < lately

    @property
    def clock_apart(self) -> float | None:
        """This machine's clock minus the platform's at its last answer, in seconds; None before."""
        return self._client.clock_apart

    def run(self, stop: threading.Event) -> None:
        """Polls until `stop` is set; never raises."""
        wait = 0.0
        while not stop.wait(wait):
            wait = self.once() if self._may_ask() else _LOOK_AGAIN_SECONDS

    def once(self) -> float:
        """Asks once; the seconds to wait before the next time."""
        try:
            self._exchange()
        except (PlatformError, RefusedError) as error:
            self._say("platform not reached", str(error))
            return self._wait_after(permanent=error.permanent)
        except PurchasePowerError as error:
            self._say("offers not taken", str(error))
            return self._wait_after(permanent=True)
        except Exception:
            log.error("offers not taken", exc_info=True)
            return self._wait_after(permanent=True)
        if self._said:
            log.info("platform answers again")
        self._failures, self._said = 0, ""
        return self._jittered(self._settings.local.poll_seconds)

    def _exchange(self) -> None:
        now = dt.datetime.now(dt.UTC)
        taken = take_offers(self._client, self._agreements, self._settings, now=now)
        self._answered_at = time.monotonic()
        for error in taken.unreadable:
            log.warning("offer not readable", extra={"code": error.code.value, "why": str(error)})
        self.waiting = sum(found.state is DecisionState.WAITING for found in taken.agreements)
        for found in taken.agreements:
            stands = (found.state, found.code)
            if self._told.get(found.offer.id) != stands:
                self._client.decide(found.offer.id, *stands)
                self._told[found.offer.id] = stands
                _tell_people(found)

    def _say(self, event: str, why: str) -> None:
        """The same trouble is told once, and again after ten minutes."""
        if why != self._said or time.monotonic() - self._said_at > _SAY_AGAIN_SECONDS:
            self._said, self._said_at = why, time.monotonic()
            log.error(event, extra={"why": why})

    def _wait_after(self, *, permanent: bool) -> float:
        self._failures += 1
        backoff = self._settings.local.poll_seconds * 2.0 ** min(self._failures, 20)
        least = PERMANENT_WAIT_SECONDS if permanent else 0.0
        return self._jittered(max(least, min(backoff, LONGEST_WAIT_SECONDS)))

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 + JITTER * self._chance())


def _tell_people(found: Agreement) -> None:
    fields = {"offer": found.offer.id, "plan": found.offer.plan.plan_id}
    match found.state:
        case DecisionState.APPROVED:
            log.info("plan approved", extra=fields | {"by": found.by})
        case DecisionState.WAITING:
            log.warning("plan waits for you: pp-client plans, then pp-client approve ID", extra=fields)
        case DecisionState.REFUSED:
            code = found.code.value if found.code else ""
            log.warning("plan refused", extra=fields | {"code": code, "why": found.reason})
