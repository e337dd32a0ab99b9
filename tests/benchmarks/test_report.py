"""Rows and tables: a bar is met, missed or not there, and a page says it."""

import math

import pytest

from benchmarks.bench import write
from benchmarks.check import committed_rows
from benchmarks.harness import Spread
from benchmarks.report import Report, row_of


def row(ratio=1.0, bar="<= 1.1", **fields):
    return row_of("cost", Spread(middle=ratio, low=ratio, high=ratio), bar, **fields)


@pytest.mark.parametrize(
    ("ratio", "bar", "verdict"),
    [
        (1.1, "<= 1.1", "met"),
        (1.11, "<= 1.1", "missed"),
        (15.0, ">= 15", "met"),
        (14.9, ">= 15", "missed"),
        (math.nan, "<= 1.1", "missed"),
        (math.nan, ">= 15", "missed"),
        (3.0, "<=", "no bar"),
    ],
)
def test_a_bar_is_met_or_missed_and_a_figure_that_is_no_number_misses_it(ratio, bar, verdict):
    assert row(ratio, bar).verdict == verdict


def test_a_page_has_the_rows_the_versions_and_the_text():
    report = Report(name="cost", title="The cost", rows=[row(1.2)], text="How.", versions={"torch": "2"})
    page = report.page()
    assert page.startswith("# The cost\n\n")
    assert "| cost | 1.20 | 1.20-1.20 | <= 1.1 | missed |  |" in page
    assert "torch 2." in page
    assert page.endswith("How.\n")


def test_what_is_written_comes_back_and_parts_not_measured_this_time_stay(tmp_path):
    first = [Report(name=name, title="", rows=[row(detail=name)], text="", versions={}) for name in ("a", "b")]
    write(first, tmp_path)
    write([Report(name="b", title="", rows=[row(2.0, needs="pfl")], text="", versions={})], tmp_path)
    assert committed_rows(tmp_path / "ratios.json", ["a", "b"]) == [row(detail="a"), row(2.0, needs="pfl")]
