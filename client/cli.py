"""pp-client: a merchant's side of a federation. Its orders stay here; what leaves was paid for from its budget."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from rich.console import Console

from agreement.signing import SignatureError
from client.commands import (
    Command,
    approve,
    budget,
    doctor,
    export,
    init,
    insight,
    plans,
    pull,
    reject,
    rules,
    run,
    score,
    serve,
    statement,
    ui,
)
from client.preflight import PlatformError
from daemons.exit_codes import Exit
from daemons.files import PrivateFileError
from daemons.logs import configure_log
from pp_model.errors import BudgetExceededError, LedgerError, PolicyError, PurchasePowerError

_COMMANDS = (
    init,
    doctor,
    run,
    plans,
    approve,
    reject,
    budget,
    statement,
    pull,
    score,
    insight,
    rules,
    serve,
    export,
    ui,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is one of `Exit`, and a fault is one message that says what to do."""
    args = _parser().parse_args(argv)
    # Opacus' hooks on embeddings, whose input can have no gradient, fire all the same.
    warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
    configure_log(None, "ERROR")
    command: Command = args.command
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


def exit_code(error: PurchasePowerError) -> Exit:
    """How the program ends after `error`."""
    # Imported here: PyTorch takes seconds, and what raised the error has it already.
    from client.agreements_file import AgreementsError
    from client.platform import RefusedError

    match error:
        case AgreementsError() | LedgerError() | SignatureError() | PrivateFileError():
            return Exit.INTEGRITY
        case PolicyError() | BudgetExceededError():
            return Exit.NOT_ALLOWED
        case PlatformError() | RefusedError():
            return Exit.UNREACHABLE
        case _:
            return Exit.BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pp-client",
        description="Take part in the training of a purchase-power model with your own orders, which never leave this "
        "machine. Begin with init, then doctor, then run.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in _COMMANDS:
        module.add(commands)
    return parser


def _tell(text: str) -> None:
    Console(stderr=True).print(f"pp-client: {text}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
