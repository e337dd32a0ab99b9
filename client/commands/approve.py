"""`pp-client approve ID`: a person says yes, within policy and budget."""

from __future__ import annotations

import argparse
import datetime as dt
import getpass
import os
import sys
from typing import TYPE_CHECKING, Any

from client.commands import new_command
from daemons.exit_codes import Exit
from pp_model.errors import ConfigError

if TYPE_CHECKING:
    from client.agreements import Agreement
    from client.settings import MerchantSettings


def add(commands: Any) -> None:
    """Adds the command's parser."""
    parser = new_command(
        commands, "approve", run, about="take part in a plan that is offered", example="pp-client approve 3f9a"
    )
    add_offer_arguments(parser)
    parser.add_argument(
        "--changed-key",
        action="append",
        default=[],
        metavar="MERCHANT",
        help="in a secure sum: this merchant told you that it has a new key (repeatable)",
    )


def add_offer_arguments(parser: argparse.ArgumentParser) -> None:
    """The offer's id, and the way to say yes beforehand."""
    parser.add_argument("id", metavar="ID", help="the offer's id, or its beginning (see pp-client plans)")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> int:
    """Approves the offer, and tells the platform if it can."""
    from client.agreements import open_agreements, within_budget
    from client.plan_view import plan_text
    from client.settings import load_settings
    from client.spending import read_spending

    settings, now = load_settings(args.config), dt.datetime.now(dt.UTC)
    agreements = open_agreements(settings)
    found = agreements.find(args.id)
    sys.stdout.write(plan_text(found, read_spending(settings), now=now) + "\n")
    if not confirmed("Take part in this plan?", yes=args.yes):
        sys.stdout.write("Nothing was changed.\n")
        return Exit.DONE
    afford = within_budget(settings)
    found = agreements.approve(
        found.offer.id,
        policy=settings.policy,
        afford=afford,
        by=local_user(),
        now=now,
        changed_keys=args.changed_key,
    )
    sys.stdout.write(f"Approved: {found.offer.id}, {found.offer.plan.plan_id}. {tell_platform(settings, found)}\n")
    return Exit.DONE


def confirmed(question: str, *, yes: bool) -> bool:
    """Whether a person says yes.

    Raises:
        ConfigError: nobody is there to be asked, and `yes` was not given.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigError("nobody can be asked here; give --yes if that is decided")
    sys.stdout.write(f"{question} [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def local_user() -> str:
    """Who decides, for this merchant's own history."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        return f"uid {os.getuid()}"


def tell_platform(settings: MerchantSettings, found: Agreement) -> str:
    """Tells the platform the state and its code; a sentence on what became of that."""
    from client.platform import RefusedError, platform_client
    from client.preflight import PlatformError

    try:
        with platform_client(settings) as client:
            client.decide(found.offer.id, found.state, found.code)
    except (PlatformError, RefusedError) as error:
        return f"The platform was not told; the daemon tells it when it runs. ({error})"
    return "The platform was told."
