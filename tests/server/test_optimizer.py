import copy
import math

import numpy as np
import pytest

from pp_model.errors import ArraysError
from server.optimizer import ADAM_BETA2, ADAM_EPSILON, ServerOptimizer
from tests.support.fake_merchants import TRAINABLE, filled, random_arrays
from tests.support.plans import tiny_server


def optimizer(*, rounds=10, **changes) -> ServerOptimizer:
    return ServerOptimizer(plan=tiny_server(**changes), rounds=rounds)


def play(start, updates, current):
    for number, update in enumerate(updates, 1):
        start, current = current.step(start, update, round=number)
    return start, current


def slow_adam(updates, *, rates, beta1):
    """Algorithm 1 of Kingma and Ba for one number, line by line, uphill."""
    theta = m = v = 0.0
    for t, (g, rate) in enumerate(zip(updates, rates, strict=True), 1):
        m = beta1 * m + (1 - beta1) * g
        v = ADAM_BETA2 * v + (1 - ADAM_BETA2) * g * g
        theta += rate * (m / (1 - beta1**t)) / (math.sqrt(v / (1 - ADAM_BETA2**t)) + ADAM_EPSILON)
    return theta


def test_adam_is_the_published_algorithm():
    values = [0.3, -1.0, 0.02, 5.0, 0.0]
    adam = optimizer(optimizer="adam", learning_rate=0.1, final_learning_rate=0.02, momentum=0.9, rounds=5)
    params, _ = play(filled(0.0), [filled(v) for v in values], adam)
    expected = slow_adam(values, rates=[0.1, 0.08, 0.06, 0.04, 0.02], beta1=0.9)
    assert params["head.bias"] == pytest.approx([expected] * 3, rel=1e-5)


def test_adams_first_step_is_the_learning_rate_along_the_sign_of_the_update():
    adam = optimizer(optimizer="adam", learning_rate=0.25, final_learning_rate=0.25, momentum=0.9)
    params, _ = adam.step(filled(1.0), {"head.bias": np.float32([1e-3, -4.0, 0.0])}, round=1)
    assert params["head.bias"] == pytest.approx([1.25, 0.75, 1.0], abs=1e-4)


def slow_scalar_adam(updates, *, rate, beta1):
    """The same algorithm for a flat vector, with the mean square of all coordinates as the one second moment."""
    theta, m, v = np.zeros_like(updates[0]), np.zeros_like(updates[0]), 0.0
    for t, g in enumerate(updates, 1):
        m = beta1 * m + (1 - beta1) * g
        v = ADAM_BETA2 * v + (1 - ADAM_BETA2) * float(np.mean(g * g))
        theta = theta + rate * (m / (1 - beta1**t)) / (math.sqrt(v / (1 - ADAM_BETA2**t)) + ADAM_EPSILON)
    return theta


def test_scalar_adam_shares_one_second_moment_between_all_coordinates_of_all_arrays():
    vectors = [np.random.default_rng(seed).normal(0, 10.0**seed, 7) for seed in range(5)]
    shared = optimizer(optimizer="scalar_adam", learning_rate=0.1, final_learning_rate=0.1, momentum=0.8)

    def arrays(vector):
        return {"first": np.float32(vector[:3]), "second": np.float32(vector[3:]).reshape(2, 2)}

    params, _ = play(arrays(np.zeros(7)), [arrays(v) for v in vectors], shared)
    moved = np.concatenate([params["first"], params["second"].ravel()])
    assert moved == pytest.approx(slow_scalar_adam(vectors, rate=0.1, beta1=0.8), rel=1e-4)
    assert moved != pytest.approx([slow_adam(v, rates=[0.1] * 5, beta1=0.8) for v in np.transpose(vectors)], rel=1e-2)


def test_momentum_adds_its_velocity():
    heavy = optimizer(learning_rate=0.5, final_learning_rate=0.5, momentum=0.5)
    params, _ = play(filled(0.0), [filled(1.0), filled(0.0), filled(2.0)], heavy)
    assert params["head.bias"].tolist() == [0.5 * (1 + 0.5 + 2.25)] * 3


