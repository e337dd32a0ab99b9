"""Which addresses a program and everything that it starts speak to, as the kernel was asked: strace, read."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

CALLS = "connect,sendto,sendmsg,sendmmsg"
FAMILY = "execve,execveat,clone,clone3,fork,vfork"

_INET = re.compile(
    r'sa_family=AF_INET6?, sin6?_port=htons\((\d+)\),[^}]*?(?:inet_addr\("([^"]*)"\)|inet_pton\(AF_INET6, "([^"]*)")'
)
_UNIX = re.compile(r'sa_family=AF_UNIX, sun_path=@?"([^"]*)"')
_LINE = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)")


@dataclass(frozen=True, order=True)
class Contact:
    """An address that was spoken to; `port` is 0 and `host` a path where it is a socket of this machine's files."""

    host: str
    port: int


def strace_is_missing() -> str:
    """Why nothing can be traced here; "" where it can."""
    if shutil.which("strace") is None:
        return "strace is not installed (Debian package strace)"
    tried = subprocess.run(traced(["true"], Path("/dev/null")), capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"this machine does not let strace look: {tried.stderr.strip()[:200]}"


def traced(command: Iterable[str], file: Path) -> list[str]:
    """The command line that does the same and writes into `file` whom it, and all that it starts, speaks to.

    The tracer stands beside (-D): a signal reaches the program as if nobody looked.
    """
    return ["strace", "-D", "-f", "--seccomp-bpf", "-s", "200", "-e", f"trace={CALLS},{FAMILY}", "-e", "signal=none",
            "-o", str(file), *command]  # fmt: skip


@dataclass(frozen=True)
class Trace:
    """What strace wrote.

    Attributes:
        contacts: of each process and thread, by its number.
        commands: what each process was started as, one entry an `execve`.
        parents: who made each process and thread.
    """

    contacts: Mapping[int, frozenset[Contact]]
    commands: Mapping[int, tuple[str, ...]]
    parents: Mapping[int, int]

    @property
    def all(self) -> frozenset[Contact]:
        """Everybody's."""
        return frozenset().union(*self.contacts.values())

    def of(self, word: str) -> frozenset[Contact]:
        """Those of the processes started by a command with `word` in it, and of what these have started.

        Raises:
            ValueError: there is no such process.
        """
        found = {number for number, commands in self.commands.items() if any(word in command for command in commands)}
        if not found:
            raise ValueError(f"no process was started as {word}")
        while more := {number for number, parent in self.parents.items() if parent in found} - found:
            found |= more
        return frozenset().union(*(self.contacts.get(number, frozenset()) for number in found))


def read_trace(file: Path) -> Trace:
    """The file of `traced`."""
    contacts: dict[int, set[Contact]] = {}
    commands: dict[int, tuple[str, ...]] = {}
    parents: dict[int, int] = {}
    for line in file.read_text(errors="replace").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        number, call, rest = int(match[1]), match[2], match[3]
        if call in CALLS.split(","):
            contacts.setdefault(number, set()).update(_contacts(rest))
        elif call.startswith("execve"):
            commands[number] = (*commands.get(number, ()), rest)
        elif made := re.search(r"= (\d+)$", rest):
            parents[int(made[1])] = number
    return Trace({n: frozenset(c) for n, c in contacts.items()}, commands, parents)


def has_ended(file: Path, number: int) -> bool:
    """Whether the trace has the orderly end of a process; the tracer writes it a moment after."""
    return re.search(rf"(?m)^{number} +\+\+\+ exited with 0", file.read_text(errors="replace")) is not None


def _contacts(text: str) -> Iterable[Contact]:
    for port, four, six in _INET.findall(text):
        yield Contact(four or six, int(port))
    for path in _UNIX.findall(text):
        yield Contact(path, 0)
