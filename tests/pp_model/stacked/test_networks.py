"""Checklist: D14, D15, D34.

A module as stacked layers: the same outputs for each merchant, the parameters in the module's order, and no guess about
a layer that is not known.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pp_model.errors import UnknownLayerError
from pp_model.model import load_model, trained_part
from pp_model.stacked.layers import Frame
from pp_model.stacked.networks import ParameterStack, builds, network_of
from pp_model.train import customer_rows
from tests.support.examples import random_arrays, random_examples
from tests.support.mechanism import SPECS, every_model, values_of

CPU = torch.device("cpu")


@every_model
@pytest.mark.parametrize("merchants", [1, 3])
def test_each_merchant_has_the_outputs_of_its_own_module(spec, merchants):
    parts = [trained_part(load_model(spec, random_arrays(spec, seed=seed))) for seed in range(merchants)]
    rows = [
        customer_rows(load_model(spec, random_arrays(spec)), random_examples([2] * 4, seed=seed))
        for seed in range(merchants)
    ]
    stack = ParameterStack(parts[0], merchants=merchants, device=CPU)
    network = network_of(parts[0], stack)
    stack.values[:] = torch.stack([torch.from_numpy(values_of(part)).float() for part in parts])
    inputs = [torch.stack(tensors) for tensors in zip(*(r.inputs for r in rows), strict=True)]
    before = [tensor.clone() for tensor in inputs]
    outputs, _ = network.forward(Frame(customers=4, windows=2), *inputs)
    with torch.no_grad():
        expected = torch.stack([part(*r.inputs) for part, r in zip(parts, rows, strict=True)])
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(one, other) for one, other in zip(inputs, before, strict=True))


@every_model
def test_every_parameter_that_is_trained_has_its_place_in_the_modules_order(spec):
    part = trained_part(load_model(spec, random_arrays(spec)))
    stack = ParameterStack(part, merchants=2, device=CPU)
    stack.values[:] = torch.from_numpy(values_of(part)).float()
    start = 0
    for parameter in part.parameters():
        slot = stack.slot(parameter)
        assert torch.equal(slot.values[1], parameter)
        slot.total[0] = 1.0
        assert (stack.sums[0, start : start + parameter.numel()] == 1).all()
        start += parameter.numel()
    assert (start, bool((stack.sums[0] == 1).all()), bool(stack.sums[1].any())) == (stack.sums.shape[1], True, False)


@every_model
def test_every_parameter_belongs_to_a_layer(spec):
    """Each is asked for once: a parameter that no layer had would be left out of the length, and of the sum."""
    part = trained_part(load_model(spec, random_arrays(spec)))
    stack = ParameterStack(part, merchants=1, device=CPU)
    network_of(part, stack)
    for parameter in part.parameters():
        with pytest.raises(UnknownLayerError, match="shared"):
            stack.slot(parameter)


class _Other(nn.Linear):
    """May do anything."""


UNKNOWN = {
    "Tanh": nn.Tanh(),
    "Conv1d": nn.Conv1d(1, 1, 1),
    "_Other": _Other(2, 3),
    "Linear without a bias": nn.Linear(2, 3, bias=False),
    "LayerNorm over several": nn.LayerNorm((2, 3)),
    "LayerNorm over several dimensions, or without": nn.LayerNorm(3, elementwise_affine=False),
    "LayerNorm over several dimensions, or without ": nn.LayerNorm(3, bias=False),
    "GELU by approximation": nn.GELU(approximate="tanh"),
    "Dropout": nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5)),
}


@pytest.mark.parametrize(("named", "module"), UNKNOWN.items(), ids=UNKNOWN)
def test_what_is_not_known_is_refused_by_name(named, module):
    with pytest.raises(UnknownLayerError, match=named.strip()):
        network_of(module, ParameterStack(module, merchants=1, device=CPU))


def test_a_parameter_that_is_frozen_or_shared_is_refused():
    frozen = nn.Linear(2, 3)
    frozen.weight.requires_grad_(False)
    shared = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    shared[1].weight = shared[0].weight
    twice = nn.Linear(3, 3)
    for module in (frozen, shared, nn.Sequential(twice, twice)):
        with pytest.raises(UnknownLayerError):
            network_of(module, ParameterStack(module, merchants=1, device=CPU))


@pytest.mark.parametrize("option", [{"padding_idx": 0}, {"max_norm": 1.0}, {"scale_grad_by_freq": True}])
def test_an_embedding_that_does_more_than_look_up_is_refused(option):
    model = load_model(SPECS[5], random_arrays(SPECS[5]))
    model.encoder.tokens[0] = nn.Embedding(*model.encoder.tokens[0].weight.shape, **option)
    part = trained_part(model)
    with pytest.raises(UnknownLayerError, match="Embedding"):
        network_of(part, ParameterStack(part, merchants=1, device=CPU))


def test_a_builder_is_for_exactly_its_type():
    class Mine(nn.Linear):
        pass

    class Derived(Mine):
        pass

    builds(Mine)(lambda *_: "mine")
    assert network_of(Mine(1, 1), ParameterStack(Mine(1, 1), merchants=1, device=CPU)) == "mine"
    with pytest.raises(UnknownLayerError, match="Derived"):
        network_of(Derived(1, 1), ParameterStack(Derived(1, 1), merchants=1, device=CPU))
