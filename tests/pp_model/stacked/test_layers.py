"""Checklist: D1, D14, D34.

Each layer against autograd in double precision: output, gradient of the input, and, for each customer of each merchant,
the length of the gradient and the scaled sum.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pp_model.stacked.layers import Chain, Frame, Gelu, LayerNorm, Linear, Relu, Residual, square
from tests.support.mechanism import passed, random_slot

MERCHANTS, CUSTOMERS, EPSILON = 3, 5, 1e-5
each_frame = pytest.mark.parametrize(
    "frame",
    [Frame(customers=CUSTOMERS, windows=1), Frame(customers=CUSTOMERS, windows=3), Frame(customers=1, windows=4)],
    ids=["one-row", "three-rows", "one-customer"],
)


def rows(frame: Frame, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(MERCHANTS, frame.customers * frame.windows, width, dtype=torch.float64, generator=generator)


def plain_linear(parameters, x, _):
    return functional.linear(x, *parameters)


@each_frame
@pytest.mark.parametrize(("inputs", "outputs"), [(4, 7), (7, 4), (1, 1), (6, 6)])
def test_a_linear_layer(frame, inputs, outputs):
    slots = [random_slot(outputs, inputs), random_slot(outputs, seed=1)]
    layer = Linear(*slots)
    passed(layer, plain_linear, rows(frame, inputs), frame, slots=slots, trained=[layer]).assert_equal()


@each_frame
def test_a_linear_layer_that_reads_data_gives_no_gradient_of_it_and_the_same_of_its_parameters(frame):
    slots = [random_slot(4, 7), random_slot(4, seed=1)]
    layer = Linear(*slots, reads_data=True)
    passed(layer, plain_linear, rows(frame, 7), frame, slots=slots, trained=[layer], of_input=False).assert_equal()


@each_frame
@pytest.mark.parametrize("width", [2, 9])
def test_a_layer_norm(frame, width):
    slots = [random_slot(width), random_slot(width, seed=1)]
    layer = LayerNorm(*slots, epsilon=EPSILON)

    def plain(parameters, x, _):
        return functional.layer_norm(x, (width,), *parameters, EPSILON)

    passed(layer, plain, rows(frame, width), frame, slots=slots, trained=[layer]).assert_equal()


@each_frame
@pytest.mark.parametrize(
    ("layer", "plain"), [(Relu(), functional.relu), (Gelu(), functional.gelu)], ids=["relu", "gelu"]
)
def test_a_layer_without_parameters(frame, layer, plain):
    passed(layer, lambda _, x, __: plain(x), rows(frame, 6), frame).assert_equal()


def chained(slots, *, residual: bool):
    """Linear, ReLU, LayerNorm, GELU, Linear: each kind after each."""
    first, norm, last = Linear(*slots[:2]), LayerNorm(*slots[2:4], epsilon=EPSILON), Linear(*slots[4:])
    chain = Chain([first, Relu(), norm, Gelu(), last])
    return (Residual(chain) if residual else chain), [first, norm, last]


@each_frame
@pytest.mark.parametrize("residual", [False, True], ids=["chain", "residual"])
def test_layers_one_after_the_other(frame, residual):
    shapes = [(8, 6), (8,), (8,), (8,), (6, 8), (6,)]
    slots = [random_slot(*shape, seed=i) for i, shape in enumerate(shapes)]
    layer, trained = chained(slots, residual=residual)

    def plain(p, x, _):
        hidden = functional.layer_norm(functional.relu(functional.linear(x, p[0], p[1])), (8,), p[2], p[3], EPSILON)
        y = functional.linear(functional.gelu(hidden), p[4], p[5])
        return x + y if residual else y

    passed(layer, plain, rows(frame, 6), frame, slots=slots, trained=trained).assert_equal()


@each_frame
def test_sums_add_up_until_they_are_zeroed_and_keep_no_rows(frame):
    slots = [random_slot(4, 7), random_slot(4, seed=1)]
    layer, x = Linear(*slots), rows(frame, 7)
    once = passed(layer, plain_linear, x, frame, slots=slots, trained=[layer]).sums.clone()
    twice = passed(layer, plain_linear, x, frame, slots=slots, trained=[layer]).sums
    torch.testing.assert_close(twice, 2 * once, rtol=1e-12, atol=1e-12)
    assert not {"x", "grad", "of_weight", "of_bias"} & set(vars(layer))


def test_a_batch_of_fewer_customers_after_a_larger_one_uses_none_of_its_numbers():
    slots = [random_slot(4, 7), random_slot(4, seed=1)]
    layer = Linear(*slots)
    for customers in (6, 2, 7):
        for slot in slots:
            slot.total.zero_()
        frame = Frame(customers=customers, windows=2)
        passed(layer, plain_linear, rows(frame, 7), frame, slots=slots, trained=[layer]).assert_equal()


# --- lengths in single precision


@settings(max_examples=60)
@given(st.floats(0.5, 1.0), st.sampled_from([1, 1_000, 4_096, 4_100, 128 * 128, 97 * 193, 512 * 512, 1_021 * 1_021]))
def test_a_length_is_never_more_than_a_few_millionths_short_however_many_numbers(value, number):
    """All alike is the worst case: each addition to a long sum rounds the same way."""
    numbers = torch.full((1, number), value, dtype=torch.float32)
    length = math.sqrt(float(square(numbers)))
    assert length == pytest.approx(float(numbers.double().norm()), rel=5e-6)


def test_the_check_would_notice_one_long_sum():
    numbers = [torch.full((1, 2**20), float(value)) for value in np.linspace(0.5, 1, 11)]
    off = [float(torch.linalg.vector_norm(n, dim=-1)) / float(n.double().norm()) - 1 for n in numbers]
    assert max(map(abs, off)) > 5e-5


@pytest.mark.parametrize("grad", [1e-17, 1e-20, 1e-23, 1e-30])
@pytest.mark.parametrize("x", [1.0, 1e10, 1e14, 1e16, 1e18])
def test_the_length_of_an_outer_product_is_right_or_said_not_to_be_known(x, grad):
    """Two lengths in float32: the square of one may be nothing where the product is something."""
    slots = [random_slot(3, 50, merchants=1), random_slot(3, merchants=1)]
    layer = Linear(*slots)
    layer.keep(torch.full((1, 1, 50), x), torch.full((1, 1, 3), grad))
    found, true = math.sqrt(float(layer.square_norms(1))), math.sqrt(50 * x**2 + 1) * math.sqrt(3) * grad
    assert not math.isfinite(found) or found == pytest.approx(true, rel=1e-5, abs=1e-6)
