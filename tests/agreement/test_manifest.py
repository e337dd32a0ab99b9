"""Manifests of models: which file, which card, which plan, signed as nothing else than that."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest

from agreement.manifest import ModelManifest, check_file, sign_manifest, verify_manifest
from agreement.signing import SignatureError, SigningKey
from pp_model.config import to_mapping
from tests.support.offers import KEY, bit_flips, signed, tiny_offer

MANIFEST = ModelManifest(
    platform="market", model_id=3, sha256="a" * 64, card_sha256="b" * 64, plan_fingerprint="c" * 64, chain_head="d" * 64
)
DATA = sign_manifest(MANIFEST, KEY)


def test_a_manifest_comes_back_as_it_was_signed():
    assert verify_manifest(DATA, KEY.public) == MANIFEST


def test_every_flipped_bit_is_refused():
    for flip in bit_flips(DATA, count=1_000):
        with pytest.raises(SignatureError):
            verify_manifest(flip, KEY.public)


def test_another_signer_and_a_signed_offer_are_refused():
    for data in (sign_manifest(MANIFEST, SigningKey.generate()), signed(tiny_offer())):
        with pytest.raises(SignatureError, match="not a model signed"):
            verify_manifest(data, KEY.public)


@pytest.mark.parametrize("change", [{"version": 2}, {"model_id": "3"}, {"surprise": 1}], ids=str)
def test_a_signed_manifest_of_another_version_asks_for_an_update(change):
    data = KEY.sign("model", {**to_mapping(MANIFEST), **change})
    with pytest.raises(SignatureError, match="update the program"):
        verify_manifest(data, KEY.public)


def test_a_file_is_the_one_that_was_signed_or_it_is_none():
    data = b"model" * 100
    manifest = dataclasses.replace(MANIFEST, sha256=hashlib.sha256(data).hexdigest())
    assert check_file(data, manifest.sha256, what="model") == data
    for other in (b"", data[:-1], *bit_flips(data, count=100)):
        with pytest.raises(SignatureError, match="fetch it again"):
            check_file(other, manifest.sha256, what="model")
