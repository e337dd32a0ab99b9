"""Runs side by side: loading, the rows, the marks; and the short table at the end of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from pp_model.errors import PurchasePowerError
from simulations.compare import (
    ResultError,
    comparison_rows,
    comparison_table,
    delta_text,
    epsilon_of,
    epsilon_text,
    gain,
    load_result,
    metric_text,
)
from simulations.terminal import result_table
from tests.support.results import BASELINES, plausible_result


def saved(directory: Path, result: object) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return directory


def run(name: str, **figures: Any) -> dict[str, Any]:
    return {**plausible_result(), "name": name, **figures}


def cells(table: Table) -> dict[str, list[str]]:
    """Column heading to the cells under it."""
    return {str(column.header): [str(cell).strip() for cell in column.cells] for column in table.columns}


def printed(table: Table) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_a_saved_result_loads_as_it_was(tmp_path):
    assert load_result(saved(tmp_path / "run", plausible_result())) == plausible_result()


def test_a_folder_without_a_result_says_what_was_expected(tmp_path):
    with pytest.raises(ResultError, match=r"holds no result\.json; expected the folder of a finished run"):
        load_result(tmp_path)
    with pytest.raises(ResultError, match="holds no"):
        load_result(tmp_path / "nowhere")


def test_a_path_to_a_file_says_what_was_expected(tmp_path):
    with pytest.raises(ResultError, match="expected the folder of a finished run"):
        load_result(saved(tmp_path / "run", plausible_result()) / "result.json")


@pytest.mark.parametrize("content", [b"", b'{"name": "demo",\n', b"\xff\xfe\x00"], ids=["empty", "torn", "not-text"])
def test_a_damaged_result_is_called_damaged(tmp_path, content):
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(ResultError, match="is damaged: it is not JSON"):
        load_result(tmp_path)


@pytest.mark.parametrize("key", ["epsilon_two_merchants", "decile_mape", "merchants", "cutoff"])
def test_a_result_of_another_shape_names_the_key(tmp_path, key):
    older = {name: value for name, value in plausible_result().items() if name != key}
    with pytest.raises(ResultError, match=f"has no '{key}'"):
        load_result(saved(tmp_path / "run", older))


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ([1, 2], "is a JSON list; expected an object"),
        ({**plausible_result(), "auc": "0.8"}, "'auc' is '0.8'; expected a number or null"),
        ({**plausible_result(), "baselines": [1]}, "'baselines' is not an object"),
    ],
)
def test_a_result_of_the_wrong_types_is_refused(tmp_path, result, words):
    with pytest.raises(ResultError, match=words):
        load_result(saved(tmp_path / "run", result))


def test_a_result_error_is_one_of_ours():
    assert issubclass(ResultError, PurchasePowerError)


def test_rows_hold_the_figures_of_the_run_and_are_json():
    (row,) = comparison_rows([plausible_result()])
    expected = plausible_result()
    wanted = ("epsilon", "encoder", "gini", "auc", "log_loss", "mae", "decile_mape", "seconds")
    assert {key: row[key] for key in wanted} == {key: expected[key] for key in wanted}
    assert (row["run"], row["baseline"]) == ("demo", None)
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_rows_of_undefined_figures_are_still_json():
    (row,) = comparison_rows([run("demo", auc=math.nan, gini=None, epsilon=math.inf)])
    assert (row["auc"], row["gini"], row["epsilon"]) == (None, None, "inf")
    json.dumps(row, allow_nan=False)


def test_baselines_are_rows_only_where_asked_for():
    assert len(comparison_rows([plausible_result()])) == 1
    rows = comparison_rows([plausible_result()], baselines=True)
    assert [row["baseline"] for row in rows] == [None, *BASELINES]
    assert [row["auc"] for row in rows] == [0.796, 0.771, 0.804, 0.791, 0.782]


def test_the_best_of_each_column_is_marked_whichever_way_is_better():
    first = run("first", auc=0.8, log_loss=0.60, epsilon=3.0, mae=400.0)
    second = run("second", auc=0.7, log_loss=0.55, epsilon="inf", mae=None)
    third = run("third", auc=None, log_loss=0.58, epsilon=1.0, mae=410.0)
    table = cells(comparison_table([first, second, third]))
    assert table["AUC"] == ["* 0.800", "0.700", "n/a"]
    assert table["Log loss"] == ["0.600", "* 0.550", "0.580"]
    assert table["Epsilon"] == ["3.00", "infinite", "* 1.00"]
    assert table["MAE"] == ["* 400.00", "n/a", "410.00"]


def test_a_baseline_is_never_marked_as_best():
    first, second = run("first"), run("second", auc=0.7)
    first["baselines"]["fedavg_non_private"]["auc"] = first["auc"]
    table = cells(comparison_table([first, second], baselines=True))
    assert [cell for cell in table["AUC"] if cell.startswith("*")] == ["* 0.796"]


def test_one_run_alone_is_not_the_best_of_anything():
    assert "*" not in printed(comparison_table([run("only")]))


@pytest.mark.parametrize("other", [{"orders": 5}, {"cutoff": "2020-01-01"}, {"horizon_days": 28}, {"customers": 5}])
def test_runs_that_do_not_compare_have_no_best(other: Mapping[str, Any]):
    text = printed(comparison_table([run("first"), run("second", **other)]))
    assert "*" not in text
    assert "they do not compare" in " ".join(text.split())


def test_a_name_is_neither_markup_nor_a_control_sequence():
    hostile = "[bold]x[/nonsense]\x1b[31m"
    for table in (comparison_table([run(hostile), run("b")]), result_table(run(hostile))):
        text = printed(table)
        assert "[bold]x[/nonsense]" in text
        assert "\x1b" not in text


@pytest.mark.parametrize("wrong", ["inf", math.inf, math.nan, -1.0, None, "3", True])
def test_an_epsilon_that_went_wrong_is_infinite(wrong):
    assert epsilon_of(wrong) == math.inf
    assert epsilon_text(wrong) == "infinite"


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [(2.9801, "2.99"), (2.99, "2.99"), (3.0, "3.00"), (3.0000000001, "3.00"), (0.001, "0.01"), (0, "0.00")],
)
def test_epsilon_is_never_printed_smaller_than_it_is(epsilon, text):
    assert epsilon_text(epsilon) == text


def test_figures_print_with_their_own_precision():
    assert metric_text("auc", 0.79649) == "0.796"
    assert metric_text("mae", 12345.678) == "12,345.68"
    assert metric_text("auc", None) == "n/a"
    assert delta_text(1e-5) == "1e-5"
    assert delta_text(0.0001234) == "0.00012"


def test_a_gain_is_positive_when_it_is_better():
    assert gain("auc", 0.8, 0.7) == pytest.approx(0.1)
    assert gain("log_loss", 0.5, 0.6) == pytest.approx(0.1)
    assert gain("auc", 0.8, None) is None


def test_the_table_after_a_run_has_the_model_its_baselines_the_price_and_the_report():
    table = result_table(plausible_result(), report=Path("runs/demo/report.html"))
    columns = cells(table)
    assert columns["Model"][:2] == ["This run", "Each merchant alone"]
    assert columns["AUC"] == ["0.796", "0.771", "0.804", "0.791", "0.782"]
    text = printed(table)
    assert "epsilon 2.99 at one shop, 4.09 for a person of two shops, delta 1e-5" in text
    assert "Report: runs/demo/report.html" in text


def test_the_table_after_a_run_without_privacy_says_so():
    text = printed(result_table(plausible_result(epsilon="inf", baselines=())))
    assert "NO PRIVACY: epsilon is infinite." in text
    assert "at one shop" not in text
