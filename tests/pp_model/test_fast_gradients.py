"""Checklist: D1, D5, D17, D21, D33, D34.

Micro-batches, a memory that is too small, and what the fast way keeps. What every way must do is in `contracts`.
"""

from __future__ import annotations

import gc
import resource
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pp_model import fast_gradients
from pp_model.customer_rows import NEWEST_WEIGHT, CustomerRows
from pp_model.dp_step import noised_sum
from pp_model.errors import UnknownLayerError
from pp_model.fast_gradients import FastGradients, micro_batches, padded, reads_sequences
from pp_model.model_spec import ENCODERS, ModelSpec
from pp_model.per_sample import PerSampleGradients
from pp_model.stacked import layers
from pp_model.stacked.batch_sums import StackedGradients
from tests.support.examples import random_examples
from tests.support.mechanism import (
    SPECS,
    RecordingSource,
    apart,
    every_kind,
    every_model,
    everyone,
    ready,
    values_of,
    windows,
)
from tests.support.plans import tiny_dp

MLP = SPECS[3]


def loaded(spec: ModelSpec, counts: list[int], *, length: int = 4) -> tuple[FastGradients, CustomerRows]:
    module, rows = ready(spec, random_examples(counts, length=length))
    gradients = FastGradients(module)
    gradients.load(values_of(module))
    return gradients, rows


# --- against Opacus


def of_both(spec: ModelSpec, counts: list[int], *, length: int, max_grad_norm: float) -> tuple[np.ndarray, np.ndarray]:
    """The same sum by the fast way and by Opacus' per-sample gradients."""
    fast, rows = loaded(spec, counts, length=length)
    module, _ = ready(spec, random_examples([1]))
    reference = PerSampleGradients(module)
    reference.load(values_of(module))
    return tuple(way.clipped_sum(rows, everyone(rows), max_grad_norm=max_grad_norm) for way in (fast, reference))


@every_model
@pytest.mark.parametrize("counts", [[1], [1] * 33, windows(65), [3] * 7, [5]], ids=["one", "alike", "mixed", "3s", "5"])
@pytest.mark.parametrize("max_grad_norm", [0.5, 1e6], ids=["clipped", "not-clipped"])
def test_the_fast_sum_is_that_of_opacus(spec, counts, max_grad_norm):
    fast, reference = of_both(spec, counts, length=7, max_grad_norm=max_grad_norm)
    assert apart(fast, reference) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_fast_sum_of_a_large_batch_in_many_micro_batches_is_that_of_opacus(encoder):
    """513 customers, 32 rows at a time where there are sequences, and the preset's widths."""
    spec = ModelSpec(encoder=encoder, trainable="all")
    fast, reference = of_both(spec, windows(513), length=3, max_grad_norm=0.5)
    assert apart(fast, reference) <= 1e-5


# --- micro-batches


@every_kind
@pytest.mark.parametrize("rows_at_once", [1, 3, 17])
def test_micro_batches_of_any_size_give_the_same_sum(spec, rows_at_once):
    gradients, rows = loaded(spec, windows(20))
    whole = gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5)
    gradients.rows_at_once = rows_at_once
    assert apart(gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5), whole) <= 2e-6


def rows_of(counts: list[int]) -> CustomerRows:
    """One input that says which row it is."""
    number = sum(counts)
    return CustomerRows(
        inputs=(torch.arange(number, dtype=torch.float32)[:, None],),
        spend_cents=100 + torch.arange(number),
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


@settings(max_examples=60)
@given(st.lists(st.integers(0, 6), max_size=30), st.integers(1, 20), st.data())
def test_every_customer_with_rows_is_in_one_micro_batch_and_none_is_too_large(counts, rows_at_once, data):
    rows = rows_of(counts)
    batch = np.array(data.draw(st.permutations(range(len(counts)))), np.intp)[: data.draw(st.integers(0, len(counts)))]
    parts = list(micro_batches(rows, batch, rows_at_once=rows_at_once))
    assert sorted(int(c) for part in parts for c in part) == sorted(int(c) for c in batch if counts[c])
    for part in parts:
        padded_rows = len(part) * max(counts[c] for c in part)
        assert padded_rows <= rows_at_once or len(part) == 1


@settings(max_examples=60)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=10))
def test_a_padded_batch_has_each_customers_rows_and_fillers_of_no_weight(counts):
    rows = rows_of(counts)
    batch = padded(rows, everyone(rows))
    most = max(counts)
    assert (batch.customers, batch.weight.shape, batch.inputs[0].shape) == (
        len(counts),
        (1, len(counts) * most),
        (1, len(counts) * most, 1),
    )
    weight = batch.weight.view(len(counts), most)
    for customer, count in enumerate(counts):
        older = 1 / (count - 1 + NEWEST_WEIGHT)
        shares = [NEWEST_WEIGHT * older] + [older] * (count - 1) + [0.0] * (most - count)
        assert weight[customer].tolist() == pytest.approx(shares)
        here = batch.inputs[0].view(len(counts), most)[customer, :count]
        assert here.tolist() == list(range(*rows.first[customer : customer + 2]))
        assert batch.spend_cents.view(len(counts), most)[customer, :count].tolist() == [100 + int(i) for i in here]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.encoder}-{s.trainable}")
