"""Checklist: D45, D60.

A starting point is made of synthetic shops alone, repeatably, and what ships is what its provenance says.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from pp_model.config import from_mapping
from pp_model.errors import CheckpointError
from pp_model.features import CORE_FEATURES, FEATURE_NAMES, Examples
from pp_model.model import array_shapes, fresh_arrays, trainable_shapes
from pp_model.model_spec import ENCODERS, ModelSpec
from pp_model.serialization import fingerprint, from_safetensors, shapes_of
from server.starting_point import default_init, load_init
from simulations.pretrain import (
    OTHER_SCALE,
    PretrainSpec,
    pretrain,
    public_coordinates,
    save_init,
    synthetic_corpus,
    trainable_parameters,
)
from tests.support.examples import random_arrays

CORE = len(CORE_FEATURES)
TINY = PretrainSpec(shops=20, passes=1)
MODEL = ModelSpec(encoder="mlp", hidden=(8, 4))


@pytest.fixture(scope="module")
def corpus() -> Examples:
    return synthetic_corpus(TINY, sequence_length=4)


# --- public coordinates


def test_public_coordinates_make_the_core_features_of_synthetic_shops_uncorrelated(corpus):
    arrays = public_coordinates(corpus.features)
    mixed = (corpus.features.astype(np.float64) - arrays["center"]) @ arrays["mix"]
    covariance = np.cov(mixed[:, :CORE].T)
    off_diagonal = covariance - np.diag(np.diag(covariance))
    assert np.abs(mixed.mean(axis=0)).max() < 1e-3
    assert np.abs(off_diagonal).max() < 1e-3
    assert (np.diag(covariance) <= 1 + 1e-3).all()
    assert np.diag(covariance).max() > 0.99  # the floor shrinks nothing but the directions with hardly any variance


def test_the_other_features_are_scaled_one_by_one_and_mixed_with_nothing(corpus):
    arrays = public_coordinates(corpus.features)
    rest = arrays["mix"][CORE:, CORE:]
    assert not (rest - np.diag(np.diag(rest))).any()
    assert not arrays["mix"][:CORE, CORE:].any()
    assert not arrays["mix"][CORE:, :CORE].any()
    spread = (corpus.features[:, CORE:] @ rest).std(axis=0)
    assert (spread <= OTHER_SCALE * (1 + 1e-4)).all()


def test_the_check_would_notice_coordinates_that_were_only_standardised(corpus):
    alone = corpus.features[:, :CORE] / corpus.features[:, :CORE].std(axis=0)
    covariance = np.cov(alone.T)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() > 0.5


# --- training


def test_a_pretrained_model_repeats_bit_by_bit(corpus):
    again = synthetic_corpus(TINY, sequence_length=4)
    assert again.features.tobytes() == corpus.features.tobytes()
    assert fingerprint(pretrain(MODEL, corpus, TINY)) == fingerprint(pretrain(MODEL, again, TINY))


def test_another_seed_gives_another_model(corpus):
    other = PretrainSpec(shops=20, passes=1, seed=4)
    assert fingerprint(pretrain(MODEL, corpus, TINY)) != fingerprint(pretrain(MODEL, corpus, other))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_loss_falls_from_pass_to_pass(corpus, encoder):
    losses: list[tuple[int, float]] = []
    spec = PretrainSpec(shops=20, passes=4)
    arrays = pretrain(
        ModelSpec(encoder=encoder, hidden=(8,)), corpus, spec, on_pass=lambda n, loss: losses.append((n, loss))
    )
    assert [number for number, _ in losses] == [1, 2, 3, 4]
    assert losses[3][1] < losses[1][1] < losses[0][1]
    assert shapes_of(arrays) == array_shapes(ModelSpec(encoder=encoder, hidden=(8,)))


def test_weights_of_features_that_differ_from_shop_to_shop_stay_exactly_zero(corpus):
    weight = pretrain(MODEL, corpus, PretrainSpec(shops=20, passes=3))["readout.linear.weight"]
    assert not weight[:, CORE : len(FEATURE_NAMES)].any()
    assert (weight[:, :CORE] != 0).all()
    assert (weight[:, len(FEATURE_NAMES) :] != 0).any()


def test_pretraining_moves_neither_the_coordinates_nor_the_callers_corpus(corpus):
    before = corpus.features.tobytes()
    arrays, fixed = pretrain(MODEL, corpus, TINY), public_coordinates(corpus.features)
    assert arrays["mix"].tobytes() == fixed["mix"].tobytes()
    assert arrays["center"].tobytes() == fixed["center"].tobytes()
    assert corpus.features.tobytes() == before


def test_a_corpus_smaller_than_a_batch_is_one_batch(corpus):
    losses = []
    few = corpus.select(np.arange(500))
    pretrain(MODEL, few, PretrainSpec(shops=1, passes=2), on_pass=lambda _, loss: losses.append(loss))
    assert len(losses) == 2
    assert losses[1] < losses[0]


# --- what ships


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_shipped_starting_point_loads_and_is_the_one_its_provenance_names(encoder):
    model = ModelSpec(encoder=encoder)
    arrays = load_init("default", model, seed=0)
    stored, provenance = from_safetensors(default_init(encoder).read_bytes())
    assert fingerprint(arrays) == fingerprint(stored) == provenance["fingerprint"]
    assert from_mapping(PretrainSpec, json.loads(provenance["pretrain"])) == PretrainSpec()
    made = from_mapping(ModelSpec, json.loads(provenance["model"]))
    assert (made.encoder, made.hidden) == (model.encoder, model.hidden)
    assert "no real orders" in provenance["data"]
    assert not arrays["readout.linear.weight"][:, CORE : len(FEATURE_NAMES)].any()


# --- from and to a file


def test_a_saved_starting_point_is_loaded_bit_by_bit(tmp_path):
    arrays = random_arrays(MODEL)
    save_init(tmp_path / "below" / "init.safetensors", arrays, MODEL, TINY)
    found = load_init(str(tmp_path / "below" / "init.safetensors"), MODEL, seed=0)
    assert fingerprint(found) == fingerprint(arrays)


def test_none_is_a_model_that_has_seen_nothing():
    assert fingerprint(load_init("none", MODEL, seed=3)) == fingerprint(fresh_arrays(MODEL, seed=3))


def test_a_missing_a_damaged_and_another_models_file_are_refused_by_name(tmp_path):
    path = tmp_path / "init.safetensors"
    with pytest.raises(CheckpointError, match="cannot read"):
        load_init(str(path), MODEL, seed=0)
    path.write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="damaged"):
        load_init(str(path), MODEL, seed=0)
    save_init(path, random_arrays(MODEL), MODEL, TINY)
    with pytest.raises(CheckpointError, match="another model"):
        load_init(str(path), ModelSpec(encoder="mlp", hidden=(8, 5)), seed=0)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="damaged"):
        load_init(str(path), MODEL, seed=0)


def test_the_number_of_trained_parameters_is_what_a_release_carries():
    model = ModelSpec(encoder="mlp", hidden=(8, 4))
    assert trainable_parameters(model) == 3 * (len(FEATURE_NAMES) + 4) + 3
    assert set(trainable_shapes(model)) == {"readout.linear.weight", "readout.linear.bias"}
