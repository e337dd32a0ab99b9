"""The search for an unmistakable customer: which of `CANARIES` are in some bytes, or in the files below a folder."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from tests.support.shops import CANARIES

ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le")


def hits(data: bytes) -> list[str]:
    """The canaries in these bytes, whatever their case and in every encoding that Python or SQLite would choose."""
    text = data.lower()
    forms = [(canary, canary.lower().encode(encoding)) for canary in CANARIES for encoding in ENCODINGS]
    # Digits alone may be part of a longer number, which is then another number.
    found = [canary for canary, form in forms if re.search(rb"(?<!\d)" + re.escape(form) + rb"(?!\d)", text)]
    return list(dict.fromkeys(found))


def hits_below(folder: Path) -> dict[str, list[str]]:
    """The canaries in each file below the folder that has any: pages that a database has freed, its log, everything.

    Raises:
        ValueError: there is no file; a search of nothing finds nothing.
    """
    found, files = {}, 0
    for path in sorted(folder.rglob("*")):
        with suppress(FileNotFoundError, IsADirectoryError):  # a database at work makes and removes its log
            data = path.read_bytes()
            files += 1
            if names := hits(data):
                found[str(path.relative_to(folder))] = names
    if not files:
        raise ValueError(f"{folder} has no file")
    return found
