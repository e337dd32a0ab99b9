"""The invitation: one file that a merchant can read, and that says nothing which is not there."""

from __future__ import annotations

import dataclasses

import pytest

from agreement.invitation import Invitation, invitation_text, read_invitation
from pp_model.errors import ConfigError
from tests.support.offers import KEY

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
INVITATION = Invitation(
    platform="market", address="pp.example.org:8443", plan_key=KEY.public.to_text(), ca_certificate=PEM
)


def test_an_invitation_survives_its_file():
    again = read_invitation(invitation_text(INVITATION))
    assert dataclasses.replace(again, ca_certificate="BEGIN CERTIFICATE") == dataclasses.replace(
        INVITATION, ca_certificate="BEGIN CERTIFICATE"
    )
    assert again.ca_certificate.strip() == PEM.strip()


def test_the_file_tells_a_person_what_to_compare():
    assert "compare plan_key" in invitation_text(INVITATION)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"address": "pp.example.org"}, "host:port"),
        ({"address": ":8443"}, "host:port"),
        ({"address": "pp.example.org:0"}, "host:port"),
        ({"address": "pp.example.org:65536"}, "host:port"),
        ({"plan_key": "ed25519:AAAA"}, "plan-signing key"),
        ({"ca_certificate": "nothing"}, "certificate"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_named(change, names):
    with pytest.raises(ConfigError, match=names):
        dataclasses.replace(INVITATION, **change)


@pytest.mark.parametrize("text", ["", "not TOML", 'platform = "market"\n', "\x00"], ids=repr)
def test_a_file_that_is_no_invitation_is_told(text):
    with pytest.raises(ConfigError, match="invitation"):
        read_invitation(text)


def test_a_key_too_many_is_named():
    with pytest.raises(ConfigError, match=r"invitation\.surprise"):
        read_invitation("surprise = 1\n" + invitation_text(INVITATION))


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb"])
def test_a_name_that_would_break_the_file_is_refused(name):
    with pytest.raises(ConfigError, match="leave them out"):
        invitation_text(dataclasses.replace(INVITATION, platform=name))
