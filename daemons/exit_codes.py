"""How the programs end, as a shell sees it. Each has its line in docs/runbook.md."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of `pp-server` and `pp-client`."""

    DONE = 0
    BAD_INPUT = 2  # a file, flag or value that cannot be used; the message names it
    NOT_ALLOWED = 3  # policy, budget or a missing approval
    UNREACHABLE = 4  # the other side does not answer, or is not who it should be
    RESUMABLE = 5  # a run stopped before its end, and can be resumed
    INTEGRITY = 6  # a ledger, signature or file is not what it must be
    FAULT_FOUND = 7  # a check found something to mend
    INTERRUPTED = 130
