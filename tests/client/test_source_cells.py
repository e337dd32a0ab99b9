import datetime as dt
from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.sources.cells import HUGE, as_text, hundredths, is_filled, seconds

DECIMALS = st.decimals(min_value=-(10**11), max_value=10**11, places=None, allow_nan=False, allow_infinity=False).map(
    lambda number: format(number.quantize(Decimal(1).scaleb(-min(6, max(0, -number.as_tuple().exponent)))), "f")
)


def cents_one_by_one(cell: str) -> int:
    return int((Decimal(cell) * 100).to_integral_value(ROUND_HALF_EVEN))


def seconds_one_by_one(cell: str) -> int:
    moment = dt.datetime.fromisoformat(cell)
    if moment.tzinfo:
        moment = moment.astimezone(dt.UTC).replace(tzinfo=None)
    return (moment - dt.datetime(1970, 1, 1)) // dt.timedelta(seconds=1)


def text(cells):
    return pa.array(cells, pa.string())


@given(st.lists(DECIMALS, min_size=1, max_size=20))
def test_written_decimals_become_exact_cents_with_halves_to_even(cells):
    values, valid = hundredths(text(cells))

    assert valid.all()
    assert values.tolist() == [cents_one_by_one(cell) for cell in cells]


@given(st.integers(0, 10**11), st.sampled_from(["", "-", "+"]))
def test_every_two_decimal_amount_is_exactly_itself(cents, sign):
    values, valid = hundredths(text([f"{sign}{cents // 100}.{cents % 100:02}"]))

    assert valid.all()
    assert values.tolist() == [-cents if sign == "-" else cents]


@pytest.mark.parametrize(
    ("cell", "cents"),
    [
        ("10.10", 1010),
        ("+.5", 50),
        ("5.", 500),
        ("0.125", 12),
        ("0.135", 14),
        ("-0.125", -12),
        ("1.005", 100),
        ("1.0050000000000000000000001", 101),
        ("30.569999694824219", 3057),
        ("9" * 30, HUGE),
        ("-" + "9" * 30, -HUGE),
    ],
)
def test_an_amount_is_read_as_a_person_would(cell, cents):
    assert hundredths(text([cell]))[0].tolist() == [cents]


@pytest.mark.parametrize("cell", ["", ".", "-", "1e3", "0x10", "1,5", "1 000", "nan", "inf", "١٢", "1_000", "1" * 65])
def test_what_is_not_a_plain_decimal_is_not_an_amount(cell):
    values, valid = hundredths(text([cell, "1"]))

    assert valid.tolist() == [False, True]
    assert values.tolist() == [0, 100]


@pytest.mark.parametrize(
    ("cells", "cents"),
    [
        (pa.array([30.57, 14.61, 0.125, -0.375], pa.float32()), [3057, 1461, 12, -38]),
        (pa.array([30.57, 1e300, -1e300]), [3057, HUGE, -HUGE]),
        (pa.array([7, -3, 2**62]), [700, -300, HUGE]),
        (pa.array([Decimal("1.0050"), Decimal("0.0000001")], pa.decimal128(20, 7)), [100, 0]),
        (pa.array([Decimal("12"), Decimal("-3")], pa.decimal128(5, 0)), [1200, -300]),
    ],
    ids=["float32", "float64", "integers", "decimals", "whole-decimals"],
)
def test_numbers_become_cents_whatever_their_type(cells, cents):
    values, valid = hundredths(cells)

    assert valid.all()
    assert values.tolist() == cents


def test_a_number_that_is_missing_or_not_finite_is_not_an_amount():
    assert hundredths(pa.array([np.nan, np.inf, -np.inf, None, 1e308, 1.0]))[1].tolist() == [False] * 5 + [True]
    assert hundredths(pa.array([None, 1]))[1].tolist() == [False, True]
    assert not hundredths(pa.array([dt.datetime(2025, 1, 1)]))[1].any()


MOMENTS = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2199, 12, 31)).map(lambda m: m.replace(microsecond=0))


