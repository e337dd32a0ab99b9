"""Reports on the disk: a folder a cutoff, in it each report's JSON and its lists as CSV; for the owner alone."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from client.insight import NAMES
from client.insight.made import Made, list_file
from daemons.files import check_private, write_private
from pp_model.errors import ConfigError
from web.report import Report

MOST_KEPT = 12  # cutoffs, the newest ones
_A_CUTOFF = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def cutoff_folder(folder_of_all: Path, cutoff: dt.date) -> Path:
    """Where the reports of a cutoff are, or will be."""
    return folder_of_all / cutoff.isoformat()


def write_made(folder: Path, made: Made) -> None:
    """Puts the report and its lists into the folder, in place of an earlier report of this name.

    Interrupted at any moment, there is the whole report or none: never a report beside another one's lists. Files have
    mode 600, the folder 700.
    """
    name = made.report.name
    text = json.dumps(made.report.to_json(), ensure_ascii=False, allow_nan=False).encode()
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # `mode` is for the last folder alone
    folder.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as new:  # with mode 700
        for each, table in made.lists.items():
            _write_csv(Path(new) / list_file(name, each), table)
        _report_file(folder, name).unlink(missing_ok=True)
        for old in folder.glob(f"{name}.*.csv"):
            old.unlink()
        for path in Path(new).iterdir():
            path.replace(folder / path.name)
        write_private(_report_file(folder, name), text)


def read_report(folder: Path, name: str) -> Report:
    """A report that `write_made` wrote.

    Raises:
        ConfigError: there is none, or it cannot be read or is of another version.
        PrivateFileError: it is open to others.
    """
    path = _report_file(folder, name)
    if name not in NAMES or not path.exists():
        raise ConfigError(f"there is no report {name!r} in {folder}; make it with pp-client insight --cutoff DATE")
    check_private(path)
    try:
        return Report.from_json(json.loads(path.read_bytes()))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ConfigError(f"{path} cannot be read; make it anew with pp-client insight --cutoff DATE") from None


def reports_in(folder: Path) -> tuple[str, ...]:
    """The names of the reports that are there, in the order of the pages."""
    return tuple(name for name in NAMES if _report_file(folder, name).exists())


def cutoffs_in(folder_of_all: Path) -> tuple[dt.date, ...]:
    """The cutoffs with at least one report, the newest first."""
    return tuple(dt.date.fromisoformat(folder.name) for folder in _folders(folder_of_all) if reports_in(folder))


def newest(folder_of_all: Path) -> Path | None:
    """The folder of the newest cutoff with at least one report."""
    return next((folder for folder in _folders(folder_of_all) if reports_in(folder)), None)


def forget_old(folder_of_all: Path) -> None:
    """Removes all but the newest `MOST_KEPT` cutoffs."""
    for folder in _folders(folder_of_all)[MOST_KEPT:]:
        shutil.rmtree(folder)


def harmless(table: pa.Table) -> pa.Table:
    """The table with an apostrophe before every text that a spreadsheet would take for a formula and carry out.

    Names that customers chose themselves may be in it. A text of digits with a sign, such as a telephone number, stays.
    """
    for place, column in enumerate(table.columns):
        if pa.types.is_string(column.type):
            begins = pc.match_substring_regex(column, r"^[=+\-@\t\r]")
            if pc.any(begins).as_py():
                formula = pc.and_not(begins, pc.match_substring_regex(column, r"^[+-][0-9 .()-]*$"))
                text = pc.if_else(formula, pc.binary_join_element_wise("'", column, ""), column)
                table = table.set_column(place, table.column_names[place], text)
    return table


def _folders(folder_of_all: Path) -> list[Path]:
    found = [path for path in folder_of_all.glob("*") if path.is_dir() and _is_a_cutoff(path.name)]
    return sorted(found, key=lambda path: path.name, reverse=True)


def _is_a_cutoff(name: str) -> bool:
    try:
        return bool(_A_CUTOFF.fullmatch(name)) and bool(dt.date.fromisoformat(name))
    except ValueError:
        return False


def _report_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _write_csv(path: Path, table: pa.Table) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        csv.write_csv(harmless(table), file)
        file.flush()
        os.fsync(file.fileno())
