"""pp-server audit verify | show: what was done in the dashboard, and whether the record of it is whole."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from daemons.exit_codes import Exit
from pp_model.errors import ConfigError
from server.commands import CommandError, add_json, hint, new_command, opened, say, say_json, show_table
from server.home import PlatformHome

if TYPE_CHECKING:
    from server.dashboard.audit import AuditLog, Fault

_FAULTS = {
    "changed": "entry {seq} was changed, or another one put in its place",
    "missing": "entry {seq} is missing",
    "anchor": "entry {seq} is not the one of the anchor: the log was cut off before it, or written anew",
}


def add(commands: Any) -> None:
    """The parsers below `audit`."""
    group = commands.add_parser("audit", help="the dashboard's audit log", description="The dashboard's audit log.")
    verbs = group.add_subparsers(required=True, metavar="COMMAND")
    verifying = new_command(
        verbs,
        "verify",
        _verify,
        about="walk along the chain of hashes, and print its anchor",
        example="pp-server audit verify --anchor 812:9f2c... --home platform",
        text="A changed, missing or moved entry is found. That the end was cut off is found with an anchor alone: keep "
        "the one that is printed where this machine's administrator cannot change it, and give it next time.",
    )
    verifying.add_argument("--anchor", default="", metavar="NUMBER:HASH", help="as an earlier verify printed it")
    add_json(verifying)
    showing = new_command(
        verbs, "show", _show, about="the entries, newest first", example="pp-server audit show --last 20"
    )
    showing.add_argument("--last", type=int, default=50, metavar="N", help="how many (default: 50)")
    add_json(showing)


def _verify(args: argparse.Namespace) -> int:
    home, log = _log(args)
    verified = log.verify(anchor=args.anchor)
    if args.json:
        fault = verified.fault and vars(verified.fault)
        say_json({"entries": verified.entries, "anchor": verified.anchor, "fault": fault})
        return Exit.INTEGRITY if fault else Exit.DONE
    if verified.fault:
        raise CommandError(
            Exit.INTEGRITY,
            f"the audit log in {home.root / 'state'} is broken: {_said(verified.fault)}. Keep a copy of the file as it "
            "is, compare it with your backups, and find out who could write there",
        )
    anchor = f" anchor: {verified.anchor}" if verified.anchor else ""
    say(f"The chain holds: {verified.entries} entries.{anchor}")
    return Exit.DONE


def _show(args: argparse.Namespace) -> int:
    home, log = _log(args)
    if not 1 <= args.last <= 100_000:
        raise ConfigError(f"--last is {args.last}; allowed: 1 to 100000")
    entries = log.entries(most=args.last)
    if args.json:
        say_json([vars(entry) for entry in entries])
    elif not entries:
        say(f"Nothing was done yet. Start the dashboard: {hint(home, 'ui')}")
    else:
        rows = [(e.seq, e.time[:19], e.who or "-", e.action, e.subject, e.address) for e in entries]
        show_table(("entry", "time (UTC)", "who", "what", "to what", "from"), list(rows))
    return Exit.DONE


def _said(fault: Fault) -> str:
    return _FAULTS[fault.kind].format(seq=fault.seq)


def _log(args: argparse.Namespace) -> tuple[PlatformHome, AuditLog]:
    from server.dashboard.audit import AuditLog, audit_file

    home, _ = opened(args)
    return home, AuditLog(audit_file(home))
