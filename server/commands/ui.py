"""pp-server ui: the dashboard."""

from __future__ import annotations

import argparse
import ipaddress
import re
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemons.exit_codes import Exit
from daemons.files import check_private
from pp_model.errors import ConfigError
from server.commands import CommandError, hint, new_command, opened, say
from server.home import host_and_port

if TYPE_CHECKING:
    from starlette.types import ASGIApp

USUAL = "127.0.0.1:8490"
MOST_CONNECTIONS, GRACE_SECONDS = 128, 5


def add(commands: Any) -> None:
    """The parser of `ui`."""
    parser = new_command(
        commands,
        "ui",
        _ui,
        about="serve the dashboard until it is stopped with Ctrl-C or SIGTERM",
        example="pp-server ui --home platform",
        text="Who may log in: pp-server operators. It listens on this machine alone; another address needs a TLS "
        "certificate that names it. It only reads the platform's files, and asks `pp-server up` who is connected.",
    )
    parser.add_argument("--listen", default=USUAL, metavar="HOST:PORT", help=f"where it listens (default: {USUAL})")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="PEM of its certificate and those behind it")
    parser.add_argument("--key", type=Path, metavar="FILE", help="PEM of the certificate's private key, mode 600")


def _ui(args: argparse.Namespace) -> int:
    from daemons.logs import configure_log
    from daemons.web_server import listening
    from server.dashboard.accounts import Accounts, accounts_file
    from server.dashboard.app import make_app, make_desk
    from server.dashboard.audit import TERMINAL, Action
    from web.guard import LOOPBACK_NAMES

    home, config = opened(args)
    host, port = host_and_port(args.listen, key="--listen")
    names = _names(args, host)
    if not Accounts(accounts_file(home)).all():
        raise CommandError(
            Exit.BAD_INPUT,
            f"nobody may log in yet; make an account: {hint(home, 'operators add NAME --role operator')}",
        )
    configure_log(home.log.with_name("dashboard.jsonl"), "INFO")  # each audit entry's hash, too: anchors elsewhere
    desk = make_desk(home, config, secure=args.certificate is not None)
    desk.nodes.now()  # who is connected is known, or nearly, when the first page is asked for
    desk.audit.append(Action.STARTED, who=TERMINAL, subject=args.listen)
    scheme = "https" if args.certificate else "http"
    address = (host.strip("[]"), port)
    with listening(address, backlog=MOST_CONNECTIONS) as listener:
        say(f"The dashboard is at {scheme}://{args.listen}/ until you stop it with Ctrl-C.")
        sys.stdout.flush()
        _serve(make_app(desk, names=names or LOOPBACK_NAMES), listener, args.certificate, args.key)
    return Exit.DONE


def _names(args: argparse.Namespace, host: str) -> re.Pattern[str] | None:
    """The hosts under which it may be asked; None for loopback's.

    Raises:
        ConfigError: others could ask, or read along.
    """
    from server.pki import names_of

    if (args.certificate is None) != (args.key is None):
        raise ConfigError("--certificate and --key are given together")
    if args.certificate is None:
        if not _is_loopback(host):
            raise ConfigError(
                f"--listen is {args.listen!r}: on an address that others reach, passwords travel only over TLS. Give "
                f"--certificate and --key, or listen on {USUAL} and come through an SSH tunnel"
            )
        return None
    check_private(args.key)
    try:
        known = names_of(args.certificate.read_bytes())
    except OSError as error:
        raise ConfigError(f"--certificate {args.certificate} cannot be read ({error.strerror})") from None
    if not known:
        raise ConfigError(f"--certificate {args.certificate} names no host; give one in PEM with the names to be asked")
    return names_pattern(known)


def names_pattern(names: Sequence[str]) -> re.Pattern[str]:
    """What a request's Host may be, with or without a port, where a certificate is for these names."""
    hosts = [f"[{name}]" if ":" in name else name for name in names]
    return re.compile(rf"({'|'.join(map(_pattern, hosts))})(:\d{{1,5}})?", re.IGNORECASE)


def _pattern(name: str) -> str:
    """A wildcard stands for one label, as it does in certificates."""
    return r"[a-z0-9-]+" + re.escape(name[1:]) if name.startswith("*.") else re.escape(name)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _serve(app: ASGIApp, listener: socket.socket, certificate: Path | None, key: Path | None) -> None:
    """Answers until a signal."""
    import uvicorn

    from daemons.web_server import bounded

    config = bounded(
        app,
        most_connections=MOST_CONNECTIONS,
        keep_alive_seconds=5,
        grace_seconds=GRACE_SECONDS,
        certificate=None if certificate is None or key is None else (certificate, key),
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again when it has stopped: that is all
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listener])
