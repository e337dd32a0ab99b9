"""Progress of a long command: bars on a terminal, and nothing anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Advance = Callable[[int], None]
Begin = Callable[[str, int | None], Advance]


@contextmanager
def shown_progress() -> Iterator[Begin]:
    """`begin(what, total)` starts a bar and gives what moves it on; the total may be unknown."""
    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, disable=not screen.is_terminal, transient=True) as shown:

        def begin(what: str, total: int | None) -> Advance:
            task = shown.add_task(what, total=total)
            return lambda steps: shown.advance(task, steps)

        yield begin
