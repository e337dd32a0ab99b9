"""Checklist: D1, D19, D20, D44.

The guarantee without noise: whatever the gradients are, one customer moves the sum by at most the clip norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import Tensor

from pp_model.clipping import _BLOCK, clip_update, clipped_sum, update_norm

any_float = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)
any_float32 = st.floats(allow_nan=True, allow_infinity=True, width=32)
shapes = st.tuples(st.integers(1, 8), st.integers(1, 5))
gradients = st.one_of(
    hnp.arrays(np.float64, shapes, elements=any_float), hnp.arrays(np.float32, shapes, elements=any_float32)
)
bounds = st.floats(1e-3, 1e3)

HOSTILE = np.array(
    [
        [3.0, 4.0, 0.0],
        [np.nan, 1.0, 1.0],
        [np.inf, -np.inf, 0.0],
        [1e308, -1e308, 1e308],
        [5e-324, 0.0, -5e-324],
        [0.0, 0.0, 0.0],
        [1e-3, 1e-3, 1e-3],
    ]
)


def summed(grads: NDArray[np.floating], bound: float) -> NDArray[np.float64]:
    return clipped_sum(torch.from_numpy(np.ascontiguousarray(grads)), max_grad_norm=bound).numpy()


def moves_too_far(mechanism: Callable[[Tensor], Tensor], grads: NDArray[np.floating], bound: float) -> bool:
    """Whether removing some customer moves the result by more than `bound`, or by no number at all."""
    with_all = mechanism(torch.from_numpy(grads))
    for leaver in range(len(grads)):
        moved = float((with_all - mechanism(torch.from_numpy(np.delete(grads, leaver, axis=0)))).norm())
        if not moved <= bound * (1 + 1e-9):
            return True
    return False


def slow_clipped_sum(grads: NDArray[np.floating], bound: float) -> list[float]:
    total = [0.0] * grads.shape[1]
    for row in grads.astype(np.float64):
        if all(math.isfinite(value) for value in row):
            norm = math.hypot(*row)
            total = [t + value * min(1.0, bound / norm if norm else 1.0) for t, value in zip(total, row, strict=True)]
    return total


@given(gradients, bounds, st.data())
def test_removing_a_customer_moves_the_sum_by_at_most_the_clip_norm(grads, bound, data):
    leaver = data.draw(st.integers(0, len(grads) - 1))
    moved = summed(grads, bound) - summed(np.delete(grads, leaver, axis=0), bound)
    assert np.linalg.norm(moved) <= bound * (1 + 1e-9)


@given(gradients, bounds, st.data())
def test_adding_a_customer_moves_the_sum_by_at_most_the_clip_norm(grads, bound, data):
    joiner = data.draw(hnp.arrays(grads.dtype, (1, grads.shape[1]), elements=any_float32))
    moved = summed(np.concatenate([grads, joiner]), bound) - summed(grads, bound)
    assert np.linalg.norm(moved) <= bound * (1 + 1e-9)


@given(hnp.arrays(np.float64, shapes, elements=st.floats(-1e6, 1e6)), bounds)
def test_the_sum_is_that_of_one_customer_at_a_time(grads, bound):
    np.testing.assert_allclose(summed(grads, bound), slow_clipped_sum(grads, bound), rtol=1e-12, atol=1e-12 * bound)


@given(gradients, bounds)
def test_the_sum_is_a_number_whatever_the_gradients_are(grads, bound):
    assert np.isfinite(summed(grads, bound)).all()


def test_hostile_rows_pass_the_check_that_the_three_twins_below_fail():
    assert not moves_too_far(lambda g: clipped_sum(g, max_grad_norm=1.0), HOSTILE, 1.0)


def test_the_check_would_notice_a_mean_instead_of_a_sum():
    def mean(grads: Tensor) -> Tensor:
        return 4 * clipped_sum(grads, max_grad_norm=1.0) / max(len(grads), 1)  # 4 customers are public, says someone

    assert moves_too_far(mean, np.array([[5.0, 0.0], [0.0, 5.0]]), 1.0)


def test_the_check_would_notice_a_batch_clipped_as_a_whole():
    def batch_clipped(grads: Tensor) -> Tensor:
        total = grads.sum(dim=0)
        return total * (1.0 / total.norm().clamp(min=1e-12)).clamp(max=1.0)

    assert moves_too_far(batch_clipped, np.array([[9.0, 0.0], [-4.0, 0.0], [-6.0, 0.0]]), 1.0)


def test_the_check_would_notice_a_row_that_is_not_a_number_let_through():
    def careless(grads: Tensor) -> Tensor:
        return (grads * (1.0 / grads.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)).sum(dim=0)

    assert moves_too_far(careless, np.array([[1.0, 0.0], [np.nan, 0.0]]), 1.0)
    assert moves_too_far(careless, np.array([[1.0, 0.0], [np.inf, 0.0]]), 1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_counts_as_zero_and_leaves_the_rest_bit_identical(value):
    grads = np.random.default_rng(5).normal(size=(50, 7)) * 10
    spoilt, zeroed = grads.copy(), grads.copy()
    spoilt[17, 3], zeroed[17] = value, 0.0
    assert summed(spoilt, 1.0).tobytes() == summed(zeroed, 1.0).tobytes()


def test_a_huge_row_keeps_its_direction():
    np.testing.assert_allclose(summed(np.full((1, 4), 1e308), 2.0), [1.0] * 4, rtol=1e-12)


def test_a_customer_of_500_windows_weighs_no_more_than_another():
    rng = np.random.default_rng(3)
    others, heavy = rng.normal(size=(20, 6)), rng.normal(size=(500, 6)).sum(axis=0, keepdims=True) * 500
    moved = summed(np.concatenate([others, heavy]), 0.7) - summed(others, 0.7)
    assert np.linalg.norm(moved) == pytest.approx(0.7, rel=1e-9)


def test_small_gradients_are_left_as_they_are():
    grads = np.array([[0.3, 0.4], [-0.1, 0.0]])
    np.testing.assert_allclose(summed(grads, 1.0), [0.2, 0.4], rtol=1e-12)


@pytest.mark.parametrize("shape", [(0, 3), (0, 0), (4, 0)])
def test_nobody_and_nothing_sum_to_zero(shape):
    assert summed(np.ones(shape), 1.0).tolist() == [0.0] * shape[1]


def test_float32_gradients_are_summed_in_float64():
    total = clipped_sum(torch.ones(10, 2), max_grad_norm=1.0)
    assert total.dtype == torch.float64
    assert float(total.norm()) == pytest.approx(10.0, rel=1e-14)


updates = st.dictionaries(
    st.sampled_from("abc"), hnp.arrays(np.float32, st.integers(0, 6), elements=any_float32), min_size=1
)


@given(updates, bounds)
def test_a_clipped_update_is_never_over_the_bound(update, bound):
    clipped, _ = clip_update(update, update_clip_norm=bound)
    assert update_norm(clipped) <= bound
    assert {name: array.shape for name, array in clipped.items()} == {n: a.shape for n, a in update.items()}
    assert all(array.dtype == np.float32 for array in clipped.values())


def test_a_large_random_update_is_never_over_the_bound_by_rounding():
    rng = np.random.default_rng(11)
    for bound in (0.1, 1.0, 3.0, 7.7):
        update = {"w": rng.normal(size=1_000).astype(np.float32), "b": rng.normal(size=7).astype(np.float32)}
        clipped, norm = clip_update(update, update_clip_norm=bound)
        assert bound * (1 - 1e-6) <= update_norm(clipped) <= bound
        assert norm == pytest.approx(math.sqrt(sum(float((a.astype(float) ** 2).sum()) for a in update.values())))


def test_an_update_within_the_bound_is_bit_identical():
    update = {"w": np.array([0.3, -0.4], np.float32)}
    clipped, _ = clip_update(update, update_clip_norm=1.0)
    assert clipped["w"].tobytes() == update["w"].tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_has_an_infinite_norm_and_becomes_zero(value):
    clipped, norm = clip_update(
        {"a": np.ones(3, np.float32), "b": np.array([1, value], np.float32)}, update_clip_norm=1
    )
    assert norm == math.inf
    assert all(not array.any() for array in clipped.values())


def test_clipping_leaves_the_callers_update_as_it_was():
    update = {"w": np.array([30.0, 40.0], np.float32)}
    clip_update(update, update_clip_norm=1.0)
    assert update["w"].tolist() == [30.0, 40.0]


def test_every_block_of_a_large_update_counts_in_its_norm():
    update = {"w": np.zeros((3, _BLOCK), np.float32), "v": np.full(_BLOCK + 1, 2.0, np.float32)}
    update["w"][2, -1] = 3.0
    assert update_norm(update) == np.sqrt(4.0 * (_BLOCK + 1) + 9.0)
    update["w"][1, 0] = np.inf
    assert update_norm(update) == np.inf