def test_only_a_part_that_is_trained_on_sequences_takes_few_rows_at_once(spec):
    module, _ = ready(spec, random_examples([1]))
    reads = spec.trainable == "all" and spec.encoder in ("gru", "transformer")
    assert reads_sequences(module) == reads
    expected = fast_gradients.SEQUENCE_ROWS_AT_ONCE if reads else fast_gradients.ROWS_AT_ONCE
    assert FastGradients(module).rows_at_once == expected


# --- memory that is too small


class Failing:
    """Calls a function, but for the k-th call: then the device has no memory left."""

    def __init__(self, function, k: int) -> None:
        self.function, self.left = function, k

    def __call__(self, *arguments, **options):
        self.left -= 1
        if self.left == 0:
            raise torch.OutOfMemoryError("planted")
        return self.function(*arguments, **options)


@pytest.mark.parametrize("spec", [SPECS[0], MLP, SPECS[5], SPECS[7]], ids=lambda s: s.encoder)
@pytest.mark.parametrize("place", ["measure", "add", "baddbmm", "bmm", "square", "add_scaled", "padded"])
@pytest.mark.parametrize("k", [1, 2, 7])
def test_a_memory_too_small_halves_the_micro_batch_and_loses_nothing(spec, place, k, monkeypatch):
    gradients, rows = loaded(spec, windows(20))
    gradients.rows_at_once = 8
    whole = gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5)
    owner = {"measure": StackedGradients, "add": StackedGradients, "padded": fast_gradients}.get(
        place, torch if "bmm" in place else layers
    )
    real = getattr(owner, place)
    if owner is StackedGradients:
        failing = Failing(real, k)
        monkeypatch.setattr(owner, place, lambda self, *a, **o: failing(self, *a, **o))
    else:
        failing = Failing(real, k)
        monkeypatch.setattr(owner, place, failing)
    found = gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5)
    assert apart(found, whole) <= 1e-6
    assert gradients.rows_at_once == (4 if failing.left <= 0 else 8)


def test_the_planted_failures_do_happen(monkeypatch):
    """Of the places above, at least the first call of each is reached by the MLP with windows."""
    for owner, place in ((torch, "baddbmm"), (torch, "bmm"), (layers, "square"), (layers, "add_scaled")):
        gradients, rows = loaded(MLP, windows(20))
        with monkeypatch.context() as patch:
            failing = Failing(getattr(owner, place), 1)
            patch.setattr(owner, place, failing)
            gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5)
        assert failing.left < 0


def test_a_step_that_runs_out_of_memory_draws_its_batch_and_its_noise_once(monkeypatch):
    gradients, rows = loaded(MLP, windows(20))
    gradients.rows_at_once = 8
    real, secret = StackedGradients.measure, RecordingSource()
    failing = Failing(real, 3)
    monkeypatch.setattr(StackedGradients, "measure", lambda self, batch: failing(self, batch))
    plan = tiny_dp(sample_rate=1.0, noise_multiplier=1.0)
    released = noised_sum(gradients, rows, plan, secret)
    assert failing.left < 0
    assert secret.asked == [20, len(released)]


def test_one_row_that_does_not_fit_is_said_and_not_left_out(monkeypatch):
    def never(*_, **__):
        raise torch.OutOfMemoryError("planted")

    gradients, rows = loaded(MLP, windows(20))
    gradients.rows_at_once = 8
    monkeypatch.setattr(StackedGradients, "measure", never)
    with pytest.raises(torch.OutOfMemoryError):
        gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5)
    assert gradients.rows_at_once == 1


