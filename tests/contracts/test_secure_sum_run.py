"""A whole run whose releases are masked: the masks change nothing, and the charge is the plan's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from client.shop import read_examples
from pp_model.customer_rows import CustomerRows
from pp_model.discrete_noise import discrete_gaussian
from pp_model.dp_step import customer_gradients, sampled_sum
from pp_model.integer_sum import GRID_BITS, noise_shares
from pp_model.model import fresh_arrays, load_model, trainable_shapes, trained_part
from pp_model.randomness import SystemSource
from pp_model.serialization import fingerprint
from pp_model.train import customer_rows, flat_values, named_arrays
from server.registry import Registry
from server.rounds import RoundOutcome, apply_round, initial_state
from simulations.federation import federate_by_engine, secrets_for
from simulations.planning import plan_of
from simulations.scenario import SyntheticSpec
from simulations.shops import open_market, source_of
from tests.support.shops import tiny_scenario

MERCHANTS = 4
ROUNDS = 4


def masked_scenario(*, recipe=None, **changes):
    recipe = {"trust": "secure_sum", "rounds": ROUNDS, **(recipe or {})}
    fields = {"merchants": MERCHANTS, "synthetic": SyntheticSpec(customers=100, days=300), **changes}
    return tiny_scenario(recipe=recipe, **fields)


SCENARIOS = [
    pytest.param(masked_scenario(), id="linear"),
    pytest.param(masked_scenario(recipe={"encoder": "mlp", "hidden": (4,)}), id="mlp-readout"),
    pytest.param(masked_scenario(recipe={"encoder": "gru", "hidden": (4,), "trainable": "all"}), id="gru"),
    pytest.param(masked_scenario(recipe={"dishonest": 0, "optimizer": "adam"}), id="nobody-dishonest-and-adam"),
]


def prepared(scenario):
    init = fresh_arrays(scenario.recipe.model, seed=0)
    return open_market(scenario).shops, plan_of(scenario, init), init


def run_of(scenario, directory, **how):
    shops, plan, init = prepared(scenario)
    fields = {"directory": directory, "secret_for": secrets_for(scenario), **how}
    return federate_by_engine(shops, plan, init, scenario, **fields)


def rows_of(scenario):
    """Each merchant's customers, as its private step has them."""
    shops, plan, init = prepared(scenario)
    model = load_model(plan.model, init)
    return [customer_rows(model, read_examples(source_of(log, name=name), plan)) for name, log in shops.items()]


def without_masks(scenario):
    """The published model of a platform that is given each merchant's integers as they are, and adds them up.

    The noise is each merchant's base share alone: what is added for those who may be lost comes out again when nobody
    is.
    """
    shops, plan, init = prepared(scenario)
    secret_for = secrets_for(scenario)
    sources = [secret_for(name) for name in shops]
    shapes, state, everyone = trainable_shapes(plan.model), initial_state(plan, init), rows_of(scenario)
    size = sum(math.prod(shape) for shape in shapes.values())
    sigma = noise_shares(plan, members=len(shops), parameters=size).base
    for number in range(1, plan.rounds + 1):
        total = [0] * size
        for rows, secret in zip(everyone, sources, strict=True):
            clipped = gradient_sum(plan, state.arrays, rows, secret)
            steps = np.rint(clipped / (plan.dp.max_grad_norm / 2**GRID_BITS))
            noise = discrete_gaussian(size, sigma=sigma, words=secret.words)
            total = [t + int(s) + int(n) for t, s, n in zip(total, steps, noise, strict=True)]
        state = apply_round(state, outcome_of(plan, number, np.array(total, np.float64)))
    return state.published


def gradient_sum(plan, arrays, rows, secret):
    gradients = customer_gradients(trained_part(load_model(plan.model, arrays)))
    gradients.load(flat_values(arrays, trainable_shapes(plan.model)))
    return sampled_sum(gradients, rows, plan.dp, secret)


def outcome_of(plan, number, total):
    """The round that a sum in steps of the grid makes."""
    divisor = plan.nominal_batch_size * len(plan.secure_sum.roster)
    step = plan.dp.max_grad_norm / 2**GRID_BITS
    update = named_arrays(-total * (step / divisor), trainable_shapes(plan.model))
    return RoundOutcome(round=number, cohort=1, completed=(1,), update=update, norm=0.0, void=False)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_model_of_a_masked_run_is_that_of_the_same_integers_added_up_openly_to_the_last_bit(tmp_path, scenario):
    run = run_of(scenario, tmp_path)
    assert (run.refusals, run.rejected) == ({}, {})
    assert fingerprint(run.arrays) == fingerprint(without_masks(scenario))
    assert fingerprint(run.arrays) != fingerprint(run.history[0][1])


def test_masks_come_from_the_operating_system_and_the_same_seed_gives_the_same_model(tmp_path):
    runs = [run_of(masked_scenario(seed=n // 2), tmp_path / str(n)) for n in (0, 1, 2)]
    prints = [fingerprint(run.arrays) for run in runs]
    assert prints[0] == prints[1] != prints[2]


def test_without_noise_the_model_is_that_of_all_customers_in_one_place(tmp_path):
    scenario = masked_scenario(epsilon=math.inf, recipe={"sample_rate": 1.0})
    plan = prepared(scenario)[1]
    assert (plan.dp.noise_multiplier, plan.dp.sample_rate) == (0.0, 1.0)
    run, central = run_of(scenario, tmp_path), initial_state(plan, prepared(scenario)[2])
    everyone = in_one_place(rows_of(scenario))
    for number in range(1, ROUNDS + 1):
        clipped = gradient_sum(plan, central.arrays, everyone, SystemSource())
        total = clipped * (2**GRID_BITS / plan.dp.max_grad_norm)
        central = apply_round(central, outcome_of(plan, number, total))
    init = run.history[0][1]
    for name in trainable_shapes(plan.model):
        moved = np.linalg.norm(central.published[name] - init[name])
        assert moved > 0
        assert np.linalg.norm(run.arrays[name] - central.published[name]) <= 1e-6 * max(1.0, moved), name


def in_one_place(rows):
    """The customers of all merchants as those of one."""
    starts = np.cumsum([0, *(len(one.spend_cents) for one in rows)])
    first = [one.first[:-1] + start for one, start in zip(rows, starts, strict=False)]
    return CustomerRows(
        inputs=tuple(torch.cat(parts) for parts in zip(*(one.inputs for one in rows), strict=True)),
        spend_cents=torch.cat([one.spend_cents for one in rows]),
        first=np.concatenate([*first, starts[-1:]]),
    )


def test_every_ledger_is_charged_the_plans_event_once_for_each_round(tmp_path):
    scenario = masked_scenario()
    plan = prepared(scenario)[1]
    run = run_of(scenario, tmp_path)
    assert dict(run.spent) == dict.fromkeys(run.spent, (plan.event,) * ROUNDS)
    assert len(run.spent) == MERCHANTS


def test_a_run_that_is_interrupted_asks_the_next_round_and_charges_nobody_more_than_the_plan(tmp_path):
    class MachineDownError(BaseException):
        pass

    def down(round_):
        if round_ == 2:
            raise MachineDownError

    scenario = masked_scenario()
    with pytest.raises(MachineDownError):
        run_of(scenario, tmp_path, on_round=down)
    run = run_of(scenario, tmp_path)
    assert [len(events) for events in run.spent.values()] == [ROUNDS] * MERCHANTS
    with Registry(tmp_path / "platform" / "registry.sqlite") as registry:
        assert [entry.round for record in registry.runs() for entry in registry.rounds(record[0])] == [1, 3, 4]
