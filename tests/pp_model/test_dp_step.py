"""Checklist: D1, D5, D17, D21, D34, D44.

Which way the gradients go, and the noise against its law. What every way must do is in `contracts`.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from pp_model import fast_gradients
from pp_model.customer_rows import CustomerRows
from pp_model.dp_step import CustomerGradients, SlowStepWarning, customer_gradients, noised_sum
from pp_model.fast_gradients import FastGradients
from pp_model.features import Examples
from pp_model.model import load_model
from pp_model.model_spec import ModelSpec
from pp_model.per_sample import PerSampleGradients
from pp_model.randomness import SystemSource
from simulations.seeded import SeededSource
from tests.support.examples import random_arrays, random_examples
from tests.support.mechanism import (
    SPECS,
    RecordingSource,
    apart,
    every_model,
    everyone,
    ready,
    slow_sum,
    values_of,
    windows,
)
from tests.support.plans import tiny_dp

READOUT = SPECS[2]
FALSE_ALARM = 1e-9


def loaded(spec: ModelSpec, examples: Examples) -> tuple[CustomerGradients, CustomerRows]:
    """The gradients that training takes, at the parameters of `random_arrays`, and the rows."""
    module, rows = ready(spec, examples)
    gradients = customer_gradients(module)
    gradients.load(values_of(module))
    return gradients, rows


# --- which way


@every_model
def test_every_model_of_ours_goes_the_fast_way(spec):
    assert isinstance(loaded(spec, random_examples([1]))[0], FastGradients)


UNKNOWN = {
    "Tanh": (SPECS[3], lambda part: part.encoder.layers.__setitem__(1, nn.Tanh())),
    "Tanh at the end": (SPECS[5], lambda part: part.encoder.layers.append(nn.Tanh())),
    "approximate GELU": (SPECS[3], lambda part: part.encoder.layers.__setitem__(1, nn.GELU(approximate="tanh"))),
    "one frozen bias": (SPECS[3], lambda part: part.encoder.layers[0].bias.requires_grad_(False)),
    "a shared weight": (
        SPECS[7],
        lambda part: setattr(part.encoder.sequence.blocks[0].before, "weight", part.encoder.norm.weight),
    ),
    "a layer used twice": (
        SPECS[7],
        lambda part: part.encoder.sequence.blocks.__setitem__(1, part.encoder.sequence.blocks[0]),
    ),
    "padding_idx": (SPECS[5], lambda part: setattr(part.encoder.tokens[1], "padding_idx", 0)),
}


class _LoudLinear(nn.Linear):
    def forward(self, x):
        return 2.0 * super().forward(x)


def _loud(part) -> None:
    part.readout.linear.__class__ = _LoudLinear


@pytest.mark.parametrize(("spec", "change"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_layer_goes_the_slow_way_and_says_so(spec, change):
    part, _ = ready(spec, random_examples([1]))
    change(part)
    with pytest.warns(SlowStepWarning, match="does not know"):
        assert isinstance(customer_gradients(part), PerSampleGradients)


@pytest.mark.parametrize("spec", [SPECS[2], SPECS[3]], ids=["readout", "all"])
def test_a_type_derived_from_a_known_one_is_not_taken_for_it(spec):
    part, _ = ready(spec, random_examples([1]))
    _loud(part if spec is SPECS[3] else type("Part", (), {"readout": part}))
    with pytest.warns(SlowStepWarning, match="_LoudLinear"):
        customer_gradients(part)


def test_the_warning_names_the_layer_and_the_sum_is_still_right():
    spec, examples = SPECS[3], random_examples(windows(9))
    changed = []
    for _ in range(2):
        part, rows = ready(spec, examples)
        part.encoder.layers[1] = nn.Tanh()
        changed.append(part)
    with pytest.warns(SlowStepWarning, match="Tanh"):
        gradients = customer_gradients(changed[0])
    gradients.load(values_of(changed[0]))
    expected = slow_sum(changed[1], rows, everyone(rows), max_grad_norm=0.5)
    assert apart(gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5), expected) <= 5e-6


def test_a_known_model_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded(SPECS[7], random_examples([1]))


@every_model
def test_sampling_and_noise_are_the_same_whichever_way_the_gradients_go(spec):
    """Under one secret both ways draw one batch and one noise, so that their releases differ by rounding alone."""
    examples, plan = random_examples(windows(20)), tiny_dp(sample_rate=0.5, noise_multiplier=1.0)
    released = []
    for way in (FastGradients, PerSampleGradients):
        module, rows = ready(spec, examples)
        gradients, secret = way(module), SeededSource(5)
        gradients.load(values_of(module))
        released.append([noised_sum(gradients, rows, plan, secret) for _ in range(3)])
        released[-1].append(secret.uniform(1))  # and leave the secret at the same place
    assert all(np.abs(one - other).max() <= 1e-5 for one, other in zip(*released, strict=True))
    assert apart(released[0][0], released[0][1]) > 0.1


# --- noise


@pytest.mark.parametrize("rows_at_once", [1, 7, 4_096])
@pytest.mark.parametrize("customers", [0, 1, 40])
def test_a_step_draws_one_batch_and_one_noise_whatever_the_number_of_parts(customers, rows_at_once, monkeypatch):
    monkeypatch.setattr(fast_gradients, "ROWS_AT_ONCE", rows_at_once)
    gradients, rows = loaded(READOUT, random_examples(windows(customers)))
    secret = RecordingSource()
    released = noised_sum(gradients, rows, tiny_dp(sample_rate=1.0), secret)
    assert secret.asked == [customers, len(released)]


def test_an_empty_batch_is_noised_like_any_other():
    gradients, rows = loaded(READOUT, random_examples(windows(40)))
    secret = RecordingSource()
    plan = tiny_dp(sample_rate=1e-12, noise_multiplier=2.0, max_grad_norm=3.0)
    released = noised_sum(gradients, rows, plan, secret)
    assert secret.asked == [40, len(released)]
    assert scale_looks_right(released, 6.0)


def scale_looks_right(sample: NDArray[np.float64], std: float) -> bool:
    """The sum of (sample / std) ** 2 is chi-square with len(sample) degrees of freedom."""
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], df=len(sample))
    return bool(low < np.sum((sample / std) ** 2) < high)


def noise_of(plan, customers: int, steps: int = 60) -> NDArray[np.float64]:
    """What the noised sums add to the clipped sum of everyone, many times."""
    gradients, rows = loaded(READOUT, random_examples(windows(customers)))
    exact = gradients.clipped_sum(rows, everyone(rows), max_grad_norm=plan.max_grad_norm)
    return np.concatenate([noised_sum(gradients, rows, plan, SystemSource()) - exact for _ in range(steps)])


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
    gradients, rows = loaded(READOUT, random_examples(windows(9)))
    plan = tiny_dp(sample_rate=1.0, noise_multiplier=0.0)
    exact = gradients.clipped_sum(rows, everyone(rows), max_grad_norm=1.0)
    assert noised_sum(gradients, rows, plan, SystemSource()).tobytes() == exact.tobytes()


@pytest.mark.statistical
def test_customers_are_in_a_step_at_the_sample_rate():
    """Each customer's clipped gradient is one direction, so the sums tell who was in: binomial."""
    gradients, rows = loaded(READOUT, random_examples([1] * 30))
    single = np.stack([gradients.clipped_sum(rows, np.array([c]), max_grad_norm=1.0) for c in range(30)])
    plan, secret, times, steps = tiny_dp(sample_rate=0.3, noise_multiplier=0.0), SeededSource(4), 0, 200
    for _ in range(steps):
        released = noised_sum(gradients, rows, plan, secret)
        inside, *_ = np.linalg.lstsq(single.T, released, rcond=None)
        assert np.abs(inside - np.round(inside)).max() < 1e-3
        times += int(np.round(inside).sum())
    low, high = stats.binom.interval(1 - 1e-6, 30 * steps, 0.3)
    assert low <= times <= high


def test_a_shop_without_customers_releases_noise_of_the_full_size():
    gradients, rows = loaded(READOUT, random_examples([]))
    released = noised_sum(gradients, rows, tiny_dp(noise_multiplier=1.0), SystemSource())
    parameters = sum(p.numel() for p in load_model(READOUT, random_arrays(READOUT)).readout.parameters())
    assert released.shape == (parameters,)
    assert scale_looks_right(released, 1.0)
