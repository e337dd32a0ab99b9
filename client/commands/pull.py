"""`pp-client pull`: the newest model, verified before it is kept."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from client.commands import new_command
from daemons.exit_codes import Exit


def add(commands: Any) -> None:
    """Adds the command's parser."""
    parser = new_command(
        commands,
        "pull",
        run,
        about="fetch the newest model, verify it, and keep it",
        example="pp-client pull --out models",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep it there (default: state/models of the merchant)")


def run(args: argparse.Namespace) -> int:
    """Fetches what is not here yet; what is here is never overwritten."""
    from client.models import pull_newest
    from client.plan_view import price_text
    from client.platform import platform_client
    from client.settings import load_settings
    from client.spending import read_spending

    settings = load_settings(args.config)
    folder = args.out or settings.paths.models
    with platform_client(settings) as client:
        pulled = pull_newest(client, settings.plan_key, folder)
    if pulled is None:
        sys.stdout.write("The platform has published no model yet.\n")
        return Exit.DONE
    tasks = len(read_spending(settings).of(pulled.plan.fingerprint))
    part = f"This merchant took part: {tasks} of {pulled.plan.rounds} rounds are in its ledger."
    sys.stdout.write(
        f"{'Pulled' if pulled.new else 'Already here'}: model {pulled.manifest.model_id} in {pulled.folder}\n"
        f"  Plan:     {pulled.plan.plan_id} ({pulled.plan.fingerprint[:12]}), {pulled.plan.rounds} rounds\n"
        f"  Cost:     {price_text(pulled.plan)}\n"
        f"  Verified: signature of the platform, file, card, shapes and values\n"
        f"  {part if tasks else 'This merchant did not take part in it.'}\n"
    )
    return Exit.DONE
