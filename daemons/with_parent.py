"""Becomes a command that the kernel signals when its parent dies.

Run as a file, `python -I -S with_parent.py SIGNAL PARENT COMMAND...`, between a supervisor and its child: in a process
that has threads no Python may run between fork and exec, and after the exec of the command it is too late.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h; survives exec, but not a fork
CANNOT_RUN = 127  # as a shell says it


def main(death_signal: int, parent: int, command: list[str]) -> int:
    """Never returns where all is well: the process is the command from here on."""
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(death_signal)) != 0:
        sys.stderr.write("the kernel refused to signal this process when its parent dies\n")
        return CANNOT_RUN
    if os.getppid() != parent:  # it died before the kernel was asked
        return CANNOT_RUN
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
    return CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
