import json
import stat

import pyarrow as pa
import pyarrow.csv as pc
import pytest

from client.insight import store
from client.insight.churn import build
from client.insight.made import Made
from client.insight.store import cutoff_folder, cutoffs_in, forget_old, newest, read_report, reports_in, write_made
from daemons.files import PrivateFileError
from pp_model.errors import ConfigError
from tests.support.insight import CUTOFF, bought, data_of

DAY = CUTOFF


def made():
    return build(data_of([bought(0, days) for days in (25, 35, 45, 55)]))


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_written_is_read_again(tmp_path):
    write_made(tmp_path, made())

    report = read_report(tmp_path, "churn")

    assert report.to_json() == made().report.to_json()
    assert report.files == ("churn.customers.csv",)
    assert pc.read_csv(tmp_path / "churn.customers.csv").num_rows == made().lists["customers"].num_rows


def test_files_are_for_the_owner_alone(tmp_path):
    folder = cutoff_folder(tmp_path / "insight", DAY)

    write_made(folder, made())

    assert mode(folder) == mode(folder.parent) == 0o700
    assert {mode(path) for path in folder.iterdir()} == {0o600}
    assert sorted(path.name for path in folder.iterdir()) == ["churn.customers.csv", "churn.json"]


def test_a_report_made_again_replaces_the_one_before_with_all_its_lists(tmp_path):
    report = made().report
    write_made(tmp_path, Made(report=report, lists={"old": pa.table({"a": [1]}), "customers": pa.table({"a": [1]})}))

    write_made(tmp_path, made())

    assert sorted(path.name for path in tmp_path.iterdir()) == ["churn.customers.csv", "churn.json"]


@pytest.mark.parametrize("step", range(4))
def test_interrupted_anywhere_a_report_is_never_beside_the_lists_of_another(step, tmp_path, monkeypatch):
    before = Made(report=made().report, lists={"customers": pa.table({"generation": [1]})})
    after = Made(report=made().report, lists={"customers": pa.table({"generation": [2]})})
    write_made(tmp_path, before)
    _break(monkeypatch, step)

    with pytest.raises(OSError, match="gone"):
        write_made(tmp_path, after)

    if "churn" in reports_in(tmp_path):
        assert pc.read_csv(tmp_path / "churn.customers.csv")["generation"].to_pylist() == [1]
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def _break(monkeypatch, step):
    """The disk is gone while lists are written, when the report is removed, when lists are moved, at the report."""

    def gone(*_, **__):
        raise OSError("the disk is gone")

    path = type(store.Path("x"))
    place = [(store, "_write_csv"), (path, "unlink"), (path, "replace"), (store, "write_private")][step]
    if step == 1:
        unlink = path.unlink
        monkeypatch.setattr(path, "unlink", lambda self, **k: gone() if self.suffix == ".csv" else unlink(self, **k))
    else:
        monkeypatch.setattr(*place, gone)


def test_a_name_that_a_spreadsheet_would_carry_out_is_made_harmless(tmp_path):
    names = ["=1+1", "+cmd|calc", "-2+3+x", "@sum", "\t=1", "ann", "+44 7911 123456", "-17", "", None]
    table = pa.table({"customer_id": names, "cents": list(range(len(names)))})

    write_made(tmp_path, Made(report=made().report, lists={"customers": table}))

    read = pc.read_csv(
        tmp_path / "churn.customers.csv",
        convert_options=pc.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False),
    )
    assert read["customer_id"].to_pylist() == [*(f"'{name}" for name in names[:5]), *names[5:8], "", None]
    assert read["cents"].to_pylist() == list(range(len(names)))


def test_the_newest_cutoff_with_a_report_is_found(tmp_path):
    assert newest(tmp_path) is None
    for day in ("2026-01-01", "2026-03-01", "2026-02-01"):
        write_made(tmp_path / day, made())
    (tmp_path / "2026-04-01").mkdir()  # nothing in it
    (tmp_path / "notes").mkdir()

    assert newest(tmp_path) == tmp_path / "2026-03-01"
    assert [str(day) for day in cutoffs_in(tmp_path)] == ["2026-03-01", "2026-02-01", "2026-01-01"]
    assert reports_in(tmp_path / "2026-03-01") == ("churn",)


def test_only_the_newest_cutoffs_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "MOST_KEPT", 2)
    for day in ("2026-01-01", "2026-03-01", "2026-02-01"):
        write_made(tmp_path / day, made())
    (tmp_path / "my notes").mkdir()

    forget_old(tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["2026-02-01", "2026-03-01", "my notes"]


@pytest.mark.parametrize("name", ["demand", "../churn", "rules", ""])
def test_a_report_that_is_not_there_is_our_error(name, tmp_path):
    write_made(tmp_path / "a", made())
    (tmp_path / "a" / "rules.json").write_text("[]")

    with pytest.raises(ConfigError, match="pp-client insight"):
        read_report(tmp_path / "a", name)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 99}', '{"format": 1}'])
def test_a_damaged_report_is_our_error(content, tmp_path):
    write_made(tmp_path, made())
    (tmp_path / "churn.json").write_text(content)

    with pytest.raises(ConfigError):
        read_report(tmp_path, "churn")


def test_a_report_open_to_others_is_not_read(tmp_path):
    write_made(tmp_path, made())
    (tmp_path / "churn.json").chmod(0o644)

    with pytest.raises(PrivateFileError, match="chmod 600"):
        read_report(tmp_path, "churn")


def test_the_file_is_json_that_any_program_reads(tmp_path):
    write_made(tmp_path, made())

    assert json.loads((tmp_path / "churn.json").read_text())["name"] == "churn"
