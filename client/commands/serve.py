"""`pp-client serve`: scores, portraits and re-ranking for this shop's own programs, over HTTP/JSON and gRPC."""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.commands import add_models, new_command
from daemons.exit_codes import Exit

if TYPE_CHECKING:
    from client.serving.run import Ports, ServeOptions

_TEXT = """The orders, the model and the answers stay with you: on this machine alone, unless you choose another
address, and then only behind TLS. Every request shows the token in secrets/serving, which is made at the first start.
A model that pull brings takes its place without a request lost. SIGHUP has the orders read again."""


def add(commands: Any) -> None:
    """Adds the command's parser."""
    parser = new_command(
        commands,
        "serve",
        run,
        about="answer your own programs: scores, portraits, re-ranking",
        text=_TEXT,
        example="pp-client serve --http 127.0.0.1:8472 --grpc 127.0.0.1:8473",
    )
    parser.add_argument("--http", default="127.0.0.1:8472", metavar="HOST:PORT", help="default: 127.0.0.1:8472")
    parser.add_argument(
        "--grpc", default="127.0.0.1:8473", metavar="HOST:PORT", help="default: 127.0.0.1:8473; none: no gRPC"
    )
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="for TLS, with its chain, in PEM")
    parser.add_argument("--key", type=Path, metavar="FILE", help="its private key, in PEM, mode 600")
    add_models(parser)
    parser.add_argument(
        "--cutoff", type=dt.date.fromisoformat, metavar="DATE", help="default: today, and every day the next"
    )
    parser.add_argument("--stale", action="store_true", help="serve although the orders end long before the cutoff")
    parser.add_argument(
        "--reread", type=float, default=60.0, metavar="MINUTES", help="how often the orders are read (default: 60)"
    )
    parser.add_argument("--workers", type=int, default=1, help="requests at work at a time (default: 1)")
    parser.add_argument("--waiting", type=int, default=64, help="places for those who wait (default: 64)")
    parser.add_argument(
        "--timeout", type=float, default=2.0, metavar="SECONDS", help="longest to an answer (default: 2)"
    )


def run(args: argparse.Namespace) -> int:
    """Serves until it is told to stop."""
    from client.serving.run import TOKEN_FILE, serve
    from client.settings import load_settings
    from daemons.logs import configure_log

    settings = load_settings(args.config)
    options = options_of(args, models=args.models or settings.paths.models)
    configure_log(settings.paths.log.parent / "serving.jsonl", "INFO")

    def opened(ports: Ports) -> None:
        scheme = "http" if options.certificate is None else "https"
        lines = [f"Serving {settings.merchant}; every request shows the token in secrets/{TOKEN_FILE}"]
        lines.append(f"  HTTP: {scheme}://{_shown(options.http[0])}:{ports.http}/openapi.json")
        if options.grpc is not None:
            lines.append(f"  gRPC: {_shown(options.grpc[0])}:{ports.grpc}")
        sys.stdout.write("\n".join([*lines, ""]))
        sys.stdout.flush()

    serve(settings, options, opened=opened)
    return Exit.DONE


def options_of(args: argparse.Namespace, *, models: Path) -> ServeOptions:
    """The command's options, checked.

    Raises:
        ConfigError: names the option, its value and what is allowed.
    """
    from client.serving.run import ServeOptions
    from pp_model.errors import ConfigError

    limits = {"reread": (1.0, 1e6), "workers": (1, 16), "waiting": (0, 10_000), "timeout": (0.05, 60.0)}
    for name, (least, most) in limits.items():
        if not least <= getattr(args, name) <= most:
            raise ConfigError(f"--{name} is {getattr(args, name):g}; allowed: {least:g} to {most:g}")
    return ServeOptions(
        http=_address("--http", args.http),
        grpc=None if args.grpc == "none" else _address("--grpc", args.grpc),
        certificate=args.certificate,
        key=args.key,
        models=models,
        cutoff=args.cutoff,
        stale=args.stale,
        reread_seconds=60 * args.reread,
        workers=args.workers,
        waiting=args.waiting,
        answer_seconds=args.timeout,
    )


def _address(option: str, text: str) -> tuple[str, int]:
    from pp_model.errors import ConfigError

    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) < 65_536):
        raise ConfigError(f"{option} is {text!r}; expected host:port, such as 127.0.0.1:8472")
    return host.strip("[]"), int(port)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
