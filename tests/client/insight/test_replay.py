"""The training replayed: the platform's own steps, the plan's own noise, and nothing else that differs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

from client.insight.replay import MOST_ROUNDS, ReadoutRows, noise_of_update, outputs_of, replayed
from pp_model.loss import ziln_loss
from pp_model.model import Readout
from pp_model.plan import Peer, SecureSumPlan, TrainingPlan
from pp_model.serialization import Arrays
from server.optimizer import ServerOptimizer
from tests.support.plans import tiny_dp, tiny_plan, tiny_server

WIDTH, ROWS = 5, 40
FALSE_ALARM = 1e-6


def plan_of(*, rounds: int = 12, noise: float = 0.0, optimizer: str = "scalar_adam", clip: float = 0.8) -> TrainingPlan:
    return tiny_plan(
        rounds=rounds,
        dp=tiny_dp(sample_rate=0.4, noise_multiplier=noise, max_grad_norm=clip),
        server=tiny_server(
            optimizer=optimizer, learning_rate=0.05, final_learning_rate=0.01, momentum=0.8, min_completions=4
        ),
    )


def rows(*, seed: int = 1, number: int = ROWS) -> ReadoutRows:
    rng = np.random.default_rng(seed)
    return ReadoutRows(
        inputs=torch.from_numpy(rng.normal(0, 1, (number, WIDTH)).astype(np.float32)),
        log_anchor=torch.from_numpy(rng.normal(8, 1, number).astype(np.float32)),
        spend_cents=torch.from_numpy(np.where(rng.random(number) < 0.6, rng.integers(100, 9_000, number), 0)),
    )


def readout(*, seed: int = 2) -> Readout:
    made = Readout(WIDTH)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        made.linear.weight.copy_(torch.from_numpy(rng.normal(0, 0.3, (3, WIDTH)).astype(np.float32)))
        made.linear.bias.copy_(torch.from_numpy(rng.normal(0, 0.3, 3).astype(np.float32)))
    return made


def slow_training(plan: TrainingPlan, of: ReadoutRows, *, customers: int) -> torch.Tensor:
    """The same rounds, one customer after the other, stepped by the platform's own optimiser."""
    start = readout()
    params: Arrays = {"weight": start.linear.weight.detach().numpy(), "bias": start.linear.bias.detach().numpy()}
    optimizer = ServerOptimizer(plan=plan.server, rounds=plan.rounds)
    for round in range(1, plan.rounds + 1):
        total = {name: np.zeros(array.shape) for name, array in params.items()}
        for row in range(len(of)):
            model = Readout(WIDTH)
            with torch.no_grad():
                model.linear.weight.copy_(torch.from_numpy(params["weight"]))
                model.linear.bias.copy_(torch.from_numpy(params["bias"]))
            one = slice(row, row + 1)
            ziln_loss(model(of.inputs[one], of.log_anchor[one]), of.spend_cents[one]).sum().backward()
            gradient = {"weight": model.linear.weight.grad.numpy(), "bias": model.linear.bias.grad.numpy()}
            norm = math.sqrt(sum(float((g**2).sum()) for g in gradient.values()))
            for name, g in gradient.items():
                total[name] += g * min(1.0, plan.dp.max_grad_norm / norm)
        scale = -plan.dp.sample_rate * customers / len(of) / plan.nominal_batch_size
        update = {name: (scale * g).astype(np.float32) for name, g in total.items()}
        params, optimizer = optimizer.step(params, update, round=round)
    return torch.cat([torch.from_numpy(params["weight"]), torch.from_numpy(params["bias"])[:, None]], dim=1)


@pytest.mark.parametrize("optimizer", ["scalar_adam", "adam", "momentum"])
@pytest.mark.parametrize("clip", [0.8, 50.0], ids=["clipped", "hardly clipped"])
def test_without_noise_it_is_the_platforms_own_training(optimizer, clip):
    plan = plan_of(optimizer=optimizer, clip=clip)
    found = replayed(readout(), rows(), plan, customers=3 * ROWS, draws=2, rng=np.random.default_rng(1))
    truth = slow_training(plan, rows(), customers=3 * ROWS)
    assert (truth - found[0]).abs().max() < 2e-4
    assert (found[0] - torch.cat([readout().linear.weight, readout().linear.bias[:, None]], 1)).abs().max() > 0.05


