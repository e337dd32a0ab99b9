"""Market position: compared with what the platform published, and with nothing else."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from scipy import stats

from agreement.market import Market
from client.insight.market import COMPARED, LEAST_CUSTOMERS, build, position_of, quantile_of
from tests.support.insight_shops import figure, insight_data, notes, regulars, rows_of_table

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)


def market(*, horizon_days: int = 28, **quantiles: tuple[tuple[float, float], ...]) -> Market:
    return Market(
        horizon_days=horizon_days,
        epsilon=0.5,
        delta=1e-6,
        mechanism="Quantiles by the exponential mechanism, one release of all merchants.",
        made=dt.date(2024, 8, 1),
        quantiles=quantiles or {"score": tuple((share, 100 * share) for share in SHARES)},
    )


def test_without_published_figures_the_report_says_so():
    assert build(insight_data(regulars(120))).report.empty.key == "market.empty.none"


def test_figures_of_another_horizon_are_not_compared():
    made = build(insight_data(regulars(120), market=market(horizon_days=30)))
    assert made.report.empty.key == "market.empty.horizon"
    assert made.report.empty.values == {"theirs": 30, "ours": 28}
    assert not made.report.charts


def test_figures_of_other_names_are_not_compared():
    made = build(insight_data(regulars(120), market=market(visits=((0.5, 3.0),))))
    assert made.report.empty.key == "market.empty.names"


def test_a_shop_of_a_few_customers_is_not_compared():
    assert build(insight_data(regulars(LEAST_CUSTOMERS - 1), market=market())).report.empty.key == "market.empty.few"


def test_a_shop_like_the_market_stands_in_its_middle():
    data = insight_data(regulars(300))
    alike = {
        name: tuple((share, float(np.quantile(data.scores[name].to_numpy(), share))) for share in SHARES)
        for name in COMPARED
    }
    made = build(insight_data(regulars(300), market=market(**alike)))
    for name in COMPARED:
        assert figure(made, name).value == pytest.approx(0.5, abs=0.01)
        low, high = figure(made, name).band
        assert low < 0.5 < high
        own, all_of = made.report.charts[list(COMPARED).index(name)].series
        assert own.values == pytest.approx(all_of.values)
        assert all(low <= value <= high for value, (low, high) in zip(own.values, own.band, strict=True))
    assert [row["share"] for row in rows_of_table(made, "table.score")] == list(SHARES)


def test_beyond_what_was_published_the_ends_are_said():
    points = ((0.1, 10.0), (0.9, 90.0))
    assert [position_of(value, points) for value in (5.0, 10.0, 50.0, 95.0)] == pytest.approx([0.1, 0.1, 0.5, 0.9])


@pytest.mark.statistical
def test_the_interval_of_a_quantile_holds_the_true_one_as_often_as_it_says():
    rng, draws = np.random.default_rng(3), 2_000
    hits = 0
    for _ in range(draws):
        found = quantile_of(np.sort(rng.exponential(1.0, 80)), 0.75)
        hits += found.low <= stats.expon.ppf(0.75) <= found.high
    assert hits >= stats.binom.ppf(1e-6, draws, 0.95)


def test_the_privacy_of_the_figures_is_stated_beside_them():
    made = build(insight_data(regulars(120), market=market()))
    said = next(note for note in made.report.notes if note.key == "market.note.privacy")
    assert said.values["epsilon"] == 0.5
    assert "exponential mechanism" in said.values["mechanism"]
    assert "market.note.noisy" in notes(made)
