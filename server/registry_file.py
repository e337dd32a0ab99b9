"""The one SQLite file that `Registry` and `Roster` are two views of: how it is opened and brought up to date."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Added = tuple[str, str, str]  # table, column, its type: to files that were made before there was such a column

_MODELS = """(
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs (id),
    file TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    epsilon REAL NOT NULL,
    epsilon_two_merchants REAL NOT NULL,
    delta REAL NOT NULL,
    plan_fingerprint TEXT NOT NULL,
    init_fingerprint TEXT NOT NULL,
    parent INTEGER REFERENCES models (id),
    manifest BLOB,
    card_file TEXT,
    published TEXT NOT NULL DEFAULT '',
    rollback_of INTEGER REFERENCES models (id),
    log_loss REAL,
    spend_error REAL
)"""
_REGISTRY = f"""
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY,
    plan TEXT NOT NULL,
    plan_fingerprint TEXT NOT NULL,
    first_round INTEGER NOT NULL,
    started TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('running', 'finished', 'failed')),
    ended TEXT NOT NULL DEFAULT '',
    asked_round INTEGER NOT NULL DEFAULT 0,
    deadline TEXT NOT NULL DEFAULT ''
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
    checkpoint TEXT,
    ended TEXT NOT NULL DEFAULT '',
    log_loss REAL,
    spend_error REAL,
    finding TEXT NOT NULL DEFAULT ''
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
CREATE INDEX IF NOT EXISTS rounds_of_a_run ON rounds (run);
CREATE TABLE IF NOT EXISTS models {_MODELS};
CREATE TABLE IF NOT EXISTS markets (id INTEGER PRIMARY KEY, data BLOB NOT NULL, published TEXT NOT NULL);
"""
_REGISTRY_ADDED: tuple[Added, ...] = (
    ("rounds", "merchants", "TEXT NOT NULL DEFAULT '[]'"),
    ("rounds", "checkpoint", "TEXT"),
    ("rejections", "merchant", "TEXT"),
    ("models", "manifest", "BLOB"),
    ("models", "card_file", "TEXT"),
    ("runs", "ended", "TEXT NOT NULL DEFAULT ''"),
    ("runs", "asked_round", "INTEGER NOT NULL DEFAULT 0"),
    ("runs", "deadline", "TEXT NOT NULL DEFAULT ''"),
    ("rounds", "ended", "TEXT NOT NULL DEFAULT ''"),
    ("rounds", "log_loss", "REAL"),
    ("rounds", "spend_error", "REAL"),
    ("rounds", "finding", "TEXT NOT NULL DEFAULT ''"),
    ("models", "published", "TEXT NOT NULL DEFAULT ''"),
    ("models", "rollback_of", "INTEGER REFERENCES models (id)"),
    ("models", "log_loss", "REAL"),
    ("models", "spend_error", "REAL"),
)


def open_registry(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """The file with the registry's tables, those of earlier versions with all that has been added since. See
    `open_file`."""
    db = open_file(path, schema=_REGISTRY, added=_REGISTRY_ADDED, read_only=read_only)
    if not read_only and _one_model_a_file(db):
        _let_a_file_be_several_models(db)
    return db


def open_file(path: Path, *, schema: str, added: tuple[Added, ...] = (), read_only: bool = False) -> sqlite3.Connection:
    """A connection whose every statement is a transaction, on the disk when it returns.

    Args:
        schema: tables to make where they are missing.
        read_only: nothing is made, brought up to date or written; the file must be there.

    Raises:
        sqlite3.Error: the file cannot be opened, or is another.
    """
    if read_only:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        pragmas: tuple[str, ...] = ("busy_timeout = 10000",)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(path, isolation_level=None)
        pragmas = ("busy_timeout = 10000", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")
    db.row_factory = sqlite3.Row
    try:
        for pragma in pragmas:
            db.execute(f"PRAGMA {pragma}")
        if not read_only:
            db.executescript(schema)
            _add_columns(db, added)
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All that is written inside, or nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _add_columns(db: sqlite3.Connection, added: tuple[Added, ...]) -> None:
    if not _missing(db, added):
        return
    with transaction(db):  # two processes may open an old file at once
        for table, column, kind in _missing(db, added):
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")


def _missing(db: sqlite3.Connection, added: tuple[Added, ...]) -> list[Added]:
    tables = {table for table, _, _ in added}
    there = {(table, row["name"]) for table in tables for row in db.execute(f"PRAGMA table_info({table})")}
    return [column for column in added if column[:2] not in there]


def _one_model_a_file(db: sqlite3.Connection) -> bool:
    """Whether the models' table is of a version that knew no rollback: one file was one model."""
    row = db.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'models'").fetchone()
    return "UNIQUE" in row["sql"]


def _let_a_file_be_several_models(db: sqlite3.Connection) -> None:
    """SQLite takes no constraint off a table, so the table is made anew with the same rows."""
    db.execute("PRAGMA foreign_keys = OFF")  # of no effect inside a transaction; the rows point to each other
    try:
        with transaction(db):
            if not _one_model_a_file(db):
                return
            names = ", ".join(row["name"] for row in db.execute("PRAGMA table_info(models)"))
            db.execute(f"CREATE TABLE models_anew {_MODELS}")
            db.execute(f"INSERT INTO models_anew ({names}) SELECT {names} FROM models")
            db.execute("DROP TABLE models")
            db.execute("ALTER TABLE models_anew RENAME TO models")
    finally:
        db.execute("PRAGMA foreign_keys = ON")
