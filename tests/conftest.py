"""Settings of all tests."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Generator, Iterator
from typing import Any

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


@pytest.fixture(autouse=True, scope="session")
def at_the_start() -> tuple[Any, ...]:
    """How logging was before any test; before this test would be too late: its module may have called a command."""
    return logging.getLogger().level, logging.raiseExceptions, sys.excepthook, threading.excepthook


@pytest.fixture(autouse=True)
def logging_as_before(at_the_start: tuple[Any, ...]) -> Iterator[None]:
    """A command that a test calls sets the log of the whole process up; the next test has its own."""
    yield
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if (handler.name or "").startswith("daemon-")]:
        root.removeHandler(handler)
        handler.close()
    level, logging.raiseExceptions, sys.excepthook, threading.excepthook = at_the_start
    root.setLevel(level)  # and not the attribute: loggers remember what they are enabled for
