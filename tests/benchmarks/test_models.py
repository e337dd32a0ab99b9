"""What is measured is what the tables say, the same in every process."""

import numpy as np
import pytest
import torch

from benchmarks.engines import BATCH, STEPS, flat, load, loop, some
from benchmarks.models import MODELS, make_batch, make_market, make_model
from benchmarks.steps import LEARNING_RATE, PlainStep
from pp_model.loss import ziln_loss

PARAMETERS = {"mlp": 16_771, "transformer": 145_731, "gru": 125_315}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_takes_its_batch_and_has_the_stated_size(name):
    model, batch = make_model(name), make_batch(name, 3)
    assert ziln_loss(model(*batch.inputs), batch.spend_cents).shape == (3,)
    assert len(flat(model)) == PARAMETERS[name]


@pytest.mark.parametrize("name", MODELS)
def test_models_and_batches_are_the_same_at_every_call_and_leave_torchs_generator_alone(name):
    state = torch.random.get_rng_state()
    assert torch.equal(flat(make_model(name)), flat(make_model(name)))
    assert all(map(torch.equal, make_batch(name, 5).inputs, make_batch(name, 5).inputs))
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_plain_step_is_gradient_descent_on_the_mean_loss():
    model, batch = make_model("mlp"), make_batch("mlp", 7)
    loss = ziln_loss(model(*batch.inputs), batch.spend_cents).mean()
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
    expected = flat(model) - LEARNING_RATE * gradient
    PlainStep(model).step(batch.inputs, batch.spend_cents)
    assert torch.allclose(flat(model), expected, rtol=0, atol=1e-7)


def test_a_merchants_draw_holds_its_own_customers_alone():
    market = make_market("mlp", 3)
    assert market.counts.min() >= 64
    assert market.counts.max() <= 512
    drawn, shop = market.draw(1, 200, np.random.default_rng(0)), market.shop(1)
    assert {tuple(row) for row in drawn.inputs[0].tolist()} <= {tuple(row) for row in shop.inputs[0].tolist()}
    assert len(shop.spend_cents) == market.counts[1]


def test_merchants_beyond_the_different_ones_have_the_shops_of_the_first():
    market = make_market("mlp", 5, different=2)
    assert torch.equal(market.shop(4).inputs[0], market.shop(0).inputs[0])
    assert market.counts.tolist() == [market.counts[0], market.counts[1]] * 2 + [market.counts[0]]


def test_a_round_of_a_loop_is_the_sum_of_what_each_merchant_moves_from_the_same_start():
    market, model = make_market("mlp", 2), make_model("mlp")
    start = flat(model)
    step = PlainStep(model)
    together = loop(market, start, lambda: (model, step))([0, 1])
    rng = np.random.default_rng(0)
    apart = torch.zeros_like(start)
    for merchant in (0, 1):
        own = make_model("mlp")
        load(own, start)
        for _ in range(STEPS):
            batch = market.draw(merchant, BATCH, rng)
            PlainStep(own).step(batch.inputs, batch.spend_cents)
        apart += flat(own) - start
    assert torch.equal(together, apart)


def test_a_sample_of_merchants_is_spread_over_all_of_them():
    assert some(1_000, 3) == [0, 500, 999]
    assert some(4, 10) == [0, 1, 2, 3]
