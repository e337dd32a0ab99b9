"""Node keys in OpenSSH's formats, with the fingerprint that ssh-keygen prints."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from agreement.node_keys import fingerprint_of, load_private, load_public, new_node_key, private_text, public_text
from pp_model.errors import ConfigError

KEY = new_node_key()


def openssh(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def test_a_key_survives_its_files():
    assert load_private(private_text(KEY)).private_numbers() == KEY.private_numbers()
    assert load_public(public_text(KEY.public_key())).public_numbers() == KEY.public_key().public_numbers()
    assert load_public(public_text(KEY.public_key()) + b" bakery@shop\n").public_numbers() == (
        KEY.public_key().public_numbers()
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
        openssh(ec.generate_private_key(ec.SECP256R1())),
        openssh(ed25519.Ed25519PrivateKey.generate()),
    ],
    ids=["nothing", "damaged", "another curve", "another kind"],
)
def test_another_private_key_is_told_what_to_do(data):
    with pytest.raises(ConfigError, match="pp-client init"):
        load_private(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ecdsa-sha2-nistp384 AAAA",
        b"\xff\xfe",
        public_text(ec.generate_private_key(ec.SECP256R1()).public_key()),
        ed25519.Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH),
        private_text(KEY),
    ],
    ids=["nothing", "damaged", "no text", "another curve", "another kind", "the private half"],
)
def test_what_is_no_public_key_of_a_merchant_is_told(data):
    with pytest.raises(ConfigError, match="not a merchant's public key") as caught:
        load_public(data)
    assert "PRIVATE" not in str(caught.value)


def test_two_keys_have_two_fingerprints_of_43_characters():
    prints = {fingerprint_of(KEY.public_key()), fingerprint_of(new_node_key().public_key())}
    assert len(prints) == 2
    assert {len(text) for text in prints} == {len("SHA256:") + 43}


needs_ssh_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


@needs_ssh_keygen
@pytest.mark.parametrize(("passphrase", "usable"), [("", True), ("secret", False)])
def test_a_key_that_ssh_keygen_made_is_usable_unless_it_has_a_passphrase(tmp_path, passphrase, usable):
    file = tmp_path / "node.key"
    command = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", passphrase, "-f", str(file)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    if usable:
        assert fingerprint_of(load_private(file.read_bytes()).public_key()) == fingerprint_of(
            load_public(file.with_suffix(".key.pub").read_bytes())
        )
    else:
        with pytest.raises(ConfigError, match="without a passphrase"):
            load_private(file.read_bytes())


@needs_ssh_keygen
def test_the_fingerprint_is_the_one_that_ssh_keygen_prints(tmp_path):
    file = tmp_path / "node.pub"
    file.write_bytes(public_text(KEY.public_key()) + b"\n")
    shown = subprocess.run(["ssh-keygen", "-lf", str(file)], capture_output=True, text=True, check=True).stdout
    assert shown.split()[1] == fingerprint_of(KEY.public_key())
