"""pp-server init: a new platform's folder, keys, certificates and invitation. pp-server renew: a new certificate."""

from __future__ import annotations

import argparse
import datetime as dt
import secrets
import sys
from pathlib import Path
from typing import Any

from agreement.invitation import Invitation, invitation_text
from agreement.signing import SigningKey
from daemons.exit_codes import Exit
from daemons.files import write_private
from pp_model.errors import ConfigError
from server.commands import hint, new_command, opened, say
from server.home import PlatformHome, ServerConfig, host_and_port, server_toml
from server.pki import (
    CERTIFICATE_DAYS,
    check_certificate,
    names_of,
    new_authority,
    new_certificate,
    own_host,
    read_authority,
    usual_names,
)

_SECRET_BYTES = 32


def add(commands: Any) -> None:
    """The parsers of `init` and `renew`."""
    parser = new_command(
        commands,
        "init",
        _init,
        about="make a platform's folder: settings, keys, certificates, secrets, and an invitation for merchants",
        example='pp-server init platform --name "Example platform" --address pp.example.org:8443',
        text="The certificate names the address's host, localhost, 127.0.0.1 and ::1, and what --san adds.",
        home=False,
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--name", required=True, help="of the platform, as merchants read it")
    parser.add_argument("--address", required=True, metavar="HOST:PORT", help="where merchants connect to")
    parser.add_argument("--listen", metavar="HOST:PORT", help="where this machine listens (default: 0.0.0.0:PORT)")
    parser.add_argument("--san", nargs="+", metavar="NAME", help="more names or IP addresses for the certificate")
    own = parser.add_argument_group("certificates of your own, instead of a new private authority")
    own.add_argument("--own-certs", action="store_true", help="take --ca, --cert and --key")
    own.add_argument("--ca", type=Path, metavar="FILE", help="PEM of the authority that merchants are to trust")
    own.add_argument("--cert", type=Path, metavar="FILE", help="PEM of the server's certificate and those behind it")
    own.add_argument("--key", type=Path, metavar="FILE", help="PEM of its private key, without a password")
    new_command(
        commands,
        "renew",
        _renew,
        about="make a new server certificate for the same names; merchants notice nothing",
        example="pp-server renew --home platform",
    )


def _init(args: argparse.Namespace) -> int:
    home = PlatformHome(args.directory.absolute())
    port = host_and_port(args.address, key="--address")[1]
    config = ServerConfig(name=args.name, address=args.address, listen=args.listen or f"0.0.0.0:{port}")
    if home.root.exists() and (not home.root.is_dir() or any(home.root.iterdir())):
        raise ConfigError(f"{home.root} is not empty; name a new folder, or move what is in it away")
    certificates = _own_certificates(args, config) if args.own_certs else _new_certificates(args, config)
    home.make_folders()
    _write(home, config, certificates)
    say(f"""\
{config.name} is made in {home.root}.
  certificate for   {", ".join(names_of(certificates[home.certificate.name]))}
  plan-signing key  {home.verify_key().to_text()}

Keep a copy of keys/ and secrets/ where nobody else can read it. Next:
  1. {hint(home, "up")}
  2. Send {home.invitation} to each merchant, and tell it the plan-signing key by another way.
  3. Each merchant sends a public key back: {hint(home, "merchants add NAME --key FILE")}
  4. {hint(home, "plan new NAME --epsilon 3 --holdout 2025-01-01 --horizon-days 60")}""")
    return Exit.DONE


def _renew(args: argparse.Namespace) -> int:
    home, config = opened(args)
    if not home.ca_key.exists():
        raise ConfigError(
            f"{home.certificate} is not of this platform's own authority. Get a new one where it came from, put it and "
            f"its key in {home.certificate.parent} as server.crt and server.key, and start pp-server up again"
        )
    authority = read_authority(home.ca_certificate.read_bytes(), home.ca_key.read_bytes())
    host = host_and_port(config.address, key="address")[0]
    pair = new_certificate(authority, usual_names(host, names_of(home.certificate.read_bytes())), now=_now())
    write_private(home.certificate_key, pair.key, replace=True)
    write_private(home.certificate, pair.certificate, replace=True)
    check_certificate(ca=home.ca_certificate, certificate=home.certificate, key=home.certificate_key, host=host)
    say(f"The new certificate is for {CERTIFICATE_DAYS} days. Stop pp-server up and start it again to use it.")
    return Exit.DONE


def _new_certificates(args: argparse.Namespace, config: ServerConfig) -> dict[str, bytes]:
    for flag in ("ca", "cert", "key"):
        if getattr(args, flag) is not None:
            raise ConfigError(f"--{flag} is for certificates of your own; give --own-certs too, or leave it out")
    host = host_and_port(config.address, key="address")[0]
    authority = new_authority(config.name, now=_now())
    server = new_certificate(authority, usual_names(host, _asked_names(args, host)), now=_now())
    return {
        "ca.crt": authority.certificate,
        "ca.key": authority.key,
        "server.crt": server.certificate,
        "server.key": server.key,
    }


def _asked_names(args: argparse.Namespace, host: str) -> list[str]:
    if args.san is not None or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return args.san or []
    say(f"The certificate names {', '.join(usual_names(host))}.")
    sys.stdout.write("More names or addresses under which merchants reach it, with spaces between (Enter: none): ")
    sys.stdout.flush()
    return sys.stdin.readline().split()


def _own_certificates(args: argparse.Namespace, config: ServerConfig) -> dict[str, bytes]:
    if missing := [f"--{flag}" for flag in ("ca", "cert", "key") if getattr(args, flag) is None]:
        raise ConfigError(f"--own-certs needs {', '.join(missing)} too")
    if args.san:
        raise ConfigError("--san is for a new certificate; one of your own has its names already")
    host = host_and_port(config.address, key="address")[0]
    check_certificate(ca=args.ca, certificate=args.cert, key=args.key, host=host)
    certificate = args.cert.read_bytes()
    own_host(certificate, loopback=config.loopback, public_host=host)
    return {"ca.crt": args.ca.read_bytes(), "server.crt": certificate, "server.key": args.key.read_bytes()}


def _write(home: PlatformHome, config: ServerConfig, certificates: dict[str, bytes]) -> None:
    """server.toml last: without it the folder is no platform's."""
    for name, data in certificates.items():
        write_private(home.certificate.with_name(name), data)
    key = SigningKey.generate()
    write_private(home.plan_key_file, key.to_pem())
    write_private(home.plan_key_public, f"{key.public.to_text()}\n".encode())
    for path in (home.superexec_secret, home.operator_secret):
        write_private(path, secrets.token_hex(_SECRET_BYTES).encode())
    invitation = Invitation(
        platform=config.name,
        address=config.address,
        plan_key=key.public.to_text(),
        ca_certificate=home.ca_certificate.read_text(encoding="utf-8"),
    )
    write_private(home.invitation, invitation_text(invitation).encode())
    write_private(home.config_file, server_toml(config).encode())


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)
