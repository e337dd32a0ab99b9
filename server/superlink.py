"""`python -m server.superlink`: Flower's SuperLink behind our guard, with the merchants' API on the same TLS port."""

from __future__ import annotations

import argparse
import os
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn
from flwr.common.constant import (
    FLWR_INTERNAL_GRPC_CONTROL_API,
    FLWR_INTERNAL_GRPC_FLEET_API,
    ISOLATION_MODE_PROCESS,
)
from flwr.supercore.http_logging import get_uvicorn_log_config
from flwr.supercore.logger import console_handler
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan, _parse_superlink_lifespan_config
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet import node_auth
from starlette.types import ASGIApp

import flower_edge  # noqa: F401  (switches Flower's phone-home off)
from agreement.requests import MOST_SECONDS_APART
from pp_model.errors import ConfigError, PurchasePowerError
from server.guard import Guard

MIN_SECRET = 32
SHUTDOWN_SECONDS = 5  # for answers under way when the process is asked to stop
UNGUARDED = (FLWR_INTERNAL_GRPC_CONTROL_API, FLWR_INTERNAL_GRPC_FLEET_API)  # each opens a port that no guard stands at


def main() -> None:
    """Serves until a signal. Exit code 2, and one line on standard error, where it would not be safe to start.

    Everything but our own two arguments is `flower-superlink`'s. Flower's command itself is not called: it would put
    our guard inside of an application and log every request. What it does at its start is done here.
    """
    parser = argparse.ArgumentParser(prog="python -m server.superlink", allow_abbrev=False, description=__doc__)
    parser.add_argument("--operator-secret-file", type=Path, required=True, help="who has it may use the control API")
    parser.add_argument("--registry", type=Path, help="serve the merchants' API out of this registry, too")
    ours, flowers = parser.parse_known_args()
    sys.argv[1:] = flowers  # Flower's parser reads them there
    try:
        serve(ours.operator_secret_file, ours.registry)
    except PurchasePowerError as error:
        parser.exit(2, f"{error}\n")


def serve(operator_secret_file: Path, registry: Path | None) -> None:
    """Runs the SuperLink that Flower's arguments in `sys.argv` describe, guarded, until a signal.

    Raises:
        ConfigError: the arguments, the environment or the secret would leave a way around the guard.
    """
    secret = read_operator_secret(operator_secret_file)
    config = _parse_superlink_lifespan_config()
    check_safe(config)
    # A clock may be as far ahead as for the merchants' own requests. Flower's five seconds end a SuperNode unexplained.
    vars(node_auth)["SYSTEM_TIME_TOLERANCE"] = MOST_SECONDS_APART
    guard = Guard(
        create_app(config, SuperLinkLifespan),
        operator_secret=secret,
        merchant_api=None if registry is None else _merchant_api(registry),
    )
    uvicorn.run(
        guard,
        host=config.host,
        port=config.port,
        ssl_certfile=config.ssl_certfile,
        ssl_keyfile=config.ssl_keyfile,
        ssl_context_factory=_modern_tls,
        # An address is the peer's own. No header says otherwise, whatever the environment says.
        proxy_headers=False,
        access_log=False,
        server_header=False,
        ws="none",
        log_config=get_uvicorn_log_config(console_handler.level),
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


def read_operator_secret(path: Path) -> str:
    """The secret in a file.

    Raises:
        ConfigError: the file cannot be read, or holds less than 32 printable ASCII characters.
    """
    try:
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII text"
        raise ConfigError(f"the operator secret {path} cannot be read: {reason}; run `pp-server init`") from error
    if len(secret) < MIN_SECRET or not secret.isprintable() or " " in secret:
        raise ConfigError(
            f"the operator secret in {path} has {len(secret)} characters; allowed: {MIN_SECRET} or more printable ones "
            "without a space. Make a new one with `openssl rand -hex 32`"
        )
    return secret


def check_safe(config: SuperLinkLifespanConfig) -> None:
    """Nothing, where the guard and Flower's own checks leave no way around them.

    Raises:
        ConfigError: names every argument that is missing or must go.
    """
    wanted = {
        "leave out --insecure and give --ssl-certfile, --ssl-keyfile and --ssl-ca-certfile": (
            not config.insecure and config.certificates is not None
        ),
        "give --enable-supernode-auth": config.enable_supernode_auth,
        "give --isolation process": config.isolation == ISOLATION_MODE_PROCESS,
        "give --superexec-auth-secret-file": bool(config.superexec_auth_secret),
        "give --disable-runtime-dependency-installation": not config.runtime_dependency_install,
        "leave out --simulation": not config.simulation,
        **{f"unset {name}": os.environ.get(name) != "1" for name in UNGUARDED},
    }
    if remedies := [remedy for remedy, good in wanted.items() if not good]:
        raise ConfigError(f"a SuperLink like this would not be safe: {'; '.join(remedies)}")


def _modern_tls(_: uvicorn.Config, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    context = make()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _merchant_api(registry: Path) -> ASGIApp:
    from server.merchant_api import make_merchant_api

    return make_merchant_api(registry)


if __name__ == "__main__":
    main()
