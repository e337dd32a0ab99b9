"""Columns of cells into numpy columns: text, exact money, whole seconds. Vectorised; nothing here raises on a cell."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# A pyarrow Array of any type; pyarrow describes no types to a checker.
Cells = Any
Mask = NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)

FIRST_DAY, LAST_DAY = dt.date(1900, 1, 1), dt.date(2200, 1, 1)
HUGE = 10**15  # beyond every bound a contract may set

_EPOCH = dt.datetime(1970, 1, 1)
_SECOND = dt.timedelta(seconds=1)
_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_NOT_A_TIME = np.iinfo(np.int64).min
# Ten digits before the point keep the error of a float far below the distance at which a half cent is looked at.
_SHORT_DECIMAL = r"^-?[0-9]{1,10}(\.[0-9]{1,18})?$"
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)")
_LONGEST_DECIMAL = 64
_PLAIN_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2})?)?$"
_ISO_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,9})?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?"
)


def as_text(cells: Cells) -> tuple[Cells, Mask]:
    """The cells as trimmed text, missing ones empty, and which of them are not text in any way.

    Numbers become their shortest decimal form, so that customer 17 is one customer in every kind of source.

    Raises:
        pa.ArrowException: the column as a whole has no text form (a nested type, fractional numbers as ids).
    """
    kind = cells.type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        cells = _without_nan(cells).cast(pa.int64())
    undecodable = np.zeros(len(cells), np.bool_)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or _is_string(kind):
        raw = cells.cast(pa.binary())
        try:
            cells = raw.cast(pa.string())
        except pa.ArrowInvalid:
            decoded = [_decoded(cell or b"") for cell in raw.to_pylist()]
            cells = pa.array(decoded, pa.string())
            undecodable = np.array([cell is None for cell in decoded])
    return pc.utf8_trim_whitespace(pc.fill_null(cells.cast(pa.string()), "")), undecodable


def is_textual(cells: Cells) -> bool:
    """Whether numbers and times in these cells are written out and have to be parsed."""
    kind = cells.type
    return not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_date(kind)
    )


def is_filled(text: Cells) -> Mask:
    """Which of the trimmed texts are not empty."""
    return to_numpy(pc.not_equal(text, ""))


def to_numpy(cells: Cells) -> NDArray[Any]:
    """A column without missing cells as a numpy array."""
    return np.asarray(cells.to_numpy(zero_copy_only=False))


def per_distinct(text: Cells, function: Callable[[str], object], dtype: type[Scalar]) -> NDArray[Scalar]:
    """`function` of every text, called once for each distinct one."""
    encoded = text.dictionary_encode()
    values = np.array([function(cell) for cell in encoded.dictionary.to_pylist()], dtype)
    positions: NDArray[np.int32] = to_numpy(encoded.indices)
    return values[positions]


def hundredths(cells: Cells) -> tuple[NDArray[np.int64], Mask]:
    """Hundredths of the numbers in the cells, and which cells are numbers.

    Written decimals are exact, with halves of a hundredth to even; binary floats are multiplied by 100 and rounded
    half to even. What is larger than `HUGE` becomes `HUGE`, with its sign.
    """
    kind = cells.type
    if not is_textual(cells):
        if pa.types.is_temporal(kind):
            return np.zeros(len(cells), np.int64), np.zeros(len(cells), np.bool_)
        if pa.types.is_decimal(kind):
            cells = pc.round(cells, ndigits=2, round_mode="half_to_even") if kind.scale > 2 else cells
        valid = to_numpy(cells.is_valid())
        numbers = to_numpy(pc.fill_null(cells.cast(pa.float64(), safe=False), 0.0))
        with np.errstate(over="ignore"):  # infinite is what such a number then is: not usable
            return _rounded(np.where(valid, numbers, np.nan) * 100.0)
    plain = to_numpy(pc.match_substring_regex(cells, _SHORT_DECIMAL))
    values, valid = np.zeros(len(cells), np.int64), plain.copy()
    scaled = to_numpy(cells.filter(pa.array(plain)).cast(pa.float64())) * 100.0
    values[plain] = np.rint(scaled).astype(np.int64)
    exact = ~plain
    exact[plain] = np.abs(scaled - np.floor(scaled) - 0.5) < 0.01  # too near a half cent for a float to decide
    if exact.any():
        parsed = per_distinct(cells.filter(pa.array(exact)), _hundredths_of, np.int64)
        values[exact], valid[exact] = parsed, parsed != _NOT_A_TIME
    return np.where(valid, values, 0), valid


def seconds(cells: Cells, timestamp_format: str | None) -> tuple[NDArray[np.int64], Mask]:
    """Whole seconds since 1970, rounded down, and which cells are times between 1900 and 2200.

    A time with an offset becomes UTC; one without stays as it is, in the merchant's own clock.
    """
    kind = cells.type
    if pa.types.is_date(kind):
        cells = cells.cast(pa.timestamp("s"))
    if pa.types.is_timestamp(cells.type):
        valid = to_numpy(cells.is_valid())
        counts = to_numpy(pc.fill_null(cells.cast(pa.int64()), 0)) // _UNITS[cells.type.unit]
        return _in_range(np.where(valid, counts, _NOT_A_TIME))
    if not is_textual(cells):
        return np.zeros(len(cells), np.int64), np.zeros(len(cells), np.bool_)
    if timestamp_format is not None:
        written = timestamp_format
        return _in_range(per_distinct(cells, lambda cell: _seconds_of(cell, written), np.int64))
    if pc.all(pc.match_substring_regex(cells, _PLAIN_TIME)).as_py():
        try:
            return _in_range(to_numpy(cells.cast(pa.timestamp("s")).cast(pa.int64())))
        except pa.ArrowInvalid:
            pass  # a 30th of February somewhere: look at the cells one by one
    return _in_range(per_distinct(cells, lambda cell: _seconds_of(cell, None), np.int64))


def _in_range(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], Mask]:
    low, high = ((day - _EPOCH.date()).days * 86_400 for day in (FIRST_DAY, LAST_DAY))
    valid = (counts >= low) & (counts < high)
    return np.where(valid, counts, 0), valid


def _rounded(scaled: NDArray[np.float64]) -> tuple[NDArray[np.int64], Mask]:
    valid = np.isfinite(scaled)
    return np.rint(np.clip(np.where(valid, scaled, 0.0), -HUGE, HUGE)).astype(np.int64), valid


def _hundredths_of(cell: str) -> int:
    if len(cell) > _LONGEST_DECIMAL or not _DECIMAL.fullmatch(cell):
        return _NOT_A_TIME
    return max(-HUGE, min(HUGE, round(Fraction(cell) * 100)))


def _seconds_of(cell: str, timestamp_format: str | None) -> int:
    try:
        if timestamp_format is not None:
            moment = dt.datetime.strptime(cell, timestamp_format)  # noqa: DTZ007  # the merchant's own clock
        elif _ISO_TIME.fullmatch(cell):
            moment = dt.datetime.fromisoformat(cell)
        else:
            return _NOT_A_TIME
        if moment.tzinfo is not None:
            moment = moment.astimezone(dt.UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return _NOT_A_TIME
    return (moment - _EPOCH) // _SECOND


def _without_nan(cells: Cells) -> Cells:
    if not pa.types.is_floating(cells.type):
        return cells
    return pc.if_else(pc.is_nan(cells), pa.scalar(None, cells.type), cells)


def _decoded(cell: bytes) -> str | None:
    try:
        return cell.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _is_string(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