def test_without_noise_all_draws_are_alike():
    found = replayed(readout(), rows(), plan_of(), customers=ROWS, draws=3, rng=np.random.default_rng(1))
    assert torch.equal(found, found[:1].expand_as(found))


def moved_by_one_round(noise: float) -> torch.Tensor:
    """What one step of size 1 moves each number where no gradient does, in standard deviations of the plan's noise."""
    plan = plan_of(rounds=1, noise=noise, optimizer="momentum")
    plan = dataclasses.replace(plan, server=tiny_server(min_completions=4))
    found = replayed(readout(), rows(), plan, customers=0, draws=300, rng=np.random.default_rng(9))
    return (found[1:] - found[0]) / (1.5 * 0.8 / 10.0 / math.sqrt(4))  # multiplier, clip, nominal batch, merchants


@pytest.mark.statistical
@pytest.mark.parametrize(("noise", "right"), [(1.5, True), (1.35, False)], ids=["the plan's", "a tenth less"])
def test_the_noise_of_a_round_has_the_plans_size(noise, right):
    moved = moved_by_one_round(noise)
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], df=moved.numel())
    assert (low < float(moved.square().sum()) < high) == right


def test_the_noise_of_a_secure_sum_is_that_of_its_whole_roster():
    peers = tuple(Peer(name=f"m{i}", key=f"k{i}") for i in range(10))
    plan = dataclasses.replace(
        plan_of(noise=2.0),
        trust="secure_sum",
        secure_sum=SecureSumPlan(roster=peers, dishonest=2, rounds_per_block=4),
        server=tiny_server(min_completions=8),
    )
    assert noise_of_update(plan) == pytest.approx(2.0 * 0.8 / 10.0 * math.sqrt(10 / 8) / 10)
    assert noise_of_update(plan_of(noise=2.0)) == pytest.approx(2.0 * 0.8 / 10.0 / 2)
    median = dataclasses.replace(plan_of(noise=2.0), server=tiny_server(min_completions=4, aggregation="median"))
    assert noise_of_update(median) == pytest.approx(1.2533 * 2.0 * 0.8 / 10.0 / 2)


def test_more_merchants_move_a_model_less():
    few, many = plan_of(noise=3.0), plan_of(noise=3.0)
    many = dataclasses.replace(many, server=dataclasses.replace(many.server, min_completions=100))
    spreads = [
        float(
            replayed(readout(), rows(), plan, customers=ROWS, draws=24, rng=np.random.default_rng(4))[1:].std(0).mean()
        )
        for plan in (few, many)
    ]
    assert spreads[0] > 2 * spreads[1]


def test_the_same_seed_gives_the_same_models():
    first, again = (
        replayed(readout(), rows(), plan_of(noise=1.0), customers=ROWS, draws=3, rng=np.random.default_rng(6))
        for _ in range(2)
    )
    assert torch.equal(first, again)


def test_of_a_long_plan_the_last_rounds_are_run():
    slow_start = plan_of(rounds=10_000, optimizer="momentum")  # rates fall to a fifth: the first rounds move most
    found = replayed(readout(), rows(number=4), slow_start, customers=4, draws=1, rng=np.random.default_rng(1))
    short = plan_of(rounds=MOST_ROUNDS, optimizer="momentum")
    flat = dataclasses.replace(short, server=dataclasses.replace(short.server, learning_rate=0.01))
    truth = replayed(readout(), rows(number=4), flat, customers=4, draws=1, rng=np.random.default_rng(1))
    assert (found - truth).abs().max() < 0.02


def test_the_readouts_say_what_the_model_says():
    made, of = readout(), rows()
    values = torch.cat([made.linear.weight, made.linear.bias[:, None]], dim=1)[None].detach()
    assert torch.allclose(outputs_of(values, of)[:, 0], made(of.inputs, of.log_anchor).detach(), atol=1e-5)
