"""jax-privacy's private step for the MLP, against the plain jitted step of JAX: run by its own environment.

There is no torch here, so the model, the loss and the batch are written out again, with the same sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax_privacy import clipped_grad

from benchmarks.harness import alternate, first_call

SIZES = ((64, 128), (128, 64), (64, 3))
LEARNING_RATE, MAX_GRAD_NORM, NOISE_MULTIPLIER = 0.01, 1.0, 1.0
LEAST_SPREAD, LARGEST_SPREAD, SPEND_WEIGHT, TAIL_FREEDOM = 0.15, 2.5, 0.4, 4.0
Tree = Any  # parameters: one (weights, bias) for each layer


def outputs(parameters: Tree, features: jax.Array) -> jax.Array:
    """[rows, 3]."""
    *hidden, (weights, bias) = parameters
    for inner_weights, inner_bias in hidden:
        features = jax.nn.relu(features @ inner_weights + inner_bias)
    return features @ weights + bias


def losses(parameters: Tree, features: jax.Array, spend_cents: jax.Array) -> jax.Array:
    """[rows], as `pp_model.loss.ziln_loss`."""
    logit, location, raw = jnp.moveaxis(outputs(parameters, features), -1, 0)
    bought = (spend_cents > 0).astype(logit.dtype)
    spread = LEAST_SPREAD + (LARGEST_SPREAD - LEAST_SPREAD) * jax.nn.sigmoid(raw)
    buying = jax.nn.softplus(logit) - bought * logit
    away = (jnp.log(jnp.maximum(spend_cents, 1.0)) - location) / spread
    spending = jnp.log(spread) + 0.5 * (TAIL_FREEDOM + 1) * jnp.log1p(away**2 / TAIL_FREEDOM)
    return buying + SPEND_WEIGHT * bought * spending


def mean_loss(parameters: Tree, features: jax.Array, spend_cents: jax.Array) -> jax.Array:
    """A scalar."""
    return losses(parameters, features, spend_cents).mean()


def moved(parameters: Tree, gradients: Tree, scale: float) -> Tree:
    """One step of plain SGD."""
    return jax.tree.map(lambda parameter, gradient: parameter - scale * gradient, parameters, gradients)


def noised(total: Tree, key: jax.Array) -> Tree:
    """With Gaussian noise of the sum."""
    leaves, shape = jax.tree.flatten(total)
    keys = jax.random.split(key, len(leaves))
    scale = NOISE_MULTIPLIER * MAX_GRAD_NORM
    return jax.tree.unflatten(
        shape, [leaf + scale * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    )


def vmap_sum(parameters: Tree, features: jax.Array, spend_cents: jax.Array) -> Tree:
    """Sum of clipped gradients by `vmap(grad)`."""
    per_row = jax.vmap(jax.grad(mean_loss), in_axes=(None, 0, 0))(
        parameters, features[:, None, :], spend_cents[:, None]
    )
    squares = sum(jnp.square(leaf).reshape(len(leaf), -1).sum(axis=1) for leaf in jax.tree.leaves(per_row))
    weights = jnp.minimum(1.0, MAX_GRAD_NORM / jnp.sqrt(squares))
    return jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, axes=1), per_row)


def stepper(rows: int, clipped_sum: Callable[..., Tree] | None) -> Callable[[], object]:
    """A jitted step on a fixed batch, called with nothing; without `clipped_sum` the plain one."""
    rng = np.random.default_rng(1)
    features = jnp.asarray(rng.standard_normal((rows, SIZES[0][0]), dtype=np.float32))
    spend = np.exp(rng.standard_normal(rows)) * 2_000.0 * (rng.random(rows) < 0.4)
    spend_cents = jnp.asarray(np.round(spend).astype(np.float32))
    state: dict[str, Any] = {
        "parameters": [
            (jnp.asarray(rng.standard_normal(size, dtype=np.float32) / size[0] ** 0.5), jnp.zeros(size[1]))
            for size in SIZES
        ],
        "key": jax.random.key(0),
    }

    @jax.jit
    def step(parameters: Tree, key: jax.Array) -> tuple[Tree, jax.Array]:
        if clipped_sum is None:
            return moved(parameters, jax.grad(mean_loss)(parameters, features, spend_cents), LEARNING_RATE), key
        key, noise_key = jax.random.split(key)
        total = noised(clipped_sum(parameters, features, spend_cents), noise_key)
        return moved(parameters, total, LEARNING_RATE / rows), key

    def work() -> object:
        state["parameters"], state["key"] = step(state["parameters"], state["key"])
        return jax.block_until_ready(state["parameters"])

    return work


METHODS: dict[str, Callable[..., Tree]] = {
    "clipped_grad": clipped_grad(mean_loss, l2_clip_norm=MAX_GRAD_NORM, batch_argnums=(1, 2)),
    "jit(vmap(grad))": vmap_sum,
}


def main() -> None:
    """Prints one JSON object on its last line."""
    parser = argparse.ArgumentParser(description="Times steps in JAX.")
    parser.add_argument("--batches", nargs="+", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.05, help="that one reading takes at least")
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one thread, as for torch; XLA asks how many cores it has
    cells = []
    for rows in args.batches:
        works = {name: stepper(rows, clipped_sum) for name, clipped_sum in METHODS.items()}
        plain = stepper(rows, None)
        first = {name: first_call(work) for name, work in {"plain jit": plain, **works}.items()}
        timed = alternate(plain, works, rounds=args.rounds, at_least_seconds=args.seconds)
        for name, measured in timed.items():
            name = name or "plain jit"
            cells.append(
                {"model": "mlp", "batch": rows, "method": name, "first_seconds": first[name], **asdict(measured)}
            )
    versions = {name: version(name) for name in ("jax", "jax-privacy")}
    print(json.dumps({"cells": cells, "versions": {"python": platform.python_version(), **versions}}))


if __name__ == "__main__":
    main()
