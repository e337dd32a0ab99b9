"""The commands of pp-server, one module each: `add(commands)` makes its parsers, and `fn(args)` gives the exit code."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from daemons.exit_codes import Exit
from pp_model.errors import PurchasePowerError
from server.home import PlatformHome, ServerConfig
from server.pki import own_host

if TYPE_CHECKING:
    from server.control import ControlClient

Command = Callable[[argparse.Namespace], int]


class CommandError(PurchasePowerError):
    """Why a command did not do what it was asked.

    Attributes:
        exit: how the program ends.
    """

    def __init__(self, exit: Exit, text: str) -> None:
        self.exit = exit
        super().__init__(text)


def new_command(
    commands: Any, name: str, run: Command, *, about: str, example: str, text: str = "", home: bool = True
) -> argparse.ArgumentParser:
    """A parser for one command, with its worked example and, unless `home` is false, `--home DIR`.

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
    if home:
        parser.add_argument(
            "--home",
            type=Path,
            default=Path("platform"),
            metavar="DIR",
            help="the platform's folder (default: ./platform)",
        )
    return parser


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`, for programs that read what is printed."""
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def opened(args: argparse.Namespace) -> tuple[PlatformHome, ServerConfig]:
    """The folder that `--home` names and its settings, after a look at who else could read it.

    Raises:
        ConfigError: no such folder, or a setting that is wrong.
        PrivateFileError: something in it is open to others.
    """
    home = PlatformHome(args.home.absolute())
    return home, home.load_config()


def local_address(home: PlatformHome, config: ServerConfig) -> str:
    """host:port under which this machine reaches the platform's TLS port.

    Raises:
        CertificateError: the certificate fits no such host.
    """
    public_host = config.address.rpartition(":")[0]
    host = own_host(home.certificate.read_bytes(), loopback=config.loopback, public_host=public_host)
    return f"{host}:{config.port}"


@contextmanager
def control(home: PlatformHome, config: ServerConfig) -> Iterator[ControlClient]:
    """The SuperLink's control API, as its operator.

    Raises:
        CommandError: it does not answer, is not the one of this folder, or says no.
    """
    # Imported here: Flower takes a while, and most commands do without it.
    from server.control import ControlClient, ControlError

    try:
        with ControlClient(local_address(home, config), home.ca_certificate, home.read_operator_secret()) as client:
            yield client
    except ControlError as error:
        raise CommandError(Exit.BAD_INPUT if error.reason == "refused" else Exit.UNREACHABLE, str(error)) from None


def say(text: str = "") -> None:
    """One line, or several, for whoever reads the screen."""
    sys.stdout.write(f"{text}\n")


def say_json(value: object) -> None:
    """One JSON value."""
    sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")


def finite(value: object) -> object:
    """`value` as JSON can hold it: infinity as a word."""
    return "inf" if value == math.inf else value


def show_table(columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    """A table as wide as the screen; a name is shown as it is, whatever brackets are in it."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell).replace("[", r"\[") for cell in row))
    Console(highlight=False).print(table)


def hint(home: PlatformHome, command: str) -> str:
    """A command that can be copied, with this folder in it."""
    return f"pp-server {command} --home {home.root}"
