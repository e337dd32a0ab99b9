"""The dashboard without a browser: somebody who is logged in, and the forms that a page shows."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from server.dashboard.access import NOBODY, OPERATOR, VIEWER, Declared, Desk
from server.dashboard.app import make_app
from server.home import PlatformHome
from simulations.deployment import wait_until
from web.guard import FORM_TOKEN
from web.sessions import COOKIE
from web.site import LANGUAGE_PATH

ORIGIN = "http://127.0.0.1:8490"
PEOPLE = {VIEWER: "victor", OPERATOR: "olga"}
_TOKEN = re.compile(rf'name="{FORM_TOKEN}" value="([^"]+)"')


class Client:
    """Asks the application in this process, keeps its cookies, and follows no redirection."""

    def __init__(self, app: Starlette, origin: str) -> None:
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 50_000))
        self._client = httpx.AsyncClient(transport=transport, base_url=origin, follow_redirects=False)
        self.cookies = self._client.cookies

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        """The answer."""
        return asyncio.run(self._client.request(method, path, **more))

    def get(self, path: str, **more: Any) -> httpx.Response:
        """The answer to GET."""
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        """The answer to POST."""
        return self.request("POST", path, **more)


def client_of(desk: Desk, *, role: str = NOBODY, app: Starlette | None = None, origin: str = ORIGIN) -> Client:
    """A client, logged in with a role if it is one of an account."""
    client = Client(app or make_app(desk), origin)
    if role != NOBODY:
        account = desk.accounts.find(PEOPLE[role])
        assert account is not None
        client.cookies.set(COOKIE, desk.log_in(account, instead_of=None), domain="127.0.0.1")
    return client


def form_token(client: Client, path: str = "/account") -> str:
    """The token of the forms on a page."""
    found = _TOKEN.search(client.get(path).text)
    assert found is not None
    return found[1]


def posted(client: Client, path: str, fields: Mapping[str, str] | None = None, **headers: str) -> httpx.Response:
    """The answer to a form of ours, as the browser sends it from a page of this session."""
    data = {FORM_TOKEN: form_token(client), **(fields or {})}
    return client.post(path, data=data, headers=headers)


@contextmanager
def served(desk: Desk) -> Iterator[str]:
    """The origin of the dashboard on a port of its own, answered from another thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = _Server(uvicorn.Config(make_app(desk), log_config=None, log_level="error", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=20)


class _Server(uvicorn.Server):
    """Leaves the signals to whoever runs the tests."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def undeclared(app: Starlette) -> list[str]:
    """Paths of the application that say nothing of who may use them, besides those that are for everybody."""
    return [
        getattr(route, "path", repr(route))
        for route in app.routes
        if not isinstance(route, Declared)
        and not (isinstance(route, Mount) and route.path == "/static")
        and not (isinstance(route, Route) and route.path == LANGUAGE_PATH)
    ]


def declared(app: Starlette) -> Iterator[Declared]:
    """The routes that say who may use them."""
    return (route for route in app.routes if isinstance(route, Declared))


@contextmanager
def real_program(home: PlatformHome, log: Path, *more: str) -> Iterator[int]:
    """`pp-server ui` as a process of its own; its port. It ends well when it is asked to."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "server.cli", "ui", "--home", str(home.root), "--listen", f"127.0.0.1:{port}"]
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [*command, *more], cwd=Path(__file__).parents[2], stdout=out, stderr=subprocess.STDOUT, env=dict(os.environ)
        ) as program,
    ):
        try:
            said = b"The dashboard is at"
            wait_until(lambda: program.poll() is not None or said in log.read_bytes(), 60, what="the dashboard")
            assert program.poll() is None, log.read_text()
            yield port
        finally:
            program.terminate()
            code = program.wait(timeout=30)
    assert code == 0
    assert "Traceback" not in log.read_text()
