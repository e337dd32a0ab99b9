"""How sure a difference between two models is that judge the same customers: a paired bootstrap over customers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]

RESAMPLES = 4_000
LEVEL = 0.95
_LEAST_PROBABILITY = 1e-7  # as in `pp_model.metrics`
_AT_ONCE = 200  # resamples that are in memory together


@dataclass(frozen=True, kw_only=True)
class Gain:
    """By how much ours is better than theirs, above 0 where it is, and the interval that holds it at `LEVEL`.

    The interval says what other customers of the same kind would have changed. The models stay as they are: that a run
    draws new noise is not in it.
    """

    mean: float
    low: float
    high: float


def log_losses(bought: Flags, probability: Floats) -> Floats:
    """What each customer adds to the log loss, [..., customers], in nats."""
    bounded = np.clip(probability, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return -np.log(np.where(bought, bounded, 1 - bounded))


def aucs(bought: Flags, probability: Floats, counts: Counts) -> Floats:
    """The area under the ROC curve in each resample, exactly, [resamples]; NaN where all or none bought.

    The share of pairs of a buyer and another in which the buyer has the higher probability; ties count half.

    Args:
        bought, probability: [customers].
        counts: [resamples, customers], how often each customer is in each resample.
    """
    order = np.argsort(probability, kind="stable")
    ranked = probability[order]
    ties = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    buyers = np.add.reduceat(counts[:, order] * bought[order], ties, axis=1)
    others = np.add.reduceat(counts[:, order] * ~bought[order], ties, axis=1)
    twice_won = (buyers * (2 * np.cumsum(others, axis=1) - others)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(twice_won / (2 * buyers.sum(axis=1) * others.sum(axis=1)), np.float64)


def paired_gains(
    bought: Flags, ours: Floats, theirs: Floats, *, rng: np.random.Generator, resamples: int = RESAMPLES
) -> dict[str, Gain]:
    """The gains in "log_loss" and "auc" of ours over theirs, averaged over seeds.

    A resample draws customers with replacement, once: what all models of all seeds say of a customer comes with it.

    Args:
        bought: [customers].
        ours, theirs: [seeds, customers], probabilities of buying.
    """
    loss = (log_losses(bought, theirs) - log_losses(bought, ours)).mean(axis=0)

    def auc(counts: Counts) -> Floats:
        differences = [
            aucs(bought, our, counts) - aucs(bought, their, counts) for our, their in zip(ours, theirs, strict=True)
        ]
        return np.asarray(np.mean(differences, axis=0), np.float64)

    everybody = np.ones((1, len(bought)), np.int64)
    parts = [(counts @ loss / len(bought), auc(counts)) for counts in _resampled(len(bought), resamples, rng)]
    resampled_loss, resampled_auc = (np.concatenate(column) for column in zip(*parts, strict=True))
    return {
        "log_loss": _gain(float(loss.mean()), resampled_loss),
        "auc": _gain(float(auc(everybody)[0]), resampled_auc),
    }


def _resampled(customers: int, resamples: int, rng: np.random.Generator) -> Iterator[Counts]:
    """How often each customer is in each resample, [at most _AT_ONCE, customers] at a time."""
    share = np.full(customers, 1 / customers)
    for first in range(0, resamples, _AT_ONCE):
        yield rng.multinomial(customers, share, size=min(_AT_ONCE, resamples - first))


def _gain(mean: float, resampled: Floats) -> Gain:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Gain(mean=mean, low=float(low), high=float(high))
