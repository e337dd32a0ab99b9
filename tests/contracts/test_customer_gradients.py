"""Checklist: D1, D5, D13, D14, D18, D19, D21, D34, D44.

What every way to the clipped sum of customers' gradients must do: the sum of one customer at a time in double
precision, and never more of one customer than the clip norm.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pp_model.customer_rows import CustomerRows
from pp_model.dp_step import CustomerGradients
from pp_model.fast_gradients import FastGradients
from pp_model.features import Examples
from pp_model.model_spec import ModelSpec
from pp_model.per_sample import PerSampleGradients
from tests.support.examples import random_examples
from tests.support.mechanism import (
    SPECS,
    apart,
    every_kind,
    every_model,
    everyone,
    gradient_of,
    ready,
    slow_sum,
    values_of,
    windows,
)

WAYS = {"fast": FastGradients, "per-sample": PerSampleGradients}
TRAINED = [spec for spec in SPECS if spec.trainable == "all"]


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


def loaded(way, spec: ModelSpec, examples: Examples) -> tuple[CustomerGradients, CustomerRows]:
    """Gradients at the parameters of `random_arrays`, and the rows."""
    module, rows = ready(spec, examples)
    gradients = way(module)
    gradients.load(values_of(module))
    return gradients, rows


def slow(spec: ModelSpec, examples: Examples, *, max_grad_norm: float) -> NDArray[np.float64]:
    """Everyone, one after the other."""
    module, rows = ready(spec, examples)
    return slow_sum(module, rows, everyone(rows), max_grad_norm=max_grad_norm)


def with_sequence(examples: Examples, sequence: NDArray[np.uint8]) -> Examples:
    return replace(examples, sequence=sequence.astype(np.uint8))


# --- fast against slow


@every_model
@pytest.mark.parametrize("customers", [0, 1, 7, 65])
@pytest.mark.parametrize("max_grad_norm", [0.5, 1e6], ids=["clipped", "not-clipped"])
def test_the_clipped_sum_is_that_of_one_customer_at_a_time(way, spec, customers, max_grad_norm):
    """To 5e-6: a prediction that all but hits its label leaves float32 a difference of a few digits, for any way.

    Without that, in double precision, the stacked layers agree to 1e-10 (`test_batch_sums`).
    """
    examples = random_examples(windows(customers))
    gradients, rows = loaded(way, spec, examples)
    found = gradients.clipped_sum(rows, everyone(rows), max_grad_norm=max_grad_norm)
    expected = slow(spec, examples, max_grad_norm=max_grad_norm)
    assert found.shape == expected.shape
    assert found.dtype == np.float64
    assert apart(found, expected) <= 5e-6


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.encoder}-{s.trainable}")
def test_a_large_batch_of_long_sequences_is_one_customer_at_a_time_to_a_millionth(way, spec):
    examples = random_examples(windows(513), length=32)
    gradients, rows = loaded(way, spec, examples)
    expected = slow(spec, examples, max_grad_norm=0.5)
    assert apart(gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5), expected) <= 1e-6


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
    assert apart(slow(SPECS[2], doubled, max_grad_norm=1e6), slow(SPECS[2], examples, max_grad_norm=1e6)) > 0.1


@pytest.mark.parametrize("spec", TRAINED, ids=lambda s: s.encoder)
@pytest.mark.parametrize("length", [1, 2, 9])
def test_customers_without_any_event_are_customers_like_others(way, spec, length):
    """All padding for some of the windows, for all windows of one customer, and then for everybody."""
    examples = random_examples([1, 2, 5, 3, 1], length=length)
    some = np.where(np.arange(len(examples))[:, None, None] % 3 == 0, 0, examples.sequence)
    nobody = np.where((examples.customer == 2)[:, None, None], 0, some)
    for sequence in (some, nobody, np.zeros_like(some)):
        silent = with_sequence(examples, sequence)
        gradients, rows = loaded(way, spec, silent)
        found = gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5)
        assert np.isfinite(found).all()
        assert apart(found, slow(spec, silent, max_grad_norm=0.5)) <= 5e-6


@pytest.mark.parametrize("spec", TRAINED[-2:], ids=lambda s: s.encoder)
def test_a_token_that_comes_again_counts_once_with_all_its_places(way, spec):
    """The same tokens at each place, in each window; then all different in one field, and two by turns in another."""
    examples = random_examples([1, 5, 2], length=6)
    same = np.ones_like(examples.sequence)
    one_field = same.copy()
    one_field[..., 0], one_field[..., 1] = [1, 2, 3, 4, 5, 6], [1, 2, 1, 2, 1, 2]
    for sequence in (same, one_field):
        again = with_sequence(examples, sequence)
        gradients, rows = loaded(way, spec, again)
        for max_grad_norm in (0.01, 1e6):
            found = gradients.clipped_sum(rows, everyone(rows), max_grad_norm=max_grad_norm)
            assert apart(found, slow(spec, again, max_grad_norm=max_grad_norm)) <= 5e-6


@every_kind
def test_more_padding_changes_nothing(way, spec):
    examples = random_examples([1, 4, 2])
    nothing = np.zeros((len(examples), 5, examples.sequence.shape[2]), np.uint8)
    longer = with_sequence(examples, np.concatenate([nothing, examples.sequence], axis=1))
    sums = []
    for each in (examples, longer):
        gradients, rows = loaded(way, spec, each)
        sums.append(gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5))
    assert apart(sums[1], sums[0]) <= 5e-6


@every_kind
def test_a_part_of_the_customers_in_any_order_is_the_sum_of_that_part(way, spec):
    examples = random_examples(windows(20))
    gradients, rows = loaded(way, spec, examples)
    some = np.array([17, 3, 15, 4, 0, 9])
    module, _ = ready(spec, examples)
    found = gradients.clipped_sum(rows, some, max_grad_norm=0.5)
    assert apart(found, slow_sum(module, rows, some, max_grad_norm=0.5)) <= 5e-6


@every_kind
def test_the_gradients_are_those_at_the_parameters_last_loaded(way, spec):
    examples = random_examples(windows(7))
    module, rows = ready(spec, examples)
    moved = values_of(module) + np.random.default_rng(1).normal(0, 0.1, len(values_of(module)))
    gradients = way(module)
    gradients.load(values_of(module))
    before = gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5)
    gradients.load(moved)
    after = gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5)
    other, _ = ready(spec, examples)
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(
            torch.from_numpy(moved.astype(np.float32)), [p for p in other.parameters() if p.requires_grad]
        )
    assert apart(after, slow_sum(other, rows, everyone(rows), max_grad_norm=0.5)) <= 1e-5
    assert apart(after, before) > 1e-3


# --- what is the caller's, and what is kept


@every_kind
def test_the_callers_rows_and_batch_stay_as_they_were(way, spec):
    gradients, rows = loaded(way, spec, random_examples(windows(9)))
    batch = everyone(rows)
    before = [tensor.clone() for tensor in (*rows.inputs, rows.spend_cents)]
    gradients.clipped_sum(rows, batch, max_grad_norm=0.5)
    after = [*rows.inputs, rows.spend_cents]
    assert all(torch.equal(one, other) for one, other in zip(after, before, strict=True))
    assert not any(tensor.requires_grad or tensor.is_inference() for tensor in after)
    assert batch.tolist() == list(range(9))


@every_kind
def test_one_sum_leaves_nothing_behind_for_the_next_and_is_not_changed_by_it(way, spec):
    gradients, rows = loaded(way, spec, random_examples(windows(9)))
    one = gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5)
    copy = one.copy()
    gradients.clipped_sum(rows, np.array([1, 2]), max_grad_norm=0.1)
    again = gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5)
    assert one.tobytes() == copy.tobytes() == again.tobytes()


@every_kind
def test_the_module_can_be_trained_by_autograd_after_a_sum(way, spec):
    module, rows = ready(spec, random_examples(windows(5)))
    gradients = way(module)
    gradients.load(values_of(module))
    gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5)
    inputs = [tensor.clone() for tensor in rows.inputs]
    module(*inputs).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.requires_grad)


# --- one customer


@settings(max_examples=25)
@given(st.integers(0, 7), st.floats(1e-3, 10), st.sampled_from(SPECS), st.sampled_from(list(WAYS)))
def test_removing_any_customer_moves_the_sum_by_at_most_the_clip_norm(leaver, max_grad_norm, spec, name):
    gradients, rows = loaded(WAYS[name], spec, random_examples([200, 1, 2, 5, 0, 3, 1, 40], length=2))
    assert moved_by(gradients, rows, leaver, max_grad_norm) <= max_grad_norm * (1 + 1e-6)


def moved_by(gradients: CustomerGradients, rows: CustomerRows, leaver: int, max_grad_norm: float) -> float:
    """How far the sum of everyone moves when one customer leaves."""
    with_all = gradients.clipped_sum(rows, everyone(rows), max_grad_norm=max_grad_norm)
    without = gradients.clipped_sum(rows, np.delete(everyone(rows), leaver), max_grad_norm=max_grad_norm)
    return float(np.linalg.norm(with_all - without))


def test_the_check_would_notice_rows_clipped_one_by_one(way):
    examples = random_examples([200, 1, 2], length=2)
    one_by_one = replace(examples, customer=np.arange(203), num_customers=203)
    gradients, rows = loaded(way, SPECS[2], one_by_one)
    hers = np.flatnonzero(examples.customer == 0)
    assert np.linalg.norm(gradients.clipped_sum(rows, hers, max_grad_norm=0.1)) > 0.1


@every_kind
def test_one_customer_alone_is_as_long_as_the_clip_norm_or_as_her_gradient(way, spec):
    examples = random_examples([3, 1, 5])
    gradients, rows = loaded(way, spec, examples)
    module, _ = ready(spec, examples)
    for customer in range(3):
        length = np.linalg.norm(gradient_of(module, rows, customer))
        for max_grad_norm in (length / 3, 3 * length):
            found = np.linalg.norm(gradients.clipped_sum(rows, np.array([customer]), max_grad_norm=max_grad_norm))
            assert found == pytest.approx(min(length, max_grad_norm), rel=1e-5)
            assert found <= max_grad_norm * (1 + 1e-7)


@every_kind
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, -1], ids=["what-the-model-reads", "anchor"])
def test_a_customer_with_a_row_that_is_not_finite_counts_as_zero(way, spec, value, column):
    gradients, rows = loaded(way, spec, random_examples([1 + i % 5 for i in range(12)]))
    spoilt = list(rows.inputs)
    spoilt[column] = spoilt[column].clone()
    spoilt[column][int(rows.first[4])] = value
    hit = replace(rows, inputs=tuple(spoilt))
    found = gradients.clipped_sum(hit, everyone(rows), max_grad_norm=0.5)
    without = gradients.clipped_sum(rows, np.delete(everyone(rows), 4), max_grad_norm=0.5)
    assert apart(found, without) <= 1e-6
    alone = gradients.clipped_sum(hit, np.array([4]), max_grad_norm=0.5)
    assert not alone.any()


def test_customers_without_rows_are_in_the_unit_and_add_nothing(way):
    gradients, rows = loaded(way, SPECS[2], random_examples([0, 2, 0]))
    assert rows.num_customers == 3
    alone = gradients.clipped_sum(rows, np.array([1]), max_grad_norm=1.0)
    assert gradients.clipped_sum(rows, everyone(rows), max_grad_norm=1.0).tobytes() == alone.tobytes()
    assert not gradients.clipped_sum(rows, np.array([0, 2]), max_grad_norm=1.0).any()
    assert not gradients.clipped_sum(rows, np.array([], np.intp), max_grad_norm=1.0).any()


# --- gradients that a float can hardly hold


def readout_rows(features: NDArray[np.float32], spend_cents: NDArray[np.int64]) -> CustomerRows:
    """One row for each customer of a readout: what it reads, given outright."""
    return CustomerRows(
        inputs=(torch.from_numpy(features), torch.full((len(features),), 8.0)),
        spend_cents=torch.from_numpy(spend_cents),
        first=np.arange(len(features) + 1),
    )


@pytest.mark.parametrize("length", [1e25, 1e19, 1e12, 1e-15, 1e-30, 1e-38])
def test_a_gradient_of_any_length_is_clipped_and_not_lost(way, length):
    """A length of 1e25 is finite and its square is not; of 1e-30 the square is nothing."""
    module, _ = ready(SPECS[0], random_examples([1]))
    values = 0.0 * values_of(module)
    gradients = way(ready(SPECS[0], random_examples([1]))[0])
    gradients.load(values)
    features = np.zeros((3, module.linear.in_features), np.float32)
    features[0, :2] = 3.0, -4.0
    features[1, 0], features[2] = length, 1.0
    rows = readout_rows(features, np.zeros(3, np.int64))
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(torch.from_numpy(values.astype(np.float32)), list(module.parameters()))
    expected = slow_sum(module, rows, np.arange(3), max_grad_norm=0.25)
    assert apart(gradients.clipped_sum(rows, np.arange(3), max_grad_norm=0.25), expected) <= 1e-6
    assert np.linalg.norm(gradients.clipped_sum(rows, np.array([1]), max_grad_norm=0.25)) <= 0.25 * (1 + 1e-6)


def test_a_gradient_of_zero_is_added_as_zero(way):
    """A sure prediction of what came true: in float32 nothing is left of its gradient."""
    module, _ = ready(SPECS[0], random_examples([1]))
    values = 0.0 * values_of(module)
    values[-3] = -200.0  # the logit
    gradients = way(module)
    gradients.load(values)
    width = module.linear.in_features
    rows = readout_rows(np.ones((2, width), np.float32), np.zeros(2, np.int64))
    assert not gradients.clipped_sum(rows, np.arange(2), max_grad_norm=1.0).any()


huge = st.sampled_from([0.0, -1.0, 1e-20, 1e3, -1e6, 1e6, 1e12, -1e12, 1e15, 1e18, -1e18])


@settings(max_examples=12)
@given(st.sampled_from(TRAINED), st.integers(0, 5), st.integers(0, 999), st.lists(huge, min_size=1, max_size=4))
def test_no_weights_make_a_customer_count_for_more_than_the_clip_norm(spec, leaver, seed, factors):
    """Some of the arrays multiplied by anything, signs and all: the platform chooses the weights.

    What a customer adds is bounded. That the others' gradients are the same to the last digit without her is not
    asked here: weights that make everything of a rounding error make it of the one that comes with the batch's shape.
    """
    module, rows = ready(spec, random_examples([1, 3, 1, 2, 5, 1], length=3, seed=seed))
    pieces = [p.detach().numpy().ravel().astype(np.float64) for p in module.parameters() if p.requires_grad]
    rng = np.random.default_rng(seed)
    for place, factor in zip(rng.permutation(len(pieces)), factors, strict=False):
        pieces[place] = pieces[place] * factor
    for way in WAYS.values():
        gradients = way(ready(spec, random_examples([1]))[0])
        gradients.load(np.concatenate(pieces))
        for max_grad_norm in (1e-3, 1.0):
            alone = gradients.clipped_sum(rows, np.array([leaver]), max_grad_norm=max_grad_norm)
            assert np.isfinite(alone).all()
            assert np.linalg.norm(alone) <= max_grad_norm * (1 + 1e-5)


def test_hostile_weights_leave_most_customers_a_gradient_to_clip():
    """The property above would hold of zeros: of a hundred models, most still give a finite gradient over the norm."""
    clipped = 0
    for seed in range(100):
        module, rows = ready(SPECS[3], random_examples([1], seed=seed))
        gradients, rng = FastGradients(module), np.random.default_rng(seed)
        pieces = [p.detach().numpy().ravel().astype(np.float64) for p in module.parameters()]
        pieces[rng.integers(len(pieces))] *= 1e12
        gradients.load(np.concatenate(pieces))
        length = np.linalg.norm(gradients.clipped_sum(rows, np.array([0]), max_grad_norm=1e-3))
        clipped += length > 0.999e-3
    assert clipped >= 60
