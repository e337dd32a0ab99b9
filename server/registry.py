"""The platform's memory of runs, rounds and models, in one SQLite file. It holds nothing about merchants' customers."""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pp_model.plan import TrainingPlan
from server.rounds import RoundOutcome

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY,
    plan TEXT NOT NULL,
    plan_fingerprint TEXT NOT NULL,
    first_round INTEGER NOT NULL,
    started TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('running', 'finished', 'failed'))
);
CREATE TABLE IF NOT EXISTS rounds (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs (id),
    round INTEGER NOT NULL,
    cohort INTEGER NOT NULL,
    completions INTEGER NOT NULL,
    void INTEGER NOT NULL,
    seconds REAL NOT NULL,
    norm REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS refusals (
    round_id INTEGER NOT NULL REFERENCES rounds (id),
    code TEXT NOT NULL,
    merchants INTEGER NOT NULL,
    PRIMARY KEY (round_id, code)
);
CREATE TABLE IF NOT EXISTS rejections (
    round_id INTEGER NOT NULL REFERENCES rounds (id),
    node TEXT NOT NULL,
    code TEXT NOT NULL,
    PRIMARY KEY (round_id, node)
);
CREATE TABLE IF NOT EXISTS models (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs (id),
    file TEXT NOT NULL,
    sha256 TEXT NOT NULL UNIQUE,
    epsilon REAL NOT NULL,
    epsilon_two_merchants REAL NOT NULL,
    delta REAL NOT NULL,
    plan_fingerprint TEXT NOT NULL,
    init_fingerprint TEXT NOT NULL,
    parent INTEGER REFERENCES models (id)
);
"""


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One round as the registry holds it: `refusals` counts merchants by code, `rejections` gives a code by node."""

    round: int
    cohort: int
    completions: int
    void: bool
    seconds: float
    norm: float
    refusals: Mapping[str, int]
    rejections: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """A published model: its file, what it cost, and where it comes from.

    Attributes:
        sha256: of the file.
        epsilon: of all rounds of the plan, for a customer of one merchant, at `delta`.
        epsilon_two_merchants: the same for a person who shops at two.
        init_fingerprint: of the arrays that training began with.
        parent: id of the model that those came from, or None.
    """

    id: int
    run: int
    file: str
    sha256: str
    epsilon: float
    epsilon_two_merchants: float
    delta: float
    plan_fingerprint: str
    init_fingerprint: str
    parent: int | None


class Registry:
    """The registry in the file `path`, made where it is missing. Every method is one transaction, on the disk when
    it returns. Close it, or use it in a `with`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 10000"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def start_run(self, plan: TrainingPlan, *, first_round: int) -> int:
        """The id of a new run, "running" from now. `first_round` is above 1 where it resumes from a checkpoint."""
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        row = (plan.to_json(), plan.fingerprint, first_round, now)
        return self._insert(
            "INSERT INTO runs (plan, plan_fingerprint, first_round, started, state) VALUES (?, ?, ?, ?, 'running')", row
        )

    def end_run(self, run: int, state: Literal["finished", "failed"]) -> None:
        """The run is over."""
        self._db.execute("UPDATE runs SET state = ? WHERE id = ?", (state, run))

    def record_round(self, run: int, outcome: RoundOutcome, *, seconds: float) -> None:
        """One round with its refusals, counted by code, and its rejections by node. All of it or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            counts = (outcome.round, outcome.cohort, outcome.completions, outcome.void)
            round_id = self._insert(
                "INSERT INTO rounds (run, round, cohort, completions, void, seconds, norm) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (run, *counts, seconds, outcome.norm),
            )
            codes = [code.value for code in outcome.refusals.values()]
            self._db.executemany(
                "INSERT INTO refusals VALUES (?, ?, ?)", [(round_id, c, codes.count(c)) for c in sorted(set(codes))]
            )
            # A node id is an unsigned 64-bit number, which SQLite has not: kept as text.
            self._db.executemany(
                "INSERT INTO rejections VALUES (?, ?, ?)",
                [(round_id, str(node), code.value) for node, code in sorted(outcome.rejections.items())],
            )
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def add_model(
        self,
        *,
        plan: TrainingPlan,
        run: int,
        file: str,
        sha256: str,
        epsilon: float,
        epsilon_two: float,
        parent: int | None,
    ) -> int:
        """The id of a published model; of the one that is there already where the same file was published before."""
        known = self._db.execute("SELECT id FROM models WHERE sha256 = ?", (sha256,)).fetchone()
        if known:
            return int(known["id"])
        fingerprints = (plan.fingerprint, plan.init_fingerprint)
        return self._insert(
            "INSERT INTO models (run, file, sha256, epsilon, epsilon_two_merchants, delta, plan_fingerprint, "
            "init_fingerprint, parent) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (run, file, sha256, epsilon, epsilon_two, plan.delta, *fingerprints, parent),
        )

    def runs(self) -> list[tuple[int, str, int, str]]:
        """(id, plan fingerprint, first round, state) of every run, oldest first."""
        rows = self._db.execute("SELECT id, plan_fingerprint, first_round, state FROM runs ORDER BY id")
        return [(row["id"], row["plan_fingerprint"], row["first_round"], row["state"]) for row in rows]

    def plan(self, run: int) -> TrainingPlan:
        """The plan of a run."""
        row = self._db.execute("SELECT plan FROM runs WHERE id = ?", (run,)).fetchone()
        return TrainingPlan.from_json(row["plan"])

    def rounds(self, run: int) -> list[RoundRecord]:
        """The rounds of a run, in the order in which they were played."""
        rows = self._db.execute("SELECT * FROM rounds WHERE run = ? ORDER BY id", (run,)).fetchall()
        return [self._round(row) for row in rows]

    def models(self) -> list[ModelRecord]:
        """Every published model, oldest first."""
        return [ModelRecord(**dict(row)) for row in self._db.execute("SELECT * FROM models ORDER BY id")]

    def largest_cohort(self, plan: TrainingPlan) -> int:
        """The most merchants whose releases were in one round of this plan, over all its runs."""
        row = self._db.execute(
            "SELECT MAX(completions) AS most FROM rounds JOIN runs ON runs.id = rounds.run WHERE plan_fingerprint = ?",
            (plan.fingerprint,),
        ).fetchone()
        return int(row["most"] or 0)

    def _round(self, row: sqlite3.Row) -> RoundRecord:
        refusals = self._db.execute("SELECT code, merchants FROM refusals WHERE round_id = ?", (row["id"],))
        rejections = self._db.execute("SELECT node, code FROM rejections WHERE round_id = ?", (row["id"],))
        return RoundRecord(
            round=row["round"],
            cohort=row["cohort"],
            completions=row["completions"],
            void=bool(row["void"]),
            seconds=row["seconds"],
            norm=row["norm"],
            refusals={r["code"]: r["merchants"] for r in refusals},
            rejections={int(r["node"]): r["code"] for r in rejections},
        )

    def _insert(self, statement: str, values: tuple[object, ...]) -> int:
        with closing(self._db.cursor()) as cursor:
            cursor.execute(statement, values)
            assert cursor.lastrowid is not None
            return cursor.lastrowid
