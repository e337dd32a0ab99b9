"""The platform's memory of runs, rounds and models, in one SQLite file. It holds nothing about merchants' customers."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pp_model.plan import TrainingPlan
from server.registry_file import open_registry, transaction

if TYPE_CHECKING:  # which need PyTorch; who only reads the registry does not
    from server.public_check import Finding, Verdict
    from server.rounds import RoundOutcome

_MODEL = (
    "id, run, file, sha256, epsilon, epsilon_two_merchants, delta, plan_fingerprint, init_fingerprint, parent, "
    "manifest IS NOT NULL AS signed, published, rollback_of, log_loss, spend_error"
)
_ROUND_OF_MODEL = "(SELECT MAX(id) FROM rounds WHERE run = ? AND round = ? AND void = 0)"


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One round as the registry holds it.

    Attributes:
        norm: L2 norm of the aggregate of all releases, before the optimiser's step.
        refusals: how many merchants, by code.
        rejections: code by node.
        offenders: the same codes by the merchant's name; by its node where the name is not known.
        merchants: names of those whose releases were used, in order; () where names are not known.
        checkpoint: SHA-256 of the file with the state after the round; "" where the round left none.
        ended: in UTC; "" where an earlier version recorded the round.
        log_loss, spend_error: of the model after the round on made-up customers, see `server.public_check`; None where
            it was not judged.
        finding: what they say: "good", "doubtful", "bad" or "collapsed"; "" where it was not judged.
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
    ended: str = ""
    log_loss: float | None = None
    spend_error: float | None = None
    finding: str = ""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One attempt at a plan.

    Attributes:
        first_round: above 1 where it resumed from a checkpoint.
        started: in UTC.
        state: "running", "finished" or "failed". A run that was killed stays "running" until the next one of its plan.
        last_round: the last round that moved the model in this run; `first_round - 1` before any.
        ended: in UTC; "" while it runs, and where nobody saw its end.
        asked_round: the round that merchants are asked for; 0 while none are.
        deadline: when that round ends at the latest, in UTC; "" while none is asked.
    """

    id: int
    plan_id: str
    plan_fingerprint: str
    rounds: int
    first_round: int
    last_round: int
    started: str
    state: str
    ended: str = ""
    asked_round: int = 0
    deadline: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """A published model: its file, what it cost, and where it comes from.

    Attributes:
        sha256: of the file; a model and its rollbacks have the same.
        epsilon: of all rounds of the plan, for a customer of one merchant, at `delta`.
        epsilon_two_merchants: the same for a person who shops at two.
        init_fingerprint: of the arrays that training began with.
        parent: id of the model that those came from, or None.
        signed: whether there is a signed manifest, so that merchants can have it.
        published: in UTC; "" where an earlier version recorded the model.
        rollback_of: id of the model that was published again as this one, or None.
        log_loss, spend_error: on made-up customers, as of `RoundRecord`; None where it was not judged.
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
    published: str = ""
    rollback_of: int | None = None
    log_loss: float | None = None
    spend_error: float | None = None


class Registry:
    """The registry in the file `path`, made where it is missing. Every method is one transaction, on the disk when
    it returns. Close it, or use it in a `with`.

    Args:
        read_only: the file must be there, and nothing of it is changed; see `open_file`.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._db = open_registry(path, read_only=read_only)

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
        self._db.execute(
            "UPDATE runs SET state = 'failed', asked_round = 0, deadline = '' "
            "WHERE plan_fingerprint = ? AND state = 'running'",
            (plan.fingerprint,),
        )
        row = (plan.to_json(), plan.fingerprint, first_round, _now())
        return self._insert(
            "INSERT INTO runs (plan, plan_fingerprint, first_round, started, state) VALUES (?, ?, ?, ?, 'running')", row
        )

    def ask_round(self, run: int, round: int, *, deadline: dt.datetime) -> None:
        """Merchants are asked for a round from now on, until it is recorded or the run ends.

        Args:
            deadline: in UTC; nobody is waited for after it.
        """
        until = deadline.isoformat(timespec="seconds")
        self._db.execute("UPDATE runs SET asked_round = ?, deadline = ? WHERE id = ?", (round, until, run))

    def end_run(self, run: int, state: Literal["finished", "failed"]) -> None:
        """The run is over."""
        self._db.execute(
            "UPDATE runs SET state = ?, ended = ?, asked_round = 0, deadline = '' WHERE id = ?", (state, _now(), run)
        )

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
        with transaction(self._db):
            counts = (outcome.round, outcome.cohort, outcome.completions, outcome.void)
            used = json.dumps([known[n] for n in outcome.completed if n in known])
            round_id = self._insert(
                "INSERT INTO rounds (run, round, cohort, completions, void, seconds, norm, merchants, ended) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (run, *counts, seconds, outcome.norm, used, _now()),
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
            self._db.execute("UPDATE runs SET asked_round = 0, deadline = '' WHERE id = ?", (run,))

    def record_check(self, run: int, round: int, verdict: Verdict, finding: Finding) -> None:
        """What the public check says of the model after a round of this run."""
        self._db.execute(
            f"UPDATE rounds SET log_loss = ?, spend_error = ?, finding = ? WHERE id = {_ROUND_OF_MODEL}",
            (verdict.log_loss, verdict.spend_error, finding.value, run, round),
        )

    def record_checkpoint(self, run: int, round: int, sha256: str) -> None:
        """The state after a round of this run is on the disk, in a file with this SHA-256."""
        self._db.execute(f"UPDATE rounds SET checkpoint = ? WHERE id = {_ROUND_OF_MODEL}", (sha256, run, round))

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
        verdict: Verdict | None = None,
    ) -> int:
        """The id of a published model; of the one that is there already where the same file was published before.

        Args:
            verdict: of the public check, where there was one.
        """
        known = self._db.execute("SELECT MIN(id) AS id FROM models WHERE sha256 = ?", (sha256,)).fetchone()
        if known["id"] is not None:
            return int(known["id"])
        fingerprints = (plan.fingerprint, plan.init_fingerprint)
        check = (None, None) if verdict is None else (verdict.log_loss, verdict.spend_error)
        return self._insert(
            "INSERT INTO models (run, file, sha256, epsilon, epsilon_two_merchants, delta, plan_fingerprint, "
            "init_fingerprint, parent, published, log_loss, spend_error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (run, file, sha256, epsilon, epsilon_two, plan.delta, *fingerprints, parent, _now(), *check),
        )

    def sign_model(self, model: int, manifest: bytes, card_file: str) -> None:
        """Merchants can have the model from now on. What was signed once stays as it is."""
        self._db.execute(
            "UPDATE models SET manifest = ?, card_file = ? WHERE id = ? AND manifest IS NULL",
            (manifest, card_file, model),
        )

    def add_rollback(self, model: int, sign: Callable[[int], bytes]) -> int:
        """The id under which a signed model is published once more, as the newest: all of it or nothing.

        Args:
            sign: the manifest of the model under the number that it is given.
        """
        same = "run, file, sha256, epsilon, epsilon_two_merchants, delta, plan_fingerprint, init_fingerprint, parent, "
        same += "card_file, log_loss, spend_error"
        with transaction(self._db):
            again = self._insert(
                f"INSERT INTO models ({same}, published, rollback_of) SELECT {same}, ?, id FROM models WHERE id = ?",
                (_now(), model),
            )
            self._db.execute("UPDATE models SET manifest = ? WHERE id = ?", (sign(again), again))
        return again

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
            "SELECT file, card_file FROM models WHERE sha256 = ? AND manifest IS NOT NULL ORDER BY id", (sha256,)
        ).fetchone()
        return None if row is None else Path(row["file"] if which == "model" else row["card_file"])

    def publish_market(self, data: bytes) -> None:
        """Merchants get these signed quantiles of the federation from now on, and those before them no more."""
        self._insert("INSERT INTO markets (data, published) VALUES (?, ?)", (data, _now()))

    def market(self) -> bytes | None:
        """The signed quantiles that were published last."""
        row = self._db.execute("SELECT data FROM markets ORDER BY id DESC LIMIT 1").fetchone()
        return None if row is None else bytes(row["data"])

    def runs(self) -> list[tuple[int, str, int, str]]:
        """(id, plan fingerprint, first round, state) of every run, oldest first."""
        return [(run.id, run.plan_fingerprint, run.first_round, run.state) for run in self.run_records()]

    def run_records(self) -> list[RunRecord]:
        """Every run, oldest first."""
        rows = self._db.execute(
            "SELECT *, (SELECT MAX(round) FROM rounds WHERE run = runs.id AND void = 0) AS last FROM runs ORDER BY id"
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
            **{name: row[name] for name in ("ended", "log_loss", "spend_error", "finding")},
        )

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
        ended=row["ended"],
        asked_round=row["asked_round"],
        deadline=row["deadline"],
    )


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
