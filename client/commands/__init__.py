"""The commands of pp-client, one module each: `add(commands)` makes its parser, and `fn(args)` gives the exit code."""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[[argparse.Namespace], int]


def new_command(
    commands: Any, name: str, run: Command, *, about: str, example: str, text: str = "", config: bool = True
) -> argparse.ArgumentParser:
    """A parser for one command, with its worked example and, unless `config` is false, `--config FILE`.

    Args:
        commands: what `add_subparsers` gave.
        about: one line, lower case, no full stop.
        text: what else there is to know, as its own paragraph.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + "." + (f"\n\n{text}" if text else ""),
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    if config:
        parser.add_argument(
            "--config",
            type=Path,
            default=Path("merchant.toml"),
            metavar="FILE",
            help="the merchant's configuration (default: ./merchant.toml)",
        )
    return parser


def add_cutoff(parser: argparse.ArgumentParser) -> None:
    """`--cutoff DATE`, which must be given."""
    parser.add_argument(
        "--cutoff", type=dt.date.fromisoformat, required=True, metavar="DATE", help="today, as far as the model sees"
    )


def add_models(parser: argparse.ArgumentParser) -> None:
    """`--models DIR`."""
    parser.add_argument(
        "--models", type=Path, metavar="DIR", help="where pull keeps models (default: state/models of the merchant)"
    )
