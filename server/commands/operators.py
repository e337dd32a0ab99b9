"""pp-server operators add | passwd | remove | list: who may log in to the dashboard."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemons.exit_codes import Exit
from daemons.files import check_private
from pp_model.errors import ConfigError
from server.commands import add_json, hint, new_command, opened, say, say_json, show_table

if TYPE_CHECKING:
    from server.dashboard.accounts import Accounts
    from server.home import PlatformHome


def add(commands: Any) -> None:
    """The parsers below `operators`."""
    group = commands.add_parser(
        "operators",
        help="who may log in to the dashboard",
        description="Who may log in to the dashboard (pp-server ui).",
    )
    verbs = group.add_subparsers(required=True, metavar="COMMAND")
    adding = new_command(
        verbs,
        "add",
        _add,
        about="let somebody log in; the password is asked twice",
        example="pp-server operators add ada --role operator --home platform",
        text="A viewer sees everything but the audit log. An operator sees that too, and may go back to an earlier "
        "model. Passwords have 12 to 256 characters.",
    )
    adding.add_argument("name", metavar="NAME")
    adding.add_argument("--role", choices=("viewer", "operator"), required=True)
    changing = new_command(
        verbs,
        "passwd",
        _passwd,
        about="set somebody's password anew, which ends all logins of that account",
        example="pp-server operators passwd ada --home platform",
    )
    changing.add_argument("name", metavar="NAME")
    for parser in (adding, changing):
        parser.allow_abbrev = False  # or --password WORD would be a file of that name, and the word in the answer
        parser.add_argument(
            "--password-file", type=Path, metavar="FILE", help="its first line is the password; mode 600 (default: ask)"
        )
    removing = new_command(
        verbs,
        "remove",
        _remove,
        about="let somebody log in no more, which ends all logins of that account",
        example="pp-server operators remove ada --home platform",
    )
    removing.add_argument("name", metavar="NAME")
    listing = new_command(
        verbs, "list", _list, about="the accounts and their roles", example="pp-server operators list --json"
    )
    add_json(listing)


def _add(args: argparse.Namespace) -> int:
    home, accounts = _accounts(args)
    account = accounts.add(args.name, _password(args), args.role)
    _note(home, "account_added", f"{account.name} ({account.role})")
    say(f"{account.name} may log in as {account.role}: {hint(home, 'ui')}")
    return Exit.DONE


def _passwd(args: argparse.Namespace) -> int:
    home, accounts = _accounts(args)
    accounts.set_password(args.name, _password(args))
    _note(home, "password_changed", args.name)
    say(f"{args.name} has a new password, and is logged in nowhere.")
    return Exit.DONE


def _remove(args: argparse.Namespace) -> int:
    home, accounts = _accounts(args)
    accounts.remove(args.name)
    _note(home, "account_removed", args.name)
    say(f"{args.name} may log in no more.")
    return Exit.DONE


def _list(args: argparse.Namespace) -> int:
    home, accounts = _accounts(args)
    rows = [(account.name, account.role, account.since) for account in accounts.all()]
    if args.json:
        say_json([dict(zip(("name", "role", "since"), row, strict=True)) for row in rows])
    elif not rows:
        say(f"No accounts yet. Make one: {hint(home, 'operators add NAME --role operator')}")
    else:
        show_table(("name", "role", "since (UTC)"), list(rows))
    return Exit.DONE


def _accounts(args: argparse.Namespace) -> tuple[PlatformHome, Accounts]:
    from server.dashboard.accounts import Accounts, accounts_file

    home, _ = opened(args)
    return home, Accounts(accounts_file(home))


def _note(home: PlatformHome, action: str, subject: str) -> None:
    from server.dashboard.audit import TERMINAL, Action, AuditLog, audit_file

    AuditLog(audit_file(home)).append(Action(action), who=TERMINAL, subject=subject)


def _password(args: argparse.Namespace) -> str:
    """The password, out of a private file or from the terminal, where it is asked twice and not shown.

    Raises:
        ConfigError: there is no terminal, the two differ, or the file cannot be read.
        PrivateFileError: the file is open to others.
    """
    if args.password_file is not None:
        check_private(args.password_file)
        try:
            text: str = args.password_file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ConfigError(f"--password-file {args.password_file} is not text in UTF-8") from None
        return text.partition("\n")[0].rstrip("\r")
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask for the password; give --password-file FILE, with mode 600")
    password = getpass.getpass(f"Password of {args.name}: ")
    if getpass.getpass("The same again: ") != password:
        raise ConfigError("the two passwords differ; nothing was changed")
    return password
