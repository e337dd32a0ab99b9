"""`pp-client score`: every customer's purchase power, here, with the model that was pulled."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.commands import add_cutoff, add_models, new_command
from daemons.exit_codes import Exit

if TYPE_CHECKING:
    from client.score_run import Summary

_TEXT = """The orders, the model and the scores stay on this machine: no connection is opened, but to your own database
where your orders are in one. Only orders before the cutoff are used. An interrupted run goes on where it was when the
same command is given again."""


def add(commands: Any) -> None:
    """Adds the command's parser."""
    parser = new_command(
        commands,
        "score",
        run,
        about="score every customer with the newest model that was pulled",
        text=_TEXT,
        example="pp-client score --cutoff 2026-06-01 --out scores.parquet",
    )
    add_cutoff(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="ends with .parquet or .csv; readable by you alone"
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--stale", action="store_true", help="score although the orders end long before the cutoff")
    add_models(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Writes the file of scores and says what is in it."""
    from client.progress import shown_progress
    from client.score_file import check_out
    from client.score_run import score_all
    from client.settings import load_settings

    settings = load_settings(args.config)
    check_out(args.out, force=args.force)
    with shown_progress() as progress:
        summary = score_all(
            settings,
            cutoff=args.cutoff,
            out=args.out,
            models=args.models or settings.paths.models,
            force=args.force,
            stale=args.stale,
            progress=progress,
        )
    if args.json:
        sys.stdout.write(json.dumps(summary.to_mapping(), indent=1, allow_nan=False) + "\n")
    else:
        sys.stdout.write(summary_text(summary))
    return Exit.DONE


def summary_text(summary: Summary) -> str:
    """The summary for a person."""
    tiers = ", ".join(f"{name} {number:,}" for name, number in summary.tiers.items())
    lines = [
        f"Scored: {summary.customers:,} customers, in {summary.out}",
        f"  For:       the {summary.horizon_days} days from {summary.cutoff} on",
        f"  Model:     {summary.model_id} ({summary.model[:12]}), verified",
        f"  Tiers:     {tiers}",
        f"  Newcomers: {summary.newcomers:,} with fewer than {summary.newcomer_orders} orders; their scores rest on "
        "little",
        f"  Freshness: {_freshness(summary)}",
        f"  Drift:     {_drift(summary)}",
    ]
    if summary.resumed:
        lines.append("  Resumed:   finished parts of an interrupted run were used")
    lines += [f"  Orders:    {line}" for line in summary.orders]
    return "\n".join([*lines, ""])


def _freshness(summary: Summary) -> str:
    days = summary.days_without_order
    gap = (
        "the day before the cutoff" if not days else f"{days} day{'s' * (days > 1)} without an order before the cutoff"
    )
    return f"the newest order used is of {summary.newest_order}, {gap}"


def _drift(summary: Summary) -> str:
    from client.drift import drift_words

    if summary.compared_with is None:
        return "nothing to compare with yet; this run is kept for the next one"
    words = "; ".join(f"{name} {index:.3f} ({drift_words(index)})" for name, index in summary.drift.items())
    model = " with another model" if summary.model_changed else ""
    return f"population stability against {summary.compared_with}{model}: {words}"
