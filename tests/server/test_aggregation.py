import tracemalloc
import weakref
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pp_model.clipping import clip_update
from pp_model.protocol import Release
from server.aggregation import (
    RejectedReleaseError,
    RejectionCode,
    aggregator,
    median,
    trimmed_mean,
    validate_release,
)
from tests.support.fake_merchants import TRAINABLE, filled, random_arrays

TASK = "a" * 64

cohorts = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=st.floats(-1e6, 1e6, width=32)
)


def aggregate(updates, *, method):
    """One update of many, each forgotten before the next is made."""
    one = aggregator(method)
    for update in updates:
        one.add(update)
        del update
    return one.result()


def updates_of(cohort: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [{"w": row} for row in cohort]


def check(update, *, task=TASK, norm=1000.0, noised=True):
    release = Release(task=task, update=update)
    return validate_release(release, task=TASK, shapes=TRAINABLE, update_clip_norm=norm, noised=noised)


def slow_trimmed_mean(column: list[float], trim: int) -> float:
    kept = sorted(column)[trim : len(column) - trim]
    return sum(kept) / len(kept)


@given(cohorts)
def test_the_streamed_mean_is_the_naive_mean(cohort):
    naive = cohort.astype(np.float64).sum(axis=0) / len(cohort)
    assert np.array_equal(aggregate(iter(updates_of(cohort)), method="mean")["w"], naive.astype(np.float32))


def test_the_mean_sums_in_double_precision():
    updates = [{"w": np.array([2.0**24], np.float32)}] + [{"w": np.ones(1, np.float32)}] * 1023
    assert aggregate(updates, method="mean")["w"][0] == np.float32((2**24 + 1023) / 1024)


class Tracked(dict):
    """A dict that can be weakly referenced."""


def most_alive(method: str, *, updates: int) -> int:
    """Most updates in memory at a time while so many are aggregated."""
    made, most = [], 0

    def stream():
        nonlocal most
        for seed in range(updates):
            update = Tracked(random_arrays(seed))
            made.append(weakref.ref(update))
            most = max(most, sum(ref() is not None for ref in made))
            yield update

    aggregate(stream(), method=method)
    return most


def test_the_mean_never_holds_more_than_two_updates():
    assert most_alive("mean", updates=20) <= 2  # the one being made, and the one just added


@pytest.mark.parametrize("method", ["median", "trimmed_mean", "norm_filter"])
def test_the_count_of_updates_held_sees_those_that_need_them_all(method):
    assert most_alive(method, updates=20) == 20


def most_bytes_beside(call) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_checking_a_large_release_takes_a_third_of_its_memory_and_no_more():
    update = {"w": np.ones(2**20, np.float32)}
    release = Release(task=TASK, update=update)

    def checked():
        validate_release(release, task=TASK, shapes={"w": (2**20,)}, update_clip_norm=1024.0, noised=True)

    assert most_bytes_beside(checked) < update["w"].nbytes / 3


@given(cohorts, st.data())
def test_the_trimmed_mean_is_that_of_the_slow_twin(cohort, data):
    trim = data.draw(st.integers(0, (len(cohort) - 1) // 2))
    ours = trimmed_mean(updates_of(cohort), trim=trim)["w"]
    slow = [slow_trimmed_mean([float(v) for v in column], trim) for column in cohort.T]
    assert np.allclose(ours, slow, rtol=1e-6, atol=1e-6 * float(np.abs(cohort).max()) + 2.0**-149)


@pytest.mark.parametrize("of_all", [median, partial(trimmed_mean, trim=1)], ids=["median", "trimmed_mean"])
def test_one_merchants_huge_value_moves_the_robust_means_not_at_all(of_all):
    honest = [random_arrays(seed) for seed in range(4)]
    small, huge = of_all([*honest, filled(10.0)]), of_all([*honest, filled(1e30)])
    assert all(np.array_equal(small[name], huge[name]) for name in TRAINABLE)


ROBUST = ["norm_filter", "trimmed_mean", "median"]


def named_by(updates, *, method) -> tuple[int, ...]:
    one = aggregator(method)
    for update in updates:
        one.add(update)
    return tuple(one.left_out())


@pytest.mark.parametrize("method", ROBUST)
def test_who_is_far_longer_than_the_others_is_named_and_is_as_if_it_had_not_come(method):
    honest = [random_arrays(seed) for seed in range(6)]
    with_two = [filled(1e30), *honest[:3], filled(-1e5), *honest[3:]]
    assert named_by(with_two, method=method) == (0, 4)
    ours, without = aggregate(with_two, method=method), aggregate(honest, method=method)
    assert all(np.array_equal(ours[name], without[name]) for name in TRAINABLE)


@pytest.mark.parametrize("method", ["mean", *ROBUST])
def test_honest_updates_are_all_used(method):
    assert named_by([random_arrays(seed) for seed in range(20)], method=method) == ()


def test_the_mean_names_nobody():
    assert named_by([*[random_arrays(seed) for seed in range(6)], filled(1e30)], method="mean") == ()


def test_without_anybody_far_the_norm_filter_is_the_mean():
    honest = [random_arrays(seed) for seed in range(7)]
    filtered, mean = aggregate(honest, method="norm_filter"), aggregate(honest, method="mean")
    assert all(np.array_equal(filtered[name], mean[name]) for name in TRAINABLE)


def test_one_merchants_huge_value_does_move_the_mean():
    honest = [random_arrays(seed) for seed in range(4)]
    assert aggregate([*honest, filled(1e30)], method="mean")["head.bias"].min() > 1e29


def test_the_median_of_an_even_cohort_is_the_middle_of_the_two_in_the_middle():
    assert median([filled(v) for v in (1.0, 2.0, 4.0, 100.0)])["head.bias"].tolist() == [3.0] * 3


@pytest.mark.parametrize(("merchants", "trimmed"), [(1, 0), (2, 0), (3, 1), (9, 1), (10, 2), (100, 20)])
def test_a_fifth_of_the_merchants_is_trimmed_at_each_end(merchants, trimmed):
    values = [float(2 ** min(i, 60)) for i in range(merchants)]
    expected = slow_trimmed_mean(values, trimmed)
    ours = aggregate([{"w": np.array([v], np.float32)} for v in values], method="trimmed_mean")["w"][0]
    assert ours == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("method", ["mean", "median", "trimmed_mean", "norm_filter"])
def test_the_aggregate_of_nobody_is_empty(method):
    assert aggregate([], method=method) == {}


def test_trimming_everybody_is_refused():
    with pytest.raises(ValueError, match="trim is 1 of 2"):
        trimmed_mean([filled(1.0), filled(2.0)], trim=1)


BAD = [
    pytest.param({**filled(1.0), "extra": np.zeros(1, np.float32)}, RejectionCode.NAMES, id="an-array-too-many"),
    pytest.param({"head.bias": np.zeros(3, np.float32)}, RejectionCode.NAMES, id="an-array-missing"),
    pytest.param({**filled(1.0), "head.bias": np.zeros(4, np.float32)}, RejectionCode.SHAPES, id="another-shape"),
    pytest.param({**filled(1.0), "head.bias": np.zeros((3, 1), np.float32)}, RejectionCode.SHAPES, id="another-rank"),
    pytest.param({**filled(1.0), "head.bias": np.zeros(3)}, RejectionCode.DTYPE, id="float64"),
    pytest.param(filled(float("nan")), RejectionCode.NOT_FINITE, id="nan"),
    pytest.param(
        {**filled(1.0), "head.bias": np.float32([0, 0, -np.inf])}, RejectionCode.NOT_FINITE, id="one-infinity"
    ),
    pytest.param(filled(1e6), RejectionCode.NORM, id="a-million-times-too-large"),
    pytest.param(filled(3e38), RejectionCode.NORM, id="so-large-that-its-square-is-not-a-float"),
]


@pytest.mark.parametrize(("update", "code"), BAD)
def test_a_release_that_is_not_as_agreed_is_rejected_with_its_code(update, code):
    with pytest.raises(RejectedReleaseError) as caught:
        check(update)
    assert caught.value.code is code


def test_a_release_for_another_task_is_rejected():
    with pytest.raises(RejectedReleaseError) as caught:
        check(filled(1.0), task="b" * 64)
    assert caught.value.code is RejectionCode.WRONG_TASK


def test_nothing_but_zeros_is_refused_exactly_where_the_plan_adds_noise():
    assert check(filled(0.0), noised=False).keys() == TRAINABLE.keys()
    one = {**filled(0.0), "head.bias": np.array([0, 0, 1e-30], np.float32)}
    assert check(one).keys() == TRAINABLE.keys()
    with pytest.raises(RejectedReleaseError) as caught:
        check(filled(0.0))
    assert caught.value.code is RejectionCode.ZERO


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_what_a_merchant_has_clipped_to_the_norm_is_valid(seed, norm):
    clipped, _ = clip_update({name: 1e4 * array for name, array in random_arrays(seed).items()}, update_clip_norm=norm)
    assert check(clipped, norm=norm).keys() == TRAINABLE.keys()


def test_an_update_a_thousandth_above_the_norm_is_rejected():
    with pytest.raises(RejectedReleaseError, match="norm"):
        check(filled(1.001 / 3.0), norm=1.0)  # nine values: norm 1.001
