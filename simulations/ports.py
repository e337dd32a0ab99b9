"""Ports for the programs of a demonstration or a test, so that no two of them are ever given the same one.

A program of ours needs to be told its port before it runs, so the port has to stay free from the moment it is chosen
until the program listens, seconds later. To ask the operating system for a free port and give it back does not do that:
it comes from the range that out-going connections take their own ports from, and the next one may take it.
"""

from __future__ import annotations

import fcntl
import functools
import os
import random
import socket
import tempfile
from pathlib import Path

from pp_model.errors import PurchasePowerError

FIRST, LAST = 15_000, 32_000  # below what Linux (32768) and macOS (49152) give to out-going connections
_given: set[int] = set()


class NoPortError(PurchasePowerError):
    """No port is free."""


def free_port() -> int:
    """A port that nobody listens on at 127.0.0.1, and that no other process is given while this one lives.

    Raises:
        NoPortError: all ports of the range are taken.
    """
    ports = random.SystemRandom().sample(range(FIRST, LAST), LAST - FIRST)
    for port in ports:
        if port not in _given and _reserved(port) and _can_listen(port):
            _given.add(port)
            return port
    raise NoPortError(f"All ports of 127.0.0.1 from {FIRST} to {LAST} are taken; stop programs that you do not need.")


def _reserved(port: int) -> bool:
    """Whether this process now holds the port: a lock on that byte of a file, which ends with the process."""
    try:
        fcntl.lockf(_lock_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


@functools.cache
def _lock_file() -> int:
    path = Path(tempfile.gettempdir()) / f"purchase-power-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _can_listen(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
