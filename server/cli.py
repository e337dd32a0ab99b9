"""pp-server: the platform's side of a federation. It holds a model; it never sees an order."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from rich.console import Console

from agreement.signing import SignatureError
from daemons.exit_codes import Exit
from daemons.files import PrivateFileError
from daemons.logs import configure_log
from pp_model.errors import ArraysError, CheckpointError, PurchasePowerError
from server.commands import (
    Command,
    CommandError,
    audit,
    market,
    merchants,
    operators,
    plans,
    results,
    run,
    setup,
    track,
    ui,
    up,
)

_COMMANDS = (setup, up, merchants, plans, run, results, market, track, operators, ui, audit)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is one of `Exit`, and a fault is one message that says what to do."""
    args = _parser().parse_args(argv)
    warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
    configure_log(None, "ERROR")
    command: Command = args.command
    umask = os.umask(0o077)  # the databases that SQLite makes, too, are for the owner alone
    try:
        return command(args)
    except PurchasePowerError as error:
        _tell(str(error))
        return exit_code(error)
    except KeyboardInterrupt:
        _tell("interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough
        return Exit.DONE
    except OSError as error:
        _tell(f"{error.filename or 'the system'}: {error.strerror}. Check the path, its mode and the free space.")
        return Exit.BAD_INPUT
    finally:
        os.umask(umask)


def exit_code(error: PurchasePowerError) -> Exit:
    """How the program ends after `error`."""
    match error:
        case CommandError():
            return error.exit
        case SignatureError() | PrivateFileError() | CheckpointError() | ArraysError():
            return Exit.INTEGRITY
        case _:
            return Exit.BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pp-server",
        description="Run a platform on which merchants train one purchase-power model together. Begin with init, then "
        "up; add merchants; make, price and sign a plan; run it.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in _COMMANDS:
        module.add(commands)
    return parser


def _tell(text: str) -> None:
    Console(stderr=True).print(f"pp-server: {text}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
