"""Becomes the SuperNode once the platform has proved who it is: `python -m client.connect ADDRESS CA COMMAND...`.

So every start of the SuperNode, the first and each after a death, begins with one bounded look at the platform, and a
wrong one never sees the node's key at work. Light: nothing heavy is loaded only to find the platform away.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from client.preflight import PlatformError, check_platform
from pp_model.errors import PurchasePowerError

PERMANENT, TEMPORARY = 78, 75  # as sysexits.h has them: configuration, and try again later


def fault_of(address: str, ca: Path) -> int:
    """0 where the platform is there and is the one that is pinned; else the exit code, with a sentence on stderr."""
    try:
        check_platform(address, ca.read_text(encoding="ascii"))
    except PurchasePowerError as error:
        sys.stderr.write(f"{error}\n")
        return TEMPORARY if isinstance(error, PlatformError) and not error.permanent else PERMANENT
    except (OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"{ca} cannot be read ({type(error).__name__}); take it from the platform's invitation\n")
        return PERMANENT
    return 0


if __name__ == "__main__":
    fault = fault_of(sys.argv[1], Path(sys.argv[2]))
    if fault:
        sys.exit(fault)
    os.execv(sys.argv[3], sys.argv[3:])
