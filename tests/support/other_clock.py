"""Programs with another clock than this machine's: the time of day that the C library tells them is some seconds off.

A small library, built with the machine's C compiler, stands before the C library's own functions. The merchant's daemon
gives its children an environment without `LD_PRELOAD`, so each Python starts itself once more with it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

COMPILER = shutil.which("cc")

_LIBRARY = r"""
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += SECONDS_AHEAD;
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *copy) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (copy) *copy = exact.tv_sec;
    return exact.tv_sec;
}
"""

_SITE = """\
import os
import sys

if "LD_PRELOAD" not in os.environ:
    os.environ["LD_PRELOAD"] = {library!r}
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
"""


def with_clock(environment: Mapping[str, str], folder: Path, *, seconds_ahead: int) -> dict[str, str]:
    """The environment of a Python program whose clock, and that of all Pythons it starts, is so far ahead.

    Args:
        folder: for the library; it must outlive the program, and its path has no space.
    """
    assert COMPILER is not None
    folder.mkdir()
    library, source = folder / "clock.so", folder / "clock.c"
    source.write_text(_LIBRARY)
    flags = ["-shared", "-fPIC", "-O1", f"-DSECONDS_AHEAD={seconds_ahead}"]
    subprocess.run([COMPILER, *flags, "-o", str(library), str(source)], check=True, timeout=60)
    (folder / "sitecustomize.py").write_text(_SITE.format(library=str(library)))
    before = environment.get("PYTHONPATH")
    return {**environment, "PYTHONPATH": f"{folder}:{before}" if before else str(folder)}
