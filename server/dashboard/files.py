"""The dashboard's own SQLite files: for their owner alone, opened for each use so that every process sees the same."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from daemons.files import check_private
from server.registry_file import open_file


@contextmanager
def opened(path: Path, *, schema: str) -> Iterator[sqlite3.Connection]:
    """A connection to the file, which is made where it is missing, readable by its owner alone.

    Raises:
        PrivateFileError: it is open to others.
        sqlite3.Error: it is no such file.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    check_private(path)
    with closing(open_file(path, schema=schema)) as db:
        yield db
