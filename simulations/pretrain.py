"""A starting point that costs no privacy: a model trained on synthetic shops alone, and where it comes from."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pp_model.config import to_mapping
from pp_model.features import CORE_FEATURES, FEATURE_NAMES, Examples, FeatureSpec, build_examples
from pp_model.loss import ziln_loss
from pp_model.model import fresh_arrays, load_model, model_arrays, trainable_shapes
from pp_model.model_spec import ModelSpec
from pp_model.serialization import Arrays, fingerprint, to_safetensors
from synthetic.shops import draw_traits, synthetic_shop

OTHER_SCALE = 0.5  # the other features' share of a customer's gradient norm, against the core's 1
_EIGENVALUE_FLOOR = 0.02
_BATCH = 2_048


@dataclass(frozen=True, kw_only=True)
class PretrainSpec:
    """How the shipped starting points were made; equal specs give equal files on one machine."""

    shops: int = 5_000
    customers_per_shop: int = 80
    passes: int = 5
    learning_rate: float = 3e-3
    seed: int = 3


def synthetic_corpus(spec: PretrainSpec, *, sequence_length: int) -> Examples:
    """Rows of many shops of every kind: horizons of 14 to 120 days, records of 200 to 1,100 days, 3 cutoffs each."""
    rng = np.random.default_rng(spec.seed)
    parts = []
    for _ in range(spec.shops):
        traits = draw_traits(rng)
        num_days = int(rng.uniform(200, 1_100))
        first = dt.date(2015, 1, 1) + dt.timedelta(days=int(rng.integers(0, 1_500)))
        shop = synthetic_shop(
            traits, num_customers=spec.customers_per_shop, first_day=first, num_days=num_days, rng=rng
        )
        horizon = int(np.exp(rng.uniform(np.log(14), np.log(120))))
        days = [num_days - horizon * (k + 1) for k in range(3)]
        cutoffs = [first + dt.timedelta(days=day) for day in days if day > 30]
        if cutoffs:
            features = FeatureSpec(horizon_days=horizon, sequence_length=sequence_length)
            parts.append(build_examples(shop.log, cutoffs, features))

    def joined(name: str) -> NDArray[np.generic]:
        return np.concatenate([getattr(part, name) for part in parts])

    names = ("features", "sequence", "log_anchor", "spend_cents", "customer")
    columns: dict[str, Any] = {name: joined(name) for name in names}
    return Examples(**columns, num_customers=spec.customers_per_shop)


def public_coordinates(features: NDArray[np.float32]) -> Arrays:
    """`center` and `mix`: synthetic shops' core features uncorrelated with variance 1, the others scaled one by one.

    Noise then falls alike on everything the readout can learn, and the steps of all directions are of one size.
    """
    core = len(CORE_FEATURES)
    center = features.mean(axis=0, dtype=np.float64)
    mix = np.zeros((len(FEATURE_NAMES), len(FEATURE_NAMES)))
    values, vectors = np.linalg.eigh(np.cov((features[:, :core] - center[:core]).T))
    mix[:core, :core] = vectors / np.sqrt(values + _EIGENVALUE_FLOOR)
    others = np.maximum(features[:, core:].std(axis=0, dtype=np.float64), 0.1)
    mix[core:, core:] = np.diag(OTHER_SCALE / others)
    return {"center": center.astype(np.float32), "mix": mix.astype(np.float32)}


def pretrain(
    model: ModelSpec, corpus: Examples, spec: PretrainSpec, *, on_pass: Callable[[int, float], None] | None = None
) -> Arrays:
    """The arrays of a model that has seen the corpus and nothing else; `on_pass(number, mean loss)` after each pass.

    Only the core features reach the readout here: what the others mean differs from shop to shop, so their weights
    stay 0 for real customers to decide.
    """
    everything = ModelSpec(encoder=model.encoder, hidden=model.hidden, trainable="all")
    start = fresh_arrays(everything, seed=spec.seed) | public_coordinates(corpus.features)
    net = load_model(everything, start)
    weight = net.readout.linear.weight
    unread = slice(len(CORE_FEATURES), len(FEATURE_NAMES))
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], weight_decay=1e-3)
    batches = max(1, len(corpus) // _BATCH)
    order = torch.Generator().manual_seed(spec.seed)
    for number in range(spec.passes):
        total = 0.0
        for step, rows in enumerate(torch.randperm(len(corpus), generator=order)[: batches * _BATCH].split(_BATCH)):
            progress = (number * batches + step) / (spec.passes * batches)
            for group in optimizer.param_groups:
                group["lr"] = spec.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
            part = corpus.select(rows.numpy())
            tensors = (torch.from_numpy(a) for a in (part.features, part.sequence, part.log_anchor))
            loss = ziln_loss(net(*tensors), torch.from_numpy(part.spend_cents)).mean()
            optimizer.zero_grad()
            loss.backward()
            assert weight.grad is not None
            weight.grad[:, unread] = 0.0
            optimizer.step()
            total += loss.item()
        if on_pass:
            on_pass(number + 1, total / batches)
    return model_arrays(net)


def save_init(path: Path, arrays: Arrays, model: ModelSpec, spec: PretrainSpec) -> None:
    """The starting point as safetensors; what made it stands in the file's own metadata."""
    provenance = {
        "data": "synthetic shops only (synthetic/shops.py); no real orders",
        "model": json.dumps(to_mapping(model), sort_keys=True),
        "pretrain": json.dumps(to_mapping(spec), sort_keys=True),
        "fingerprint": fingerprint(arrays),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_safetensors(arrays, provenance))


def trainable_parameters(model: ModelSpec) -> int:
    """How many numbers a release of this model carries."""
    return sum(math.prod(shape) for shape in trainable_shapes(model).values())
