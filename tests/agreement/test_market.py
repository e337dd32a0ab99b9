"""Checklist: D38, D56.

Quantiles of the federation: signed, with what they cost, and nothing that is no quantile.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agreement.market import (
    UNDATED,
    Market,
    Statement,
    check_later,
    read_market,
    read_statement,
    sign_statement,
    verify_statement,
)
from agreement.signing import SignatureError, SigningKey
from pp_model.config import to_mapping
from pp_model.errors import ConfigError
from tests.support.offers import KEY, bit_flips, signed, tiny_offer

MARKET = Market(
    horizon_days=60,
    epsilon=0.8,
    delta=1e-6,
    mechanism="Noisy counts in public bins, Gaussian mechanism, one release.",
    made=dt.date(2026, 5, 1),
    quantiles={"spend_cents": ((0.1, 500.0), (0.5, 2000.0), (0.9, 9000.0)), "orders": ((0.5, 1.0),)},
)
ISSUED = dt.datetime(2026, 5, 2, 12, 30, 1, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)


def stated(market: Market | None, *, later: int = 0) -> Statement:
    return Statement(issued=ISSUED + later * SECOND, market=market)


DATA = sign_statement(stated(MARKET), KEY)
WITHDRAWN = sign_statement(stated(None), KEY)
# As an earlier version of this program signed them: without a time.
VERSION_1 = KEY.sign("market", {"version": 1, **to_mapping(MARKET)})


def test_quantiles_come_back_as_they_were_signed():
    assert verify_statement(DATA, KEY.public) == stated(MARKET)


def test_a_withdrawal_comes_back_as_one():
    assert verify_statement(WITHDRAWN, KEY.public) == stated(None)


def test_quantiles_that_an_earlier_version_signed_are_read_as_undated():
    assert verify_statement(VERSION_1, KEY.public) == Statement(issued=UNDATED, market=MARKET)


def test_whole_numbers_are_signed_as_the_numbers_that_they_are():
    whole = stated(dataclasses.replace(MARKET, quantiles={"spend_cents": ((0.5, 2000),)}))
    assert verify_statement(sign_statement(whole, KEY), KEY.public) == whole


@pytest.mark.parametrize("data", [DATA, WITHDRAWN], ids=["quantiles", "withdrawal"])
def test_every_flipped_bit_is_refused(data):
    for flip in bit_flips(data, count=1_000):
        with pytest.raises(SignatureError):
            verify_statement(flip, KEY.public)


LATER, OTHER = dataclasses.replace(MARKET, epsilon=0.5), dataclasses.replace(MARKET, epsilon=0.6)


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (stated(None, later=1), stated(MARKET)),
        (stated(LATER, later=1), stated(None)),
        (stated(LATER, later=1), stated(MARKET)),
        (stated(MARKET), stated(MARKET)),
        (stated(None), stated(None)),
        (stated(MARKET), Statement(issued=UNDATED, market=LATER)),
        (Statement(issued=UNDATED, market=MARKET), Statement(issued=UNDATED, market=LATER)),
    ],
    ids=["withdrawn", "published again", "replaced", "the same", "still none", "dated at last", "both undated"],
)
def test_a_later_statement_takes_the_place_of_an_earlier_one(found, kept):
    check_later(found, kept)


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (stated(MARKET), stated(None, later=1)),
        (stated(MARKET), stated(LATER, later=1)),
        (stated(None), stated(LATER, later=1)),
        (stated(MARKET), stated(None)),
        (stated(LATER), stated(OTHER)),
        (Statement(issued=UNDATED, market=MARKET), stated(None)),
    ],
    ids=["after its withdrawal", "after another", "an old withdrawal", "same time", "two of a time", "undated"],
)
def test_an_earlier_statement_never_takes_the_place_of_a_later_one(found, kept):
    with pytest.raises(SignatureError, match="an old one is played again"):
        check_later(found, kept)


@pytest.mark.parametrize(
    "change",
    [
        {"issued": "2026-05-02T12:30:01"},
        {"issued": "2026-05-02T12:30:01.5+00:00"},
        {"issued": "2026-05-02T14:30:01+02:00"},
        {"issued": "2026-05-02 12:30:01+00:00"},
        {"issued": "tomorrow"},
        {"issued": 1},
        {"issued": None},
        {"market": False},
        {"market": []},
        {"market": {}},
        {"version": 1},
        {"version": True},
        {"surprise": 1},
    ],
    ids=str,
)
def test_a_signed_statement_in_another_form_is_refused(change):
    document = {"version": 2, "issued": ISSUED.isoformat(), "market": None, **change}
    with pytest.raises(SignatureError):
        verify_statement(KEY.sign("market", document), KEY.public)


@pytest.mark.parametrize("name", ["issued", "market"])
def test_a_statement_has_both_its_parts(name):
    document = {"version": 2, "issued": ISSUED.isoformat(), "market": None}
    del document[name]
    with pytest.raises(SignatureError, match="cannot be used"):
        verify_statement(KEY.sign("market", document), KEY.public)


def test_another_signer_and_a_signed_offer_are_refused():
    for data in (sign_statement(stated(MARKET), SigningKey.generate()), signed(tiny_offer())):
        with pytest.raises(SignatureError, match="not a market signed"):
            verify_statement(data, KEY.public)


def test_quantiles_are_nothing_else_that_the_platform_signs():
    with pytest.raises(SignatureError, match="not an offer signed"):
        KEY.public.verify("offer", DATA)


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"horizon_days": "60"},
        {"horizon_days": 60.0},
        {"epsilon": "0.8"},
        {"epsilon": 0},
        {"delta": 2},
        {"made": "today"},
        {"quantiles": {"spend_cents": [[0.5]]}},
        {"quantiles": {"spend_cents": [[0.5, 1.0, 2.0]]}},
        {"quantiles": {"spend_cents": [0.5, 1.0]}},
        {"quantiles": []},
        {"quantiles": {"spend_cents": [[0.5, 1]]}},  # a number in another form than it is signed in
    ],
    ids=str,
)
def test_signed_values_that_are_no_quantiles_are_refused_and_no_fault_of_the_program(change):
    market = {**to_mapping(MARKET), **change}
    documents = ({"version": 1, **market}, {"version": 2, "issued": ISSUED.isoformat(), "market": market})
    for document in documents:
        with pytest.raises(SignatureError):
            verify_statement(KEY.sign("market", document), KEY.public)


@pytest.mark.parametrize("version", [0, 3, "1", 1.0, None])
def test_a_statement_of_another_version_is_refused_with_what_to_do(version):
    document = {"version": version, **to_mapping(MARKET)}
    with pytest.raises(SignatureError, match="update it"):
        verify_statement(KEY.sign("market", document), KEY.public)


@pytest.mark.parametrize("name", ["epsilon", "delta", "mechanism", "made", "quantiles", "horizon_days"])
def test_nothing_may_be_left_out(name):
    market = to_mapping(MARKET)
    del market[name]
    document = {"version": 2, "issued": ISSUED.isoformat(), "market": market}
    with pytest.raises(SignatureError, match="cannot be used"):
        verify_statement(KEY.sign("market", document), KEY.public)


WRONG = [
    *[{"epsilon": value} for value in (0.0, -1.0, math.inf, math.nan, 100.5)],
    *[{"delta": value} for value in (0.0, 1.0, -1e-6, math.nan, math.inf)],
    *[{"mechanism": text} for text in ("", "DP", "x" * 60, " " * 60, "a b\n" * 10, "word " * 300)],
    *[{"horizon_days": days} for days in (0, -1, 3661)],
    *[{"quantiles": {name: ((0.5, 1.0),)}} for name in ("", "Spend", "spend-cents", "1st", "a" * 41, "a\n")],
    {"quantiles": {}},
    {"quantiles": {f"n{number}": ((0.5, 1.0),) for number in range(33)}},
    *[
        {"quantiles": {"spend_cents": points}}
        for points in (
            (),
            tuple((number / 101, 0.0) for number in range(1, 101)),
            ((0.0, 1.0),),
            ((1.0, 1.0),),
            ((math.nan, 1.0),),
            ((0.5, math.nan),),
            ((0.5, math.inf),),
            ((0.5, 2e12),),
            ((0.5, 1.0), (0.5, 2.0)),
            ((0.6, 1.0), (0.5, 2.0)),
            ((0.4, 2.0), (0.5, 1.0)),
        )
    ],
]


@pytest.mark.parametrize("change", WRONG, ids=lambda change: str(change)[:60])
def test_what_is_no_statement_or_no_quantile_is_never_signed(change):
    with pytest.raises(ConfigError, match=r"market\."):
        dataclasses.replace(MARKET, **change)


@given(
    st.lists(
        st.tuples(st.floats(0.001, 0.999), st.floats(-1e12, 1e12)), min_size=1, max_size=9, unique_by=lambda p: p[0]
    )
)
def test_whatever_rises_is_a_quantile_and_comes_back_to_the_last_bit(points):
    rising = tuple(zip(sorted(share for share, _ in points), sorted(value for _, value in points), strict=True))
    statement = stated(dataclasses.replace(MARKET, quantiles={"spend_cents": rising}))
    assert verify_statement(sign_statement(statement, KEY), KEY.public) == statement


def test_a_kept_file_is_checked_again_when_it_is_read(tmp_path):
    path = tmp_path / "market.json"
    assert read_market(path, KEY.public) is read_statement(path, KEY.public) is None
    path.write_bytes(DATA)
    assert read_market(path, KEY.public) == MARKET
    path.write_bytes(WITHDRAWN)
    assert read_market(path, KEY.public) is None
    assert read_statement(path, KEY.public) == stated(None)
    path.write_bytes(DATA.replace(b"2000.0", b"9999.0"))
    with pytest.raises(SignatureError, match=r"market\.json: .* Remove the file, and run pp-client pull"):
        read_market(path, KEY.public)
