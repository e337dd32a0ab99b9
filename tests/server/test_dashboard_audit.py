"""Tampering is tried on the file itself, with another program's SQLite."""

import json
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from pp_model.errors import ConfigError
from server.dashboard.audit import Action, AuditLog, Fault, _hash


@pytest.fixture
def log(tmp_path):
    made = AuditLog(tmp_path / "audit.sqlite")
    for at in range(6):
        made.append(Action.LOGIN, who=f"person-{at}", subject="", address="127.0.0.1")
    return made


def tamper(tmp_path, *statements, **values):
    with closing(sqlite3.connect(tmp_path / "audit.sqlite")) as db, db:
        for statement in statements:
            db.execute(statement, values)


def body(tmp_path, seq):
    with closing(sqlite3.connect(tmp_path / "audit.sqlite")) as db:
        return db.execute("SELECT body FROM entries WHERE seq = ?", (seq,)).fetchone()[0]


def test_entries_come_newest_first_and_say_who_did_what_from_where(log):
    log.append(Action.ROLLBACK_DONE, who="ada", subject="model 3", address="10.1.1.1")
    newest, before = log.entries(most=2)
    assert (newest.seq, newest.who, newest.action, newest.subject) == (7, "ada", "rollback_done", "model 3")
    assert newest.address == "10.1.1.1"
    assert newest.before == before.hash
    assert [entry.seq for entry in log.entries(before=4)] == [3, 2, 1]


def test_a_whole_log_holds_and_its_anchor_is_its_last_entry(log):
    verified = log.verify()
    assert (verified.entries, verified.fault) == (6, None)
    assert verified.anchor == f"6:{log.entries(most=1)[0].hash}"
    assert log.verify(anchor=verified.anchor).fault is None


def test_an_empty_log_holds(tmp_path):
    verified = AuditLog(tmp_path / "audit.sqlite").verify()
    assert (verified.entries, verified.anchor, verified.fault) == (0, "", None)


def test_the_file_is_for_its_owner_alone(log, tmp_path):
    assert stat.S_IMODE((tmp_path / "audit.sqlite").stat().st_mode) == 0o600


@pytest.mark.parametrize("field", ["time", "who", "action", "subject", "address", "before"])
def test_a_changed_entry_is_found(log, tmp_path, field):
    stated = json.loads(body(tmp_path, 3))
    stated[field] = "another" if field != "before" else "0" * 64
    tamper(tmp_path, "UPDATE entries SET body = :body WHERE seq = 3", body=json.dumps(stated))
    assert log.verify().fault == Fault(kind="changed", seq=3)


def test_an_entry_that_was_changed_and_hashed_anew_is_found_at_the_next_one(log, tmp_path):
    changed = body(tmp_path, 3).replace("person-2", "somebody")
    tamper(tmp_path, "UPDATE entries SET body = :body, hash = :hash WHERE seq = 3", body=changed, hash=_hash(changed))
    assert log.verify().fault == Fault(kind="changed", seq=4)


def test_an_entry_that_is_missing_is_found(log, tmp_path):
    tamper(tmp_path, "DELETE FROM entries WHERE seq = 3")
    assert log.verify().fault == Fault(kind="missing", seq=3)


def test_a_gap_that_was_closed_is_found(log, tmp_path):
    tamper(
        tmp_path,
        "DELETE FROM entries WHERE seq = 3",
        *(f"UPDATE entries SET seq = {at - 1} WHERE seq = {at}" for at in (4, 5, 6)),
    )
    assert log.verify().fault == Fault(kind="changed", seq=3)


def test_entries_that_changed_places_are_found(log, tmp_path):
    tamper(
        tmp_path,
        "UPDATE entries SET seq = 99 WHERE seq = 2",
        "UPDATE entries SET seq = 2 WHERE seq = 5",
        "UPDATE entries SET seq = 5 WHERE seq = 99",
    )
    assert log.verify().fault == Fault(kind="changed", seq=2)


def test_an_entry_that_was_put_in_is_found(log, tmp_path):
    tamper(
        tmp_path,
        *(f"UPDATE entries SET seq = {at + 1} WHERE seq = {at}" for at in (6, 5, 4)),
        "INSERT INTO entries SELECT 4, body, hash FROM entries WHERE seq = 3",
    )
    assert log.verify().fault == Fault(kind="changed", seq=4)


@pytest.mark.parametrize("value", ["", "not JSON", "[]", "{}", '{"seq": 3}', b"\xff", None])
def test_an_entry_that_is_none_is_found_and_left_out_of_the_page(log, tmp_path, value):
    tamper(
        tmp_path,
        "CREATE TABLE copied AS SELECT * FROM entries",
        "DROP TABLE entries",
        "CREATE TABLE entries (seq INTEGER PRIMARY KEY, body, hash)",
        "INSERT INTO entries SELECT * FROM copied",
        "UPDATE entries SET body = :value WHERE seq = 3",
        value=value,
    )
    assert log.verify().fault == Fault(kind="changed", seq=3)
    assert [entry.seq for entry in log.entries()] == [6, 5, 4, 2, 1]


def test_an_end_that_was_cut_off_is_found_with_an_anchor_alone(log, tmp_path):
    anchor = log.verify().anchor
    tamper(tmp_path, "DELETE FROM entries WHERE seq > 4")
    assert log.verify().fault is None
    assert log.verify(anchor=anchor).fault == Fault(kind="anchor", seq=6)


def test_a_log_that_was_written_anew_from_some_entry_on_is_found_with_an_anchor_alone(log, tmp_path):
    anchor = log.verify().anchor
    tamper(tmp_path, "DELETE FROM entries WHERE seq > 3")
    for _ in range(3):
        log.append(Action.LOGIN, who="somebody", address="127.0.0.1")
    assert log.verify().fault is None
    assert log.verify(anchor=anchor).fault == Fault(kind="anchor", seq=6)


@pytest.mark.parametrize("anchor", ["6", "0:" + "a" * 64, "6:" + "A" * 64, "6:abc", "x:" + "a" * 64])
def test_what_is_no_anchor_is_refused(log, anchor):
    with pytest.raises(ConfigError, match="NUMBER:HASH"):
        log.verify(anchor=anchor)


def test_entries_of_many_at_once_make_one_chain(log, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: AuditLog(tmp_path / "audit.sqlite").append(Action.LOGIN, who=f"p{at}"), range(40)))
    verified = log.verify()
    assert (verified.entries, verified.fault) == (46, None)


def test_the_exported_lines_have_every_entry_with_its_hash(log):
    lines = [json.loads(line) for line in log.lines().splitlines()]
    assert [line["entry"]["seq"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["hash"] for line in lines] == [entry.hash for entry in log.entries()][::-1]
    assert lines[1]["entry"]["before"] == lines[0]["hash"]
