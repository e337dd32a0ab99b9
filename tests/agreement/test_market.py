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

from agreement.market import Market, read_market, sign_market, verify_market
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
DATA = sign_market(MARKET, KEY)


def test_quantiles_come_back_as_they_were_signed():
    assert verify_market(DATA, KEY.public) == MARKET


def test_whole_numbers_are_signed_as_the_numbers_that_they_are():
    whole = dataclasses.replace(MARKET, quantiles={"spend_cents": ((0.5, 2000),)})
    assert verify_market(sign_market(whole, KEY), KEY.public) == whole


def test_every_flipped_bit_is_refused():
    for flip in bit_flips(DATA, count=1_000):
        with pytest.raises(SignatureError):
            verify_market(flip, KEY.public)


def test_another_signer_and_a_signed_offer_are_refused():
    for data in (sign_market(MARKET, SigningKey.generate()), signed(tiny_offer())):
        with pytest.raises(SignatureError, match="not a market signed"):
            verify_market(data, KEY.public)


def test_quantiles_are_nothing_else_that_the_platform_signs():
    with pytest.raises(SignatureError, match="not an offer signed"):
        KEY.public.verify("offer", DATA)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": "1"},
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
    ],
    ids=str,
)
def test_signed_values_that_are_no_quantiles_are_refused_and_no_fault_of_the_program(change):
    document = {"version": 1, **to_mapping(MARKET), **change}
    with pytest.raises(SignatureError):
        verify_market(KEY.sign("market", document), KEY.public)


@pytest.mark.parametrize("name", ["epsilon", "delta", "mechanism", "made", "quantiles", "horizon_days"])
def test_nothing_may_be_left_out(name):
    document = {"version": 1, **to_mapping(MARKET)}
    del document[name]
    with pytest.raises(SignatureError, match="cannot be used"):
        verify_market(KEY.sign("market", document), KEY.public)


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
    market = dataclasses.replace(MARKET, quantiles={"spend_cents": rising})
    assert verify_market(sign_market(market, KEY), KEY.public) == market


def test_a_kept_file_is_checked_again_when_it_is_read(tmp_path):
    path = tmp_path / "market.json"
    assert read_market(path, KEY.public) is None
    path.write_bytes(DATA)
    assert read_market(path, KEY.public) == MARKET
    path.write_bytes(DATA.replace(b"2000.0", b"9999.0"))
    with pytest.raises(SignatureError, match=r"market\.json: .* Remove the file, and run pp-client pull"):
        read_market(path, KEY.public)
