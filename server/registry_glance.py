"""The registry and the roster at one moment, for monitoring: few queries, and no way to write."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from server.registry_file import open_file

Counts = Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class RunGlance:
    """A run that is under way, or the newest one.

    Attributes:
        done: the last round that moved the model.
        last: the row of the round that was played last; None before any.
        model: the row of the last round that moved the model; None before any.
        refusals, rejections: of the round played last, by code.
        checkpoint: when the newest state of the plan was written, in UTC; "" before any.
    """

    run: int
    plan: str
    rounds: int
    running: bool
    done: int
    asked_round: int
    deadline: str
    last: Mapping[str, object] | None
    model: Mapping[str, object] | None
    refusals: Counts
    rejections: Counts
    checkpoint: str


@dataclass(frozen=True, kw_only=True)
class Glance:
    """The registry and the roster at one moment.

    Attributes:
        merchants: name, when last seen (UTC, or None) and version of each.
        totals: rounds, void ones and releases used, of all time.
        newest_model: number and time of the newest that merchants can have.
    """

    merchants: Sequence[tuple[str, str | None, str]]
    runs: Counts
    watched: Sequence[RunGlance]
    totals: tuple[int, int, int]
    refusals: Counts
    rejections: Counts
    newest_model: tuple[int, str] | None


def read_glance(registry: Path) -> Glance | None:
    """A look by a reader that cannot write; None where there is nothing to be read, or not yet."""
    try:
        with closing(open_file(registry, schema="", read_only=True)) as db:
            return _glance(db)
    except sqlite3.Error:
        return None


def _glance(db: sqlite3.Connection) -> Glance:
    db.execute("BEGIN")  # one moment, whoever writes meanwhile
    merchants = db.execute("SELECT name, last_seen, version FROM merchants WHERE removed IS NULL ORDER BY name")
    watched = db.execute(
        "SELECT *, json_extract(plan, '$.plan_id') AS plan_id, json_extract(plan, '$.rounds') AS rounds "
        "FROM runs WHERE state = 'running' OR id = (SELECT MAX(id) FROM runs) ORDER BY id"
    ).fetchall()
    totals = db.execute("SELECT count(*), coalesce(sum(void), 0), coalesce(sum(completions), 0) FROM rounds").fetchone()
    model = db.execute("SELECT id, published FROM models WHERE manifest IS NOT NULL ORDER BY id DESC LIMIT 1")
    newest = model.fetchone()
    return Glance(
        merchants=[(row["name"], row["last_seen"], row["version"]) for row in merchants],
        runs=_counts(db, "SELECT state, count(*) FROM runs GROUP BY state"),
        watched=[_run(db, row) for row in watched],
        totals=tuple(totals),
        refusals=_counts(db, "SELECT code, sum(merchants) FROM refusals GROUP BY code"),
        rejections=_counts(db, "SELECT code, count(*) FROM rejections GROUP BY code"),
        newest_model=None if newest is None else (newest["id"], newest["published"]),
    )


def _run(db: sqlite3.Connection, row: sqlite3.Row) -> RunGlance:
    played = "SELECT * FROM rounds WHERE run = ? {} ORDER BY id DESC LIMIT 1"
    last = db.execute(played.format(""), (row["id"],)).fetchone()
    model = db.execute(played.format("AND void = 0"), (row["id"],)).fetchone()
    checkpoint = db.execute(
        "SELECT MAX(rounds.ended) FROM rounds JOIN runs ON runs.id = rounds.run "
        "WHERE plan_fingerprint = ? AND checkpoint IS NOT NULL",
        (row["plan_fingerprint"],),
    ).fetchone()
    of_last = (None if last is None else last["id"],)
    return RunGlance(
        run=row["id"],
        plan=row["plan_id"],
        rounds=row["rounds"],
        running=row["state"] == "running",
        done=row["first_round"] - 1 if model is None else model["round"],
        asked_round=row["asked_round"],
        deadline=row["deadline"],
        last=None if last is None else dict(last),
        model=None if model is None else dict(model),
        refusals=_counts(db, "SELECT code, merchants FROM refusals WHERE round_id = ?", of_last),
        rejections=_counts(db, "SELECT code, count(*) FROM rejections WHERE round_id = ? GROUP BY code", of_last),
        checkpoint=checkpoint[0] or "",
    )


def _counts(db: sqlite3.Connection, query: str, values: tuple[object, ...] = ()) -> dict[str, int]:
    return {str(name): int(count) for name, count in db.execute(query, values)}
