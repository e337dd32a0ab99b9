"""One child process: in a session of its own, tied to its parent's life, its output read line by line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from daemons.logs import LONGEST_LINE, printable

LINES_KEPT = 50
_DRAIN_SECONDS = 2.0
_WITH_PARENT = str(Path(__file__).with_name("with_parent.py"))


def bounded_lines(stream: IO[bytes], *, most_bytes: int) -> Iterator[bytes]:
    """The lines of a stream without their ends, each cut to its first `most_bytes`; never holds more than that."""
    begins = True
    while piece := stream.readline(most_bytes):
        if begins:
            yield piece.rstrip(b"\r\n")
        begins = piece.endswith(b"\n")


class Process:
    """A running child.

    On Linux the kernel sends it `death_signal` when the *thread* that made this object ends, so that thread must live
    as long as the supervisor does. Elsewhere nothing does.

    Args:
        environment: all of it; nothing is inherited.
        on_line: gets every line of stdout and stderr, printable and at most `LONGEST_LINE` long, in a thread.
        on_end: called once, in a thread, when the child has ended, what it started itself is killed, and its last
            lines are read. Then `reap` gives the exit code without waiting.

    Raises:
        OSError: `cwd` is not a folder, or the system is out of processes.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path | None,
        death_signal: signal.Signals,
        on_line: Callable[[str], None],
        on_end: Callable[[Process], None],
    ) -> None:
        tied = [sys.executable, "-I", "-S", _WITH_PARENT, str(int(death_signal)), str(os.getpid())]
        self._popen = subprocess.Popen(
            [*(tied if sys.platform == "linux" else []), *command],
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in a terminal reaches the supervisor alone, and the group can be killed
        )
        self.pid = self._popen.pid
        self._on_line, self._on_end = on_line, on_end
        self._last: deque[str] = deque(maxlen=LINES_KEPT)
        self._reader = threading.Thread(target=self._read, name=f"output-{self.pid}", daemon=True)
        self._reader.start()
        threading.Thread(target=self._await_end, name=f"end-{self.pid}", daemon=True).start()

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The newest `LINES_KEPT` lines, oldest first."""
        return tuple(self._last)

    def terminate(self) -> None:
        """SIGTERM to the child alone: it knows best how to stop what it started. Not after `reap`."""
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the child and all it started, but for what left its session. Not after `reap`."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def reap(self) -> int:
        """The exit code: 0 to 255, or minus the number of the signal that ended it. Waits for the end."""
        return self._popen.wait()

    def _read(self) -> None:
        stream = self._popen.stdout
        assert stream is not None
        with stream:
            for raw in bounded_lines(stream, most_bytes=4 * LONGEST_LINE):  # UTF-8 has at most 4 bytes a character
                line = printable(raw.decode("utf-8", "backslashreplace"))
                self._last.append(line)
                self._on_line(line)

    def _await_end(self) -> None:
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)  # not reaped: until then its number is nobody else's
        self.kill()
        self._reader.join(_DRAIN_SECONDS)  # what left the session may hold the pipe for ever
        self._on_end(self)
