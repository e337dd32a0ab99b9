"""Signed documents: one text each, one signer, one kind; every changed bit is noticed."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agreement.signing import MAX_BYTES, SignatureError, SigningKey, VerifyKey, canonical_json
from pp_model.errors import ConfigError
from tests.support.offers import KEY, bit_flips

DOCUMENT = {"b": [1, 2.5, "é"], "a": {"x": None, "y": True}}
DATA = KEY.sign("offer", DOCUMENT)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def refused(data: bytes, *, kind: str = "offer", key: VerifyKey = KEY.public) -> bool:
    try:
        key.verify(kind, data)
    except SignatureError:
        return True
    return False


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_what_was_signed_is_what_is_read(document):
    assert KEY.public.verify("offer", KEY.sign("offer", document)) == document


def test_every_single_flipped_bit_is_noticed():
    flips = list(bit_flips(DATA, count=8 * len(DATA)))
    assert len(flips) == 8 * len(DATA) > 1_000
    assert [flip for flip in flips if not refused(flip)] == []


def test_another_kind_or_another_signer_is_refused():
    assert refused(DATA, kind="model")
    assert refused(DATA, key=SigningKey.generate().public)
    assert not refused(DATA)


def test_a_signature_for_one_kind_cannot_be_shown_as_one_for_another():
    relabelled = canonical_json({**json.loads(DATA), "signed": "model"}).encode()
    assert refused(relabelled, kind="model")


def respaced(data: bytes) -> bytes:
    return json.dumps(json.loads(data)).encode()


def reordered(data: bytes) -> bytes:
    table = json.loads(data)
    return json.dumps(dict(reversed(table.items())), separators=(",", ":")).encode()


def unescaped(data: bytes) -> bytes:
    return data.replace(b"\\u00e9", "é".encode())


def with_a_key_twice(data: bytes) -> bytes:
    return data.replace(b'{"document"', b'{"signed":"model","document"')


def with_spare_bits_of_base64(data: bytes) -> bytes:
    signature = json.loads(data)["signature"]
    assert signature.endswith("==")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = letters[letters.index(signature[-3]) ^ 1]
    assert base64.b64decode(signature[:-3] + other + "==") == base64.b64decode(signature)
    return data.replace(signature.encode(), (signature[:-3] + other + "==").encode())


@pytest.mark.parametrize("change", [respaced, reordered, unescaped, with_a_key_twice, with_spare_bits_of_base64])
def test_the_same_document_in_another_text_is_refused(change):
    changed = change(DATA)
    assert changed != DATA
    assert refused(changed)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"null", b"[]", b'"text"', b"\xff", b"[" * 100_000, b" " * (MAX_BYTES + 1), b'{"document":1}']
)
def test_what_is_no_signed_document_is_refused_and_nothing_else_is_raised(data):
    assert refused(data)


def test_a_document_that_is_too_large_is_refused_although_it_is_signed():
    data = KEY.sign("offer", {"a": "x" * MAX_BYTES})
    assert refused(data)


def test_canonical_text_has_sorted_keys_no_spaces_and_no_nan():
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"\\u00e9","b":1}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})


def test_keys_survive_their_files():
    again = SigningKey.from_pem(KEY.to_pem())
    assert not refused(again.sign("offer", DOCUMENT))
    assert VerifyKey.from_text(KEY.public.to_text()).verify("offer", DATA) == DOCUMENT
    assert KEY.public.to_text().startswith("ed25519:")


@pytest.mark.parametrize(
    "text", ["", "ed25519:", "ed25519:AAAA", "rsa:AAAA", "ed25519:" + "é" * 44, "ed25519:!" + "A" * 43]
)
def test_a_text_that_is_no_key_is_told(text):
    with pytest.raises(ConfigError, match="plan-signing key"):
        VerifyKey.from_text(text)


@pytest.mark.parametrize("data", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_is_no_signing_key_is_told(data):
    with pytest.raises(ConfigError, match="Ed25519"):
        SigningKey.from_pem(data)


def test_the_message_says_what_to_do_and_quotes_nothing_of_the_document():
    with pytest.raises(SignatureError, match="ask the platform for it again") as caught:
        KEY.public.verify("offer", DATA.replace(b"2.5", b"2.6"))
    assert "2.6" not in str(caught.value)
