"""Checklist: D1, D5, D15, D26, D30, D32, D33, D34.

One merchant's task: what comes out, what it depends on, and what it may not depend on.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from pp_model.clipping import update_norm
from pp_model.features import FEATURE_NAMES, Examples
from pp_model.loss import ziln_loss
from pp_model.model import load_model, trainable_shapes
from pp_model.model_spec import ENCODERS, ModelSpec
from pp_model.plan import TrainingPlan
from pp_model.randomness import SecretSource, SystemSource
from pp_model.serialization import Arrays, shapes_of
from pp_model.train import customer_rows, predict, train_locally
from simulations.seeded import SeededSource
from tests.support.examples import random_arrays, random_examples
from tests.support.mechanism import SPECS, RecordingSource, every_model, mean_over_windows
from tests.support.plans import tiny_dp, tiny_plan

FALSE_ALARM = 1e-9


def plan_of(spec: ModelSpec, *, num_steps: int = 1, rate: float = 1.0, **dp: float) -> TrainingPlan:
    return tiny_plan(
        model=spec,
        algorithm="fedsgd" if num_steps == 1 and rate == 1.0 else "fedavg",
        local_learning_rate=rate,
        dp=tiny_dp(num_steps=num_steps, **dp),
    )


def update_of(plan: TrainingPlan, examples: Examples, secret: SecretSource, *, arrays: Arrays | None = None) -> Arrays:
    arrays = arrays or random_arrays(plan.model)
    return train_locally(arrays, customer_rows(load_model(plan.model, arrays), examples), plan, secret=secret)


def flat(update: Arrays) -> NDArray[np.float64]:
    return np.concatenate([array.ravel() for array in update.values()]).astype(np.float64)


def slow_steps(plan: TrainingPlan, examples: Examples, arrays: Arrays) -> NDArray[np.float64]:
    """Every step, every customer, by plain autograd in double precision; everyone is in, and there is no noise."""
    model = load_model(plan.model, arrays).double()
    parameters = [p for p in model.parameters() if p.requires_grad]
    moved = np.zeros(sum(p.numel() for p in parameters))
    for _ in range(plan.dp.num_steps):
        total = np.zeros_like(moved)
        for customer in np.unique(examples.customer):
            hers = examples.select(examples.customer == customer)
            features, anchor = torch.from_numpy(hers.features).double(), torch.from_numpy(hers.log_anchor).double()
            loss = ziln_loss(
                model(features, torch.from_numpy(hers.sequence), anchor), torch.from_numpy(hers.spend_cents)
            )
            gradient = np.concatenate(
                [g.numpy().ravel() for g in torch.autograd.grad(mean_over_windows(loss), parameters)]
            )
            total += gradient * min(1.0, plan.dp.max_grad_norm / np.linalg.norm(gradient))
        step = -plan.local_learning_rate * total / plan.nominal_batch_size
        moved += step
        with torch.no_grad():
            for p, piece in zip(
                parameters, np.split(step, np.cumsum([p.numel() for p in parameters])[:-1]), strict=True
            ):
                p += torch.from_numpy(piece).view_as(p)
    return moved


# --- fast against slow


@every_model
def test_a_step_without_noise_is_minus_the_clipped_gradient_over_the_public_divisor(spec):
    plan, examples, arrays = plan_of(spec, sample_rate=1.0, noise_multiplier=0.0), random_examples([1, 3, 0, 2]), None
    arrays = random_arrays(spec)
    fast, slow = flat(update_of(plan, examples, SystemSource(), arrays=arrays)), slow_steps(plan, examples, arrays)
    assert np.linalg.norm(fast - slow) <= 1e-5 * np.linalg.norm(slow)


@every_model
def test_several_local_steps_are_taken_one_after_the_other(spec):
    plan = replace(plan_of(spec, num_steps=3, rate=2.0, sample_rate=1.0, noise_multiplier=0.0), nominal_batch_size=2.0)
    examples, arrays = random_examples([1, 3, 0, 2]), random_arrays(spec)
    fast, slow = flat(update_of(plan, examples, SystemSource(), arrays=arrays)), slow_steps(plan, examples, arrays)
    assert np.linalg.norm(fast - slow) <= 1e-4 * np.linalg.norm(slow)
    first = slow_steps(replace(plan, dp=tiny_dp(sample_rate=1.0)), examples, arrays)
    assert np.linalg.norm(slow - 3 * first) > 1e-3 * np.linalg.norm(slow)  # the later steps start elsewhere


# --- what is released


@every_model
def test_an_update_has_exactly_what_the_spec_trains_in_float32(spec):
    update = update_of(plan_of(spec), random_examples([2, 1]), SystemSource())
    assert shapes_of(update) == trainable_shapes(spec)
    assert list(update) == list(trainable_shapes(spec))
    assert {array.dtype.name for array in update.values()} == {"float32"}


@every_model
def test_training_leaves_the_callers_arrays_and_rows_as_they_were(spec):
    arrays, examples = random_arrays(spec), random_examples([2, 1])
    rows = customer_rows(load_model(spec, arrays), examples)
    before = {name: array.copy() for name, array in arrays.items()}
    inputs = [tensor.clone() for tensor in rows.inputs]
    train_locally(arrays, rows, plan_of(spec, num_steps=2, rate=0.5), secret=SystemSource())
    assert all(arrays[name].tobytes() == before[name].tobytes() for name in before)
    assert all(torch.equal(one, other) for one, other in zip(rows.inputs, inputs, strict=True))


def test_a_release_stands_in_the_same_order_as_the_gradients():
    """With noise 0 the bias of the readout moves as its own gradient says, and so does its weight."""
    spec, examples = SPECS[0], random_examples([4, 2])
    plan, arrays = plan_of(spec, sample_rate=1.0, noise_multiplier=0.0), random_arrays(spec)
    update = update_of(plan, examples, SystemSource(), arrays=arrays)
    moved = slow_steps(plan, examples, arrays)
    names = list(trainable_shapes(spec))
    assert names == ["readout.linear.weight", "readout.linear.bias"]
    np.testing.assert_allclose(update["readout.linear.bias"], moved[-3:], rtol=1e-4)


# --- randomness is an argument


@every_model
def test_the_update_is_decided_by_the_secret(spec):
    examples, plan = random_examples([2, 1, 3]), plan_of(spec, num_steps=2, rate=0.5)
    one, same = (flat(update_of(plan, examples, SeededSource(3))) for _ in range(2))
    assert one.tobytes() == same.tobytes()
    assert not np.array_equal(one, flat(update_of(plan, examples, SeededSource(4))))


def test_two_computations_of_one_task_never_share_their_noise():
    examples, plan = random_examples([2, 1, 3]), plan_of(SPECS[2])
    torch.manual_seed(1)
    one = flat(update_of(plan, examples, SystemSource()))
    torch.manual_seed(1)
    assert not (one == flat(update_of(plan, examples, SystemSource()))).any()


# --- nothing depends on the number of customers


def asked(customers: int, *, sample_rate: float = 0.5) -> list[int]:
    secret = RecordingSource()
    plan = plan_of(SPECS[2], num_steps=4, rate=0.5, sample_rate=sample_rate)
    update_of(plan, random_examples([1 + i % 3 for i in range(customers)]), secret)
    return secret.asked


@pytest.mark.parametrize("customers", [0, 1, 9, 10, 11, 19, 20, 40])
def test_the_number_of_steps_and_of_noises_is_the_plans_whatever_the_customers(customers):
    parameters = sum(int(np.prod(shape)) for shape in trainable_shapes(SPECS[2]).values())
    assert asked(customers) == [customers, parameters] * 4


def test_empty_batches_take_their_steps_and_their_noise():
    parameters = sum(int(np.prod(shape)) for shape in trainable_shapes(SPECS[2]).values())
    assert asked(20, sample_rate=1e-12) == [20, parameters] * 4


def scale_looks_right(sample: NDArray[np.float64], std: float) -> bool:
    """The sum of (sample / std) ** 2 is chi-square with len(sample) degrees of freedom."""
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], df=len(sample))
    return bool(low < np.sum((sample / std) ** 2) < high)


def released_noise(customers: int, *, noise_multiplier: float, runs: int = 60) -> NDArray[np.float64]:
    plan = plan_of(SPECS[2], sample_rate=1.0, noise_multiplier=noise_multiplier, max_grad_norm=2.0)
    examples = random_examples([1] * customers)
    quiet = replace(plan, dp=replace(plan.dp, noise_multiplier=0.0))
    exact = flat(update_of(quiet, examples, SystemSource()))
    return np.concatenate([flat(update_of(plan, examples, SystemSource())) - exact for _ in range(runs)])


@pytest.mark.statistical
@pytest.mark.parametrize("customers", [0, 9, 10, 20])
def test_the_noise_of_a_release_is_that_of_the_plan_over_the_public_divisor(customers):
    """nominal_batch_size is 10: N - 1, N and 2 N customers are noised alike."""
    assert scale_looks_right(released_noise(customers, noise_multiplier=0.8), 0.8 * 2.0 / 10.0)


@pytest.mark.statistical
@pytest.mark.parametrize("error", [0.9, 1.1])
def test_the_noise_check_would_notice_a_tenth(error):
    assert not scale_looks_right(released_noise(10, noise_multiplier=0.8 * error), 0.8 * 2.0 / 10.0)


def test_the_divisor_is_the_plans():
    examples, spec = random_examples([1, 2, 3]), SPECS[2]
    plan = plan_of(spec, sample_rate=1.0, noise_multiplier=0.0)
    ten = flat(update_of(plan, examples, SystemSource()))
    twenty = flat(update_of(replace(plan, nominal_batch_size=20.0), examples, SystemSource()))
    np.testing.assert_allclose(ten, 2 * twenty, rtol=1e-6)


@settings(max_examples=10)
@given(st.integers(0, 5), st.sampled_from(SPECS))
def test_a_customer_more_or_less_moves_a_release_by_at_most_the_clip_norm_over_the_divisor(leaver, spec):
    examples = random_examples([500, 1, 2, 5, 3, 40], length=2)
    plan = plan_of(spec, sample_rate=1.0, noise_multiplier=0.0, max_grad_norm=0.7)
    without = examples.select(examples.customer != leaver)
    moved = flat(update_of(plan, examples, SystemSource())) - flat(update_of(plan, without, SystemSource()))
    assert np.linalg.norm(moved) <= 0.7 / 10.0 * (1 + 1e-5)


# --- rows


@settings(max_examples=30)
@given(st.lists(st.integers(0, 4), max_size=7), st.integers(0, 99))
def test_rows_are_grouped_by_customer_each_where_it_belongs(windows, seed):
    examples, model = random_examples(windows, seed=seed), load_model(SPECS[3], random_arrays(SPECS[3]))
    rows = customer_rows(model, examples)
    assert rows.num_customers == len(windows)
    assert np.diff(rows.first).tolist() == windows
    for customer in range(len(windows)):
        hers, place = examples.select(examples.customer == customer), slice(*rows.first[customer : customer + 2])
        coordinates = model.coordinates(torch.from_numpy(hers.features)).detach()
        torch.testing.assert_close(rows.inputs[0][place], coordinates, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(rows.inputs[1][place], hers.sequence)
        np.testing.assert_array_equal(rows.inputs[2][place], hers.log_anchor)
        np.testing.assert_array_equal(rows.spend_cents[place], hers.spend_cents)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_frozen_encoder_seen_once_gives_the_outputs_of_the_whole_model(encoder):
    spec, examples = ModelSpec(encoder=encoder, hidden=(6,)), random_examples([3, 0, 2])
    model = load_model(spec, random_arrays(spec))
    rows = customer_rows(model, examples)
    ordered = examples.select(np.argsort(examples.customer, kind="stable"))
    whole = model(*(torch.from_numpy(a) for a in (ordered.features, ordered.sequence, ordered.log_anchor)))
    torch.testing.assert_close(model.readout(*rows.inputs), whole)


def test_predictions_do_not_depend_on_how_many_rows_go_at_once(monkeypatch):
    spec, examples = SPECS[4], random_examples([40])
    whole = predict(spec, random_arrays(spec), examples)
    monkeypatch.setattr("pp_model.train._ROWS_AT_ONCE", 7)
    parts = predict(spec, random_arrays(spec), examples)
    np.testing.assert_allclose(parts.expected_spend_cents, whole.expected_spend_cents, rtol=1e-5)


def test_nobody_is_predicted_as_nothing():
    out = predict(SPECS[2], random_arrays(SPECS[2]), random_examples([]))
    assert out.buying_probability.shape == (0,)


def test_the_features_of_one_customer_do_not_reach_the_view_of_another():
    spec, examples = SPECS[2], random_examples([1] * 50)
    model = load_model(spec, random_arrays(spec))
    hit = replace(examples, features=examples.features.copy())
    hit.features[3] = np.float32(6.0)
    one, other = customer_rows(model, examples).inputs[0], customer_rows(model, hit).inputs[0]
    changed = set(np.flatnonzero((one != other).any(dim=1).numpy()).tolist())
    assert changed == {int(examples.customer[3])}
    assert one.shape[1] == len(FEATURE_NAMES) + 4


def test_an_update_is_never_longer_than_the_platform_accepts():
    loud = tiny_plan(model=SPECS[0], dp=tiny_dp(noise_multiplier=50.0), nominal_batch_size=0.01, update_clip_norm=2.0)
    update = update_of(loud, random_examples([2, 1, 3]), SystemSource())
    assert update_norm(update) == pytest.approx(2.0, rel=1e-5)
    assert update_norm(update) <= 2.0
