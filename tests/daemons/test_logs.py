"""What a log line may hold, and how it looks in the file and on the screen."""

from __future__ import annotations

import datetime as dt
import json
import logging
import stat
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.logs import LONGEST_LINE, configure_log, printable

CELL = "ada@example.org"
log = logging.getLogger("test.logs")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def raised() -> Exception:
    try:
        raise ValueError(CELL)
    except ValueError as error:
        return error


def test_a_record_is_one_json_line_with_its_fields(tmp_path):
    configure_log(tmp_path / "log", "INFO")
    log.info("task %s", "charged", extra={"task": "t1", "epsilon": 0.5, "child": "runner"})
    [line] = lines(tmp_path / "log")
    assert abs(dt.datetime.fromisoformat(line.pop("time")) - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)
    own = {"process": "runner", "task": "t1", "epsilon": 0.5}
    assert line == {"level": "info", "logger": "test.logs", "event": "task charged", **own}


def test_a_person_sees_the_same_in_one_short_line(capsys):
    configure_log(None, "INFO")
    log.warning("child ended", extra={"child": "runner", "exit_code": 1})
    assert capsys.readouterr().err[8:] == " WARNING  runner: child ended exit_code=1\n"


def test_records_below_the_level_are_not_there(tmp_path):
    configure_log(tmp_path / "log", "WARNING")
    log.info("quiet")
    assert lines(tmp_path / "log") == []


def test_a_second_call_replaces_the_first_and_touches_nobody_elses_handler(tmp_path):
    others = list(logging.getLogger().handlers)
    configure_log(tmp_path / "one", "INFO")
    configure_log(tmp_path / "two", "INFO")
    log.info("once")
    assert (lines(tmp_path / "one"), len(lines(tmp_path / "two"))) == ([], 1)
    assert logging.getLogger().handlers[: len(others)] == others
    assert len(logging.getLogger().handlers) == len(others) + 2


def test_the_file_is_private_and_bounded_even_where_an_open_one_was(tmp_path):
    path = tmp_path / "folder" / "log"
    path.parent.mkdir()
    path.write_text("")
    path.chmod(0o666)
    configure_log(path, "INFO", most_bytes=2_000, kept_files=2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for number in range(200):
        log.info("number", extra={"number": number})
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["log", "log.1", "log.2"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert max(file.stat().st_size for file in files) <= 2_000
    assert lines(path)[-1]["number"] == 199


WAYS = {
    "exc_info": lambda error: log.error("failed", exc_info=error),
    "argument": lambda error: log.error("failed: %s", error),
    "named argument": lambda error: log.error("failed: %(error)s", {"error": error}),
    "message": lambda error: log.error(error),
    "field": lambda error: log.error("failed", extra={"cause": error}),
    "nested field": lambda error: log.error("failed", extra={"causes": [{"cause": error}]}),
    "uncaught": lambda error: sys.excepthook(type(error), error, error.__traceback__),
    "uncaught in a thread": lambda error: threading.excepthook(
        threading.ExceptHookArgs((type(error), error, error.__traceback__, None))
    ),
    "wrong arguments": lambda error: log.error("failed %d %d", CELL, error),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_the_text_of_an_exception_is_nowhere(tmp_path, capsys, way):
    configure_log(tmp_path / "log", "INFO")
    way(raised())
    log.info("after")
    assert CELL not in (tmp_path / "log").read_text() + "".join(capsys.readouterr())
    assert lines(tmp_path / "log")[-1]["event"] == "after"


@pytest.mark.parametrize("way", [name for name in WAYS if name not in {"nested field", "wrong arguments"}])
def test_the_kind_of_an_exception_is_told(tmp_path, capsys, way):
    configure_log(tmp_path / "log", "INFO")
    WAYS[way](raised())
    assert "ValueError" in (tmp_path / "log").read_text()
    assert "ValueError" in capsys.readouterr().err


def test_an_exception_is_told_by_kind_and_the_place_where_it_was_raised(tmp_path):
    configure_log(tmp_path / "log", "INFO")
    log.error("failed", exc_info=raised())
    [line] = lines(tmp_path / "log")
    assert line["error"] == "ValueError"
    assert line["place"] == f"daemons/test_logs.py:{raised.__code__.co_firstlineno + 2}"


def test_values_that_json_cannot_hold_show_themselves_only_if_harmless(tmp_path):
    class Row:
        def __repr__(self) -> str:
            return CELL

    configure_log(tmp_path / "log", "INFO")
    log.info("values", extra={"file": Path("a/b"), "row": Row(), "day": dt.date(2024, 6, 1)})
    [line] = lines(tmp_path / "log")
    assert (line["file"], line["row"], line["day"]) == ("a/b", "Row", "2024-06-01")


def test_a_field_cannot_pass_itself_off_as_the_time_or_the_event(tmp_path):
    configure_log(tmp_path / "log", "INFO")
    log.info("true", extra={"event": "false", "time": "never", "level": "none", "logger": "nobody"})
    [line] = lines(tmp_path / "log")
    assert (line["event"], line["level"], line["logger"]) == ("true", "info", "test.logs")
    assert line["time"] != "never"


INJECTIONS = ['a\n{"event":"forged"}', "a\r\nb", "\x1b[2Jgone", "a\u2028b\u202eb", "\x00\x7f\x9b", "\ud800"]


@pytest.mark.parametrize("text", INJECTIONS, ids=ascii)
def test_no_text_makes_a_second_line_or_moves_the_cursor(tmp_path, capsys, text):
    configure_log(tmp_path / "log", "INFO")
    log.info("%s", text, extra={"field": text})
    assert [line["event"] for line in lines(tmp_path / "log")] == [text]
    screen = capsys.readouterr().err
    assert screen.count("\n") == 1
    assert screen[:-1].isprintable()


@given(st.text(max_size=50) | st.integers(LONGEST_LINE - 1, 10**6).map("\n".__mul__))
def test_a_printable_text_is_bounded_and_has_nothing_that_does_not_print(text):
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) <= LONGEST_LINE
    assert shown == text or not text.isprintable() or len(text) > LONGEST_LINE
