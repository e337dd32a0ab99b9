"""What others say of who will buy, with all merchants' orders in one place and without privacy."""

from __future__ import annotations

import datetime as dt
import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import betaln, gammaln

from pp_model.features import Examples, FeatureSpec, build_examples
from pp_model.schema import SECONDS_PER_DAY, EventType, OrderLog, day_start

Floats = NDArray[np.float64]

WINDOWS = 5  # the newest training cutoffs of the trees, one horizon apart, as published with the data
MOST_TREES = 600
PATIENCE = 40
TREES: dict[str, Any] = {
    "objective": "binary",
    "learning_rate": 0.03,
    "num_leaves": 15,
    "min_data_in_leaf": 40,
    "feature_fraction": 0.5,
    "lambda_l2": 5.0,
    "num_threads": 1,
    "seed": 0,
    "deterministic": True,
    "verbosity": -1,
}
_WIDEST = 12.0  # bound on the logarithms of the four parameters


@dataclass(frozen=True, kw_only=True)
class Histories:
    """Visits of each customer before a cutoff, all [customers]; a visit is a day with a purchase.

    Attributes:
        repeats: visits after the first.
        last: weeks from the first visit to the last.
        age: weeks from the first visit to the cutoff.
    """

    repeats: Floats
    last: Floats
    age: Floats


def histories(log: OrderLog, customers: NDArray[np.int64], *, cutoff: dt.date) -> Histories:
    """Of the given customers, each with an event before the cutoff.

    Who never purchased has its first event for a first visit, and no repeat.
    """
    before = log.timestamp < day_start(cutoff)
    day = log.timestamp // SECONDS_PER_DAY
    bought = before & (log.event_type == EventType.PURCHASE)
    born, last, visits = _first_last_number(log.customer[bought], day[bought], log.num_customers)
    seen, _, _ = _first_last_number(log.customer[before], day[before], log.num_customers)
    born, last = np.where(visits > 0, born, seen)[customers], np.where(visits > 0, last, seen)[customers]
    end = day_start(cutoff) // SECONDS_PER_DAY
    repeats = np.maximum(visits[customers] - 1, 0)
    return Histories(repeats=repeats.astype(float), last=(last - born) / 7, age=(end - born) / 7)


def joined(parts: Sequence[Histories]) -> Histories:
    """Histories of several merchants' customers, one merchant after the other."""
    return Histories(
        repeats=np.concatenate([part.repeats for part in parts]),
        last=np.concatenate([part.last for part in parts]),
        age=np.concatenate([part.age for part in parts]),
    )


def fitted_bgnbd(histories: Histories) -> Floats:
    """The parameters r, alpha (weeks), a and b of BG/NBD under which the histories are most likely, [4].

    Purchases come at a rate drawn from a gamma distribution of r and alpha, and after each the customer is lost with a
    probability drawn from a beta distribution of a and b. Gamma-Gamma adds what is spent, not whether.

    Source: Fader, Hardie and Lee 2005 ("Counting your customers the easy way", Marketing Science 24(2)), equation 6.
    """

    def negative(logs: Floats) -> float:
        return -float(_log_likelihood(np.exp(logs), histories, histories.age).mean())

    fit = minimize(negative, np.zeros(4), method="L-BFGS-B", bounds=[(-_WIDEST, _WIDEST)] * 4)
    return np.asarray(np.exp(fit.x), np.float64)


def bgnbd_buying(parameters: Floats, histories: Histories, *, horizon_days: int) -> Floats:
    """The probability of a purchase within the horizon, [customers].

    Nobody buys in it just where the history goes on without a visit to its end, so one minus the probability is the
    likelihood of the longer history over that of the one seen.
    """
    longer = _log_likelihood(parameters, histories, histories.age + horizon_days / 7)
    return np.asarray(-np.expm1(longer - _log_likelihood(parameters, histories, histories.age)), np.float64)


def lightgbm_buying(
    shops: Mapping[str, OrderLog], rows: Examples, *, cutoff: dt.date, features: FeatureSpec
) -> Floats | None:
    """The probability of buying of each of `rows` by LightGBM's trees on our features; None where it is not installed.

    How many trees is decided by the newest training window, with trees of the others; the trees are then made anew of
    all. Nothing of the horizon after the cutoff is looked at.
    """
    try:
        lightgbm = importlib.import_module("lightgbm")
    except ImportError:
        return None
    cutoffs = [cutoff - dt.timedelta(days=features.horizon_days * (back + 1)) for back in range(WINDOWS)]
    windows = [_table([build_examples(log, [day], features) for log in shops.values()]) for day in cutoffs]
    newest, older = lightgbm.Dataset(*windows[0]), lightgbm.Dataset(*_stacked(windows[1:]))
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    trial = lightgbm.train(TREES, older, MOST_TREES, valid_sets=[newest], callbacks=[stop])
    everything = lightgbm.Dataset(*_stacked(windows))
    return np.asarray(lightgbm.train(TREES, everything, trial.best_iteration).predict(_table([rows])[0]), np.float64)


def _first_last_number(
    customer: NDArray[np.int32], day: NDArray[np.int64], num_customers: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """First and last day of each customer, and how many different days; customers without any have 0 of them."""
    first, last = np.full(num_customers, np.iinfo(np.int64).max), np.full(num_customers, np.iinfo(np.int64).min)
    np.minimum.at(first, customer, day)
    np.maximum.at(last, customer, day)
    visits = np.unique(np.stack([customer.astype(np.int64), day], axis=1), axis=0)
    return first, last, np.bincount(visits[:, 0], minlength=num_customers)


def _log_likelihood(parameters: Floats, histories: Histories, age: Floats) -> Floats:
    """[customers]: log likelihood of r, alpha, a, b, without what no parameter changes."""
    r, alpha, a, b = parameters
    x = histories.repeats
    common = gammaln(r + x) - gammaln(r) + r * np.log(alpha) - betaln(a, b)
    alive = betaln(a, b + x) - (r + x) * np.log(alpha + age)
    lost = betaln(a + 1, b + np.maximum(x - 1, 0)) - (r + x) * np.log(alpha + histories.last)
    return np.asarray(common + np.where(x > 0, np.logaddexp(alive, lost), alive), np.float64)


def _table(parts: Sequence[Examples]) -> tuple[Floats, Floats]:
    """Features with the log anchor, [rows, columns], and who bought, [rows]."""
    features = np.concatenate([np.column_stack([part.features, part.log_anchor]) for part in parts])
    bought = np.concatenate([part.spend_cents > 0 for part in parts])
    return features.astype(np.float64), bought.astype(np.float64)


def _stacked(tables: Iterable[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    features, bought = zip(*tables, strict=True)
    return np.concatenate(features), np.concatenate(bought)
