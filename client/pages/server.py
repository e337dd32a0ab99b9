"""Serves the merchant's pages on loopback, in the foreground, until it is told to stop."""

from __future__ import annotations

import os
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path

import uvicorn

from client.daemon import child_environment
from client.loopback import is_loopback
from client.pages.app import merchant_app
from client.pages.jobs import Jobs
from client.pages.login import Login
from client.pages.merchant import Merchant
from client.pages.warm import warm
from daemons.web_server import bounded, listening
from pp_model.errors import ConfigError

MOST_CONNECTIONS = 64
_GRACE_SECONDS = 2
_LOOK_SECONDS = 0.5


def serve_pages(config: Path, *, address: str, open_browser: bool, say: Callable[[str], None]) -> None:
    """Listens and answers until SIGTERM or SIGINT.

    Args:
        address: HOST:PORT of this machine.
        open_browser: opens the first link too.
        say: shows a line to whoever started the program; the link is one.

    Raises:
        ConfigError: another machine could reach the address, or the configuration cannot be used.
        PortError: the address is taken.
    """
    host, port = _loopback(address)
    merchant = Merchant(config)
    with listening((host, port), backlog=MOST_CONNECTIONS) as listener:
        origin = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        opened = threading.Event()

        def show(token: str) -> None:
            link = f"{origin}/login?token={token}"
            say(f"{'Another browser' if opened.is_set() else 'Open this link'}, once: {link}")
            if open_browser and not opened.is_set():
                threading.Thread(target=webbrowser.open, args=(link,), daemon=True).start()
            opened.set()

        jobs = Jobs(environment=child_environment(merchant.settings, os.environ), cwd=merchant.settings.home)
        try:
            warm(merchant)
            login = Login(on_link=show)
            say("Only this machine reaches it. Ctrl-C ends it.")
            app = merchant_app(merchant, jobs=jobs, login=login)
            _run(
                bounded(app, most_connections=MOST_CONNECTIONS, keep_alive_seconds=15, grace_seconds=_GRACE_SECONDS),
                listener,
            )
        finally:
            jobs.close()


def _run(config: uvicorn.Config, listener: socket.socket) -> None:
    """In a thread, so that this one is free to hear the signals, and both are an orderly end."""
    server, stop = uvicorn.Server(config), threading.Event()
    before = {kind: signal.signal(kind, lambda *_: stop.set()) for kind in (signal.SIGINT, signal.SIGTERM)}
    thread = threading.Thread(target=server.run, args=([listener],), name="pages", daemon=True)
    thread.start()
    try:
        while thread.is_alive() and not stop.wait(_LOOK_SECONDS):
            pass
    finally:
        server.should_exit = True
        thread.join(2 * _GRACE_SECONDS)
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _loopback(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigError(f"--address is {address!r}; expected HOST:PORT, like 127.0.0.1:8475")
    if not is_loopback(host):
        raise ConfigError(
            f"--address is {address!r}, which other machines could reach, and the page shows customers and spends the "
            "budget without TLS. Listen on 127.0.0.1; from another machine: ssh -L 8475:127.0.0.1:8475 THIS-MACHINE"
        )
    return ("127.0.0.1" if host == "localhost" else host), int(port)
