"""The token and the certificate: in files of their owner's alone, and usable, or nothing is served."""

from __future__ import annotations

import datetime as dt
import stat

import pytest

from client.serving.bearer import open_bearer
from client.serving.run import ServeOptions
from client.serving.tls import read_certificate
from daemons.files import PrivateFileError
from pp_model.errors import ConfigError
from tests.support.superlink import DAY, authority, server_certificate

NOW = dt.datetime.now(dt.UTC)


def test_the_token_is_made_once_readable_by_its_owner_alone(tmp_path):
    path = tmp_path / "secrets" / "serving"
    bearer = open_bearer(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(bearer.token) >= 43
    assert open_bearer(path).token == bearer.token
    assert open_bearer(tmp_path / "secrets" / "other").token != bearer.token


def test_the_token_is_never_shown(tmp_path):
    bearer = open_bearer(tmp_path / "secrets" / "serving")
    assert bearer.token.decode() not in repr(bearer)
    assert bearer.allows(b"Bearer " + bearer.token)
    for other in (
        b"",
        bearer.token,
        b"bearer " + bearer.token,
        b"Bearer " + bearer.token[:-1],
        b"Bearer  " + bearer.token,
    ):
        assert not bearer.allows(other)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_token_that_others_can_read_is_refused(tmp_path, mode):
    path = tmp_path / "secrets" / "serving"
    open_bearer(path)
    path.chmod(mode)
    with pytest.raises(PrivateFileError, match="chmod 600"):
        open_bearer(path)


def test_a_new_token_is_not_put_into_a_folder_of_everybody(tmp_path):
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    with pytest.raises(PrivateFileError, match="chmod 700"):
        open_bearer(folder / "serving")
    assert not (folder / "serving").exists()


@pytest.mark.parametrize("content", [b"", b"short\n", b"x" * 42, b"a b" * 20, b"\xff" * 50])
def test_a_file_that_holds_no_token_is_refused_without_quoting_it(tmp_path, content):
    path = tmp_path / "serving"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="delete it") as raised:
        open_bearer(path)
    assert "short" not in str(raised.value)


def options(**changes):
    given = {
        "http": ("127.0.0.1", 0), "grpc": ("127.0.0.1", 0), "certificate": None, "key": None, "models": None,
        "cutoff": None, "stale": False, "reread_seconds": 60.0, "workers": 1, "waiting": 1, "answer_seconds": 1.0,
    }  # fmt: skip
    return ServeOptions(**{**given, **changes})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "shop.example", "127.0.0.1.example", ""])
@pytest.mark.parametrize("door", ["http", "grpc"])
def test_an_address_that_others_reach_needs_a_certificate(tmp_path, host, door):
    with pytest.raises(ConfigError, match="TLS"):
        options(**{door: (host, 0)})
    options(**{door: (host, 0)}, certificate=tmp_path / "c", key=tmp_path / "k")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_none(host):
    options(http=(host, 0), grpc=None)


def test_a_certificate_without_its_key_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="belong together"):
        options(certificate=tmp_path / "c")


def private_pair(folder, **more):
    certificate, key = server_certificate(folder, authority(), **more)
    key.chmod(0o600)
    return certificate, key


def test_a_pair_that_is_right_is_read(tmp_path):
    certificate, key = private_pair(tmp_path)
    found = read_certificate(certificate, key, now=NOW)
    assert found.certificate == certificate.read_bytes()
    assert "PRIVATE" not in repr(found)


def test_a_key_that_others_can_read_is_refused(tmp_path):
    certificate, key = private_pair(tmp_path)
    key.chmod(0o644)
    with pytest.raises(PrivateFileError, match="chmod 600"):
        read_certificate(certificate, key, now=NOW)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("another key", "not the key of"),
        ("no certificate", "cannot be"),
        ("not there", "cannot be read"),
        ("over", "renew it"),
        ("not yet", "clock"),
    ],
)
def test_a_pair_that_cannot_serve_is_refused_with_what_to_do(tmp_path, how, words):
    times = {"over": {"not_before": -9 * DAY, "not_after": -DAY}, "not yet": {"not_before": DAY, "not_after": 9 * DAY}}
    certificate, key = private_pair(tmp_path, **times.get(how, {}))
    if how == "another key":
        other = tmp_path / "other"
        other.mkdir()
        key = private_pair(other)[1]
    elif how == "no certificate":
        certificate.write_bytes(b"nothing\n")
    elif how == "not there":
        certificate.unlink()
    with pytest.raises(ConfigError, match=words):
        read_certificate(certificate, key, now=NOW)
