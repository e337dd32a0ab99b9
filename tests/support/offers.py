"""Offers of a platform with a signing key, merchants they are for, and documents with one bit changed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import numpy as np

from agreement.offer import EVERYBODY, Offer, sign_offer
from agreement.signing import SigningKey
from tests.support.plans import tiny_plan

KEY = SigningKey.generate()
US, OTHERS = "SHA256:us", "SHA256:others"
NOON = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def tiny_offer(*, serial: int = 1, plan: dict[str, Any] | None = None, **changes: Any) -> Offer:
    """A tiny plan for everybody, issued at noon and valid for ten days, with `changes`."""
    fields: dict[str, Any] = {
        "platform": "market",
        "serial": serial,
        "issued": NOON,
        "not_before": NOON,
        "expires": NOON + 10 * DAY,
        "audience": EVERYBODY,
        "plan": tiny_plan(**(plan or {})),
    }
    return Offer(**{**fields, **changes})


def signed(offer: Offer, key: SigningKey = KEY) -> bytes:
    """The offer as it travels."""
    return sign_offer(offer, key)


def bit_flips(data: bytes, *, count: int, seed: int = 0) -> Iterator[bytes]:
    """`data` with one bit flipped: `count` different ones, all over it."""
    places = np.random.default_rng(seed).choice(8 * len(data), size=min(count, 8 * len(data)), replace=False)
    for place in places:
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << (place % 8)
        yield bytes(flipped)
