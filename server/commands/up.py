"""pp-server up: run the platform."""

from __future__ import annotations

import argparse
from typing import Any

from server.commands import local_address, new_command, opened


def add(commands: Any) -> None:
    """The parser of `up`."""
    new_command(
        commands,
        "up",
        _up,
        about="run the platform until it is stopped with Ctrl-C or SIGTERM",
        example="pp-server up --home platform",
        text="It starts the SuperLink and SuperExec, restarts what dies, and logs to log/server.jsonl. Whether all is "
        "well: http://127.0.0.1:8480/health, and the gRPC health protocol on port 8481 (server.toml).",
    )


def _up(args: argparse.Namespace) -> int:
    # Imported here: what a daemon needs takes a while to load, and --help should not.
    from server.platform import serve

    home, config = opened(args)
    return serve(home, config, address=local_address(home, config))