@given(st.lists(MOMENTS, min_size=1, max_size=9), st.sampled_from([" ", "T"]), st.booleans())
def test_iso_times_become_seconds_one_at_a_time_or_together(moments, separator, with_an_odd_one):
    cells = [moment.isoformat(separator) for moment in moments] + ["2025-01-01T00:00:00.9+02:00"] * with_an_odd_one

    counts, valid = seconds(text(cells), None)

    assert valid.all()
    assert counts.tolist() == [seconds_one_by_one(cell) for cell in cells]


@pytest.mark.parametrize(
    ("cell", "meant"),
    [
        ("2025-12-31", "2025-12-31T00:00:00"),
        ("2025-12-31 18:05", "2025-12-31T18:05:00"),
        ("2025-12-31T18:05:07.999999", "2025-12-31T18:05:07"),
        ("1969-12-31 23:59:59.5", "1969-12-31T23:59:59"),
        ("2025-12-31T18:05:07Z", "2025-12-31T18:05:07"),
        ("2025-12-31 23:05:07-02:00", "2026-01-01T01:05:07"),
        ("2025-12-31 18:05:07+01", "2025-12-31T17:05:07"),
    ],
)
def test_a_time_is_read_as_iso_8601_says_and_in_utc_if_it_has_an_offset(cell, meant):
    counts, valid = seconds(text([cell]), None)

    assert valid.all()
    assert counts.tolist() == [seconds_one_by_one(meant)]


NO_TIMES = ["", "31.12.2025", "2025-13-01", "2025-02-29", "20250101", "2025-W01-1", "2025-01-01 10", "2025-01-01_10:00"]


@pytest.mark.parametrize("cell", [*NO_TIMES, "2025-01-01 10:60", "1899-12-31", "2200-01-01", "1899-12-31T23:59:59Z"])
def test_what_is_no_time_is_no_time_whatever_stands_beside_it(cell):
    for beside in ("2025-01-01", "2025-01-01T00:00:00Z"):
        assert seconds(text([cell, beside]), None)[1].tolist() == [False, True]


def test_a_stated_format_is_the_only_one_understood():
    counts, valid = seconds(text(["31.12.2025 18:05", "2025-12-31 18:05"]), "%d.%m.%Y %H:%M")

    assert valid.tolist() == [True, False]
    assert counts[0] == seconds_one_by_one("2025-12-31T18:05")


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_stored_times_round_down_in_every_unit(unit):
    moment = dt.datetime(1969, 12, 31, 23, 59, 58) + dt.timedelta(milliseconds=0 if unit == "s" else 500)

    counts, valid = seconds(pa.array([moment, None], pa.timestamp(unit)), None)

    assert valid.tolist() == [True, False]
    assert counts.tolist() == [-2, 0]


def test_stored_times_with_a_zone_and_stored_dates_are_understood():
    zoned = pa.array([dt.datetime(2025, 1, 1, 12, tzinfo=dt.UTC)], pa.timestamp("us", tz="Asia/Tokyo"))

    assert seconds(zoned, None)[0].tolist() == [seconds_one_by_one("2025-01-01T12:00:00")]
    assert seconds(pa.array([dt.date(2025, 1, 1)]), None)[0].tolist() == [seconds_one_by_one("2025-01-01")]
    assert not seconds(pa.array([1_735_689_600]), None)[1].any()


@pytest.mark.parametrize(
    "cells",
    [
        pa.array([17, None]),
        pa.array([17.0, np.nan]),
        pa.array([Decimal("17"), None]),
        pa.array([b" 17", None]),
        pa.array(["17 ", None], pa.large_string()),
    ],
    ids=["integer", "float", "decimal", "bytes", "text"],
)
def test_an_id_has_one_text_whatever_its_type(cells):
    words, undecodable = as_text(cells)

    assert words.to_pylist() == ["17", ""]
    assert is_filled(words).tolist() == [True, False]
    assert not undecodable.any()


def test_fractional_ids_are_refused_rather_than_rounded():
    with pytest.raises(pa.ArrowInvalid):
        as_text(pa.array([17.5]))


def test_cells_that_are_not_text_are_pointed_out():
    words, undecodable = as_text(pa.array([b"ok", b"\xff", None, "\ufffd".encode()]))

    assert undecodable.tolist() == [False, True, False, False]
    assert words.to_pylist() == ["ok", "", "", "\ufffd"]
