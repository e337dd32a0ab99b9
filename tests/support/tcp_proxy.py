"""A network between a merchant and the platform that a test can cut: a TCP proxy on loopback."""

from __future__ import annotations

import socket
import struct
import threading
import time
from types import TracebackType
from typing import Literal, Self

Cut = Literal["refused", "silent"]

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST


class TcpProxy:
    """Passes on whatever comes to `port`; counts who tries. Use it in a `with`.

    Args:
        target: the port on this machine that connections are passed on to.

    Attributes:
        attempts: when each connection was tried, of the monotonic clock, also during a cut.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.attempts: list[float] = []
        self._open: set[socket.socket] = set()
        self._refuses, self._flows, self._over = False, threading.Event(), threading.Event()
        self._flows.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._flows.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._reset_all()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def cut(self, how: Cut) -> None:
        """From now on nothing passes: connections are reset at once, or take bytes and never answer."""
        if how == "silent":
            self._flows.clear()
        else:
            self._refuses = True
            self._reset_all()

    def mend(self) -> None:
        """Everything passes again, also what a silent cut held back."""
        self._refuses = False
        self._flows.set()

    def tried_between(self, begins: float, ends: float) -> list[float]:
        """When connections were tried between two moments of the monotonic clock, in seconds after the first."""
        return [moment - begins for moment in list(self.attempts) if begins <= moment <= ends]

    def _reset_all(self) -> None:
        for connection in list(self._open):
            self._reset(connection)

    def _reset(self, connection: socket.socket) -> None:
        self._open.discard(connection)
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it
        except OSError:  # the other side was quicker
            pass
        connection.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.attempts.append(time.monotonic())
            self._open.add(connection)
            if self._refuses:
                self._reset(connection)
            else:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self._flows.wait()
        try:
            onward = socket.create_connection(("127.0.0.1", self._target), timeout=5)
        except OSError:
            self._reset(connection)
            return
        onward.settimeout(None)
        self._open.add(onward)
        back = threading.Thread(target=self._pump, args=(onward, connection), daemon=True)
        back.start()
        self._pump(connection, onward)
        back.join()
        for end in (connection, onward):
            self._open.discard(end)
            end.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                self._flows.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # reset by one side or by the cut
            self._reset(source)
            self._reset(sink)
