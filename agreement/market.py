"""Quantiles of the whole federation, signed by the platform: what a merchant compares its own shop with.

They are numbers about many merchants' customers, so whoever publishes them states what they cost: epsilon, delta and
the mechanism in words. This module carries that statement; it cannot check it. What was published can be withdrawn:
that is a signed statement too, later than the one before, and neither can be replaced by an earlier one.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agreement.signing import SignatureError, SigningKey, VerifyKey, canonical_json
from pp_model.config import from_mapping, to_mapping
from pp_model.errors import ConfigError

MARKET_VERSION = 2
KIND = "market"
UNDATED = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)  # of a statement of version 1, which said no time
LARGEST_EPSILON = 100.0  # above it nobody is protected, and the statement would be empty
LARGEST_VALUE = 1e12
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_MOST_NAMES, _MOST_POINTS = 32, 99
_WORDS = (20, 1000)  # characters of the mechanism's description

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Market:
    """Quantiles of the federation's customers.

    Attributes:
        horizon_days: the days that amounts and counts are over.
        epsilon, delta: what all quantiles together cost one customer of one merchant, as the platform states.
        mechanism: how they were made private, in words.
        made: the day.
        quantiles: by name, (share, value) pairs: that share of the customers has at most that value. Shares rise and
            lie between 0 and 1; values do not fall.
    """

    horizon_days: int
    epsilon: float
    delta: float
    mechanism: str
    made: dt.date
    quantiles: Mapping[str, Points]

    def __post_init__(self) -> None:
        _require(1 <= self.horizon_days <= 3660, "horizon_days", self.horizon_days, "1 to 3660")
        _require(0 < self.epsilon <= LARGEST_EPSILON, "epsilon", self.epsilon, f"above 0 and up to {LARGEST_EPSILON:g}")
        _require(0 < self.delta < 1, "delta", self.delta, "above 0 and below 1")
        words = self.mechanism
        if not (_WORDS[0] <= len(words.strip()) and len(words) <= _WORDS[1] and words.isprintable() and " " in words):
            raise ConfigError(
                f"market.mechanism has {len(words)} characters; say in a sentence of {_WORDS[0]} to {_WORDS[1]} "
                "printable characters how the quantiles were made private"
            )
        _require(1 <= len(self.quantiles) <= _MOST_NAMES, "quantiles", len(self.quantiles), f"1 to {_MOST_NAMES} names")
        for name, points in self.quantiles.items():
            _require(bool(_NAME.fullmatch(name)), "quantiles", name[:60], "names of up to 40 of a-z, 0-9 and _")
            _check_points(name, points)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What the platform says of its quantiles until it says something later.

    Attributes:
        issued: in UTC, to the second; later than that of every statement before. `UNDATED` of version 1.
        market: None: what was published is withdrawn, and there are none.
    """

    issued: dt.datetime
    market: Market | None

    def __post_init__(self) -> None:
        utc = self.issued.utcoffset() == dt.timedelta(0) and not self.issued.microsecond
        _require(utc, "issued", self.issued.isoformat(), "whole seconds in UTC")


def sign_statement(statement: Statement, key: SigningKey) -> bytes:
    """The statement as it travels; `verify_statement` is the inverse."""
    return key.sign(KIND, _document(statement))


def verify_statement(data: bytes, key: VerifyKey) -> Statement:
    """The statement that the owner of `key` signed.

    Raises:
        SignatureError: not signed so, of a version that this program does not read, or not quantiles.
    """
    document = key.verify(KIND, data)
    version = document.get("version")
    if version not in (1, MARKET_VERSION) or type(version) is not int:
        raise SignatureError(
            f"the federation's quantiles are of version {version!r:.20}; this program reads up to {MARKET_VERSION}; "
            "update it"
        )
    stated = {name: value for name, value in document.items() if name != "version"}
    try:
        statement = Statement(issued=UNDATED, market=_read(stated)) if version == 1 else _dated(stated)
    except ConfigError as error:
        raise SignatureError(f"the federation's quantiles are signed, but cannot be used: {error}") from None
    return statement


def check_later(found: Statement, kept: Statement) -> None:
    """Returns if `found` may take the place of `kept`: it says the same, or was issued later.

    Raises:
        SignatureError: it was issued earlier, or says something else of the same time.
    """
    if found == kept or found.issued > kept.issued or found.issued == kept.issued == UNDATED:
        return
    raise SignatureError(
        f"the platform's statement on its quantiles is of {found.issued:%Y-%m-%d %H:%M:%S} UTC, and another one, of "
        f"{kept.issued:%Y-%m-%d %H:%M:%S}, is known: an old one is played again. What is known stays. Tell the "
        "platform: it has to publish or withdraw them anew"
    )


def read_statement(path: Path, key: VerifyKey) -> Statement | None:
    """The statement kept in a file, with the platform's signature checked again; None where there is no file.

    Raises:
        SignatureError: not, or no longer, what the platform signed.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return verify_statement(data, key)
    except SignatureError as error:
        raise SignatureError(f"{path}: {error}. Remove the file, and run pp-client pull") from None


def read_market(path: Path, key: VerifyKey) -> Market | None:
    """The quantiles of the statement kept in a file; None where there is none, or where they were withdrawn.

    Raises:
        SignatureError: not, or no longer, what the platform signed.
    """
    statement = read_statement(path, key)
    return None if statement is None else statement.market


def _document(statement: Statement) -> dict[str, Any]:
    market = None if statement.market is None else _plain(statement.market)
    return {"version": MARKET_VERSION, "issued": statement.issued.isoformat(), "market": market}


def _plain(market: Market) -> dict[str, Any]:
    quantiles = {name: [[float(s), float(v)] for s, v in points] for name, points in market.quantiles.items()}
    return {**to_mapping(market), "quantiles": quantiles}


def _dated(stated: Mapping[str, Any]) -> Statement:
    issued, market = stated.get("issued"), stated.get("market")
    if set(stated) != {"issued", "market"} or not isinstance(issued, str) or not isinstance(market, dict | None):
        raise ConfigError("a statement has a time and quantiles, or none")
    try:
        moment = dt.datetime.fromisoformat(issued)
    except ValueError:
        raise ConfigError("market.issued is no time") from None
    statement = Statement(issued=moment, market=None if market is None else _read(market))
    if moment.isoformat() != issued:
        raise _other_form()
    return statement


def _read(stated: Mapping[str, Any]) -> Market:
    market = from_mapping(Market, stated)
    if canonical_json(_plain(market)) != canonical_json(stated):
        raise _other_form()
    return market


def _other_form() -> ConfigError:
    return ConfigError("a value in another form than this program writes")


def _check_points(name: str, points: Points) -> None:
    key = f"quantiles.{name}"
    _require(1 <= len(points) <= _MOST_POINTS, key, len(points), f"1 to {_MOST_POINTS} pairs of share and value")
    for point in points:
        _require(len(point) == 2, key, point, "pairs of share and value, like [0.5, 1200]")
        share, value = point
        _require(0 < share < 1, key, share, "shares above 0 and below 1")
        _require(math.isfinite(value) and abs(value) <= LARGEST_VALUE, key, value, f"values up to {LARGEST_VALUE:g}")
    for (share, value), (next_share, next_value) in itertools.pairwise(points):
        _require(share < next_share, key, next_share, f"a share above the one before it, {share:g}")
        _require(value <= next_value, key, next_value, f"a value not below the one before it, {value:g}")


def _require(good: bool, key: str, value: object, allowed: str) -> None:
    if not good:
        raise ConfigError(f"market.{key} is {value!r}; allowed: {allowed}")
