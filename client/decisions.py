"""A person's yes or no to an offered plan: the same whether it is said in a terminal or on the merchant's page."""

from __future__ import annotations

import datetime as dt
import getpass
import os
from collections.abc import Collection

from client.agreements import Agreement, open_agreements, within_budget
from client.platform import RefusedError, platform_client
from client.preflight import PlatformError
from client.settings import MerchantSettings


def approve_offer(
    settings: MerchantSettings, offer_id: str, *, by: str, now: dt.datetime, changed_keys: Collection[str] = ()
) -> Agreement:
    """The agreement, approved within policy and budget; both are asked anew. Errors as of `Agreements.approve`."""
    return open_agreements(settings).approve(
        offer_id,
        policy=settings.policy,
        afford=within_budget(settings),
        by=by,
        now=now,
        changed_keys=changed_keys,
    )


def reject_offer(settings: MerchantSettings, offer_id: str, *, by: str, now: dt.datetime) -> Agreement:
    """The agreement, refused; an approval is withdrawn by it. Errors as of `Agreements.reject`."""
    return open_agreements(settings).reject(offer_id, by=by, now=now)


def local_user() -> str:
    """Who decides, for this merchant's own history."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        return f"uid {os.getuid()}"


def tell_platform(settings: MerchantSettings, found: Agreement) -> str:
    """Tells the platform the state and its code; why that could not be done, "" where it was."""
    try:
        with platform_client(settings) as client:
            client.decide(found.offer.id, found.state, found.code)
    except (PlatformError, RefusedError) as error:
        return str(error)
    return ""
