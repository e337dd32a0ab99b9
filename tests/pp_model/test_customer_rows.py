"""Checklist: D1. What each window weighs in the loss of its customer."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pp_model.customer_rows import NEWEST_WEIGHT, window_weights


@given(st.lists(st.integers(1, 24), min_size=1, max_size=5))
def test_the_weights_of_a_customers_windows_are_one_together_and_the_newest_weighs_most(counts):
    weights = window_weights(np.array(counts))
    assert weights.shape == (len(counts), max(counts))
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-6)
    for row, count in zip(weights, counts, strict=True):
        assert (row > 0).sum() == count
        np.testing.assert_allclose(row[1:count] * NEWEST_WEIGHT, row[0], rtol=1e-6)


def test_customers_without_windows_weigh_nothing():
    assert window_weights(np.array([0, 1])).tolist() == [[0.0], [1.0]]
    assert window_weights(np.array([0])).shape == (1, 0)
