"""Checklist: D1, D14, D34.

Lengths and clipped sums of whole models, merchant by merchant, against one customer at a time, both in double
precision: what is left is the formula, without the rounding.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pp_model.customer_rows import NEWEST_WEIGHT, CustomerRows
from pp_model.fast_gradients import padded
from pp_model.model import load_model, trained_part
from pp_model.model_spec import ModelSpec
from pp_model.stacked.batch_sums import _SHORTER, StackedBatch, StackedGradients
from pp_model.train import customer_rows
from tests.support.examples import random_arrays, random_examples
from tests.support.mechanism import SPECS, every_model, gradient_of, slow_sum, values_of

CPU, MERCHANTS = torch.device("cpu"), 3


Shops = list[tuple[torch.nn.Module, CustomerRows]]


def shops(spec: ModelSpec, counts: list[list[int]], *, length: int = 5) -> Shops:
    """Each merchant's own parameters and rows."""
    arrays = [random_arrays(spec, seed=seed) for seed in range(len(counts))]
    return [
        (
            trained_part(load_model(spec, each)),
            customer_rows(load_model(spec, arrays[0]), random_examples(windows, seed=seed, length=length)),
        )
        for seed, (each, windows) in enumerate(zip(arrays, counts, strict=True))
    ]


def stacked(market: Shops, dtype: torch.dtype = torch.float64) -> tuple[StackedGradients, StackedBatch]:
    """All merchants' customers in one batch."""
    torch.set_default_dtype(dtype)
    try:
        gradients = StackedGradients(market[0][0], merchants=len(market), device=CPU)
    finally:
        torch.set_default_dtype(torch.float32)
    gradients.values[:] = torch.from_numpy(np.stack([values_of(part) for part, _ in market]))
    batches = [padded(rows, np.arange(rows.num_customers)) for _, rows in market]
    weights = []
    for batch in batches:
        shares = (batch.weight.view(batch.customers, -1) > 0).to(dtype)
        shares[:, 0] *= NEWEST_WEIGHT
        weights.append((shares / shares.sum(dim=1, keepdim=True)).view(1, -1))
    inputs = [torch.cat(tensors) for tensors in zip(*(b.inputs for b in batches), strict=True)]
    return gradients, StackedBatch(
        customers=batches[0].customers,
        inputs=tuple(t.to(dtype) if t.is_floating_point() else t for t in inputs),
        spend_cents=torch.cat([b.spend_cents for b in batches]),
        weight=torch.cat(weights),
    )


ALIKE, MIXED = [[1] * 4] * MERCHANTS, [[1, 5, 2, 3], [5, 1, 1, 1], [4, 4, 5, 1]]


@every_model
@pytest.mark.parametrize("counts", [ALIKE, MIXED, [[1]], [[5]]], ids=["one-window", "mixed", "one", "one-of-five"])
@pytest.mark.parametrize("length", [1, 5])
def test_lengths_and_clipped_sums_are_those_of_one_customer_at_a_time(spec, counts, length):
    market = shops(spec, counts, length=length)
    gradients, batch = stacked(market)
    norms = gradients.measure(batch)
    for m, (part, rows) in enumerate(market):
        each = [np.linalg.norm(gradient_of(part, rows, c)) for c in range(rows.num_customers)]
        np.testing.assert_allclose(norms[m].numpy(), each, rtol=1e-10)
    bound = float(norms.median())
    gradients.add(norms, max_grad_norm=bound)
    for m, (part, rows) in enumerate(market):
        expected = slow_sum(part, rows, np.arange(rows.num_customers), max_grad_norm=_SHORTER * bound)
        error = np.linalg.norm(gradients.sums[m].numpy() - expected)
        assert error <= 1e-10 * np.linalg.norm(expected)


@every_model
def test_windows_without_events_and_tokens_that_come_again(spec):
    market = []
    for m, (part, rows) in enumerate(shops(spec, MIXED)):
        if spec.trainable == "all":
            sequence = rows.inputs[1].clone()
            sequence[m::3], sequence[m + 1 :: 3] = 0, 1
            rows = replace(rows, inputs=(rows.inputs[0], sequence, rows.inputs[2]))
        market.append((part, rows))
    gradients, batch = stacked(market)
    norms = gradients.measure(batch)
    for m, (part, rows) in enumerate(market):
        each = [np.linalg.norm(gradient_of(part, rows, c)) for c in range(rows.num_customers)]
        np.testing.assert_allclose(norms[m].numpy(), each, rtol=1e-10)


@every_model
def test_a_merchant_that_stands_elsewhere_in_the_stack_has_the_same_sum(spec):
    market, sums = shops(spec, MIXED), []
    for order in ([0, 1, 2], [2, 0, 1]):
        gradients, batch = stacked([market[m] for m in order])
        gradients.add(gradients.measure(batch), max_grad_norm=0.5)
        sums.append(gradients.sums[np.argsort(order)])
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-10, atol=1e-14)
    assert (sums[0][0] - sums[0][1]).norm() > 0.1 * sums[0][0].norm()


@every_model
def test_sums_add_up_over_batches_until_they_are_zeroed(spec):
    gradients, batch = stacked(shops(spec, MIXED))
    gradients.add(gradients.measure(batch), max_grad_norm=0.5)
    once = gradients.sums.clone()
    gradients.add(gradients.measure(batch), max_grad_norm=0.5)
    torch.testing.assert_close(gradients.sums, 2 * once, rtol=1e-12, atol=1e-15)


@every_model
def test_a_batch_is_not_changed_and_what_callers_see_is_theirs_to_use(spec):
    gradients, batch = stacked(shops(spec, MIXED), torch.float32)
    before = [tensor.clone() for tensor in (*batch.inputs, batch.spend_cents, batch.weight)]
    gradients.add(gradients.measure(batch), max_grad_norm=0.5)
    after = (*batch.inputs, batch.spend_cents, batch.weight)
    assert all(torch.equal(one, other) for one, other in zip(after, before, strict=True))
    assert not gradients.sums.is_inference()
    assert not gradients.values.is_inference()
    leaf = torch.ones_like(gradients.sums, requires_grad=True)
    (leaf * gradients.sums).sum().backward()
    assert torch.equal(leaf.grad, gradients.sums)


@pytest.mark.parametrize("spec", SPECS[:4], ids=lambda s: f"{s.encoder}-{s.trainable}")
def test_no_customers_length_depends_on_the_others(spec):
    market = shops(spec, MIXED)
    gradients, batch = stacked(market)
    norms = gradients.measure(batch).clone()
    spoilt = batch.inputs[0].clone()
    windows = spoilt.shape[1] // batch.customers
    spoilt[1, windows : 2 * windows] = torch.nan
    hit = gradients.measure(replace(batch, inputs=(spoilt, *batch.inputs[1:])))
    assert torch.isnan(hit[1, 1])
    hit = torch.where(torch.isnan(hit), norms, hit)
    torch.testing.assert_close(hit, norms, rtol=1e-12, atol=1e-15)
