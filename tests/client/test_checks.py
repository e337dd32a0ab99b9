"""The doctor's checks of this machine, and what a check that breaks looks like."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import checks
from client.checks import Examination, Finding, Level, findings

DAY = dt.timedelta(days=1)
NOW = dt.datetime.now(dt.UTC)


def test_a_check_that_breaks_is_a_line_without_what_broke_it():
    def breaks(examination: Examination) -> Iterator[Finding]:
        raise RuntimeError("ann.smith@example.org")
        yield

    (found,) = findings("orders", breaks, Examination(config=Path("x"), now=NOW))
    assert found.level is Level.FAULT
    assert "RuntimeError" in found.text
    assert "ann" not in found.text


@pytest.mark.parametrize(
    ("days", "level"), [(-1, Level.FAULT), (3, Level.WARNING), (31, Level.OK)], ids=["over", "soon", "long"]
)
def test_a_certificate_is_told_of_before_it_ends(days, level):
    assert checks.validity("certificate", "it", NOW + days * DAY, now=NOW).level is level


@pytest.mark.parametrize(
    ("free", "level"), [(0.1, Level.FAULT), (1.0, Level.WARNING), (9.0, Level.OK)], ids=["full", "low", "room"]
)
def test_a_full_disk_is_told_of_before_the_ledger_stops(free, level, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=int(free * 2**30))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    (found,) = checks.check_disk(Examination(config=tmp_path / "merchant.toml", now=NOW))
    assert found.level is level


@pytest.mark.parametrize(
    ("needed", "told"), [("flwr>=99", r"flwr >=99 \(installed: 1"), ("no-such-package", r"\(installed: none\)")]
)
def test_a_package_of_another_version_is_named_with_the_command_that_mends_it(needed, told, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: [needed, 'pytest>=99; extra == "dev"'])
    (found,) = checks.check_versions(Examination(config=Path("x"), now=NOW))
    assert found.level is Level.FAULT
    assert re.search(told, found.text)
    assert "pytest" not in found.text
    assert "pip install" in found.text
