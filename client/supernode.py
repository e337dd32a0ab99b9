"""The merchant's SuperNode: Flower's own, tightened. `python -m client.supernode <flower-supernode arguments>`.

It speaks to the platform, and to the runner over loopback. It runs nothing that the platform ships, and it refuses
arguments under which the shop would be less safe.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from flwr.supercore.exit import ExitCode, flwr_exit
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode, flower_supernode

import flower_edge  # noqa: F401  (telemetry and update check off)
from client.flower_hooks import tighten
from client.loopback import is_loopback

BAD_ARGUMENTS = 2


def main() -> None:
    """Runs until SIGTERM, which also signs the node off at the platform, so that a restart works at once.

    Exits with 0 after a signal, with `BAD_ARGUMENTS` for arguments that it refuses, and with 1 for everything else.
    """
    faults = unsafe(sys.argv[1:])
    if faults:
        sys.stderr.write("".join(f"client.supernode: {fault}\n" for fault in faults))
        raise SystemExit(BAD_ARGUMENTS)
    tighten()
    flower_supernode()
    # Flower's loop has ended without a signal, and its API thread would keep a deaf process alive.
    flwr_exit(ExitCode.SUPERNODE_CONNECTION_ERROR, "The loop of the SuperNode ended; it must be started again.")


def unsafe(arguments: Sequence[str]) -> list[str]:
    """What makes the arguments unsafe, a sentence each with what to do; empty when they are fine."""
    given = _parse_args_run_supernode().parse_args(arguments)
    return [sentence for is_wrong, sentence in _rules(given) if is_wrong]


def _rules(given: argparse.Namespace) -> list[tuple[bool, str]]:
    health = given.health_server_address
    return [
        (given.insecure, "--insecure is refused: the platform is spoken to over TLS only; leave it out"),
        (
            given.isolation != "process",
            f"--isolation {given.isolation} would run what the platform ships; give --isolation process",
        ),
        (
            given.superexec_auth_secret_file is None,
            "without --superexec-auth-secret-file any process here could take tasks; give the runner's secret",
        ),
        (given.runtime_dependency_install, "--allow-runtime-dependency-installation is refused; leave it out"),
        (not is_loopback(given.host), f"--host {given.host} is open to other machines; give --host 127.0.0.1"),
        (
            health is not None and not is_loopback(health),
            f"--health-server-address {health} is open to other machines; give 127.0.0.1:PORT",
        ),
    ]


if __name__ == "__main__":
    main()
