"""What one command of ours costs, with its interpreter and all its libraries.

It is started by a small process that starts nothing else: the system counts into a process's peak what its parent had
when it was started, and a parent that has generated ten million orders is larger than what it measures.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks.environments import ask


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one process, from its start to its end; the CPU seconds are those of user and system in all threads."""

    wall_seconds: float
    cpu_seconds: float
    peak_megabytes: float


def cost_of(*arguments: str) -> Cost:
    """Runs our interpreter with `arguments`, on one thread; what it prints is dropped.

    Raises:
        ChildError: it failed.
    """
    return Cost(**ask("benchmarks.command_cost", *arguments))


def _run(arguments: Sequence[str]) -> Cost:
    began = time.monotonic()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    wall, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(
        wall_seconds=wall, cpu_seconds=used.ru_utime + used.ru_stime, peak_megabytes=used.ru_maxrss * 1024 / 1e6
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_run(sys.argv[1:]))))
