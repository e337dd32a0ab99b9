"""pp-server track: rounds into TensorBoard's or MLflow's own files."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from daemons.exit_codes import Exit
from server.commands import new_command, opened, say

LOOK_SECONDS = 2.0


def add(commands: Any) -> None:
    """The parser of `track`."""
    parser = new_command(
        commands,
        "track",
        _track,
        about="write the rounds of all runs for TensorBoard or MLflow, each round once",
        example="pp-server track --to tensorboard curves --home platform",
        text="Written are counts, refusals by code, the norm of the aggregate, the check on made-up customers, and "
        "epsilon by round; no merchant is named. It reads the registry: runs do not depend on it, and it may be "
        "stopped and started at any time. Needs: pip install 'purchase-power[tracking]'. Nothing is sent anywhere.",
    )
    parser.add_argument("--to", required=True, choices=("tensorboard", "mlflow"), help="whose files to write")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where they are, or are to be")
    parser.add_argument("--follow", action="store_true", help="go on with new rounds until Ctrl-C")


def _track(args: argparse.Namespace) -> int:
    from server.registry import Registry
    from server.tracking import Tracker, open_writer

    home, _ = opened(args)
    with Registry(home.registry):
        pass  # an older version's is brought up to date
    with (
        Registry(home.registry, read_only=True) as registry,
        open_writer(args.to, args.folder) as writer,
        _bar() as bar,
    ):
        task = bar.add_task("rounds", total=None)
        tracker = Tracker(registry, writer, told=lambda done, of: bar.update(task, completed=done, total=of))
        written = tracker.catch_up()
        bar.stop()
        say(f"{written} rounds written to {args.folder}, for {args.to}.")
        while args.follow:
            time.sleep(LOOK_SECONDS)
            tracker.catch_up()
    return Exit.DONE


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
