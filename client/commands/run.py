"""`pp-client run`: the daemon, in the foreground."""

from __future__ import annotations

import argparse
from typing import Any

from client.commands import new_command


def add(commands: Any) -> None:
    """Adds the command's parser."""
    new_command(
        commands,
        "run",
        run,
        about="take part: the daemon, in the foreground",
        example="pp-client run --config bakery/merchant.toml",
        text="Connects to the platform (out-bound only), asks for plans, and answers the tasks of those that are\n"
        "approved. Ctrl-C or SIGTERM stops it in order. How it is: http://127.0.0.1:8470/health and /metrics.",
    )


def run(args: argparse.Namespace) -> int:
    """Runs until it is stopped."""
    # Imported here: PyTorch takes seconds, and --help should not.
    from client.daemon import run as run_daemon
    from client.settings import load_settings

    return run_daemon(load_settings(args.config), config=args.config)
