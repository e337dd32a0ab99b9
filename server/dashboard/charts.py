"""The dashboard's charts: rounds of a run, and models after each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

from server.dashboard.reading import refusals_of, thinned
from server.model_compare import Comparison
from server.registry import ModelRecord, RoundRecord
from web.charts import Chart, Series
from web.words import Phrase, phrase

MOST_BARS, MOST_ARRAYS = 60, 24


def quality_of_rounds(rounds: Sequence[RoundRecord]) -> list[Chart]:
    """What the public check says after each round, as two charts: their figures have other units."""
    shown = thinned([played for played in rounds if not played.void])
    return [_line(shown, what, [getattr(played, what) for played in shown]) for what in ("log_loss", "spend_error")]


def norm_of_rounds(rounds: Sequence[RoundRecord]) -> Chart:
    """How long the sum of the releases was."""
    shown = thinned([played for played in rounds if not played.void])
    return _line(shown, "norm", [played.norm for played in shown])


def answers_of_rounds(rounds: Sequence[RoundRecord]) -> Chart:
    """What came of those who were asked, void rounds too."""
    shown = thinned(rounds, most=MOST_BARS)
    counts = {
        "released": [played.completions for played in shown],
        "refused": [sum(played.refusals.values()) for played in shown],
        "unusable": [len(played.rejections) for played in shown],
    }
    return Chart(
        kind="bar",
        title=phrase("chart.answers"),
        x=phrase("term.round"),
        y=phrase("term.merchants"),
        categories=tuple(_name(played) for played in shown),
        series=tuple(
            Series(label=phrase(f"term.{name}"), values=tuple(map(float, values))) for name, values in counts.items()
        ),
        stacked=True,
        kind_of_value="count",
    )


def refusals_by_code(rounds: Sequence[RoundRecord]) -> Chart:
    """How often merchants refused in the whole run, and why."""
    codes = refusals_of(rounds).most_common()
    return Chart(
        kind="bar",
        title=phrase("chart.refusals"),
        x=phrase("term.code"),
        y=phrase("term.refusals"),
        categories=tuple(phrase(f"code.{code}") for code, _ in codes),
        series=(Series(label=phrase("term.refusals"), values=tuple(float(count) for _, count in codes)),),
        horizontal=True,
        kind_of_value="count",
    )


def quality_of_models(models: Sequence[ModelRecord]) -> list[Chart]:
    """What the public check says of each published model, oldest first."""
    return [
        Chart(
            kind="line",
            title=phrase(f"chart.model_{what}"),
            x=phrase("term.model"),
            y=phrase("term.lower"),
            categories=tuple(str(model.id) for model in models[-MOST_BARS:]),
            series=(
                Series(
                    label=phrase(f"term.{what}"), values=tuple(getattr(model, what) for model in models[-MOST_BARS:])
                ),
            ),
        )
        for what in ("log_loss", "spend_error")
    ]


def distances(comparison: Comparison) -> Chart | None:
    """How far apart two models are, array by array, farthest first; None where they cannot be compared."""
    if comparison.distance is None:
        return None
    arrays = sorted(comparison.distance.arrays.items(), key=lambda item: -item[1] if math.isfinite(item[1]) else 0)
    return Chart(
        kind="bar",
        title=phrase("chart.distances"),
        x=phrase("term.array"),
        y=phrase("term.distance"),
        categories=tuple(name for name, _ in arrays[:MOST_ARRAYS]),
        series=(Series(label=phrase("term.distance"), values=tuple(value for _, value in arrays[:MOST_ARRAYS])),),
        horizontal=True,
    )


def _line(shown: Sequence[RoundRecord], what: str, values: Sequence[float | None]) -> Chart:
    return Chart(
        kind="line",
        title=phrase(f"chart.{what}"),
        x=phrase("term.round"),
        y=phrase("term.norm" if what == "norm" else "term.lower"),
        categories=tuple(_name(played) for played in shown),
        series=(Series(label=phrase(f"term.{what}"), values=tuple(values)),),
    )


def _name(played: RoundRecord) -> str | Phrase:
    return phrase("run.void_round", round=played.round) if played.void else str(played.round)