def test_momentum_zero_at_rate_one_adds_the_update():
    params, _ = optimizer().step(filled(2.0), random_arrays(1), round=1)
    assert np.array_equal(params["head.bias"], np.float32(2.0) + random_arrays(1)["head.bias"])


@pytest.mark.parametrize(("rounds", "number", "rate"), [(5, 1, 1.0), (5, 3, 0.6), (5, 5, 0.2), (1, 1, 1.0)])
def test_the_learning_rate_falls_linearly_to_the_last_round(rounds, number, rate):
    falling = optimizer(rounds=rounds, learning_rate=1.0, final_learning_rate=0.2)
    assert falling.learning_rate(number) == pytest.approx(rate)


@pytest.mark.parametrize("kind", ["adam", "momentum"])
def test_only_arrays_of_the_update_move(kind):
    frozen = np.arange(4, dtype=np.float32)
    params, after = optimizer(optimizer=kind, averaging=0.5).step(
        {"frozen": frozen, **filled(0.0)}, filled(1.0), round=1
    )
    assert params["frozen"] is frozen
    assert after.published(params)["frozen"] is frozen
    assert (params["head.bias"] != 0).all()


@pytest.mark.parametrize("kind", ["adam", "momentum"])
def test_a_step_changes_nothing_that_the_caller_holds(kind):
    params, update = filled(1.0), random_arrays(1)
    _, first = optimizer(optimizer=kind, momentum=0.9, averaging=0.9).step(params, update, round=1)
    before = copy.deepcopy((params, update, first.to_arrays()))
    first.step(params, update, round=2)
    for then, now in zip(before, (params, update, first.to_arrays()), strict=True):
        assert all(np.array_equal(then[name], now[name]) for name in now)


def test_the_published_model_is_the_average_of_the_steps_without_the_start():
    averaging = optimizer(averaging=0.75)
    params, after = play(filled(100.0), [filled(1.0), filled(1.0)], averaging)  # 101, 102
    assert params["head.bias"].tolist() == [102.0] * 3
    expected = (0.75 * 101 + 102) / (0.75 + 1)
    assert after.published(params)["head.bias"] == pytest.approx([expected] * 3, rel=1e-6)


def test_without_averaging_the_published_model_is_the_model():
    params, after = play(filled(0.0), [random_arrays(1), random_arrays(2)], optimizer())
    assert all(after.published(params)[name] is params[name] for name in TRAINABLE)


def test_before_the_first_step_the_published_model_is_the_initial_one():
    assert optimizer(averaging=0.9).published(filled(1.0))["head.bias"].tolist() == [1.0] * 3


@pytest.mark.parametrize("kind", ["adam", "momentum"])
def test_an_optimiser_from_its_arrays_steps_bit_by_bit_as_the_one_that_never_stopped(kind):
    current = optimizer(optimizer=kind, learning_rate=0.1, final_learning_rate=0.01, momentum=0.9, averaging=0.9)
    params, current = play(filled(0.0), [random_arrays(seed) for seed in range(3)], current)
    again = ServerOptimizer.from_arrays(current.to_arrays(), plan=current.plan, rounds=current.rounds)
    (one, after_one), (other, after_other) = (o.step(params, random_arrays(9), round=4) for o in (current, again))
    assert all(np.array_equal(one[name], other[name]) for name in TRAINABLE)
    published = after_one.published(one), after_other.published(other)
    assert all(np.array_equal(published[0][name], published[1][name]) for name in TRAINABLE)


@pytest.mark.parametrize("arrays", [{}, {"steps": np.zeros(1, np.float32), "third/w": np.zeros(1, np.float32)}])
def test_arrays_that_are_not_an_optimisers_are_refused(arrays):
    with pytest.raises(ArraysError, match="optimiser"):
        ServerOptimizer.from_arrays(arrays, plan=tiny_server(), rounds=1)
