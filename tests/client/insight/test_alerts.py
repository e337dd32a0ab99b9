"""Alerts: to the place that was named, signed, and never taken for delivered when they were not."""

from __future__ import annotations

import hashlib
import hmac
import json
import stat
from pathlib import Path

import pytest

from client.insight.alerts import Alert, AlertError, send, signature
from daemons.files import PrivateFileError, write_private
from pp_model.errors import ConfigError

BODY = {"id": "1", "rule": "Keep the best", "customers": 3}


def test_a_file_gets_one_line_an_alert_and_is_its_owners_alone(tmp_path):
    alert = Alert(file="alerts.jsonl")
    for number in range(3):
        send(alert, {**BODY, "id": str(number)}, home=tmp_path)
    path = tmp_path / "alerts.jsonl"
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["0", "1", "2"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_others_can_read_gets_nothing(tmp_path):
    path = tmp_path / "alerts.jsonl"
    path.write_text("")
    path.chmod(0o644)
    with pytest.raises(PrivateFileError, match="chmod 600"):
        send(Alert(file="alerts.jsonl"), BODY, home=tmp_path)
    assert path.read_text() == ""


def test_a_file_that_is_a_link_or_in_no_folder_is_an_alert_that_failed(tmp_path):
    (tmp_path / "alerts.jsonl").symlink_to(tmp_path / "elsewhere")
    for name in ("alerts.jsonl", "missing/alerts.jsonl"):
        with pytest.raises(AlertError, match="cannot be written"):
            send(Alert(file=name), BODY, home=tmp_path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "both or neither"),
        ({"file": "a", "webhook": "https://example.org/hook", "token_file": "k"}, "both or neither"),
        ({"file": "a", "token_file": "k"}, "belong to a webhook"),
        ({"webhook": "https://example.org/hook"}, "missing key alert.token_file"),
        ({"webhook": "http://example.org/hook", "token_file": "k"}, "'http'; allowed: https"),
        ({"webhook": "http://127.0.0.1.example.org/hook", "token_file": "k"}, "'http'; allowed: https"),
        ({"webhook": "ftp://127.0.0.1/hook", "token_file": "k"}, "'ftp'; allowed: https"),
        ({"webhook": "file:///etc/passwd", "token_file": "k"}, "not an address"),
        ({"webhook": "https://ann:secret@example.org/", "token_file": "k"}, "without name or password"),
        ({"webhook": "https://", "token_file": "k"}, "not an address"),
        ({"webhook": "https://example.org:99999/", "token_file": "k"}, "not an address"),
        ({"webhook": "https://[::1/hook", "token_file": "k"}, "not an address"),
    ],
)
def test_a_wrong_address_is_refused_before_anything_is_sent(fields, said):
    with pytest.raises(ConfigError, match=said) as error:
        Alert(**fields)
    assert "secret@" not in str(error.value)


@pytest.mark.parametrize(
    "address", ["https://example.org/hook", "http://127.0.0.1:80/", "http://[::1]:80/", "http://localhost/x"]
)
def test_https_anywhere_and_http_on_this_machine_are_allowed(address):
    assert Alert(webhook=address, token_file="k").webhook == address


def test_the_signature_can_be_checked_by_who_has_the_key():
    said = signature(b"0123456789abcdef", b'{"a":1}', at=1_700_000_000)
    expected = hmac.new(b"0123456789abcdef", b'1700000000.{"a":1}', hashlib.sha256).hexdigest()
    assert said == f"t=1700000000,v1={expected}"
    assert signature(b"another key of it", b'{"a":1}', at=1_700_000_000) != said


@pytest.mark.parametrize("fault", ["missing", "open to others", "too short"])
def test_without_a_good_key_no_request_is_made(tmp_path: Path, fault: str):
    path = tmp_path / "key"
    if fault != "missing":
        write_private(path, b"short" if fault == "too short" else b"0123456789abcdef")
    if fault == "open to others":
        path.chmod(0o640)
    alert = Alert(webhook="http://127.0.0.1:9/hook", token_file="key")  # nothing listens there: it would take seconds
    with pytest.raises((ConfigError, PrivateFileError)):
        send(alert, BODY, home=tmp_path)
