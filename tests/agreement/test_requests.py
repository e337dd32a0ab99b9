"""Signed requests: who asked, for what, with which body, and when; nothing of it can be changed or used later."""

from __future__ import annotations

import datetime as dt

import pytest

from agreement.node_keys import fingerprint_of, new_node_key, public_text
from agreement.requests import (
    KEY_HEADER,
    MOST_SECONDS_APART,
    SIGNATURE_HEADER,
    TIME_HEADER,
    VERSION_HEADER,
    RequestError,
    sign_request,
    stated_version,
    verify_request,
)
from tests.support.offers import NOON

KEY = new_node_key()
REQUEST = {"method": "POST", "path": "/pp/v1/decisions?x=1", "body": b'{"offer":"a"}'}
HEADERS = sign_request(KEY, now=NOON, **REQUEST)


def accepted(headers=HEADERS, *, now=NOON, **changes) -> bool:
    try:
        verify_request(headers, now=now, **{**REQUEST, **changes})
    except RequestError:
        return False
    return True


def test_a_request_names_the_key_that_signed_it():
    assert verify_request(HEADERS, now=NOON, **REQUEST) == fingerprint_of(KEY.public_key())


@pytest.mark.parametrize(
    "change",
    [
        {"method": "GET"},
        {"path": "/pp/v1/decisions"},
        {"path": "/pp/v1/decisions?x=2"},
        {"body": b'{"offer":"b"}'},
        {"body": b""},
        {"method": "POST\n/pp", "path": "/v1/decisions?x=1"},
    ],
    ids=str,
)
def test_a_signature_is_good_for_one_request_only(change):
    assert accepted()
    assert not accepted(**change)


@pytest.mark.parametrize("header", [KEY_HEADER, TIME_HEADER, SIGNATURE_HEADER])
def test_every_header_is_needed(header):
    assert not accepted({name: value for name, value in HEADERS.items() if name != header})


@pytest.mark.parametrize("header", [KEY_HEADER, TIME_HEADER, SIGNATURE_HEADER])
@pytest.mark.parametrize("value", ["", "x", "é", "A" * 10_000, "\x00"])
def test_a_header_of_anything_is_a_refusal_and_no_crash(header, value):
    assert not accepted({**HEADERS, header: value})


def test_another_key_cannot_speak_for_this_one():
    assert not accepted({**HEADERS, KEY_HEADER: public_text(new_node_key().public_key()).decode()})


@pytest.mark.parametrize("seconds", [-MOST_SECONDS_APART, 0, MOST_SECONDS_APART])
def test_a_request_is_taken_within_a_minute(seconds):
    assert accepted(now=NOON + dt.timedelta(seconds=seconds))


@pytest.mark.parametrize("seconds", [-MOST_SECONDS_APART - 1, MOST_SECONDS_APART + 1, 86_400 * 365])
def test_a_request_of_another_time_is_refused_with_the_remedy(seconds):
    with pytest.raises(RequestError, match="set the clock"):
        verify_request(HEADERS, now=NOON + dt.timedelta(seconds=seconds), **REQUEST)


def test_a_time_that_was_changed_to_now_is_no_longer_signed():
    later = NOON + dt.timedelta(hours=1)
    assert not accepted({**HEADERS, TIME_HEADER: later.isoformat(timespec="seconds")}, now=later)


def test_a_time_without_a_zone_is_refused():
    assert not accepted({**HEADERS, TIME_HEADER: "2026-05-01T12:00:00"})


def test_a_flipped_bit_of_the_body_is_refused():
    body = bytearray(REQUEST["body"])
    for place in range(8 * len(body)):
        flipped = bytearray(body)
        flipped[place // 8] ^= 1 << place % 8
        assert not accepted(body=bytes(flipped))


@pytest.mark.parametrize("version", ["0.1.0", "1.2.3rc1", "2026.5+local-1", "unknown"])
def test_a_program_may_say_its_version(version):
    assert stated_version({VERSION_HEADER: version}) == version


@pytest.mark.parametrize(
    "version", ["", " 1.0", "1.0 ", "1.0\n", "x" * 33, "<b>1</b>", "é", "-1", "1;2", "\x1b[31m", "c1@example.org"]
)
def test_a_version_of_another_form_is_none(version):
    assert stated_version({VERSION_HEADER: version}) == ""
    assert stated_version({}) == ""
