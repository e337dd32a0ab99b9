"""The search for an unmistakable customer: which of `CANARIES` are in some bytes, or in the files below a folder."""

from __future__ import annotations

import re
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
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if not files:
        raise ValueError(f"{folder} has no file")
    return {str(path.relative_to(folder)): found for path in files if (found := hits(path.read_bytes()))}
