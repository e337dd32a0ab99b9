"""`pp-client plans`: what is offered, in plain words."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from typing import Any

from client.commands import new_command
from daemons.exit_codes import Exit


def add(commands: Any) -> None:
    """Adds the command's parser."""
    parser = new_command(
        commands,
        "plans",
        run,
        about="what the platform offers: what it computes, what it costs, where it stands",
        example="pp-client plans",
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Asks the platform anew if it can, and lists every offer that is known."""
    from client.agreements import open_agreements
    from client.offer_poll import take_offers
    from client.plan_view import plan_mapping, plan_text
    from client.platform import RefusedError, platform_client
    from client.preflight import PlatformError
    from client.settings import load_settings
    from client.spending import read_spending

    settings, now = load_settings(args.config), dt.datetime.now(dt.UTC)
    agreements, faults = open_agreements(settings), []
    try:
        with platform_client(settings) as client:
            faults = [str(error) for error in take_offers(client, agreements, settings, now=now).unreadable]
    except (PlatformError, RefusedError) as error:
        faults = [f"These are the plans known here; the platform was not asked anew. {error}"]
    spending, found = read_spending(settings), agreements.all()
    if args.json:
        table = {"plans": [plan_mapping(each, spending, now=now) for each in found], "faults": faults}
        sys.stdout.write(json.dumps(table, indent=1, allow_nan=False) + "\n")
        return Exit.DONE
    for each in found:
        sys.stdout.write(plan_text(each, spending, now=now) + "\n\n")
    if not found:
        sys.stdout.write("No plan was offered yet.\n")
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    return Exit.DONE
