"""A regression is seen, a busy machine is not taken for one, and nothing disappears unnoticed."""

import math
from functools import partial

import pytest

from benchmarks.bench import write
from benchmarks.check import check, regressions
from benchmarks.harness import Spread
from benchmarks.report import Report, row_of


def row(middle, *, bar="<= 2", width=0.02, **fields):
    around = Spread(middle=middle, low=middle * (1 - width), high=middle * (1 + width))
    return row_of("private step / plain step", around, bar, **fields)


def found(committed, *fresh, has_peer=True):
    return list(regressions([committed], fresh, has_peer=lambda _: has_peer).values())


@pytest.mark.parametrize(
    ("bar", "before", "now"),
    [
        pytest.param("<= 2", 1.0, 1.12, id="a cost that grew"),
        pytest.param(">= 15", 15.0, 13.0, id="a speed that fell"),
        pytest.param("<= 2", 1.0, math.nan, id="a cost that is no number"),
        pytest.param(">= 15", 15.0, math.nan, id="a speed that is no number"),
    ],
)
def test_a_figure_more_than_a_tenth_worse_is_named(bar, before, now):
    (line,) = found(row(before, bar=bar), row(now, bar=bar))
    assert line.startswith("private step / plain step: ")
    assert f"bar {bar}" in line


@pytest.mark.parametrize(
    ("bar", "before", "now"),
    [
        pytest.param("<= 2", 1.0, 1.09, id="a cost within a tenth"),
        pytest.param("<= 2", 1.0, 0.5, id="a cost that fell"),
        pytest.param(">= 15", 15.0, 14.0, id="a speed within a tenth"),
        pytest.param(">= 15", 15.0, 30.0, id="a speed that grew"),
    ],
)
def test_a_figure_that_is_better_or_a_little_worse_passes(bar, before, now):
    assert found(row(before, bar=bar), row(now, bar=bar)) == []


def test_a_figure_whose_quartiles_still_overlap_is_no_regression():
    assert found(row(1.0, width=0.15), row(1.2, width=0.15)) == []
    assert len(found(row(1.0, width=0.05), row(1.2, width=0.05))) == 1


def test_a_figure_that_is_not_measured_any_more_fails():
    (line,) = found(row(1.0))
    assert "not measured any more" in line


def test_a_figure_of_the_full_form_alone_is_not_asked_of_the_quick_one():
    assert found(row(1.0, quick=False)) == []


def test_a_figure_beside_a_peer_that_is_not_installed_is_left_out():
    assert found(row(1.0, needs="pfl"), has_peer=False) == []
    assert len(found(row(1.0, needs="pfl"), has_peer=True)) == 1


def report(*rows):
    return Report(name="private_step", title="", rows=rows, text="", versions={})


def test_the_check_ends_with_an_error_that_names_the_figure_only_when_one_is_worse(tmp_path, capsys):
    write([report(row(1.0))], tmp_path)
    against, parts = tmp_path / "ratios.json", ["private_step"]
    assert check(against, parts, measure=lambda _: [report(row(1.0))]) == 0
    assert "WORSE" not in capsys.readouterr().out
    assert check(against, parts, measure=lambda _: [report(row(1.3))]) == 1
    assert "WORSE: private step / plain step: 1.30" in capsys.readouterr().out


def test_a_figure_is_named_only_if_it_is_worse_twice_and_its_part_alone_is_measured_again(tmp_path, capsys):
    mean = row_of("mean", Spread(middle=1.0, low=1.0, high=1.0), "<= 2")
    others = Report(name="aggregation", title="", rows=(mean,), text="", versions={})
    write([report(row(1.0)), others], tmp_path)
    measured = []

    def measure(parts, *, values):
        measured.append(tuple(parts))
        return [report(row(values.pop(0))), *([others] if "aggregation" in parts else [])]

    against, both = tmp_path / "ratios.json", ["private_step", "aggregation"]
    assert check(against, both, measure=partial(measure, values=[1.3, 1.05])) == 0
    assert measured == [("private_step", "aggregation"), ("private_step",)]
    assert check(against, both, measure=partial(measure, values=[1.3, 1.4])) == 1
    assert "1.40" in capsys.readouterr().out


def test_without_committed_figures_the_check_says_how_to_make_them(tmp_path, capsys):
    assert check(tmp_path / "ratios.json", ["private_step"], measure=lambda _: []) == 2
    assert "make bench" in capsys.readouterr().err
