"""Checklist: D14, D15, D33.

For every encoder and either way of training: no row sees another, padding is nothing, a release carries what is
trained and nothing else.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pp_model.errors import ArraysError, ConfigError
from pp_model.features import CORE_FEATURES, FEATURE_NAMES, Examples
from pp_model.model import (
    CORE_BOUND,
    LARGEST_PARAMETER,
    LOCATION_BOUND,
    OTHER_BOUND,
    PurchasePowerModel,
    array_shapes,
    check_parameters,
    fresh_arrays,
    load_model,
    model_arrays,
    trainable_shapes,
    trained_part,
)
from pp_model.model_spec import ENCODERS, PRESETS, ModelSpec
from tests.support.examples import random_arrays, random_examples

SPECS = [ModelSpec(encoder=e, hidden=(8, 4), trainable=t) for e in ENCODERS for t in ("readout", "all")]
every_model = pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.encoder}-{s.trainable}")


def model_of(spec: ModelSpec) -> PurchasePowerModel:
    return load_model(spec, random_arrays(spec)).double()


def tensors(rows: Examples) -> tuple[Tensor, Tensor, Tensor]:
    features, anchor = torch.from_numpy(rows.features).double(), torch.from_numpy(rows.log_anchor).double()
    return features, torch.from_numpy(rows.sequence), anchor


def padded(rows: Examples, more: int) -> Examples:
    nothing = np.zeros((len(rows), more, 4), np.uint8)
    return replace(rows, sequence=np.concatenate([nothing, rows.sequence], axis=1))


def cross_rows(function, features: Tensor) -> Tensor:
    """[rows, rows]: how much the outputs of one row move with the features of another."""
    jacobian = torch.autograd.functional.jacobian(function, features)
    moved = jacobian.abs().sum(dim=(1, 3))
    return moved - torch.diag(moved.diagonal())


@every_model
def test_no_row_moves_with_the_features_of_another(spec):
    model = model_of(spec)
    features, sequence, anchor = tensors(random_examples([5]))
    assert cross_rows(lambda x: model(x, sequence, anchor), features).abs().max() == 0


def test_the_check_would_notice_batch_statistics():
    features, _, _ = tensors(random_examples([5]))
    assert cross_rows(lambda x: x - x.mean(dim=0), features).abs().max() > 0


@every_model
def test_no_row_moves_with_the_sequence_or_the_anchor_of_another(spec):
    model, rows = model_of(spec), random_examples([5])
    features, sequence, anchor = tensors(rows)
    alone = torch.cat([model(features[i : i + 1], sequence[i : i + 1], anchor[i : i + 1]) for i in range(len(rows))])
    torch.testing.assert_close(model(features, sequence, anchor), alone, rtol=1e-12, atol=1e-12)


@every_model
def test_more_padding_changes_nothing(spec):
    model, rows = model_of(spec), random_examples([3, 2, 4])
    torch.testing.assert_close(model(*tensors(rows)), model(*tensors(padded(rows, 7))), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_a_model_that_reads_the_sequence_notices_its_order_and_every_field(encoder):
    model, rows = model_of(ModelSpec(encoder=encoder, hidden=(8,))), random_examples([1], length=5)
    rows.sequence[:] = np.arange(1, 6)[None, :, None]
    base = model(*tensors(rows))
    backwards = replace(rows, sequence=rows.sequence[:, ::-1].copy())
    assert (base - model(*tensors(backwards))).abs().max() > 1e-6
    for field in range(4):
        other = replace(rows, sequence=rows.sequence.copy())
        other.sequence[:, 2, field] = 2
        assert (base - model(*tensors(other))).abs().max() > 1e-6


@every_model
def test_a_customer_without_events_has_a_finite_prediction(spec):
    rows = random_examples([3])
    assert torch.isfinite(model_of(spec)(*tensors(replace(rows, sequence=np.zeros_like(rows.sequence))))).all()


@pytest.mark.parametrize("encoder", ["mlp", "gru", "transformer"])
def test_the_encoder_reads_the_core_features_alone(encoder):
    model = model_of(ModelSpec(encoder=encoder, hidden=(8, 4)))
    features, sequence, _ = tensors(random_examples([4]))
    core = len(CORE_FEATURES)
    with torch.no_grad():
        model.mix[core:, :core] = 0.0  # as in every starting point: the coordinates are mixed within the core
        hidden = model.represent(features, sequence)[:, len(FEATURE_NAMES) :]
        features[:, core:] = 5.0
        assert torch.equal(hidden, model.represent(features, sequence)[:, len(FEATURE_NAMES) :])


def test_ten_times_the_prices_are_ten_times_the_prediction():
    model, (features, sequence, anchor) = model_of(SPECS[2]), tensors(random_examples([6]))
    one, ten = model(features, sequence, anchor), model(features, sequence, anchor + np.log(10))
    torch.testing.assert_close(ten - one, torch.tensor([0.0, np.log(10), 0.0]).double().expand(6, 3))


def test_the_location_stays_within_its_bound_of_the_anchor():
    arrays = random_arrays(SPECS[0], scale=1e4)
    model, (features, sequence, anchor) = load_model(SPECS[0], arrays).double(), tensors(random_examples([50]))
    assert (model(features, sequence, anchor)[:, 1] - anchor).abs().max() <= LOCATION_BOUND


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_no_model_trains_more_than_half_a_million_parameters(encoder, preset):
    shapes = trainable_shapes(ModelSpec(encoder=encoder, hidden=preset, trainable="all"))
    assert sum(int(np.prod(shape)) for shape in shapes.values()) <= 500_000


@every_model
def test_the_trained_part_has_the_parameters_of_a_release_and_gives_the_outputs_of_the_whole_model(spec):
    model = model_of(spec)
    features, sequence, anchor = tensors(random_examples([3, 2]))
    part, coordinates = trained_part(model), model.coordinates(features).detach()
    assert [tuple(p.shape) for p in part.parameters()] == list(trainable_shapes(spec).values())
    assert [id(p) for p in part.parameters()] == [id(p) for p in model.parameters() if p.requires_grad]
    seen = (model.represent(features, sequence),) if spec.trainable == "readout" else (coordinates, sequence)
    torch.testing.assert_close(part(*seen, anchor), model(features, sequence, anchor), rtol=1e-12, atol=1e-12)


def test_coordinates_are_bounded_whatever_the_features():
    model = model_of(SPECS[3])
    wild = torch.full((2, len(FEATURE_NAMES)), 1e30, dtype=torch.float64)
    wild[1] = -1e30
    core = len(CORE_FEATURES)
    assert model.coordinates(wild)[:, :core].abs().max() <= CORE_BOUND
    assert model.coordinates(wild)[:, core:].abs().max() <= OTHER_BOUND


@every_model
def test_a_model_has_no_buffers(spec):
    assert dict(PurchasePowerModel(spec).named_buffers()) == {}


@every_model
def test_no_layer_has_statistics_of_a_batch(spec):
    kinds = {type(module).__name__ for module in PurchasePowerModel(spec).modules()}
    assert not {kind for kind in kinds if "BatchNorm" in kind or "InstanceNorm" in kind or "Dropout" in kind}


@every_model
def test_a_release_carries_what_is_trained_and_nothing_else(spec):
    model = load_model(spec, fresh_arrays(spec, seed=0))
    trained = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    assert trained == trainable_shapes(spec)
    assert trained == {n: tuple(p.shape) for n, p in PurchasePowerModel(spec).named_parameters() if p.requires_grad}
    prefixes = ("readout.",) if spec.trainable == "readout" else ("readout.", "encoder.")
    assert set(trained) == {name for name in array_shapes(spec) if name.startswith(prefixes)}
    assert not {"center", "mix"} & set(trained)


@every_model
def test_a_model_is_its_arrays(spec):
    arrays = random_arrays(spec)
    found = model_arrays(load_model(spec, arrays))
    assert list(found) == list(array_shapes(spec))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


@every_model
def test_a_loaded_model_shares_no_memory_with_the_arrays(spec):
    arrays = random_arrays(spec)
    before = {name: array.copy() for name, array in arrays.items()}
    model = load_model(spec, arrays)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    copies = model_arrays(model)
    copies["center"] += 1.0
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name])
    np.testing.assert_array_equal(model.center.detach().numpy(), before["center"] + 1)


def _damaged(kind: str) -> dict[str, np.ndarray]:
    arrays = dict(fresh_arrays(SPECS[0], seed=0))
    weight = arrays["readout.linear.weight"]
    changes = {
        "double": weight.astype(np.float64),
        "transposed": weight.T.copy(),
        "nan": np.full_like(weight, np.nan),
        "infinite": np.full_like(weight, np.inf),
        "list": weight.tolist(),
    }
    if kind == "missing":
        del arrays["mix"]
    elif kind == "extra":
        arrays["running_mean"] = np.zeros(3, np.float32)
    else:
        arrays["readout.linear.weight"] = changes[kind]
    return arrays


@pytest.mark.parametrize("kind", ["double", "transposed", "nan", "infinite", "list", "missing", "extra"])
def test_arrays_of_another_model_are_refused(kind):
    with pytest.raises(ArraysError):
        load_model(SPECS[0], _damaged(kind))


@every_model
def test_first_weights_are_those_of_the_seed(spec):
    one, same, other = (fresh_arrays(spec, seed=s) for s in (1, 1, 2))
    assert all(one[name].tobytes() == same[name].tobytes() for name in one)
    assert spec.encoder == "linear" or any(not np.array_equal(one[name], other[name]) for name in one)


def test_first_weights_leave_the_global_generator_where_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fresh_arrays(SPECS[2], seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_fresh_model_predicts_the_customers_own_past_rate():
    rows = random_examples([4])
    model = load_model(SPECS[2], fresh_arrays(SPECS[2], seed=0)).double()
    outputs = model(*tensors(rows))
    assert torch.equal(outputs[:, 1], tensors(rows)[2])
    assert not outputs[:, [0, 2]].any()


@pytest.mark.parametrize("hidden", [(), (0,), (1025,), (8, 8, 8, 8, 8), (8, -1)])
def test_widths_out_of_range_are_refused_by_name(hidden):
    with pytest.raises(ConfigError, match=r"model\.hidden"):
        ModelSpec(encoder="mlp", hidden=hidden)


def test_a_parameter_at_the_bound_is_taken_and_one_above_is_not():
    spec = ModelSpec(encoder="linear")
    arrays = random_arrays(spec)
    for value, fits in [(LARGEST_PARAMETER, True), (-LARGEST_PARAMETER, True), (-1.001 * LARGEST_PARAMETER, False)]:
        arrays["center"][0] = value
        if fits:
            assert check_parameters(arrays, spec).keys() == arrays.keys()
        else:
            with pytest.raises(ArraysError, match="center"):
                check_parameters(arrays, spec)
