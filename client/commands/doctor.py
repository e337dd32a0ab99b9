"""pp-client doctor: everything that a run needs, checked before it matters."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from rich.console import Console

from client.commands import new_command
from daemons.exit_codes import Exit

if TYPE_CHECKING:
    from client.checks import Finding

_TEXT = """Configuration, files, keys, the platform's port, certificate and clock, whether it knows you, this machine,
your orders, the ledger, and what the offered plans would cost. What is found is shown here and goes nowhere else;
nothing is changed. The exit code is 7 where there is a fault."""
_WIDEST = len("configuration")
_COLOURS = {"ok": "32", "warning": "33", "fault": "31;1", "skipped": "2"}


def add(commands: Any) -> None:
    """The parser of `doctor`."""
    about = "check everything before it matters, one line each, with what to do"
    parser = new_command(
        commands, "doctor", _run, about=about, text=_TEXT, example="pp-client doctor --config shop/merchant.toml"
    )
    parser.add_argument("--quick", action="store_true", help="do not read the orders")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def _run(args: argparse.Namespace) -> int:
    found = []
    for finding in _examined(args):
        found.append(finding)
        if not args.json:
            sys.stdout.write(_line(finding) + "\n")
            sys.stdout.flush()
    levels = Counter(finding.level.value for finding in found)
    if args.json:
        table = [{"check": f.check, "level": f.level.value, "text": f.text} for f in found]
        sys.stdout.write(json.dumps({"ok": not levels["fault"], "findings": table}, indent=1) + "\n")
    else:
        sys.stdout.write(f"\n{_verdict(levels)}\n")
    return Exit.FAULT_FOUND if levels["fault"] else Exit.DONE


def _examined(args: argparse.Namespace) -> Iterator[Finding]:
    screen = Console(stderr=True)
    waiting = screen.status if screen.is_terminal else lambda _: nullcontext()
    with waiting("starting"):
        # Imported here: the model behind the policy brings PyTorch, and --help should not wait for it.
        from client.checks import Examination, findings
        from client.checkup import CHECKS

    examination = Examination(config=args.config, now=dt.datetime.now(dt.UTC), quick=args.quick)
    for name, check in CHECKS:
        with waiting(f"checking: {name}"):
            found = list(findings(name, check, examination))
        yield from found


def _line(finding: Finding) -> str:
    """One line, in a terminal folded below its own text."""
    level, head = finding.level.value, f"{finding.level.value:<8} {finding.check:<{_WIDEST}} "
    if not sys.stdout.isatty():
        return head + finding.text
    width = max(60, shutil.get_terminal_size().columns)
    folded = textwrap.fill(
        finding.text,
        width,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return f"\x1b[{_COLOURS[level]}m{folded[:8]}\x1b[0m{folded[8:]}"


def _verdict(levels: Counter[str]) -> str:
    if levels["fault"]:
        counted = f"{_count(levels['fault'], 'fault')}, {_count(levels['warning'], 'warning')}"
        return f"{counted}. Mend the first fault first, then look again."
    if levels["warning"]:
        return f"No fault, {_count(levels['warning'], 'warning')}. You can go on: pp-client run"
    return "All is well. Next: pp-client run"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
