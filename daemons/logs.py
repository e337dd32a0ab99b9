"""The log of a daemon: one JSON line a record in a private file, one short line for people on stderr."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Mapping
from enum import Enum
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any

LONGEST_LINE = 2_000  # characters of a child's line that are kept
_CHILD = "child"  # the attribute of a record that becomes the field `process`; logging has its own idea of `process`
_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", _CHILD}
_OURS = ("daemon-file", "daemon-screen")


def configure_log(path: Path | None, level: str, *, most_bytes: int = 10_000_000, kept_files: int = 5) -> None:
    """Sends everything that is logged in this process to the file and to stderr; a second call replaces the first.

    No record, and no uncaught exception, has the text of an exception in it, which may hold a cell of the merchant's
    data: only its kind and place. A full disk loses lines, and nothing else.

    Args:
        path: readable by its owner alone; moved to path.1, path.2... when it reaches `most_bytes`. None: stderr only.
        level: "DEBUG", "INFO", "WARNING" or "ERROR".

    Fields of `extra` become fields of the line; `child` is shown as `process`.
    """
    root = logging.getLogger()
    # A plain handler is what a library's basicConfig left (Opacus has one); it would print the text of exceptions.
    for handler in [h for h in root.handlers if h.name in _OURS or type(h) is logging.StreamHandler]:
        root.removeHandler(handler)
        handler.close()
    screen = logging.StreamHandler()
    screen.setFormatter(HumanFormatter())
    handlers: list[logging.Handler] = [screen]
    if path is not None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = _PrivateFile(path, maxBytes=most_bytes, backupCount=kept_files, encoding="utf-8")
        file.setFormatter(JsonFormatter())
        handlers.insert(0, file)
    for name, handler in zip(_OURS[-len(handlers) :], handlers, strict=True):
        handler.name = name
        root.addHandler(handler)
    root.setLevel(level)
    logging.raiseExceptions = False  # a log that cannot be written would print the record's arguments, raw
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def printable(text: str, *, most: int = LONGEST_LINE) -> str:
    """`text` in at most `most` characters, everything that does not print escaped: no second line, no colours."""
    shown = (char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text[:most])
    return "".join(shown)[:most]


class JsonFormatter(logging.Formatter):
    """One JSON object: time (UTC), level, logger, event, then the fields. ASCII, so a line is one line everywhere."""

    def format(self, record: logging.LogRecord) -> str:
        """The record without its line end."""
        head = {"time": _time(record).isoformat(timespec="milliseconds"), "level": record.levelname.lower()}
        return json.dumps(head | {"logger": record.name, "event": _event(record)} | _fields(record), default=_plain)


class HumanFormatter(logging.Formatter):
    """What happened, for a person who looks on."""

    def format(self, record: logging.LogRecord) -> str:
        """The record without its line end."""
        fields = _fields(record)
        who = fields.pop("process", record.name)
        rest = "".join(
            f" {name}={value if isinstance(value, str) else _plain(value)}" for name, value in fields.items()
        )
        return printable(f"{_time(record):%H:%M:%S} {record.levelname:<8} {who}: {_event(record)}{rest}", most=4_000)


class _PrivateFile(RotatingFileHandler):
    def _open(self) -> TextIOWrapper:
        file = open(self.baseFilename, "a", encoding="utf-8", opener=_private)  # noqa: SIM115
        os.fchmod(file.fileno(), 0o600)  # one that was there before may be open to others
        return file


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _time(record: logging.LogRecord) -> dt.datetime:
    return dt.datetime.fromtimestamp(record.created, dt.UTC)


def _event(record: logging.LogRecord) -> str:
    """The message, with the kind of an exception where its text was asked for."""
    safe = logging.makeLogRecord({"msg": _safe(record.msg)})
    if isinstance(record.args, Mapping):
        safe.args = {name: _safe(value) for name, value in record.args.items()}
    else:
        safe.args = tuple(map(_safe, record.args or ()))
    return safe.getMessage()


def _safe(value: object) -> object:
    return type(value).__name__ if isinstance(value, BaseException) else value


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """`process`, the fields of the caller, and kind and place of an exception; none has the name of a main field."""
    reserved = _OF_EVERY_RECORD | {"time", "level", "logger", "event"}
    child = {"process": vars(record)[_CHILD]} if _CHILD in vars(record) else {}
    fields = child | {name: value for name, value in vars(record).items() if name not in reserved}
    if record.exc_info and record.exc_info[0] is not None:
        fields |= {"error": record.exc_info[0].__name__, "place": _place(record.exc_info[2])}
    return fields


def _place(trace: TracebackType | None) -> str:
    """`folder/file.py:line` where it was raised."""
    frames = list(traceback.walk_tb(trace))
    if not frames:
        return ""
    frame, line = frames[-1]
    return f"{'/'.join(PurePath(frame.f_code.co_filename).parts[-2:])}:{line}"


def _plain(value: object) -> object:
    """A value that JSON cannot hold, as text; of what is not known to be harmless only its kind."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, int | float | str | bool | PurePath | dt.date | dt.time | dt.timedelta | type(None)):
        return str(value)
    return type(value).__name__


def _log_uncaught(kind: type[BaseException], error: BaseException | None, _trace: object) -> None:
    logging.getLogger("uncaught").critical("uncaught %s", kind.__name__, exc_info=error)