# --- the exact way for the odd ones


@every_kind
def test_odd_customers_among_others_go_the_exact_way_and_the_others_stay_fast(spec, monkeypatch):
    gradients, rows = loaded(spec, windows(20))
    spoilt = rows.inputs[0].clone()
    for customer in (2, 9):
        spoilt[int(rows.first[customer])] = np.nan
    exact, real = [], PerSampleGradients.clipped_sum
    monkeypatch.setattr(
        PerSampleGradients,
        "clipped_sum",
        lambda self, r, batch, **o: exact.append(sorted(batch.tolist())) or real(self, r, batch, **o),
    )
    for rows_at_once in (5, 4_096):
        gradients.rows_at_once = rows_at_once
        exact.clear()
        found = gradients.clipped_sum(
            replace(rows, inputs=(spoilt, *rows.inputs[1:])), everyone(rows), max_grad_norm=0.5
        )
        assert exact == [[2, 9]]
        without = gradients.clipped_sum(rows, np.delete(everyone(rows), [2, 9]), max_grad_norm=0.5)
        assert apart(found, without) <= 1e-6


def test_the_exact_way_leaves_the_callers_module_as_it_was():
    """Its parameters, and no hooks of Opacus: another `FastGradients` may be made of it."""
    module, rows = ready(MLP, random_examples(windows(9)))
    before = values_of(module)
    hit = replace(rows, inputs=(torch.full_like(rows.inputs[0], torch.nan), *rows.inputs[1:]))
    for _ in range(2):
        gradients = FastGradients(module)
        gradients.load(before + 1.0)
        assert not gradients.clipped_sum(hit, everyone(rows), max_grad_norm=0.5).any()
    assert np.array_equal(values_of(module), before)


@pytest.mark.parametrize("log_bound", [-2, 0], ids=lambda e: f"1e{e}")
def test_a_gradient_too_small_to_square_times_an_input_too_long_is_clipped(log_bound):
    """1e-21 is in float32 and its square is not, so that the product of two lengths would be 0: a gradient of 20."""
    module, _ = ready(SPECS[0], random_examples([1]))
    width, bound = module.linear.in_features, 10.0**log_bound
    features = np.full((2, width), 1e18, np.float32)
    rows = CustomerRows(
        inputs=(torch.from_numpy(features), torch.full((2,), 8.0)),
        spend_cents=torch.zeros(2, dtype=torch.int64),
        first=np.arange(3),
    )
    gradients = FastGradients(module)
    values = 0.0 * values_of(module)
    for logit in (-40.0, -44.0, -48.0, -52.0):
        values[-3] = logit
        gradients.load(values)
        alone = gradients.clipped_sum(rows, np.array([0]), max_grad_norm=bound)
        assert np.linalg.norm(alone) <= bound * (1 + 1e-6)


# --- what is kept


def tensors_alive() -> int:
    gc.collect()
    return sum(1 for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))


def test_after_a_step_no_tensor_lives_that_did_not_after_the_first():
    gradients, rows = loaded(SPECS[7], windows(20))
    counts = []
    for _ in range(3):
        gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5)
        counts.append(tensors_alive())
    assert counts[0] == counts[1] == counts[2]


@every_kind
def test_after_a_step_layers_keep_no_rows(spec):
    """Only parameters, sums, views of them, and room for gradients: nothing that a customer's row can be told from."""
    gradients, rows = loaded(spec, windows(20))
    gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5)
    kept = [name for layer in gradients._stacked._trained for name in vars(layer)]
    assert not {"x", "grad", "of_weight", "of_bias", "unit", "tokens", "gradient"} & set(kept)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [MLP, SPECS[5], SPECS[7]], ids=lambda s: s.encoder)
def test_memory_is_flat_over_a_thousand_steps(spec):
    """A leak of one batch's rows a step would be tens of MB; what a busy allocator adds is less than 8."""
    gradients, rows = loaded(spec, windows(64), length=8)
    plan = tiny_dp(sample_rate=0.5, noise_multiplier=1.0)
    for _ in range(100):
        noised_sum(gradients, rows, plan, RecordingSource())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(1_000):
        noised_sum(gradients, rows, plan, RecordingSource())
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 8 * 1024


def test_a_layer_that_is_not_known_is_named():
    with pytest.raises(UnknownLayerError) as caught:
        FastGradients(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Conv1d(1, 1, 1)))
    assert caught.value.layer == "Conv1d"
