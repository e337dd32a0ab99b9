"""A platform's folder as pp-server makes it, and the program itself, in this process or as a real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agreement.node_keys import new_node_key, public_text
from server.cli import main
from server.home import PlatformHome

NAME = "Example platform"


def new_platform(folder: Path, *, port: int = 8443) -> PlatformHome:
    """A platform on this machine alone, made by `init`."""
    address = f"127.0.0.1:{port}"
    assert main(["init", str(folder), "--name", NAME, "--address", address, "--listen", address]) == 0
    return PlatformHome(folder)


def pp_server(home: PlatformHome, *arguments: str) -> int:
    """The exit code of a command on that folder, run in this process."""
    return main([*arguments, "--home", str(home.root)])


def public_key_file(folder: Path, name: str) -> Path:
    """A new merchant's public key, as it arrives at the platform."""
    path = folder / f"{name}.pub"
    path.write_bytes(public_text(new_node_key().public_key()) + b" someone@somewhere\n")
    return path


def new_plan(home: PlatformHome, name: str = "may", *more: str) -> int:
    """`plan new` with a small plan, and `more` of its flags."""
    flags = ["--epsilon", "3", "--holdout", "2025-05-01", "--horizon-days", "60", "--encoder", "linear"]
    return pp_server(home, "plan", "new", name, *flags, "--rounds", "3", *more)


def as_json(text: str) -> Any:
    """What a command with --json printed."""
    return json.loads(text)
