"""The ledger's file: damage, loss and old copies are noticed, or change nothing that was spent."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from client.ledger import SealedReplyGoneError
from client.ledger_file import create
from client.ledger_head import read_head
from pp_model.errors import LedgerError
from tests.support.ledgers import LIFE, PLAN, entries, event, ledger_of_steps, live, payload_of

# Made whole, and durable


def test_a_program_that_comes_second_in_making_the_file_leaves_the_first_ones_alone(tmp_path: Path) -> None:
    with ledger_of_steps(tmp_path / "ledger.sqlite") as ledger:
        ledger.charge("a", event(1), plan=PLAN, most_tasks=None)
    before = (tmp_path / "ledger.sqlite").read_bytes()
    (tmp_path / "ledger.sqlite-head").unlink()
    create(tmp_path / "ledger.sqlite", {"kind": "genesis"})
    assert (tmp_path / "ledger.sqlite").read_bytes() == before


def test_every_commit_waits_for_the_disk(tmp_path: Path) -> None:
    with ledger_of_steps(tmp_path / "ledger.sqlite") as ledger:
        pragmas = [
            ledger._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")
        ]
        assert pragmas == [2, "wal"]  # 2 is FULL


# Damage


def test_every_flipped_bit_is_noticed_in_free_space_too(tmp_path: Path) -> None:
    """A hundred and fifty of them; a thousand, and what a crash leaves behind, in `tests/e2e`."""
    original, spent, events = intact_ledger(tmp_path)
    files = {end: (tmp_path / f"ledger.sqlite{end}").read_bytes() for end in ("", "-head")}
    assert original.exists()
    assert opens_unchanged(tmp_path / "copy", files, spent, events)
    for end, content in files.items():
        for at in range(0, len(content), max(1, len(content) // 75)):
            changed = {**files, end: flipped(content, at, 1 << at % 8)}
            assert not opens_unchanged(tmp_path / "copy", changed, spent, events), (end, at)


def test_the_file_alone_is_the_ledger_between_two_calls(tmp_path: Path) -> None:
    """So that nothing in it, and nothing beside it, is a byte that nobody looks at."""
    path = tmp_path / "ledger.sqlite"
    with ledger_of_steps(path) as ledger:
        for number in range(12):  # replies large and small, the oldest dropped again
            ledger.charge(f"task {number}", event(1), plan=PLAN, most_tasks=None)
            ledger.seal(f"task {number}", os.urandom((10, 50_000, 3_000)[number % 3]))
            head = read_head(path)
            assert head is not None
            assert (head.seq, head.pages) == (ledger.anchor.seq, sha256(path.read_bytes()).hexdigest())
            assert (tmp_path / "ledger.sqlite-wal").read_bytes() == b""


def test_a_head_that_a_crash_left_behind_is_brought_up_to_date(tmp_path: Path) -> None:
    original, spent, events = intact_ledger(tmp_path)
    old = tmp_path / "ledger.sqlite-head"
    latest = old.read_bytes()
    with ledger_of_steps(tmp_path / "other.sqlite") as ledger:
        ledger.charge("a", event(10), plan=PLAN, most_tasks=None)
        behind = (tmp_path / "other.sqlite-head").read_bytes()  # of the same life, two entries in
    files = {"": original.read_bytes(), "-head": behind}
    assert opens_unchanged(tmp_path / "copy", files, spent, events)
    assert (tmp_path / "copy" / "ledger.sqlite-head").read_bytes() == latest


def test_a_truncated_ledger_is_refused_at_any_length(tmp_path: Path) -> None:
    original, spent, events = intact_ledger(tmp_path)
    content = original.read_bytes()
    for length in (0, 1, 15, 100, 1000, 4096, 8192, len(content) // 2, len(content) - 1):
        assert not opens_unchanged(tmp_path / "copy", {"": content[:length]}, spent, events), length


def test_a_truncated_head_is_refused_at_any_length(tmp_path: Path) -> None:
    original, spent, events = intact_ledger(tmp_path)
    head = (tmp_path / "ledger.sqlite-head").read_bytes()
    for length in range(len(head)):
        files = {"": original.read_bytes(), "-head": head[:length]}
        assert not opens_unchanged(tmp_path / "copy", files, spent, events), length


def test_a_line_taken_out_or_changed_with_sql_is_noticed(tmp_path: Path) -> None:
    original, spent, events = intact_ledger(tmp_path)
    head = (tmp_path / "ledger.sqlite-head").read_bytes()
    for statement in (
        "DELETE FROM entries WHERE seq = 3",
        "DELETE FROM entries WHERE seq = (SELECT max(seq) FROM entries)",
        "DELETE FROM entries",
        "UPDATE entries SET body = replace(body, '\"num_steps\":10', '\"num_steps\":1')",
        "UPDATE entries SET seq = 100 WHERE seq = 6",
        "DROP TABLE entries",
    ):
        shutil.copy(original, tmp_path / "edited.sqlite")
        with closing(sqlite3.connect(tmp_path / "edited.sqlite")) as connection, connection:
            connection.execute(statement)
        files = {"": (tmp_path / "edited.sqlite").read_bytes(), "-head": head}
        assert not opens_unchanged(tmp_path / "copy", files, spent, events), statement


@pytest.mark.parametrize("content", [b"", b"customer_id,amount\n" * 500], ids=["empty", "text"])
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "orders.csv").write_bytes(content)
    with pytest.raises(LedgerError):
        ledger_of_steps(tmp_path / "orders.csv")
    assert (tmp_path / "orders.csv").read_bytes() == content


@pytest.mark.parametrize("pragma", ["application_id", "user_version"])
def test_a_database_of_another_kind_or_version_is_refused(tmp_path: Path, pragma: str) -> None:
    ledger_of_steps(tmp_path / "ledger.sqlite").close()
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection:
        connection.execute(f"PRAGMA {pragma} = 7")
    with pytest.raises(LedgerError, match="version 7" if pragma == "user_version" else "not a privacy ledger"):
        ledger_of_steps(tmp_path / "ledger.sqlite")


def test_a_ledger_that_was_deleted_is_not_begun_afresh(tmp_path: Path) -> None:
    with ledger_of_steps(tmp_path / "ledger.sqlite") as ledger:
        ledger.charge("a", event(1), plan=PLAN, most_tasks=None)
    (tmp_path / "ledger.sqlite").unlink()
    with pytest.raises(LedgerError, match="is gone"):
        ledger_of_steps(tmp_path / "ledger.sqlite")


def test_a_missing_folder_is_a_ledger_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="Check the path"):
        ledger_of_steps(tmp_path / "missing" / "ledger.sqlite")


@pytest.mark.parametrize(
    ("pragma", "remedy"),
    [("max_page_count = 1", "Free some disk space"), ("query_only = ON", "Let this program write")],
    ids=["disk full", "read-only"],
)
def test_when_nothing_can_be_written_nothing_is_charged(tmp_path: Path, pragma: str, remedy: str) -> None:
    with ledger_of_steps(tmp_path / "ledger.sqlite") as ledger:
        ledger.charge("a", event(1), plan=PLAN, most_tasks=None)
        ledger._connection.execute(f"PRAGMA {pragma}")
        for write in (
            lambda: ledger.charge("b", event(1), plan="p" * 10_000, most_tasks=None),
            lambda: ledger.seal("a", bytes(10_000)),
        ):
            with pytest.raises(LedgerError, match=remedy):
                write()
        assert (ledger.spent, ledger.anchor.seq) == (1, 1)
    with ledger_of_steps(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.sealed("a") is None


def test_a_seal_that_fails_half_way_leaves_neither_its_entry_nor_its_reply(tmp_path: Path) -> None:
    with ledger_of_steps(tmp_path / "ledger.sqlite") as ledger:
        ledger.charge("a", event(1), plan=PLAN, most_tasks=None)
        ledger._connection.execute(
            "CREATE TEMP TRIGGER fail BEFORE INSERT ON main.payloads BEGIN SELECT RAISE(FAIL, 'no more'); END"
        )
        with pytest.raises(LedgerError, match="no more"):
            ledger.seal("a", payload_of("a"))
        assert (ledger.sealed("a"), ledger.anchor.seq) == (None, 1)
        ledger._connection.execute("DROP TRIGGER fail")
        assert ledger.seal("a", b"computed again") == ledger.sealed("a") == b"computed again"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any file")
def test_a_read_only_file_charges_nothing(tmp_path: Path) -> None:
    ledger_of_steps(tmp_path / "ledger.sqlite").close()
    (tmp_path / "ledger.sqlite").chmod(0o400)
    with pytest.raises(LedgerError), ledger_of_steps(tmp_path / "ledger.sqlite") as ledger:
        ledger.charge("a", event(1), plan=PLAN, most_tasks=None)


# Old copies


def test_a_restored_old_ledger_is_noticed_by_its_anchor(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with ledger_of_steps(path) as ledger:
        ledger.charge("a", event(1), plan=PLAN, most_tasks=None)
    backup = path.read_bytes()
    with ledger_of_steps(path) as ledger:
        ledger.charge("b", event(1), plan=PLAN, most_tasks=None)
        anchor = ledger.anchor
        ledger.check_anchor(anchor)
        ledger.check_anchor(replace(anchor, seq=0, hash=entries(path)[0][2]))
    path.write_bytes(backup)
    with pytest.raises(LedgerError, match="old copy"):  # by the head beside the file
        ledger_of_steps(path)
    (tmp_path / "ledger.sqlite-head").unlink()
    with ledger_of_steps(path) as ledger:
        with pytest.raises(LedgerError, match="old copy"):  # by the anchor that was kept elsewhere
            ledger.check_anchor(anchor)
        ledger.charge("c", event(1), plan=PLAN, most_tasks=None)  # another history, as long
        with pytest.raises(LedgerError, match="not the anchored one"):
            ledger.check_anchor(anchor)


@pytest.mark.parametrize("text", ["000000000001 nonsense\n", "\u00e9"])
def test_a_damaged_head_beside_the_file_is_refused(tmp_path: Path, text: str) -> None:
    ledger_of_steps(tmp_path / "ledger.sqlite").close()
    (tmp_path / "ledger.sqlite-head").write_text(text, encoding="utf-8")
    with pytest.raises(LedgerError, match="-head is damaged"):
        ledger_of_steps(tmp_path / "ledger.sqlite")


@pytest.mark.parametrize(
    "statement", ["DELETE FROM entries WHERE seq = 1", f"UPDATE entries SET hash = '{'0' * 64}' WHERE seq = 1"]
)
def test_a_ledger_that_changes_under_a_running_program_is_noticed(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "ledger.sqlite"
    with ledger_of_steps(path) as ledger:
        ledger.charge("a", event(1), plan=PLAN, most_tasks=None)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(statement)
        with pytest.raises(LedgerError, match="lost entries"):
            ledger.charge("b", event(1), plan=PLAN, most_tasks=None)


# Helpers


def intact_ledger(folder: Path) -> tuple[Path, float, tuple[object, ...]]:
    """A closed ledger of three charges and replies, and what it must go on saying."""
    with ledger_of_steps(folder / "ledger.sqlite") as ledger:
        live(ledger, folder / "diary")
        return folder / "ledger.sqlite", ledger.spent, ledger.events


def flipped(content: bytes, at: int, mask: int) -> bytes:
    return content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :]


def opens_unchanged(folder: Path, files: dict[str, bytes], spent: float, events: tuple[object, ...]) -> bool:
    """Whether a ledger of these files opens. One that opens must say what it said before."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for end, content in files.items():
        (folder / f"ledger.sqlite{end}").write_bytes(content)
    try:
        with ledger_of_steps(folder / "ledger.sqlite") as ledger:
            assert (ledger.spent, ledger.events) == (spent, events)
            for task in LIFE:
                try:
                    assert ledger.sealed(task) == payload_of(task)
                except SealedReplyGoneError:
                    return False
    except LedgerError:
        return False
    return True
