"""Private files: whole or not there, for their owner alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from daemons.files import PrivateFileError, check_private, write_private


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_private_file_is_its_owners_alone_under_any_umask(tmp_path, open_umask):
    write_private(tmp_path / "key", b"secret")
    assert (tmp_path / "key").read_bytes() == b"secret"
    assert mode(tmp_path / "key") == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / "key"]
    check_private(tmp_path / "key")


def test_a_file_that_is_there_is_left_alone_unless_told(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"old")
    path.chmod(0o644)
    with pytest.raises(PrivateFileError, match=r"key exists and was left as it is\. Move it away"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old"
    write_private(path, b"new", replace=True)
    assert (path.read_bytes(), mode(path)) == (b"new", 0o600)
    assert list(tmp_path.iterdir()) == [tmp_path / "key"]


def test_a_write_that_fails_midway_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "key"
    write_private(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(path, b"new", replace=True)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "key"]


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    names_at_sync = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        names_at_sync.append((tmp_path / "key").exists())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write_private(tmp_path / "key", b"secret")
    assert names_at_sync == [False, True]  # the file's bytes, then the folder's entry


@pytest.mark.parametrize("right", [0o640, 0o604, 0o620, 0o601, 0o777], ids=oct)
def test_a_file_open_to_others_is_refused_with_the_remedy(tmp_path, right):
    path = tmp_path / "key"
    write_private(path, b"secret")
    path.chmod(right)
    with pytest.raises(PrivateFileError, match=rf"open to others \(mode {right:03o}; allowed: 600\). Run: chmod 600 "):
        check_private(path)


def test_a_folder_open_to_others_is_refused_with_its_own_remedy(tmp_path):
    (tmp_path / "keys").mkdir(mode=0o755)
    with pytest.raises(PrivateFileError, match="chmod 700"):
        check_private(tmp_path / "keys")


def test_a_missing_file_is_an_error_with_advice(tmp_path):
    with pytest.raises(PrivateFileError, match=r"does not exist\. Check the path"):
        check_private(tmp_path / "key")
