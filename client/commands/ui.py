"""`pp-client ui`: the merchant's page, in a browser of this machine."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from client.commands import new_command
from daemons.exit_codes import Exit

DEFAULT_ADDRESS = "127.0.0.1:8475"
_TEXT = """Budget, plans to approve or refuse, the orders' health, the model, insight, lists to download and the
privacy statement. It prints a link that logs one browser in, once; after each use it prints another. It listens on
this machine alone and loads nothing from anywhere. Ctrl-C ends it, and what was started from the page with it."""


def add(commands: Any) -> None:
    """Adds the command's parser."""
    parser = new_command(
        commands,
        "ui",
        run,
        about="look at all of it in a browser of this machine",
        text=_TEXT,
        example="pp-client ui --config bakery/merchant.toml --open",
    )
    parser.add_argument(
        "--address",
        default=DEFAULT_ADDRESS,
        metavar="HOST:PORT",
        help=f"where it listens: a loopback address; port 0 takes a free one (default: {DEFAULT_ADDRESS})",
    )
    parser.add_argument("--open", action="store_true", help="open the link in this machine's browser")


def run(args: argparse.Namespace) -> int:
    """Serves until it is stopped."""
    # Imported here: PyTorch takes seconds, and --help should not.
    from client.pages.server import serve_pages

    def say(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    serve_pages(args.config, address=args.address, open_browser=args.open, say=say)
    return Exit.DONE
