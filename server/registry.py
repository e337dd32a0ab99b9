"""The platform's memory of runs, rounds and models, in one SQLite file. It holds nothing about merchants' customers."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pp_model.plan import TrainingPlan

if TYPE_CHECKING:
    from server.rounds import RoundOutcome  # which needs PyTorch; who only reads the registry does not

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
    norm REAL NOT NULL,
    merchants TEXT NOT NULL DEFAULT '[]',
    checkpoint TEXT
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
    merchant TEXT,
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
    parent INTEGER REFERENCES models (id),
    manifest BLOB,
    card_file TEXT
);
"""
_ADDED_COLUMNS = (  # to files made before there were such
    ("rounds", "merchants", "TEXT NOT NULL DEFAULT '[]'"),
    ("rounds", "checkpoint", "TEXT"),
    ("rejections", "merchant", "TEXT"),
    ("models", "manifest", "BLOB"),
    ("models", "card_file", "TEXT"),
)
_MODEL = (
    "id, run, file, sha256, epsilon, epsilon_two_merchants, delta, plan_fingerprint, init_fingerprint, parent, "
    "manifest IS NOT NULL AS signed"
)


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One round as the registry holds it.

    Attributes:
        refusals: how many merchants, by code.
        rejections: code by node.
        offenders: the same codes by the merchant's name; by its node where the name is not known.
        merchants: names of those whose releases were used, in order; () where names are not known.
        checkpoint: SHA-256 of the file with the state after the round; "" where the round left none.
    """

    round: int
    cohort: int
    completions: int
    void: bool
    seconds: float
    norm: float
    refusals: Mapping[str, int]
    rejections: Mapping[int, str]
    offenders: Mapping[str, str]
    merchants: tuple[str, ...]
    checkpoint: str


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One attempt at a plan.

    Attributes:
        first_round: above 1 where it resumed from a checkpoint.
        started: in UTC.
        state: "running", "finished" or "failed". A run that was killed stays "running" until the next one of its plan.
        last_round: the last round that moved the model in this run; `first_round - 1` before any.
    """

    id: int
    plan_id: str
    plan_fingerprint: str
    rounds: int
    first_round: int
    last_round: int
    started: str
    state: str


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """A published model: its file, what it cost, and where it comes from.

    Attributes:
        sha256: of the file.
        epsilon: of all rounds of the plan, for a customer of one merchant, at `delta`.
        epsilon_two_merchants: the same for a person who shops at two.
        init_fingerprint: of the arrays that training began with.
        parent: id of the model that those came from, or None.
        signed: whether there is a signed manifest, so that merchants can have it.
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
    signed: bool


class Registry:
    """The registry in the file `path`, made where it is missing. Every method is one transaction, on the disk when
    it returns. Close it, or use it in a `with`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        for pragma in ("busy_timeout = 10000", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)
        self._migrate()

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def start_run(self, plan: TrainingPlan, *, first_round: int) -> int:
        """The id of a new run, "running" from now. `first_round` is above 1 where it resumes from a checkpoint.

        Earlier runs of the plan that never said how they ended have failed.
        """
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        self._db.execute(
            "UPDATE runs SET state = 'failed' WHERE plan_fingerprint = ? AND state = 'running'", (plan.fingerprint,)
        )
        row = (plan.to_json(), plan.fingerprint, first_round, now)
        return self._insert(
            "INSERT INTO runs (plan, plan_fingerprint, first_round, started, state) VALUES (?, ?, ?, ?, 'running')", row
        )

    def end_run(self, run: int, state: Literal["finished", "failed"]) -> None:
        """The run is over."""
        self._db.execute("UPDATE runs SET state = ? WHERE id = ?", (state, run))

    def record_round(
        self,
        run: int,
        outcome: RoundOutcome,
        *,
        seconds: float,
        names: Mapping[int, str] | None = None,
    ) -> None:
        """One round with its refusals, counted by code, and its rejections by node. All of it or nothing.

        Args:
            names: of merchants by node, where they are known.
        """
        known = names or {}
        self._db.execute("BEGIN IMMEDIATE")
        try:
            counts = (outcome.round, outcome.cohort, outcome.completions, outcome.void)
            round_id = self._insert(
                "INSERT INTO rounds (run, round, cohort, completions, void, seconds, norm, merchants) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (run, *counts, seconds, outcome.norm, json.dumps([known[n] for n in outcome.completed if n in known])),
            )
            codes = [code.value for code in outcome.refusals.values()]
            self._db.executemany(
                "INSERT INTO refusals VALUES (?, ?, ?)", [(round_id, c, codes.count(c)) for c in sorted(set(codes))]
            )
            # A node id is an unsigned 64-bit number, which SQLite has not: kept as text.
            self._db.executemany(
                "INSERT INTO rejections (round_id, node, code, merchant) VALUES (?, ?, ?, ?)",
                [(round_id, str(n), code.value, known.get(n)) for n, code in sorted(outcome.rejections.items())],
            )
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def record_checkpoint(self, run: int, round: int, sha256: str) -> None:
        """The state after a round of this run is on the disk, in a file with this SHA-256."""
        self._db.execute(
            "UPDATE rounds SET checkpoint = ? WHERE id = "
            "(SELECT MAX(id) FROM rounds WHERE run = ? AND round = ? AND void = 0)",
            (sha256, run, round),
        )

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

    def sign_model(self, model: int, manifest: bytes, card_file: str) -> None:
        """Merchants can have the model from now on. What was signed once stays as it is."""
        self._db.execute(
            "UPDATE models SET manifest = ?, card_file = ? WHERE id = ? AND manifest IS NULL",
            (manifest, card_file, model),
        )

    def manifest(self, model: int) -> bytes | None:
        """The signed manifest of a model."""
        row = self._db.execute("SELECT manifest FROM models WHERE id = ?", (model,)).fetchone()
        return None if row is None or row["manifest"] is None else bytes(row["manifest"])

    def manifests(self) -> list[bytes]:
        """The signed manifests, newest model first."""
        rows = self._db.execute("SELECT manifest FROM models WHERE manifest IS NOT NULL ORDER BY id DESC")
        return [bytes(row["manifest"]) for row in rows]

    def published_file(self, sha256: str, which: str) -> Path | None:
        """Where the "model" or the "card" of the signed model with this SHA-256 is; None where there is no such."""
        row = self._db.execute(
            "SELECT file, card_file FROM models WHERE sha256 = ? AND manifest IS NOT NULL", (sha256,)
        ).fetchone()
        return None if row is None else Path(row["file"] if which == "model" else row["card_file"])

    def runs(self) -> list[tuple[int, str, int, str]]:
        """(id, plan fingerprint, first round, state) of every run, oldest first."""
        return [(run.id, run.plan_fingerprint, run.first_round, run.state) for run in self.run_records()]

    def run_records(self) -> list[RunRecord]:
        """Every run, oldest first."""
        rows = self._db.execute(
            "SELECT id, plan, plan_fingerprint, first_round, started, state, (SELECT MAX(round) FROM rounds "
            "WHERE rounds.run = runs.id AND void = 0) AS last FROM runs ORDER BY id"
        )
        return [_run(row) for row in rows]

    def plan(self, run: int) -> TrainingPlan:
        """The plan of a run."""
        row = self._db.execute("SELECT plan FROM runs WHERE id = ?", (run,)).fetchone()
        return TrainingPlan.from_json(row["plan"])

    def rounds(self, run: int) -> list[RoundRecord]:
        """The rounds of a run, in the order in which they were played."""
        rows = self._db.execute("SELECT * FROM rounds WHERE run = ? ORDER BY id", (run,)).fetchall()
        return [self._round(row) for row in rows]

    def rounds_after(self, last: int) -> list[tuple[int, int, RoundRecord]]:
        """(number, run, round) of the rounds of all runs that were recorded after the one with the number `last`."""
        rows = self._db.execute("SELECT * FROM rounds WHERE id > ? ORDER BY id", (last,)).fetchall()
        return [(row["id"], row["run"], self._round(row)) for row in rows]

    def checkpointed_rounds(self, plan_fingerprint: str) -> list[RoundRecord]:
        """The rounds that made the model: of each number the last one, over all runs of the plan, that left a state."""
        rows = self._db.execute(
            "SELECT rounds.* FROM rounds JOIN runs ON runs.id = rounds.run "
            "WHERE plan_fingerprint = ? AND checkpoint IS NOT NULL ORDER BY rounds.id",
            (plan_fingerprint,),
        ).fetchall()
        last = {row["round"]: self._round(row) for row in rows}
        return [last[number] for number in sorted(last)]

    def models(self) -> list[ModelRecord]:
        """Every published model, oldest first."""
        rows = self._db.execute(f"SELECT {_MODEL} FROM models ORDER BY id")
        return [ModelRecord(**{**dict(row), "signed": bool(row["signed"])}) for row in rows]

    def largest_cohort(self, plan: TrainingPlan) -> int:
        """The most merchants whose releases were in one round of this plan, over all its runs."""
        row = self._db.execute(
            "SELECT MAX(completions) AS most FROM rounds JOIN runs ON runs.id = rounds.run WHERE plan_fingerprint = ?",
            (plan.fingerprint,),
        ).fetchone()
        return int(row["most"] or 0)

    def _round(self, row: sqlite3.Row) -> RoundRecord:
        refusals = self._db.execute("SELECT code, merchants FROM refusals WHERE round_id = ?", (row["id"],))
        rejections = self._db.execute(
            "SELECT node, code, merchant FROM rejections WHERE round_id = ?", (row["id"],)
        ).fetchall()
        return RoundRecord(
            round=row["round"],
            cohort=row["cohort"],
            completions=row["completions"],
            void=bool(row["void"]),
            seconds=row["seconds"],
            norm=row["norm"],
            refusals={r["code"]: r["merchants"] for r in refusals},
            rejections={int(r["node"]): r["code"] for r in rejections},
            offenders={r["merchant"] or r["node"]: r["code"] for r in rejections},
            merchants=tuple(json.loads(row["merchants"])),
            checkpoint=row["checkpoint"] or "",
        )

    def _migrate(self) -> None:
        if not self._missing_columns():
            return
        self._db.execute("BEGIN IMMEDIATE")  # two processes may open an old file at once
        for table, column, kind in self._missing_columns():
            self._db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
        self._db.execute("COMMIT")

    def _missing_columns(self) -> list[tuple[str, str, str]]:
        there = {
            (table, row["name"])
            for table in {table for table, _, _ in _ADDED_COLUMNS}
            for row in self._db.execute(f"PRAGMA table_info({table})")
        }
        return [added for added in _ADDED_COLUMNS if added[:2] not in there]

    def _insert(self, statement: str, values: tuple[object, ...]) -> int:
        with closing(self._db.cursor()) as cursor:
            cursor.execute(statement, values)
            assert cursor.lastrowid is not None
            return cursor.lastrowid


def _run(row: sqlite3.Row) -> RunRecord:
    plan = TrainingPlan.from_json(row["plan"])
    return RunRecord(
        id=row["id"],
        plan_id=plan.plan_id,
        plan_fingerprint=row["plan_fingerprint"],
        rounds=plan.rounds,
        first_round=row["first_round"],
        last_round=row["first_round"] - 1 if row["last"] is None else row["last"],
        started=row["started"],
        state=row["state"],
    )
