"""A merchant's runner that dies at named points, and a daemon that starts it: `python -m tests.support.killing_shop`.

    killing_shop daemon MERCHANT.TOML     what `pp-client run` does, with the runner below
    killing_shop shop MERCHANT.TOML       the runner: dies at the next point of the list `points` beside the file

A killed runner's successor answers the same task in peace, and only then the next point is armed: one kill a round.
Each runner writes down, line by line, which tasks it looked at the orders for, and which bytes it found and answered.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

import client.daemon
import client.shop_main
import client.task
from client.settings import load_settings
from client.shop import Shop
from daemons.exit_codes import Exit
from flower_edge.records import wire_from_record
from pp_model.errors import ProtocolError
from pp_model.protocol import Release, reply_from_wire, seal
from tests.support.kill_points import install
from tests.support.ledgers import entries

POINTS, DIARY = "points", "diary"


def points_left(home: Path) -> list[str]:
    """The points at which a merchant's runners have still to die, in order."""
    return (home / POINTS).read_text(encoding="utf-8").splitlines()


def diary_of(home: Path) -> list[tuple[str, str, str]]:
    """What a merchant's runners wrote down, in order: word, task and SHA-256 of a reply's bytes.

    "started", then of the ledger that the one before left, "charged" and "found" (sealed bytes); "armed" with a point
    in the task's place; "looked" at the orders; "answered".
    """
    path = home / DIARY
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [(word, what, more) for word, what, more in (line.split("\t") for line in lines)]


class _Diary:
    def __init__(self, home: Path) -> None:
        self._file = os.open(home / DIARY, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, word: str, what: str, more: str = "") -> None:
        os.write(self._file, f"{word}\t{what}\t{more}\n".encode())


def _daemon(config: Path) -> int:
    settings = load_settings(config)
    command = client.daemon.python("tests.support.killing_shop", "shop", str(config))
    return client.daemon.run(settings, config=config, shop_command=command)


def _shop(config: Path) -> int:
    home = config.absolute().parent
    diary = _Diary(home)
    again = any(word == "armed" for word, _, _ in diary_of(home))
    _note_what_is_paid(load_settings(config).paths.ledger, diary)
    _note_who_looks(diary)
    make = client.shop_main.make_client_app

    def make_watched(shop_for: Callable[[Context], Shop]) -> Any:
        return _Watched(make(shop_for), home, diary, armed=not again)

    client.shop_main.make_client_app = make_watched
    return client.shop_main.main(["--config", str(config)])


class _Watched:
    """The app; arms the next point before its first answer, or after it where a runner was killed before."""

    def __init__(self, app: ClientApp, home: Path, diary: _Diary, *, armed: bool) -> None:
        self._app, self._home, self._diary = app, home, diary
        if armed:
            self._arm()

    def __call__(self, message: Message, context: Context) -> Message:
        reply = self._app(message, context)
        try:
            said = reply_from_wire(wire_from_record(reply.content))
        except ProtocolError:
            return reply
        if isinstance(said, Release):
            self._diary.write("answered", said.task, hashlib.sha256(seal(said)).hexdigest())
            self._arm()
        return reply

    def _arm(self) -> None:
        """The point counts as passed from now on: whoever is killed there cannot say so any more."""
        left = points_left(self._home)
        if left:
            (self._home / POINTS).write_text("".join(f"{point}\n" for point in left[1:]), encoding="utf-8")
            self._diary.write("armed", left[0])
            install(left[0])


def _note_who_looks(diary: _Diary) -> None:
    answer, train = client.task._paid_bytes, client.task.train_locally
    task = ""

    def paid(asked: Any, shop: Shop) -> bytes:
        nonlocal task
        task = asked.fingerprint
        return answer(asked, shop)

    def look(*arguments: Any, **rest: Any) -> Any:
        diary.write("looked", task)
        return train(*arguments, **rest)

    client.task._paid_bytes, client.task.train_locally = paid, look


def _note_what_is_paid(ledger: Path, diary: _Diary) -> None:
    """What the ledger says before this runner, or the product, has opened it."""
    diary.write("started", "")
    if not ledger.exists():
        return
    with closing(sqlite3.connect(ledger)) as connection:
        replies = dict(connection.execute("SELECT seq, payload FROM payloads").fetchall())
    for _, body, _ in entries(ledger):
        entry = json.loads(body)
        if entry["kind"] == "charge":
            diary.write("charged", entry["task"])
        elif entry["kind"] == "seal" and entry["seq"] in replies:
            diary.write("found", entry["task"], hashlib.sha256(replies[entry["seq"]]).hexdigest())


if __name__ == "__main__":
    sys.exit({"daemon": _daemon, "shop": _shop}.get(sys.argv[1], lambda _: Exit.BAD_INPUT)(Path(sys.argv[2])))
