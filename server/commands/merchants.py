"""pp-server merchants add | list | remove: who takes part."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from daemons.exit_codes import Exit
from pp_model.errors import ConfigError
from server.commands import CommandError, add_json, control, hint, new_command, opened, say, say_json, show_table
from server.home import PlatformHome, ServerConfig


def add(commands: Any) -> None:
    """The parsers below `merchants`."""
    group = commands.add_parser(
        "merchants", help="add, list or remove merchants", description="Add, list or remove merchants."
    )
    verbs = group.add_subparsers(required=True, metavar="COMMAND")
    adding = new_command(
        verbs,
        "add",
        _add,
        about="let a merchant take part, by the public key that pp-client init printed",
        example="pp-server merchants add bakery --key bakery.pub --home platform",
    )
    adding.add_argument("name", metavar="NAME", help="of the merchant, as runs and logs show it")
    adding.add_argument("--key", type=Path, required=True, metavar="FILE", help="its keys/node.pub")
    listing = new_command(
        verbs, "list", _list, about="the merchants and whether they are connected", example="pp-server merchants list"
    )
    add_json(listing)
    removing = new_command(
        verbs,
        "remove",
        _remove,
        about="put a merchant out, at once",
        example="pp-server merchants remove bakery --home platform",
        text="Its next request is refused. What it released and decided stays on record. To come back, it needs a new "
        "key.",
    )
    removing.add_argument("name", metavar="NAME")


def _add(args: argparse.Namespace) -> int:
    from server.roster import Roster

    home, config = opened(args)
    try:
        key = args.key.read_bytes()
    except OSError as error:
        raise ConfigError(f"--key {args.key} cannot be read ({error.strerror}); give the merchant's node.pub") from None
    with Roster(home.registry) as roster:
        merchant = roster.add(args.name, key)
    say(f"{merchant.name}: {merchant.fingerprint}")
    say("Compare this fingerprint with the one that pp-client init showed the merchant.")
    say(_at_superlink(home, config, merchant.name) or "It can connect now.")
    return Exit.DONE


def _remove(args: argparse.Namespace) -> int:
    from server.roster import Roster

    home, config = opened(args)
    with Roster(home.registry) as roster:
        roster.remove(args.name)
    say(_at_superlink(home, config, args.name) or f"{args.name} is out.")
    return Exit.DONE


def _at_superlink(home: PlatformHome, config: ServerConfig, name: str) -> str:
    """Brings the SuperLink in step with the roster; "" where that is done, else what to know."""
    from server.platform import reconcile
    from server.roster import Roster

    try:
        with Roster(home.registry) as roster, control(home, config) as client:
            done = reconcile(roster, client)
            if name in done.refused:  # `up` may have been faster with the same
                done = reconcile(roster, client)
    except CommandError as error:
        if error.exit != Exit.UNREACHABLE:
            raise
        return f"The platform is not up, so this takes effect when it is: {hint(home, 'up')}"
    if name in done.refused:
        raise CommandError(
            Exit.BAD_INPUT,
            f"{name} is on the roster, but its key was used before, and a key is used once. Run "
            f"{hint(home, f'merchants remove {name}')}, and let the merchant make a new key pair",
        )
    return ""


def _list(args: argparse.Namespace) -> int:
    from server.roster import Roster

    home, config = opened(args)
    with Roster(home.registry) as roster:
        merchants = roster.merchants()
    try:
        with control(home, config) as client:
            status = {node.node_id: node.status for node in client.nodes()}
    except CommandError as error:
        if error.exit != Exit.UNREACHABLE:
            raise
        status = None

    def state(node_id: int | None) -> str:
        if status is None:
            return "unknown"
        return "not registered" if node_id is None else status.get(node_id, "not registered")

    rows = [(m.name, state(m.node_id), m.added[:10], m.fingerprint) for m in merchants]
    if args.json:
        say_json([dict(zip(("name", "state", "added", "fingerprint"), row, strict=True)) for row in rows])
    elif not rows:
        say(f"No merchants yet. Add one: {hint(home, 'merchants add NAME --key FILE')}")
    else:
        show_table(("merchant", "state", "since", "key"), list(rows))
        if status is None:
            say(f"The platform is not up: {hint(home, 'up')}")
    return Exit.DONE
