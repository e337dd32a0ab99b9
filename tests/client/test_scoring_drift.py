"""Drift: a known number for a known change, kept in private, and compared with an earlier day only."""

from __future__ import annotations

import datetime as dt
import math
import stat

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.drift import KeptRun, days_old, drift_words, histogram, keep_run, run_before, stability_index
from daemons.files import PrivateFileError
from pp_model.errors import ConfigError

DAY = dt.date(2024, 6, 1)
counts = st.lists(st.integers(0, 10**6), min_size=5, max_size=5)


def kept(cutoff: dt.date, **scores: float) -> KeptRun:
    return KeptRun(
        cutoff=cutoff,
        model="a" * 64,
        customer_ids=pa.array(list(scores), pa.string()),
        score=np.array(list(scores.values())),
        histograms={"score": [1, 2], "recency": [3, 4]},
    )


def test_a_share_that_moves_from_one_bin_to_another_has_a_known_index():
    truth = (0.6 - 0.5) * math.log(0.6 / 0.5) + (0.4 - 0.5) * math.log(0.4 / 0.5)
    assert stability_index([60, 40], [500, 500]) == pytest.approx(truth, rel=1e-12)


@given(counts, counts)
def test_the_index_is_finite_symmetric_and_zero_for_the_same_shares(first, second):
    index = stability_index(first, second)
    assert 0 <= index < math.inf
    assert index == pytest.approx(stability_index(second, first))
    assert stability_index(first, [3 * count for count in first]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("index", "word"), [(0.0, "steady"), (0.099, "steady"), (0.1, "moved"), (0.25, "changed"), (math.nan, "changed")]
)
def test_the_words_follow_the_usual_rule_of_thumb(index, word):
    assert drift_words(index).startswith(word)


def test_every_value_is_in_one_bin_those_beyond_the_bounds_included():
    assert histogram("score", np.array([0.0, 4.9, 5.0, 100.0])).tolist() == [2, 1, *[0] * 17, 1]
    assert histogram("recency", np.array([-9.0, 9.0])).tolist() == [1, *[0] * 22, 1]


def test_a_run_is_compared_with_the_newest_of_an_earlier_cutoff(tmp_path):
    for days in (0, 30, 60):
        keep_run(tmp_path / "scores", kept(DAY + dt.timedelta(days=days), anna=50.0 + days, ben=10.0))
    before = run_before(tmp_path / "scores", DAY + dt.timedelta(days=60))
    assert before is not None
    assert before.cutoff == DAY + dt.timedelta(days=30)
    assert before.histograms == {"score": [1, 2], "recency": [3, 4]}
    found = before.scores_of(pa.array(["new", "ben", "anna"]))
    np.testing.assert_array_equal(found, [np.nan, 10.0, 80.0])
    assert run_before(tmp_path / "scores", DAY) is None


def test_only_three_runs_are_kept_and_for_their_owner_alone(tmp_path):
    for days in range(5):
        keep_run(tmp_path / "scores", kept(DAY + dt.timedelta(days=days), anna=1.0))
    files = sorted((tmp_path / "scores").iterdir())
    assert [path.stem for path in files] == ["2024-06-03", "2024-06-04", "2024-06-05"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_kept_run_that_is_open_to_others_or_damaged_is_refused_with_what_to_do(tmp_path):
    keep_run(tmp_path / "scores", kept(DAY, anna=1.0))
    (path,) = (tmp_path / "scores").iterdir()
    path.chmod(0o644)
    with pytest.raises(PrivateFileError, match="chmod 600"):
        run_before(tmp_path / "scores", DAY + dt.timedelta(days=1))
    path.chmod(0o600)
    path.write_bytes(b"PAR1 and something else")
    with pytest.raises(ConfigError, match="delete it"):
        run_before(tmp_path / "scores", DAY + dt.timedelta(days=1))


def test_days_without_an_order_are_counted_from_the_day_before_the_cutoff():
    assert [days_old(DAY - dt.timedelta(days=days), DAY) for days in (1, 2, 9)] == [0, 1, 8]
