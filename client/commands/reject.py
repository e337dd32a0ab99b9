"""`pp-client reject ID`: a person says no, or withdraws a yes."""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from typing import Any

from client.commands import new_command
from client.commands.approve import add_offer_arguments, confirmed, shown_offer, told
from daemons.exit_codes import Exit


def add(commands: Any) -> None:
    """Adds the command's parser."""
    parser = new_command(
        commands,
        "reject",
        run,
        about="refuse a plan, or withdraw its approval",
        example="pp-client reject 3f9a",
        text="From then on no task of the plan is answered. What was charged before stays charged.",
    )
    add_offer_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Rejects the offer, and tells the platform if it can."""
    from client.decisions import local_user, reject_offer
    from client.settings import load_settings

    settings, now = load_settings(args.config), dt.datetime.now(dt.UTC)
    found = shown_offer(settings, args.id, now=now)
    if not confirmed("Refuse this plan?", yes=args.yes):
        sys.stdout.write("Nothing was changed.\n")
        return Exit.DONE
    found = reject_offer(settings, found.offer.id, by=local_user(), now=now)
    sys.stdout.write(f"Refused: {found.offer.id}, {found.offer.plan.plan_id}. {told(settings, found)}\n")
    return Exit.DONE
