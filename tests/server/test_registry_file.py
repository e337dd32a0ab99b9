"""The platform's file: those of earlier versions become ones of now, with every row that they had."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from server.registry import Registry
from server.registry_file import open_registry
from server.roster import Roster

GOLDEN = Path(__file__).parents[1] / "golden" / "registry_v1.sql"


@pytest.fixture
def old(tmp_path) -> Path:
    """A file as the version before wrote it: one run of two rounds, a model and its child, a merchant."""
    path = tmp_path / "registry.sqlite"
    database = sqlite3.connect(path)
    database.executescript(GOLDEN.read_text())
    database.close()
    return path


def rows(path: Path, table: str) -> list[tuple[object, ...]]:
    database = sqlite3.connect(path)
    names = ", ".join(row[1] for row in database.execute(f"PRAGMA table_info({table})").fetchall())
    found = database.execute(f"SELECT {names} FROM {table} ORDER BY 1, 2").fetchall()
    database.close()
    return found


def test_a_file_of_the_version_before_keeps_every_row_as_it_was(old):
    tables = ("runs", "rounds", "refusals", "rejections", "models")
    before = {table: rows(old, table) for table in tables}
    assert all(before.values())
    Registry(old).close()
    after = {table: rows(old, table) for table in tables}
    for table in tables:
        assert [row[: len(before[table][0])] for row in after[table]] == before[table]


def test_what_such_a_file_does_not_say_is_said_to_be_unknown(old):
    with Registry(old) as registry, Roster(old) as roster:
        (run,) = registry.run_records()
        assert (run.state, run.ended, run.asked_round, run.deadline) == ("finished", "", 0, "")
        first, second = registry.rounds(run.id)
        assert (first.completions, first.refusals, first.offenders) == (2, {"budget": 1}, {"grocer": "norm"})
        assert (second.ended, second.log_loss, second.spend_error, second.finding) == ("", None, None, "")
        parent, child = registry.models()
        assert (child.parent, child.signed, child.published, child.rollback_of) == (parent.id, True, "", None)
        assert (child.log_loss, child.spend_error) == (None, None)
        (merchant,) = roster.merchants()
        assert (merchant.name, merchant.last_seen, merchant.version) == ("bakery", None, "")
        assert registry.market() is None


def test_a_model_of_such_a_file_can_be_gone_back_to(old):
    with Registry(old) as registry:
        again = registry.add_rollback(1, lambda number: b"signed %d" % number)
        assert registry.models()[-1].rollback_of == 1
        assert registry.manifests()[0] == b"signed %d" % again
        with pytest.raises(sqlite3.IntegrityError):  # the rows still point to each other
            registry._db.execute("UPDATE models SET parent = 99")


def test_two_programs_may_open_such_a_file_at_once(old):
    failures: list[BaseException] = []

    def open_it() -> None:
        try:
            open_registry(old).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    with Registry(old) as registry:
        assert len(registry.models()) == 2


def test_a_file_that_was_brought_up_to_date_is_left_alone(old):
    Registry(old).close()
    database = sqlite3.connect(old)
    version = database.execute("PRAGMA schema_version").fetchone()
    Registry(old).close()
    assert database.execute("PRAGMA schema_version").fetchone() == version
    database.close()
