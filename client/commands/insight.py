"""`pp-client insight`: reports of the merchant's own shop, made here, for `pp-client ui` and as files."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from client.commands import add_cutoff, add_models, new_command
from client.insight import NAMES
from daemons.exit_codes import Exit

if TYPE_CHECKING:
    from client.insight.run import Summary

_TEXT = f"""The orders, the model and the reports stay on this machine: no connection is opened, but to your own
database where your orders are in one, and to a webhook of yours where rules.toml names one. Only orders before the
cutoff are used. What a campaign costs you and is assumed to do
stands in insight.toml beside merchant.toml, made with defaults where there is none.

Not for credit decisions, accusations of fraud or automated personal prices: docs/insight.md says why.

Reports: {", ".join(NAMES)}."""


def add(commands: Any) -> None:
    """Adds the command's parser."""
    parser = new_command(
        commands,
        "insight",
        run,
        about="make the reports of your own shop: portraits, churn, campaigns, demand and others",
        text=_TEXT,
        example="pp-client insight --cutoff 2026-06-01",
    )
    add_cutoff(parser)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=[], metavar="NAME", help="these reports alone")
    parser.add_argument("--stale", action="store_true", help="go on although the orders end long before the cutoff")
    add_models(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Makes the reports and says where they are; a fault is found where an alert was not delivered."""
    from client.insight.rules_run import failed
    from client.insight.run import make_reports
    from client.progress import shown_progress
    from client.settings import load_settings

    settings = load_settings(args.config)
    with shown_progress() as progress:
        summary = make_reports(
            settings,
            cutoff=args.cutoff,
            only=args.only,
            models=args.models or settings.paths.models,
            stale=args.stale,
            progress=progress,
        )
    if args.json:
        sys.stdout.write(json.dumps(summary.to_mapping(), indent=1, allow_nan=False) + "\n")
    else:
        sys.stdout.write(summary_text(summary))
    return Exit.FAULT_FOUND if failed(summary.rules) else Exit.DONE


def summary_text(summary: Summary) -> str:
    """The summary for a person."""
    lines = [
        f"Reports: {', '.join(summary.reports)}",
        f"  In:    {summary.folder}",
        f"  Of:    {summary.customers:,} customers, for the {summary.horizon_days} days from {summary.cutoff} on",
        f"  Model: {summary.model_id} ({summary.model[:12]}), verified",
        "  See:   pp-client ui, or open the .csv files there",
    ]
    if summary.options:
        lines.append(f"  New:   {summary.options}; say there what a campaign costs you and what you assume of it")
    lines += [f"  Rule:  {outcome.line}" for outcome in summary.rules]
    return "\n".join([*lines, ""])
