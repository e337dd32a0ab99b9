"""`pp-client approve ID`: a person says yes, within policy and budget."""

from __future__ import annotations

import argparse
import datetime as dt
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
    from client.decisions import approve_offer, local_user
    from client.settings import load_settings

    settings, now = load_settings(args.config), dt.datetime.now(dt.UTC)
    found = shown_offer(settings, args.id, now=now)
    if not confirmed("Take part in this plan?", yes=args.yes):
        sys.stdout.write("Nothing was changed.\n")
        return Exit.DONE
    found = approve_offer(settings, found.offer.id, by=local_user(), now=now, changed_keys=args.changed_key)
    sys.stdout.write(f"Approved: {found.offer.id}, {found.offer.plan.plan_id}. {told(settings, found)}\n")
    return Exit.DONE


def shown_offer(settings: MerchantSettings, offer_id: str, *, now: dt.datetime) -> Agreement:
    """The agreement of the offer whose id begins so, after its text was printed.

    Raises:
        ConfigError: no offer, or several, of such an id.
    """
    from client.agreements import open_agreements
    from client.plan_view import plan_text
    from client.spending import read_spending

    found = open_agreements(settings).find(offer_id)
    sys.stdout.write(plan_text(found, read_spending(settings), now=now) + "\n")
    return found


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


def told(settings: MerchantSettings, found: Agreement) -> str:
    """Tells the platform; a sentence on what became of that."""
    from client.decisions import tell_platform

    why = tell_platform(settings, found)
    return f"The platform was not told; the daemon tells it when it runs. ({why})" if why else "The platform was told."
