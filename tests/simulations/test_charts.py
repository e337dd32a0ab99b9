"""The charts: same numbers, same bytes; nothing but the page's own colours; labels that do not overlap."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import hypothesis.strategies as st
import matplotlib
import pytest
from hypothesis import given

from simulations import charts
from tests.support.results import plausible_result

HOSTILE = "<script>alert('x')</script> \"&amp;\" $\\frac{1}{0}$ #1c2733 \N{CJK UNIFIED IDEOGRAPH-5E97}\x00"


def every_chart(*, about: str = "about") -> dict[str, str]:
    result = plausible_result()
    pairs = [("Bakery", 0.7, 0.75), ("Florist", 0.72, 0.71), ("Toys", 0.7, 0.7)]
    return {
        "round-auc": charts.quality_by_round("auc", result["history"], result["baselines"], about=about),
        "round-log_loss": charts.quality_by_round("log_loss", result["history"], result["baselines"], about=about),
        "epsilon": charts.epsilon_by_round(result["epsilon_by_round"], 3.0, about=about),
        "deciles": charts.deciles(result["deciles"], about=about),
        "calibration": charts.calibration(result["calibration"], about=about),
        "merchants-auc": charts.merchant_gains("auc", pairs, about=about),
        "tiers": charts.tiers(result["tiers"], about=about),
    }


@cache
def default_charts() -> dict[str, str]:
    return every_chart()


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def test_equal_numbers_give_equal_bytes():
    assert every_chart() == every_chart()


def test_no_two_charts_share_an_id():
    ids = [name for svg in default_charts().values() for name in re.findall(r' id="([^"]+)"', svg)]
    assert len(ids) > 50
    assert len(ids) == len(set(ids))


def test_every_reference_inside_a_chart_finds_its_id():
    for svg in default_charts().values():
        wanted = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
        assert wanted
        assert wanted <= set(re.findall(r' id="([^"]+)"', svg))


def test_every_colour_is_one_of_the_page():
    allowed = {f"var(--{role})" for role in charts.COLOURS}
    for name, svg in default_charts().items():
        colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)) - {"none"}
        assert colours <= allowed, name


def test_a_chart_says_in_words_what_it_shows():
    for svg in every_chart(about='Spend "rises" <fast>').values():
        root = ElementTree.fromstring(svg)
        assert (root.get("role"), root.get("aria-label")) == ("img", 'Spend "rises" <fast>')


def test_a_chart_names_nothing_outside_itself():
    for svg in default_charts().values():
        assert "http" not in svg
        assert "<style" not in svg
        assert "font-family" not in svg


def test_drawing_leaves_the_process_settings_as_they_were():
    before = dict(matplotlib.rcParams)
    every_chart()
    assert dict(matplotlib.rcParams) == before


def test_a_hostile_merchant_name_stays_text():
    svg = charts.merchant_gains("auc", [(HOSTILE, 0.7, 0.8), ("$x$", 0.7, 0.8)], about="about")
    assert "<script" not in svg
    assert "$x$" in texts(svg)
    assert any(text.startswith("<script>") for text in texts(svg))


@pytest.mark.parametrize(
    ("key", "alone", "joined", "words", "colour"),
    [
        pytest.param("auc", 0.70, 0.75, "0.050 better", "model", id="higher-is-better-and-it-rose"),
        pytest.param("auc", 0.75, 0.70, "0.050 worse", "loss", id="higher-is-better-and-it-fell"),
        pytest.param("log_loss", 0.60, 0.55, "0.050 better", "model", id="lower-is-better-and-it-fell"),
        pytest.param("log_loss", 0.55, 0.60, "0.050 worse", "loss", id="lower-is-better-and-it-rose"),
        pytest.param("auc", 0.7, 0.7001, "the same", "muted", id="less-than-is-printed"),
    ],
)
def test_gain_and_loss_differ_in_words_and_colour(key, alone, joined, words, colour):
    svg = charts.merchant_gains(key, [("Bakery", alone, joined)], about="about")
    label = next(e for e in ElementTree.fromstring(svg).iter("text") if e.text == words)
    assert f"fill: var(--{colour})" in label.get("style", "")


def test_a_name_in_any_script_is_drawn_without_a_warning():
    name = "\N{CJK UNIFIED IDEOGRAPH-5E97}\N{CJK UNIFIED IDEOGRAPH-94FA}"
    assert name in texts(charts.merchant_gains("auc", [(name, 0.7, 0.8)], about="about"))


def test_the_page_gives_every_colour_a_value_by_day_and_by_night():
    css = (Path(charts.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    day, night = css.split("@media screen and (prefers-color-scheme: dark)")
    for role, value in charts.COLOURS.items():
        assert f"--{role}: {value};" in day
        assert f"--{role}: #" in night


def test_many_merchants_show_both_ends():
    names = [f"shop {i:03d}" for i in range(100)]
    svg = charts.merchant_gains("auc", [(n, 0.7, 0.8 - i / 1000) for i, n in enumerate(names)], about="about")
    shown = [text for text in texts(svg) if text.startswith("shop")]
    assert shown == [*names[:20], *names[-20:]]


def test_every_baseline_is_a_labelled_line():
    labels = texts(default_charts()["round-auc"])
    for label in ("each alone 0.771", "in one place 0.804", "fedavg 0.791", "synthetic only 0.782"):
        assert label in labels


def test_rounds_without_a_figure_are_left_out():
    history = [{"round": 1, "auc": None}, {"round": 2, "auc": 0.7}, {"round": 3, "auc": 0.71}]
    assert "this run 0.710" in texts(charts.quality_by_round("auc", history, {}, about="about"))


def test_the_budget_is_a_line_only_where_there_is_one():
    entries = [{"round": 1, "epsilon": 1.0}, {"round": 2, "epsilon": 1.5}]
    assert "budget 3.00" in texts(charts.epsilon_by_round(entries, 3.0, about="about"))
    assert not any("budget" in t for t in texts(charts.epsilon_by_round(entries, float("inf"), about="about")))


def test_each_tenth_says_how_far_off_it_was():
    entries = [
        {"predicted": 15.0, "actual": 10.0, "customers": 9},
        {"predicted": 80.0, "actual": 100.0, "customers": 9},
    ]
    labels = texts(charts.deciles(entries, about="about"))
    assert {"+50%", "\N{MINUS SIGN}20%"} <= set(labels)


def test_tiers_show_their_shares():
    tiers = {
        "high": {"customers": 10, "share_of_spend": 0.7},
        "middle": {"customers": 30, "share_of_spend": None},
        "low": {"customers": 60, "share_of_spend": 0.1},
    }
    assert {"10%", "70%", "30%", "60%"} <= set(texts(charts.tiers(tiers, about="about")))


@pytest.mark.parametrize(
    "svg",
    [
        pytest.param(charts.quality_by_round("auc", [], {}, about=""), id="no-history"),
        pytest.param(charts.quality_by_round("auc", [{"round": 1, "auc": None}], {}, about=""), id="no-figure"),
        pytest.param(charts.epsilon_by_round([{"round": 1, "epsilon": "inf"}], 3.0, about=""), id="no-privacy"),
        pytest.param(charts.deciles([], about=""), id="no-deciles"),
        pytest.param(charts.calibration([], about=""), id="no-calibration"),
        pytest.param(charts.merchant_gains("auc", [], about=""), id="no-merchants"),
        pytest.param(charts.tiers({}, about=""), id="no-tiers"),
    ],
)
def test_nothing_to_draw_is_no_chart(svg):
    assert svg == ""


def test_one_round_is_enough_for_a_chart():
    assert "this run 0.700" in texts(charts.quality_by_round("auc", [{"round": 1, "auc": 0.7}], {}, about="about"))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6).map(sorted))
def test_labels_never_overlap_and_stay_on_the_chart(places):
    moved = charts._apart(places, 0.1)
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(moved))
    assert moved[0] >= -1e-9
    assert moved[-1] <= 1 + 1e-9


def test_labels_that_already_have_room_stay_where_they_are():
    assert charts._apart([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
