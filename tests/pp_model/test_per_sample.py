"""Checklist: D14, D19, D21.

Opacus' per-sample gradients, each of a customer, and their parts. What every way must do is in `contracts`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pp_model import per_sample
from pp_model.clipping import clipped_sum
from pp_model.per_sample import PerSampleGradients, trainable
from tests.support.examples import random_examples
from tests.support.mechanism import SPECS, apart, every_kind, everyone, gradient_of, ready, values_of, windows

READOUT = SPECS[2]


def loaded(spec, counts):
    module, rows = ready(spec, random_examples(counts))
    gradients = PerSampleGradients(module)
    gradients.load(values_of(module))
    return gradients, rows


@every_kind
def test_each_gradient_is_that_of_the_customers_mean_loss(spec):
    gradients, rows = loaded(spec, [1, 4, 0, 2])
    module, _ = ready(spec, random_examples([1]))
    found = gradients.gradients(rows, np.array([3, 0, 1])).double().numpy()
    for row, customer in zip(found, (3, 0, 1), strict=True):
        assert apart(row, gradient_of(module, rows, customer)) <= 1e-5


@every_kind
def test_micro_batches_of_any_size_give_the_same_sum(spec, monkeypatch):
    gradients, rows = loaded(spec, windows(20))
    whole = gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5)
    for bytes_at_once in (1, 4 * len(whole) * 3, 4 * len(whole) * 17):
        monkeypatch.setattr(per_sample, "GRADIENT_BYTES", bytes_at_once)
        parts = gradients.clipped_sum(rows, everyone(rows), max_grad_norm=0.5)
        assert apart(parts, whole) <= 1e-6


def test_no_micro_batch_is_larger_than_asked_unless_one_customer_is(monkeypatch):
    gradients, rows = loaded(READOUT, [5, 1, 1, 1, 1, 9, 1, 1])
    seen, real = [], PerSampleGradients.gradients
    monkeypatch.setattr(
        PerSampleGradients, "gradients", lambda self, r, part: seen.append(part.tolist()) or real(self, r, part)
    )
    parameters = sum(p.numel() for p in trainable(gradients.module))
    monkeypatch.setattr(per_sample, "GRADIENT_BYTES", 4 * parameters * 4)
    gradients.clipped_sum(rows, everyone(rows), max_grad_norm=1.0)
    assert [customer for part in seen for customer in part] == list(range(8))
    counts = np.diff(rows.first)
    assert all(counts[part].sum() <= 4 + counts[part].max() for part in seen)
    assert len(seen) >= 4


@every_kind
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_leaves_the_other_customers_bit_identical(spec, value):
    gradients, rows = loaded(spec, [1 + i % 5 for i in range(12)])
    healthy = gradients.gradients(rows, everyone(rows))
    for number in (0, -1):  # what the model reads, and the anchor
        spoilt = list(rows.inputs)
        spoilt[number] = spoilt[number].clone()
        spoilt[number][int(rows.first[4])] = value
        hit = replace(rows, inputs=tuple(spoilt))
        broken = gradients.gradients(hit, everyone(rows))
        assert not torch.isfinite(broken[4]).all()
        without = healthy.clone()
        without[4] = 0.0
        assert torch.equal(torch.where(torch.arange(12)[:, None] == 4, 0.0, broken), without)
        total = gradients.clipped_sum(hit, everyone(rows), max_grad_norm=0.5)
        assert total.tobytes() == clipped_sum(without, max_grad_norm=0.5).numpy().tobytes()
