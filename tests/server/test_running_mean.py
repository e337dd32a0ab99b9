import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from server import running_mean as module
from server.running_mean import BLOCK, DOUBLE_UP_TO, GROUP, RunningMean
from tests.support.fake_merchants import random_arrays

BOUND = 34 * 2.0**-24  # of the mean of the absolute values
SMALLEST = 2.0**-149

cohorts = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 3 * GROUP), st.integers(1, 3)), elements=st.floats(-1e6, 1e6, width=32)
)


def mean_of(rows) -> np.ndarray:
    running = RunningMean()
    for row in rows:
        running.add({"w": row})
    return running.result()["w"]


def worst_excess(means: np.ndarray, cohort: np.ndarray) -> float:
    """How far the worst number is past the stated bound, in units of the bound; exact by `math.fsum`."""
    excess = -1.0
    for mean, column in zip(means, cohort.T, strict=True):
        numbers = [float(value) for value in column]
        error = abs(float(mean) - math.fsum(numbers) / len(numbers))
        bound = BOUND * math.fsum(map(abs, numbers)) / len(numbers) + SMALLEST
        excess = max(excess, error / bound - 1)
    return excess


def plain_float32_mean(cohort: np.ndarray) -> np.ndarray:
    total = np.zeros(cohort.shape[1], np.float32)
    for row in cohort:
        total += row
    return total / np.float32(len(cohort))


@pytest.fixture
def _every_model_is_large(monkeypatch):
    monkeypatch.setattr(module, "DOUBLE_UP_TO", 0)


@given(cohorts)
def test_a_model_of_ordinary_size_has_the_mean_of_the_float64_sum_bit_by_bit(cohort):
    total = np.zeros(cohort.shape[1])
    for row in cohort:
        total = total + row
    assert mean_of(cohort).tobytes() == (total / len(cohort)).astype(np.float32).tobytes()


def test_the_largest_model_of_ordinary_size_is_still_summed_in_float64():
    whole, half = np.full(DOUBLE_UP_TO, 2.0**24, np.float32), np.ones(DOUBLE_UP_TO, np.float32)
    assert set(mean_of([whole, half, half, half])) == {np.float32((2**24 + 3) / 4)}


@pytest.mark.usefixtures("_every_model_is_large")
@given(cohorts)
def test_the_mean_of_a_large_model_is_within_the_stated_bound(cohort):
    assert worst_excess(mean_of(cohort), cohort) <= 0


HARD = {
    "a-tenth": np.full((3000, 1), 0.1, np.float32),
    "one-large-then-small": np.array([[2.0**24], *[[1.0]] * 2999], np.float32),
    "growing": np.geomspace(1e-6, 1e6, 3000, dtype=np.float32)[:, None],
    "cancelling": np.tile(np.array([[1e6], [-1e6], [0.1]], np.float32), (1000, 1)),
    "tiny": np.full((3000, 1), 1e-44, np.float32),
}


@pytest.mark.usefixtures("_every_model_is_large")
@pytest.mark.parametrize("cohort", [pytest.param(cohort, id=name) for name, cohort in HARD.items()])
def test_the_bound_holds_for_thousands_of_hard_updates(cohort):
    assert worst_excess(mean_of(cohort), cohort) <= 0


@pytest.mark.parametrize("name", ["a-tenth", "one-large-then-small"])
def test_the_check_of_the_bound_notices_plain_float32(name):
    assert worst_excess(plain_float32_mean(HARD[name]), HARD[name]) > 1


@pytest.mark.usefixtures("_every_model_is_large")
def test_what_a_group_cannot_hold_is_carried_into_the_next():
    """A second level in plain float32 would lose each of these groups: next to 2**30 it holds multiples of 128."""
    rows = [np.array([2.0**30], np.float32)] + [np.ones(1, np.float32)] * (100 * GROUP - 1)
    assert mean_of(rows)[0] == np.float32((2**30 + 100 * GROUP - 1) / (100 * GROUP))


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, DOUBLE_UP_TO + 1])
def test_every_number_of_an_array_of_any_size_is_added(size):
    rows = [np.arange(size, dtype=np.float32) % 1000, np.ones(size, np.float32)] * GROUP
    assert mean_of(rows).tolist() == ((np.arange(size) % 1000 + 1) / 2).tolist()


@pytest.mark.parametrize("limit", [0, DOUBLE_UP_TO])
def test_arrays_keep_their_names_and_shapes(limit, monkeypatch):
    monkeypatch.setattr(module, "DOUBLE_UP_TO", limit)
    update = {**random_arrays(1), "scale": np.array(3.0, np.float32), "none": np.zeros((0, 2), np.float32)}
    running = RunningMean()
    for _ in range(2):
        running.add(update)
    for name, mean in running.result().items():
        assert (mean.shape, mean.dtype) == (update[name].shape, np.float32)
        assert np.array_equal(mean, update[name])


def test_the_mean_of_nothing_is_empty_and_an_update_added_is_left_as_it_was():
    running, update = RunningMean(), {"w": np.ones(3, np.float32)}
    assert running.result() == {}
    running.add(update)
    running.add(update)
    assert update["w"].tolist() == [1.0] * 3


def peak_models(updates: int, parameters: int) -> float:
    """Most memory while so many updates are made, added and averaged, in updates of float32."""
    tracemalloc.start()
    try:
        running = RunningMean()
        for number in range(updates):
            running.add({"w": np.full(parameters, number, np.float32)})
        running.result()
        return tracemalloc.get_traced_memory()[1] / (4 * parameters)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("parameters", [DOUBLE_UP_TO, 2**20])
def test_three_models_of_memory_are_enough_for_any_number_of_updates(parameters):
    few, many = peak_models(GROUP, parameters), peak_models(4 * GROUP, parameters)
    blocks = 4 * 8 * BLOCK / (4 * parameters)  # which numpy converts
    assert 2.9 < few <= 3 + blocks
    assert many == pytest.approx(few, abs=0.01)
