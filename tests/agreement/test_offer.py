"""Offers of plans: what is signed is the plan to its last bit, for whom, from when until when, in which order."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agreement.offer import EVERYBODY, OfferCode, OfferError, check_dates, check_offer, verify_offer
from agreement.signing import SigningKey
from pp_model.errors import ConfigError
from tests.support.offers import DAY, KEY, NOON, OTHERS, US, bit_flips, signed, tiny_offer
from tests.support.plans import tiny_dp, tiny_plan

OFFER = tiny_offer(serial=5, audience=(US, OTHERS))
DATA = signed(OFFER)


def code_of(data: bytes) -> OfferCode | None:
    try:
        verify_offer(data, KEY.public)
    except OfferError as error:
        return error.code
    return None


def judged(offer=OFFER, *, now=NOON, addressee=US, newest=0) -> OfferCode | None:
    try:
        check_offer(offer, now=now, addressee=addressee, newest_serial=newest)
    except OfferError as error:
        return error.code
    return None


def test_an_offer_comes_back_as_it_was_signed():
    assert verify_offer(DATA, KEY.public) == OFFER
    assert verify_offer(DATA, KEY.public).id == OFFER.id
    assert verify_offer(DATA, KEY.public).plan.fingerprint == OFFER.plan.fingerprint


def test_a_thousand_flipped_bits_are_refused_a_thousand_times():
    flips = list(bit_flips(DATA, count=1_000))
    assert len(flips) == 1_000
    assert [code_of(flip) for flip in flips] == [OfferCode.SIGNATURE] * 1_000


def test_another_platforms_offer_is_refused():
    assert code_of(signed(OFFER, SigningKey.generate())) is OfferCode.SIGNATURE


def test_the_id_changes_with_everything_that_is_signed():
    others = [
        tiny_offer(serial=6, audience=(US, OTHERS)),
        tiny_offer(serial=5, audience=(US,)),
        tiny_offer(serial=5, audience=(US, OTHERS), platform="other"),
        tiny_offer(serial=5, audience=(US, OTHERS), expires=NOON + 11 * DAY),
        tiny_offer(serial=5, audience=(US, OTHERS), plan={"rounds": 4}),
        tiny_offer(serial=5, audience=(US, OTHERS), plan={"dp": tiny_dp(noise_multiplier=0.9999)}),
    ]
    assert len({OFFER.id, *(other.id for other in others)}) == len(others) + 1


@pytest.mark.parametrize("version", [0, 2, "1", None, True], ids=str)
def test_a_signed_offer_of_another_version_is_refused_as_that(version):
    assert code_of(KEY.sign("offer", {**OFFER.document, "version": version})) is OfferCode.VERSION


@pytest.mark.parametrize(
    "change",
    [
        {"plan": {**OFFER.document["plan"], "version": 99}},
        {"plan": {**OFFER.document["plan"], "surprise": 1}},
        {"plan": {**OFFER.document["plan"], "rounds": 0}},
        {"plan": "text"},
        {"surprise": 1},
        {"serial": "5"},
        {"serial": True},
        {"serial": 0},
        {"audience": []},
        {"audience": [1]},
        {"audience": "SHA256:us"},
        {"issued": "yesterday"},
        {"expires": OFFER.document["not_before"]},
        {"not_before": "2026-05-01T12:00:00Z"},
        {"not_before": "2026-05-01T14:00:00+02:00"},
        {"not_before": "2026-05-01T12:00:00"},
        {"platform": ""},
    ],
    ids=str,
)
def test_a_signed_document_that_this_program_would_not_write_is_refused(change):
    assert code_of(KEY.sign("offer", {**OFFER.document, **change})) is OfferCode.VERSION


def test_a_signed_document_without_one_of_its_keys_is_refused():
    for name in OFFER.document:
        document = {key: value for key, value in OFFER.document.items() if key != name}
        assert code_of(KEY.sign("offer", document)) is OfferCode.VERSION


def test_a_plan_is_read_to_the_last_digit():
    plan = tiny_plan(dp=tiny_dp(noise_multiplier=1.0 + 2**-52))
    offer = tiny_offer(plan={"dp": plan.dp})
    assert verify_offer(signed(offer), KEY.public).plan.dp.noise_multiplier == 1.0 + 2**-52


@given(st.integers(-20, 20), st.integers(0, 86_399))
def test_an_offer_is_valid_from_its_first_second_and_before_its_last(days, seconds):
    now = NOON + dt.timedelta(days=days, seconds=seconds)
    expected = OfferCode.NOT_YET_VALID if now < NOON else OfferCode.EXPIRED if now >= NOON + 10 * DAY else None
    assert judged(now=now) is expected


def test_the_ends_of_the_validity_are_exact():
    second = dt.timedelta(seconds=1)
    assert judged(now=NOON - second) is OfferCode.NOT_YET_VALID
    assert judged(now=NOON) is None
    assert judged(now=NOON + 10 * DAY - second) is None
    assert judged(now=NOON + 10 * DAY) is OfferCode.EXPIRED
    with pytest.raises(OfferError, match="set the clock"):
        check_dates(OFFER, now=NOON - 365 * DAY)


def test_only_the_audience_is_addressed():
    assert judged(addressee="SHA256:stranger") is OfferCode.ADDRESSEE
    assert judged(tiny_offer(audience=EVERYBODY), addressee="SHA256:stranger") is None
    assert judged(addressee="*") is OfferCode.ADDRESSEE


@pytest.mark.parametrize(("newest", "code"), [(4, None), (5, OfferCode.REPLAYED), (6, OfferCode.REPLAYED)])
def test_an_offer_that_is_not_the_newest_of_its_plan_is_a_replay(newest, code):
    assert judged(newest=newest) is code


@pytest.mark.parametrize(
    "change",
    [
        {"issued": NOON.replace(tzinfo=None)},
        {"issued": NOON.astimezone(dt.timezone(dt.timedelta(hours=2)))},
        {"issued": NOON.replace(microsecond=1)},
        {"expires": NOON},
        {"serial": 0},
        {"audience": ()},
        {"audience": ("",)},
        {"platform": ""},
        {"platform": "x" * 81},
    ],
    ids=str,
)
def test_an_offer_that_makes_no_sense_cannot_be_made(change):
    with pytest.raises((ConfigError, TypeError), match="offer"):
        tiny_offer(**change)


def test_no_message_quotes_more_than_a_little_of_a_hostile_document():
    data = KEY.sign("offer", {**OFFER.document, "version": "x" * 10_000})
    with pytest.raises(OfferError) as caught:
        verify_offer(data, KEY.public)
    assert len(str(caught.value)) < 300
    assert json.loads(data)["signed"] == "offer"
