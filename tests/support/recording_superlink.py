"""A platform that writes down all that comes in through its port: `-m tests.support.recording_superlink FILE up ...`.

`up` is `pp-server up`, whose SuperLink is this module again, as `superlink`, with a recorder around the guard.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import server.platform
from server.cli import main
from simulations.deployment import Deployment
from tests.support.deployed import with_product

SUPERLINK = "server.superlink"


def record(deployment: Deployment) -> Path:
    """From its next start on, the deployment's platform records; the file with every path, header and body."""
    file = deployment.root / "received"
    module = [sys.executable, "-m", "tests.support.recording_superlink", str(file)]
    deployment.server.command = [*module, "up", "--home", str(deployment.platform_home)]
    deployment.server.environment = with_product(deployment.server.environment)
    return file


class Recorder:
    """An ASGI application around another one."""

    def __init__(self, inner: Any, file: Path) -> None:
        self._inner, self._file = inner, file

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI 3."""

        async def recorded() -> Any:
            message = await receive()
            self._write(message.get("body", b""))
            return message

        if scope["type"] == "http":
            headers = b"".join(b"%s: %s\n" % pair for pair in scope["headers"])
            self._write(f"\n{scope['method']} {scope['path']}?".encode() + scope["query_string"] + b"\n" + headers)
        await self._inner(scope, recorded, send)

    def _write(self, data: bytes) -> None:
        with self._file.open("ab") as file:
            file.write(data)


def _up(file: str, arguments: Sequence[str]) -> int:
    plain = server.platform.children

    def children(*given: Any, **named: Any) -> Any:
        superlink, *others = plain(*given, **named)
        command = list(superlink.command)
        at = command.index(SUPERLINK)
        command[at : at + 1] = ["tests.support.recording_superlink", file, "superlink"]
        return [dataclasses.replace(superlink, command=command), *others]

    server.platform.children = children
    return main(["up", *arguments])


def _superlink(file: str, arguments: Sequence[str]) -> int:
    import server.superlink

    guard = server.superlink.Guard
    server.superlink.Guard = lambda *given, **named: Recorder(guard(*given, **named), Path(file))  # type: ignore
    sys.argv[1:] = arguments
    server.superlink.main()
    return 0


if __name__ == "__main__":
    FILE, WHAT, *ARGUMENTS = sys.argv[1:]
    sys.exit({"up": _up, "superlink": _superlink}[WHAT](FILE, ARGUMENTS))
