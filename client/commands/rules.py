"""`pp-client rules check|run`: lists of customers by the merchant's own rules, and alerts to addresses of its own."""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from client.commands import add_cutoff, add_models, new_command
from daemons.exit_codes import Exit

if TYPE_CHECKING:
    from client.insight.rules import Condition, Rule

_TEXT = """rules.toml stands beside merchant.toml; docs/insight.md shows how to write it. The lists stay here.
An alert goes where the rule says, and carries counts and the rule's name: customers' ids only where the rule has
include_customers = true. Lists for credit decisions, accusations of fraud or personal prices are refused."""


def add(commands: Any) -> None:
    """Adds the command's parser, with one for each of its two parts."""
    example = "pp-client rules run --cutoff 2026-06-01"
    parser = new_command(
        commands,
        "rules",
        check,
        about="lists of customers by your own rules",
        text=_TEXT,
        example=example,
        config=False,
    )
    parts = parser.add_subparsers(required=True, metavar="check|run")
    new_command(
        parts, "check", check, about="read rules.toml and say what each rule does", example="pp-client rules check"
    )
    runs = new_command(parts, "run", run, about="make the lists, and send the alerts that are due", example=example)
    add_cutoff(runs)
    runs.add_argument("--stale", action="store_true", help="go on although the orders end long before the cutoff")
    add_models(runs)
    runs.add_argument("--json", action="store_true", help="print what came of each rule as JSON")


def check(args: argparse.Namespace) -> int:
    """Says what the rules do; no order is read."""
    from client.insight.rules import FILE, read_rules
    from client.settings import load_settings
    from pp_model.errors import ConfigError

    settings = load_settings(args.config)
    path = settings.home / FILE
    if not path.exists():
        raise ConfigError(f"there is no {path}; docs/insight.md shows how to write one")
    for rule in read_rules(path, slices=settings.orders.contract.slices):
        sys.stdout.write("\n".join([*_lines(rule), ""]))
    return Exit.DONE


def run(args: argparse.Namespace) -> int:
    """Scores everybody, makes the lists and sends the alerts; a fault is found where one was not delivered."""
    from client.insight.data import load_data
    from client.insight.rules import FILE, read_rules
    from client.insight.rules_run import failed, run_rules
    from client.insight.store import cutoff_folder
    from client.progress import shown_progress
    from client.settings import load_settings
    from pp_model.config import to_mapping
    from pp_model.errors import ConfigError

    settings = load_settings(args.config)
    if not read_rules(settings.home / FILE, slices=settings.orders.contract.slices):
        raise ConfigError(f"there is no rule in {settings.home / FILE}; docs/insight.md shows how to write one")
    with shown_progress() as progress:
        models = args.models or settings.paths.models
        data = load_data(settings, cutoff=args.cutoff, models=models, progress=progress, stale=args.stale)
    folder = cutoff_folder(settings.paths.insight, args.cutoff)
    outcomes = run_rules(data, home=settings.home, folder=folder)
    if args.json:
        found = {"folder": str(folder), "rules": [to_mapping(outcome) for outcome in outcomes]}
        sys.stdout.write(json.dumps(found, indent=1, allow_nan=False) + "\n")
    else:
        sys.stdout.write("\n".join([f"Lists in {folder}", *(f"  {outcome.line}" for outcome in outcomes), ""]))
    return Exit.FAULT_FOUND if failed(outcomes) else Exit.DONE


def _lines(rule: Rule) -> list[str]:
    lines = [f"{rule.name} ({rule.purpose})", f"  Who:   {', and '.join(map(_words, rule.when))}"]
    if rule.alert is None:
        return [*lines, "  Alert: none"]
    counted = "new customers" if rule.only_changes else "customers"
    ids = "with customers' ids" if rule.include_customers else "counts only"
    place = f"file {rule.alert.file}" if rule.alert.file else f"webhook at {urlsplit(rule.alert.webhook).netloc}"
    return [*lines, f"  Alert: from {rule.at_least_customers:,} {counted} on, {ids}, to {place}"]


def _words(condition: Condition) -> str:
    if condition.one_of:
        return f"{condition.column} is {' or '.join(map(str, condition.one_of))}"
    bounds = []
    if condition.at_least > -math.inf:
        bounds.append(f"at least {condition.at_least:g}")
    if condition.at_most < math.inf:
        bounds.append(f"at most {condition.at_most:g}")
    return f"{condition.column} is {' and '.join(bounds)}"
