"""Progress of a long command: bars on a terminal, lines for a program that started it, and nothing anywhere else."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Advance = Callable[[int], None]
Begin = Callable[[str, int | None], Advance]

LINES_VARIABLE = "PP_PROGRESS_LINES"  # set by the merchant's page for what it starts
LINE = "progress "  # what such a line begins with; JSON follows: "what", "done", and "total", which may be null
_LEAST_SECONDS = 0.2  # between two lines of one phase


@contextmanager
def shown_progress() -> Iterator[Begin]:
    """`begin(what, total)` starts a bar and gives what moves it on; the total may be unknown."""
    if os.environ.get(LINES_VARIABLE):
        yield _lines
        return
    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, disable=not screen.is_terminal, transient=True) as shown:

        def begin(what: str, total: int | None) -> Advance:
            task = shown.add_task(what, total=total)
            return lambda steps: shown.advance(task, steps)

        yield begin


def _lines(what: str, total: int | None) -> Advance:
    done, said = 0, -1.0

    def advance(steps: int) -> None:
        nonlocal done, said
        done += steps
        now = time.monotonic()
        if now - said >= _LEAST_SECONDS or done == total:
            said = now
            sys.stderr.write(LINE + json.dumps({"what": what, "done": done, "total": total}) + "\n")
            sys.stderr.flush()

    advance(0)
    return advance
