"""Checklist: D5, D15, D16, D17, D26.

Many merchants trained at once against `train_locally`, merchant by merchant: when they differ, the slow one is right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import simulations.vectorised as vectorised
from pp_model.clipping import clip_update
from pp_model.customer_rows import CustomerRows
from pp_model.errors import UnknownLayerError
from pp_model.features import FEATURE_NAMES, Examples
from pp_model.model import load_model, trainable_shapes, trained_part
from pp_model.model_spec import ModelSpec
from pp_model.plan import TrainingPlan
from pp_model.serialization import Arrays
from pp_model.train import customer_rows, flat_values, named_arrays, train_locally
from simulations.seeded import SeededSource
from simulations.vectorised import chunks, train_stacked
from tests.support.examples import random_arrays, random_examples
from tests.support.mechanism import every_model, windows
from tests.support.plans import tiny_dp, tiny_plan

MLP = ModelSpec(encoder="mlp", hidden=(6, 4), trainable="all")
GRU = ModelSpec(encoder="gru", hidden=(6, 4), trainable="all")


def plan_of(spec: ModelSpec, **dp: float) -> TrainingPlan:
    fields = {"num_steps": 3, "sample_rate": 0.4, **dp}
    return tiny_plan(
        model=spec, algorithm="fedavg", local_learning_rate=0.5, update_clip_norm=2.0, dp=tiny_dp(**fields)
    )


def rows_of(plan: TrainingPlan, arrays: Arrays, examples: Sequence[Examples]) -> list[CustomerRows]:
    model = load_model(plan.model, arrays)
    return [customer_rows(model, one) for one in examples]


def shops(*customers: int, most: int = 2) -> list[Examples]:
    """Of so many customers, who have up to `most` windows, and some of them none."""
    return [random_examples(windows(n, most=most), seed=seed) for seed, n in enumerate(customers)]


def together(plan: TrainingPlan, arrays: Arrays, rows: Sequence[CustomerRows]) -> NDArray[np.float64]:
    shapes = trainable_shapes(plan.model)
    moved = train_stacked(
        trained_part(load_model(plan.model, arrays)),
        flat_values(arrays, shapes),
        rows,
        [SeededSource(7 + number) for number in range(len(rows))],
        dp=plan.dp,
        learning_rate=plan.local_learning_rate,
        nominal_batch_size=plan.nominal_batch_size,
    )
    clipped = [clip_update(named_arrays(one, shapes), update_clip_norm=plan.update_clip_norm)[0] for one in moved]
    return np.stack([flat_values(one, shapes) for one in clipped]) if clipped else np.zeros((0, moved.shape[1]))


def one_by_one(plan: TrainingPlan, arrays: Arrays, rows: Sequence[CustomerRows]) -> NDArray[np.float64]:
    shapes = trainable_shapes(plan.model)
    updates = [train_locally(arrays, one, plan, secret=SeededSource(7 + n)) for n, one in enumerate(rows)]
    return np.stack([flat_values(update, shapes) for update in updates])


def largest_difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """The length of the difference over the length of the update, of the merchant with the most."""
    return float(np.max(np.linalg.norm(first - second, axis=1) / np.linalg.norm(second, axis=1)))


@every_model
def test_every_merchant_gets_the_update_of_its_own_program(spec):
    plan, arrays = plan_of(spec), random_arrays(spec)
    rows = rows_of(plan, arrays, shops(9, 1, 40, 12, 5, 0))
    assert largest_difference(together(plan, arrays, rows), one_by_one(plan, arrays, rows)) < 1e-5


@pytest.mark.parametrize(
    ("customers", "most", "dp"),
    [
        pytest.param((12,), 1, {}, id="one-merchant"),
        pytest.param((6, 200, 2, 50), 1, {}, id="merchants-of-very-different-size"),
        pytest.param((8, 8, 8), 5, {}, id="five-windows"),
        pytest.param((4, 3, 2), 2, {"sample_rate": 0.01}, id="nearly-all-batches-empty"),
        pytest.param((0, 0), 1, {}, id="nobody-has-customers"),
        pytest.param((9, 30), 2, {"sample_rate": 1.0}, id="everybody-in-every-batch"),
        pytest.param((9, 30), 2, {"max_grad_norm": 1e-3}, id="all-clipped"),
    ],
)
def test_whatever_the_merchants_are_the_updates_are_theirs(customers, most, dp):
    plan, arrays = plan_of(MLP, **dp), random_arrays(MLP)
    rows = rows_of(plan, arrays, shops(*customers, most=most))
    assert largest_difference(together(plan, arrays, rows), one_by_one(plan, arrays, rows)) < 1e-5


def test_without_noise_the_gradients_alone_agree():
    plan, arrays = plan_of(MLP, noise_multiplier=0.0), random_arrays(MLP)
    rows = rows_of(plan, arrays, shops(30, 12, 45))
    assert largest_difference(together(plan, arrays, rows), one_by_one(plan, arrays, rows)) < 1e-5


@pytest.mark.parametrize("spec", [MLP, GRU], ids=lambda s: s.encoder)
@pytest.mark.parametrize(("rows_at_once", "parameters"), [(1, 1), (7, 10**9), (64, 1_000), (10**6, 10**9)])
def test_memory_and_not_the_update_depends_on_the_size_of_the_chunks(monkeypatch, spec, rows_at_once, parameters):
    monkeypatch.setattr(vectorised, "ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr(vectorised, "SEQUENCE_ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr(vectorised, "PARAMETERS_AT_ONCE", parameters)
    plan, arrays = plan_of(spec), random_arrays(spec)
    rows = rows_of(plan, arrays, shops(9, 1, 40, 12, 5, most=3))
    assert largest_difference(together(plan, arrays, rows), one_by_one(plan, arrays, rows)) < 1e-5


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_a_customer_without_a_finite_gradient_counts_as_nothing_and_touches_no_other_merchant(value):
    plan, arrays = plan_of(MLP, sample_rate=1.0), random_arrays(MLP)
    examples = shops(9, 12, 7)
    healthy = together(plan, arrays, rows_of(plan, arrays, examples))
    examples[1].features[3:5] = value
    rows = rows_of(plan, arrays, examples)
    mixed = together(plan, arrays, rows)
    assert np.isfinite(mixed).all()
    assert largest_difference(mixed, one_by_one(plan, arrays, rows)) < 1e-5
    np.testing.assert_array_equal(mixed[[0, 2]], healthy[[0, 2]])


def test_a_merchants_update_does_not_depend_on_who_else_is_trained():
    plan, arrays = plan_of(MLP), random_arrays(MLP)
    rows = rows_of(plan, arrays, shops(20, 20, 20))
    others = rows_of(plan, arrays, [*shops(20), *shops(31, 5, 20)[1:]])
    assert largest_difference(together(plan, arrays, rows)[:1], together(plan, arrays, others)[:1]) < 1e-6


def test_each_merchant_draws_from_its_own_secret_what_its_own_program_would():
    class Diary(SeededSource):
        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            self.asked: list[tuple[str, int]] = []

        def uniform(self, size: int) -> NDArray[np.float64]:
            self.asked.append(("uniform", size))
            return super().uniform(size)

        def standard_normal(self, size: int) -> NDArray[np.float64]:
            self.asked.append(("normal", size))
            return super().standard_normal(size)

    plan, arrays = plan_of(MLP), random_arrays(MLP)
    rows, shapes = rows_of(plan, arrays, shops(9, 0, 30)), trainable_shapes(MLP)
    stacked, alone = ([Diary(n) for n in range(3)] for _ in range(2))
    how = {"dp": plan.dp, "learning_rate": 1.0, "nominal_batch_size": 8.0}
    train_stacked(trained_part(load_model(MLP, arrays)), flat_values(arrays, shapes), rows, stacked, **how)
    for one, secret in zip(rows, alone, strict=True):
        train_locally(arrays, one, plan, secret=secret)
    assert [secret.asked for secret in stacked] == [secret.asked for secret in alone]
    assert stacked[1].asked == [("uniform", 0), ("normal", len(flat_values(arrays, shapes)))] * 3


def test_where_memory_is_too_small_the_rows_are_halved_and_nothing_is_lost(monkeypatch):
    measure = vectorised.StackedGradients.measure
    sizes: list[int] = []

    def small(self, batch):
        sizes.append(batch.weight.numel())
        if batch.weight.numel() > 20:
            raise torch.OutOfMemoryError
        return measure(self, batch)

    plan, arrays = plan_of(MLP, sample_rate=1.0), random_arrays(MLP)
    rows = rows_of(plan, arrays, shops(9, 12, 7))
    monkeypatch.setattr(vectorised.StackedGradients, "measure", small)
    stacked = together(plan, arrays, rows)
    assert max(sizes) > 20
    monkeypatch.undo()
    assert largest_difference(stacked, one_by_one(plan, arrays, rows)) < 1e-5


def test_chunks_have_every_merchant_once_and_those_of_one_size_together():
    plan, arrays = plan_of(MLP), random_arrays(MLP)
    rows = rows_of(plan, arrays, [random_examples([1] * n) for n in (3, 90, 5, 80, 0, 85)])
    found = [list(chunk) for chunk in chunks(rows, sample_rate=0.5, parameters=10, rows_at_once=150)]
    assert found == [[1, 5, 3], [2, 0, 4]]
    assert [list(c) for c in chunks(rows, sample_rate=0.5, parameters=10**9, rows_at_once=150)] == [
        [1], [5], [3], [2], [0], [4],
    ]  # fmt: skip
    assert list(chunks([], sample_rate=0.5, parameters=10, rows_at_once=150)) == []


def test_a_module_with_a_layer_that_is_not_known_is_refused_by_its_name():
    plan, arrays = plan_of(MLP), random_arrays(MLP)
    rows = rows_of(plan, arrays, shops(3))
    with pytest.raises(UnknownLayerError, match="Conv1d"):
        train_stacked(
            torch.nn.Conv1d(len(FEATURE_NAMES), 3, 1), np.zeros(3), rows, [SeededSource(1)],
            dp=plan.dp, learning_rate=1.0, nominal_batch_size=8.0,
        )  # fmt: skip
