"""`pp-client statement`: what customers are promised, with what was really charged."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from client.commands import new_command
from daemons.exit_codes import Exit


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
    parser.add_argument("--language", choices=("en", "zh"), default="en", help="English or Chinese (default: en)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print as JSON")
    form.add_argument("--html", type=Path, metavar="FILE", help="write one page that needs no network, and prints well")


def run(args: argparse.Namespace) -> int:
    """Prints or writes the statement."""
    from client.agreements import open_agreements
    from client.settings import load_settings
    from client.spending import read_spending
    from client.statement_page import latest_plan, merchant_statement, statement_html, statement_text

    settings = load_settings(args.config)
    spending, agreements = read_spending(settings), open_agreements(settings)
    plan = agreements.find(args.plan).offer.plan if args.plan else latest_plan(agreements.all(), spending)
    statement = merchant_statement(settings, plan, spending)
    if args.html:
        args.html.write_text(statement_html(statement, args.language), encoding="utf-8")
        sys.stdout.write(f"Written: {args.html}\n")
    elif args.json:
        sys.stdout.write(json.dumps(statement.to_mapping(args.language), indent=1, allow_nan=False) + "\n")
    else:
        sys.stdout.write(statement_text(statement, args.language))
    return Exit.DONE
