"""`pp-client statement`: what customers are promised, with what was really charged."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.commands import new_command
from daemons.exit_codes import Exit
from pp_model.errors import ConfigError

if TYPE_CHECKING:
    from client.agreements import Agreements
    from client.spending import Spending
    from pp_model.plan import TrainingPlan


def add(commands: Any) -> None:
    """Adds the command's parser."""
    parser = new_command(
        commands,
        "statement",
        run,
        about="the privacy statement: what customers are promised, and what was really charged",
        example="pp-client statement --html statement.html",
    )
    parser.add_argument("--plan", metavar="ID", help="the offer's id or its beginning (default: the plan charged last)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print as JSON")
    form.add_argument("--html", type=Path, metavar="FILE", help="write one page that needs no network, and prints well")


def run(args: argparse.Namespace) -> int:
    """Prints or writes the statement."""
    from client.agreements import open_agreements
    from client.settings import load_settings
    from client.spending import read_spending
    from client.statement_page import merchant_statement, statement_html, statement_text

    settings = load_settings(args.config)
    spending, agreements = read_spending(settings), open_agreements(settings)
    plan = agreements.find(args.plan).offer.plan if args.plan else _latest(agreements, spending)
    statement = merchant_statement(settings, plan, spending)
    if args.html:
        args.html.write_text(statement_html(statement), encoding="utf-8")
        sys.stdout.write(f"Written: {args.html}\n")
    elif args.json:
        sys.stdout.write(json.dumps(statement.to_mapping(), indent=1, allow_nan=False) + "\n")
    else:
        sys.stdout.write(statement_text(statement))
    return Exit.DONE


def _latest(agreements: Agreements, spending: Spending) -> TrainingPlan:
    """The plan charged last; before the first charge, the one approved last; before that, the one offered last."""
    offered = agreements.all()
    plans = {found.offer.plan.fingerprint: found.offer.plan for found in offered}
    approved = [found.offer.plan for found in offered if found.state == "approved"]
    if spending.charges:
        fingerprint = spending.charges[-1].plan
        if fingerprint not in plans:
            raise ConfigError(
                f"the plan charged last ({fingerprint[:12]}) is not among the offers known here; put "
                "state/agreements.sqlite back, or name another plan with --plan ID"
            )
        return plans[fingerprint]
    for known in (approved, list(plans.values())):
        if known:
            return known[-1]
    raise ConfigError("no plan was offered yet, and nothing was charged; ask with pp-client plans")
