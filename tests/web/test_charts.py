"""Charts and reports as data: what is refused, what survives a file, and what the page's script and table get."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from pp_model.errors import ConfigError
from web.charts import MOST_POINTS, Chart, Series
from web.report import MOST_ROWS, Column, Figure, Report, Table
from web.site import chart_data, chart_table
from web.words import Phrase, phrase


def chart(**changes) -> Chart:
    fields = {
        "kind": "line",
        "title": phrase("t"),
        "x": phrase("x"),
        "y": phrase("y"),
        "categories": ("a", phrase("b")),
        "series": (Series(label=phrase("s"), values=(1.0, None), band=((0.5, 1.5), (None, None))),),
    }
    return Chart(**{**fields, **changes})


def say(text: str | Phrase, **_) -> str:
    return f"said {text.key if isinstance(text, Phrase) else text}"


def test_a_series_must_have_a_value_for_each_category():
    with pytest.raises(ConfigError, match="3 values for 2 categories"):
        chart(series=(Series(label=phrase("s"), values=(1.0, 2.0, 3.0)),))


def test_a_series_of_more_points_than_a_screen_tells_apart_is_refused():
    with pytest.raises(ConfigError, match=str(MOST_POINTS)):
        Series(label=phrase("s"), values=(0.0,) * (MOST_POINTS + 1))


@pytest.mark.parametrize("part", ["x", "band"])
def test_abscissas_and_bands_are_as_many_as_values(part):
    with pytest.raises(ConfigError):
        Series(label=phrase("s"), values=(1.0, 2.0), **{part: ((1.0, 2.0),) if part == "band" else (1.0,)})


def test_a_chart_survives_json_and_what_is_not_finite_becomes_nothing():
    first = chart(series=(Series(label=phrase("s"), values=(float("nan"), 2.0)),))
    again = Chart.from_json(json.loads(json.dumps(first.to_json(), allow_nan=False)))
    assert again.series[0].values == (None, 2.0)
    assert Chart.from_json(again.to_json()) == again


def test_a_chart_without_a_value_is_empty():
    assert chart(series=(Series(label=phrase("s"), values=(None, float("nan"))),)).empty
    assert not chart().empty


def test_the_scripts_data_has_every_phrase_said_and_cannot_end_its_element():
    hostile = chart(categories=("</script><script>alert(1)</script>", "&amp;"))
    text = str(chart_data(hostile, say))
    assert "<" not in text
    assert "&" not in text
    data = json.loads(text)
    assert data["title"] == "said t"
    assert data["series"][0]["label"] == "said s"
    assert data["categories"][0] == "</script><script>alert(1)</script>"


def test_the_table_says_the_same_as_the_drawing():
    assert chart_table(chart()) == [("a", [(1.0, "number")]), (phrase("b"), [(None, "number")])]
    scatter = chart(kind="scatter", categories=(), series=(Series(label=phrase("s"), x=(0.5,), values=(0.25,)),))
    assert chart_table(scatter) == [("0.5", [(0.25, "number")])]


def test_a_report_survives_json():
    report = Report(
        name="churn",
        made=dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC),
        cutoff=dt.date(2026, 6, 1),
        horizon_days=28,
        model_id=1,
        model="a" * 64,
        figures=(Figure(label=phrase("f"), value=phrase("v"), kind="text", band=(1.0, 2.0)),),
        charts=(chart(),),
        tables=(
            Table(
                title=phrase("t"),
                columns=(Column(label=phrase("c"), kind="text"),),
                rows=((phrase("cell"),), (None,)),
                file="churn.list.csv",
            ),
        ),
        files=("churn.list.csv",),
        notes=(phrase("n"),),
    )
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_a_report_of_another_format_is_refused():
    with pytest.raises(ConfigError, match="make it anew"):
        Report.from_json({"format": 2})


def test_a_table_on_a_page_has_a_bounded_number_of_whole_rows():
    columns = (Column(label=phrase("c"), kind="text"),)
    with pytest.raises(ConfigError, match=str(MOST_ROWS)):
        Table(title=phrase("t"), columns=columns, rows=(("x",),) * (MOST_ROWS + 1))
    with pytest.raises(ConfigError, match="other lengths"):
        Table(title=phrase("t"), columns=columns, rows=(("x", "y"),))
