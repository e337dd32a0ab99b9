"""Checklist: D1, D5, D13, D14, D17, D18, D19, D21, D34, D44.

The clipped sum against one customer at a time in double precision; the noise against its law.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from scipy import stats

from pp_model import dp_step
from pp_model.dp_step import CustomerRows, clipped_gradient_sum, noised_sum, trainable
from pp_model.features import Examples
from pp_model.loss import ziln_loss
from pp_model.model import load_model
from pp_model.model_spec import ModelSpec
from pp_model.randomness import SystemSource
from pp_model.train import customer_rows
from simulations.seeded import SeededSource
from tests.support.examples import random_arrays, random_examples
from tests.support.mechanism import SPECS, RecordingSource, every_model
from tests.support.plans import tiny_dp

READOUT = SPECS[2]
FALSE_ALARM = 1e-9


def ready(spec: ModelSpec, examples: Examples) -> tuple[GradSampleModule, CustomerRows]:
    """The module that is trained, and its rows."""
    model = load_model(spec, random_arrays(spec))
    rows = customer_rows(model, examples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GradSampleModule(model.readout if spec.trainable == "readout" else model, loss_reduction="sum"), rows


def windows(customers: int, *, most: int = 5) -> list[int]:
    """1 to `most` windows each, and every eighth customer none."""
    return [0 if i % 8 == 7 else 1 + i % most for i in range(customers)]


def everyone(rows: CustomerRows) -> NDArray[np.intp]:
    return np.arange(rows.num_customers)


def slow_sum(spec: ModelSpec, examples: Examples, max_grad_norm: float) -> NDArray[np.float64]:
    """One customer after the other: the mean loss of its windows, plain autograd, in double precision."""
    model = load_model(spec, random_arrays(spec)).double()
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = np.zeros(sum(p.numel() for p in parameters))
    for customer in range(examples.num_customers):
        hers = examples.select(examples.customer == customer)
        if not len(hers):
            continue
        features, anchor = torch.from_numpy(hers.features).double(), torch.from_numpy(hers.log_anchor).double()
        outputs = model(features, torch.from_numpy(hers.sequence), anchor)
        loss = ziln_loss(outputs, torch.from_numpy(hers.spend_cents)).mean()
        gradient = np.concatenate([g.numpy().ravel() for g in torch.autograd.grad(loss, parameters)])
        total += gradient * min(1.0, max_grad_norm / np.linalg.norm(gradient))
    return total


# --- fast against slow


@every_model
@pytest.mark.parametrize("customers", [0, 1, 7, 65])
@pytest.mark.parametrize("max_grad_norm", [0.5, 1e6], ids=["clipped", "not-clipped"])
def test_the_clipped_sum_is_that_of_one_customer_at_a_time(spec, customers, max_grad_norm):
    examples = random_examples(windows(customers), length=4)
    module, rows = ready(spec, examples)
    fast = clipped_gradient_sum(module, rows, everyone(rows), max_grad_norm=max_grad_norm)
    slow = slow_sum(spec, examples, max_grad_norm)
    assert fast.shape == slow.shape
    assert np.linalg.norm(fast - slow) <= 1e-5 * np.linalg.norm(slow)


def test_the_check_would_notice_a_sum_over_windows_instead_of_their_mean():
    examples = random_examples(windows(7))
    doubled = replace(
        examples,
        **{
            name: np.concatenate([getattr(examples, name)] * 2)
            for name in ("features", "sequence", "log_anchor", "spend_cents")
        },
        customer=np.concatenate([examples.customer, examples.customer + 7]),
        num_customers=14,
    )
    assert np.linalg.norm(slow_sum(READOUT, doubled, 1e6) - slow_sum(READOUT, examples, 1e6)) > 1e-5


@every_model
def test_micro_batches_of_any_size_give_the_same_sum(spec, monkeypatch):
    examples = random_examples(windows(20))
    module, rows = ready(spec, examples)
    whole = clipped_gradient_sum(module, rows, everyone(rows), max_grad_norm=0.5)
    parameters = len(whole)
    for bytes_at_once in (1, 4 * parameters * 3, 4 * parameters * 17):
        monkeypatch.setattr(dp_step, "GRADIENT_BYTES", bytes_at_once)
        parts = clipped_gradient_sum(module, rows, everyone(rows), max_grad_norm=0.5)
        assert np.linalg.norm(parts - whole) <= 1e-6 * np.linalg.norm(whole)


def test_no_micro_batch_is_larger_than_asked_unless_one_customer_is(monkeypatch):
    examples = random_examples([5, 1, 1, 1, 1, 9, 1, 1])
    module, rows = ready(READOUT, examples)
    seen, real = [], dp_step.customer_gradients
    monkeypatch.setattr(
        dp_step, "customer_gradients", lambda m, r, part: seen.append(part.tolist()) or real(m, r, part)
    )
    parameters = sum(p.numel() for p in trainable(module))
    monkeypatch.setattr(dp_step, "GRADIENT_BYTES", 4 * parameters * 4)
    clipped_gradient_sum(module, rows, everyone(rows), max_grad_norm=1.0)
    assert [customer for part in seen for customer in part] == list(range(8))
    counts = np.diff(rows.first)
    assert all(counts[part].sum() <= 4 + counts[part].max() for part in seen)
    assert len(seen) >= 4


@every_model
def test_the_gradients_left_behind_by_one_step_do_not_reach_the_next(spec):
    module, rows = ready(spec, random_examples(windows(9)))
    sums = [clipped_gradient_sum(module, rows, everyone(rows), max_grad_norm=0.5) for _ in range(2)]
    assert sums[0].tobytes() == sums[1].tobytes()


# --- one customer


@settings(max_examples=15)
@given(st.integers(0, 7), st.floats(1e-3, 10), st.sampled_from(SPECS))
def test_removing_any_customer_moves_the_sum_by_at_most_the_clip_norm(leaver, max_grad_norm, spec):
    module, rows = ready(spec, random_examples([500, 1, 2, 5, 0, 3, 1, 40], length=2))
    with_all = clipped_gradient_sum(module, rows, everyone(rows), max_grad_norm=max_grad_norm)
    without = clipped_gradient_sum(module, rows, np.delete(everyone(rows), leaver), max_grad_norm=max_grad_norm)
    assert np.linalg.norm(with_all - without) <= max_grad_norm * (1 + 1e-6)


def test_the_check_would_notice_rows_clipped_one_by_one():
    examples = random_examples([500, 1, 2], length=2)
    one_by_one = replace(examples, customer=np.arange(503), num_customers=503)
    module, rows = ready(READOUT, one_by_one)
    hers = np.flatnonzero(examples.customer == 0)
    moved = clipped_gradient_sum(module, rows, hers, max_grad_norm=0.1)
    assert np.linalg.norm(moved) > 0.1


@every_model
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_customer_with_a_row_that_is_not_finite_counts_as_zero_and_leaves_the_rest_bit_identical(spec, value):
    module, rows = ready(spec, random_examples([1 + i % 5 for i in range(12)]))
    healthy = dp_step.customer_gradients(module, rows, everyone(rows))
    for number in (0, -1):  # what the model reads, and the anchor
        spoilt = list(rows.inputs)
        spoilt[number] = spoilt[number].clone()
        spoilt[number][int(rows.first[4])] = value
        hit = replace(rows, inputs=tuple(spoilt))
        broken = dp_step.customer_gradients(module, hit, everyone(rows))
        assert not torch.isfinite(broken[4]).all()
        without = healthy.clone()
        without[4] = 0.0
        assert torch.equal(torch.where(torch.arange(12)[:, None] == 4, 0.0, broken), without)
        total = clipped_gradient_sum(module, hit, everyone(rows), max_grad_norm=0.5)
        assert total.tobytes() == dp_step.clipped_sum(without, max_grad_norm=0.5).numpy().tobytes()


def test_customers_without_rows_are_in_the_unit_and_add_nothing():
    module, rows = ready(READOUT, random_examples([0, 2, 0]))
    assert rows.num_customers == 3
    alone = clipped_gradient_sum(module, rows, np.array([1]), max_grad_norm=1.0)
    assert clipped_gradient_sum(module, rows, everyone(rows), max_grad_norm=1.0).tobytes() == alone.tobytes()
    assert not clipped_gradient_sum(module, rows, np.array([0, 2]), max_grad_norm=1.0).any()


# --- noise


@pytest.mark.parametrize("bytes_at_once", [1, 2**27])
@pytest.mark.parametrize("customers", [0, 1, 40])
def test_a_step_draws_one_batch_and_one_noise_whatever_the_number_of_parts(customers, bytes_at_once, monkeypatch):
    monkeypatch.setattr(dp_step, "GRADIENT_BYTES", bytes_at_once)
    module, rows = ready(READOUT, random_examples(windows(customers)))
    secret = RecordingSource()
    released = noised_sum(module, rows, tiny_dp(sample_rate=1.0), secret)
    assert secret.asked == [customers, 4 * len(released)]


def test_an_empty_batch_is_noised_like_any_other():
    module, rows = ready(READOUT, random_examples(windows(40)))
    secret = RecordingSource()
    plan = tiny_dp(sample_rate=1e-12, noise_multiplier=2.0, max_grad_norm=3.0)
    released = noised_sum(module, rows, plan, secret)
    assert secret.asked == [40, 4 * len(released)]
    assert scale_looks_right(released, 6.0)


def scale_looks_right(sample: NDArray[np.float64], std: float) -> bool:
    """The sum of (sample / std) ** 2 is chi-square with len(sample) degrees of freedom."""
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], df=len(sample))
    return bool(low < np.sum((sample / std) ** 2) < high)


def noise_of(plan, customers: int, steps: int = 60) -> NDArray[np.float64]:
    """What the noised sums add to the clipped sum of everyone, many times."""
    module, rows = ready(READOUT, random_examples(windows(customers)))
    exact = clipped_gradient_sum(module, rows, everyone(rows), max_grad_norm=plan.max_grad_norm)
    return np.concatenate([noised_sum(module, rows, plan, SystemSource()) - exact for _ in range(steps)])


@pytest.mark.statistical
@pytest.mark.parametrize("customers", [1, 39, 40, 80])
def test_the_noise_is_that_of_the_plan_and_not_of_the_number_of_customers(customers):
    plan = tiny_dp(sample_rate=1.0, noise_multiplier=0.7, max_grad_norm=2.5)
    assert scale_looks_right(noise_of(plan, customers), 0.7 * 2.5)


@pytest.mark.statistical
@pytest.mark.parametrize("error", [0.9, 1.1])
def test_the_scale_check_would_notice_noise_a_tenth_off(error):
    plan = tiny_dp(sample_rate=1.0, noise_multiplier=0.7 * error, max_grad_norm=2.5)
    assert not scale_looks_right(noise_of(plan, 8), 0.7 * 2.5)


def test_without_noise_a_step_of_everyone_is_the_clipped_sum():
    module, rows = ready(READOUT, random_examples(windows(9)))
    plan = tiny_dp(sample_rate=1.0, noise_multiplier=0.0)
    exact = clipped_gradient_sum(module, rows, everyone(rows), max_grad_norm=1.0)
    assert noised_sum(module, rows, plan, SystemSource()).tobytes() == exact.tobytes()


@pytest.mark.statistical
def test_customers_are_in_a_step_at_the_sample_rate():
    """Each customer's clipped gradient is one direction, so the sums tell who was in: binomial."""
    module, rows = ready(READOUT, random_examples([1] * 30))
    single = np.stack([clipped_gradient_sum(module, rows, np.array([c]), max_grad_norm=1.0) for c in range(30)])
    plan, secret, times, steps = tiny_dp(sample_rate=0.3, noise_multiplier=0.0), SeededSource(4), 0, 200
    for _ in range(steps):
        released = noised_sum(module, rows, plan, secret)
        inside, *_ = np.linalg.lstsq(single.T, released, rcond=None)
        assert np.abs(inside - np.round(inside)).max() < 1e-3
        times += int(np.round(inside).sum())
    low, high = stats.binom.interval(1 - 1e-6, 30 * steps, 0.3)
    assert low <= times <= high


def test_a_shop_without_customers_releases_noise_of_the_full_size():
    module, rows = ready(READOUT, random_examples([]))
    released = noised_sum(module, rows, tiny_dp(noise_multiplier=1.0), SystemSource())
    assert released.shape == (sum(p.numel() for p in trainable(module)),)
    assert scale_looks_right(released, 1.0)
