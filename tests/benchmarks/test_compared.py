"""Ours beside the others: whose bar is met, which customers are compared, and what the page says."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import benchmarks.compared as command
from benchmarks.bootstrap import Gain
from benchmarks.compared import Row, compared, main, page_of, quoted
from benchmarks.judged import ALONE, BGNBD, LIGHTGBM, OURS, SHARED_READOUT, Judged
from pp_model.errors import ConfigError

CUSTOMERS = 200


def row(data="grocery", other=ALONE, figure="auc", *, mean=0.0, low=0.0, high=0.0):
    return Row(data=data, other=other, figure=figure, ours=0.9, theirs=0.9, gain=Gain(mean=mean, low=low, high=high))


def seed(number, *, central=True, customers=CUSTOMERS):
    """What the models of one seed say: ours knows the log-odds, the others a part of them."""
    known, drawn = np.random.default_rng(0), np.random.default_rng(100 + number)
    log_odds = known.normal(0, 2, customers)
    bought = known.random(customers) < 1 / (1 + np.exp(-log_odds))
    others = (ALONE, BGNBD) if central else (ALONE,)
    said = {
        name: log_odds + drawn.normal(0, noise, customers) for name, noise in ((OURS, 0.1), *((o, 2) for o in others))
    }
    buying = {name: 1 / (1 + np.exp(-each)) for name, each in said.items()}
    return Judged(customer=np.arange(customers), bought=bought, buying=buying)


@pytest.mark.parametrize(
    ("found", "bar", "verdict"),
    [
        pytest.param(row(mean=0.1, low=0.01), "interval > 0", "met", id="alone, grocery, surely ahead"),
        pytest.param(row(mean=0.1, low=-0.01), "interval > 0", "missed", id="alone, grocery, ahead by chance perhaps"),
        pytest.param(row("uk", mean=0.1, low=-0.01), "> 0", "met", id="alone, UK, ahead"),
        pytest.param(row("uk", mean=0.0), "> 0", "missed", id="alone, UK, level"),
        pytest.param(row(other=LIGHTGBM, mean=0.0, low=-0.1), ">= 0", "met", id="LightGBM, level"),
        pytest.param(row(other=LIGHTGBM, mean=-1e-6), ">= 0", "missed", id="LightGBM, below"),
        pytest.param(row(other=LIGHTGBM, mean=math.nan), ">= 0", "missed", id="LightGBM, no number"),
        pytest.param(row(other=ALONE, mean=1, low=math.nan), "interval > 0", "missed", id="alone, no interval"),
        pytest.param(row(other=BGNBD, figure="log_loss", mean=0.01, low=-1), "> 0", "met", id="BG/NBD, ahead"),
        pytest.param(row(other=LIGHTGBM, figure="log_loss", mean=-1), "", "", id="LightGBM, log loss, no bar"),
        pytest.param(row(other=SHARED_READOUT), "", "", id="the shared readout, no bar"),
    ],
)
def test_each_gain_meets_or_misses_the_bar_that_was_set_for_it(found, bar, verdict):
    assert (found.bar, found.verdict) == (bar, verdict)


def test_every_other_model_has_a_row_for_each_figure_with_the_means_over_seeds():
    rows = compared("uk", [seed(0), seed(1, central=False)], resamples=50)
    assert [(each.other, each.figure) for each in rows] == [
        (other, figure) for other in (ALONE, BGNBD) for figure in ("log_loss", "auc")
    ]
    alone = [compared("uk", [each], resamples=50)[0] for each in (seed(0), seed(1))]
    assert rows[0].theirs == pytest.approx(np.mean([each.theirs for each in alone]))
    assert rows[0].gain.mean == pytest.approx(rows[0].theirs - rows[0].ours)
    assert rows[1].gain.mean == pytest.approx(rows[1].ours - rows[1].theirs)


def test_a_model_of_no_seed_serves_for_all():
    rows = compared("uk", [seed(0), seed(1, central=False)], resamples=50)
    (only,) = [each for each in compared("uk", [seed(0)], resamples=50) if (each.other, each.figure) == (BGNBD, "auc")]
    assert rows[3].theirs == pytest.approx(only.theirs)


def test_seeds_that_judge_different_customers_are_not_compared():
    with pytest.raises(ConfigError, match="different customers"):
        compared("uk", [seed(0), seed(0, customers=CUSTOMERS + 1)], resamples=50)


def test_customers_who_cannot_be_told_apart_are_compared_within_one_seed_alone():
    alike = [replace(seed(number), customer=np.zeros(CUSTOMERS, np.int64)) for number in (0, 1)]
    assert compared("uk", alike[:1], resamples=50) == compared("uk", [seed(0)], resamples=50)
    with pytest.raises(ConfigError, match="share an order"):
        compared("uk", alike, resamples=50)


def test_a_quoted_figure_has_no_interval_and_still_meets_or_misses_its_bar():
    rows = {(each.other, each.figure): each for each in quoted("grocery", {"log_loss": 0.32, "auc": 0.93})}
    assert rows[BGNBD, "log_loss"].verdict == "met"
    assert rows[LIGHTGBM, "auc"].verdict == "missed"
    assert all(math.isnan(each.gain.low) for each in rows.values())


def test_the_page_tells_the_gain_its_interval_and_the_verdict_and_what_is_quoted():
    rows = [row(mean=0.0076, low=0.0054, high=0.0096), row(other=LIGHTGBM, mean=-0.002, low=math.nan, high=math.nan)]
    page = page_of(["| uk | secure sum | 0.5260 | 0.8048 |"], rows, seeds=2)
    alone = (
        "| grocery | each merchant alone | auc | 0.9000 | 0.9000 | +0.0076 | [+0.0054, +0.0096] | interval > 0 | met |"
    )
    trees = "| grocery | LightGBM, central, as quoted | auc | 0.9000 | 0.9000 | -0.0020 | - | >= 0 | missed |"
    assert alone in page.splitlines()
    assert trees in page.splitlines()
    assert "Seeds: 2;" in page


def test_without_the_orders_the_command_says_what_to_set(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(command, "SHARED", tmp_path / "nowhere")
    assert main(["--out", str(tmp_path / "page.md")]) == 2
    assert "set PP_SHARED" in capsys.readouterr().err
    assert list(Path(tmp_path).iterdir()) == []


def test_no_seeds_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--seeds", "0"])
    assert "at least 1" in capsys.readouterr().err
