"""Settings of all tests."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

settings.register_profile("patient", deadline=None)  # a busy machine is not a fault of the code
settings.load_profile("patient")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test wrote or logged travels between processes as UTF-8, which half a character cannot."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command that a test calls sets the log of the whole process up; the next test has its own."""
    root = logging.getLogger()
    before = root.level, logging.raiseExceptions, sys.excepthook, threading.excepthook
    yield
    for handler in [handler for handler in root.handlers if (handler.name or "").startswith("daemon-")]:
        root.removeHandler(handler)
        handler.close()
    level, logging.raiseExceptions, sys.excepthook, threading.excepthook = before
    root.setLevel(level)  # and not the attribute: loggers remember what they are enabled for
