"""How the pieces of a line go with its price, within one customer and one category: an association, not an effect."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.insight.intervals import UNKNOWN, Estimate, Floats, Z

LEAST_LINES, LEAST_CUSTOMERS = 100, 20  # that say something: of a customer and category with several price levels
_MOST_ROUNDS, _CLOSE = 100, 1e-9


@dataclass(frozen=True, kw_only=True)
class Elasticity:
    """By how many percent the pieces of a line change where it costs one percent more.

    Attributes:
        lines, customers: those that the figure rests on.
    """

    estimate: Estimate
    lines: int
    customers: int


def elasticity_of(
    *,
    customer: NDArray[np.integer],
    category: NDArray[np.integer],
    month: NDArray[np.integer],
    depth: Floats,
    quantity: NDArray[np.integer],
) -> Elasticity:
    """The slope of log quantity on log price paid per list price, over lines [lines].

    Compared are lines of the same customer and category only, less what the shop's month has in common: who buys much
    at any price, what is dear, and what sells in December cannot make it. What can: a discount that comes when this
    customer would buy more anyway, or makes it buy now what it would have bought later.

    Args:
        depth: discount as a share of the list price, 0 to below 1.
        quantity: at least 1.

    Returns:
        Unknown with fewer than `LEAST_LINES` lines or `LEAST_CUSTOMERS` customers whose price moved.

    Source: least squares with two fixed effects, taken out in turns (Frisch, Waugh and Lovell; Guimaraes and Portugal
    2010, "A simple feasible procedure to fit models with high-dimensional fixed effects"); the interval allows for
    lines of one customer being alike (Liang and Zeger 1986, equation 7, with n / (n - 1) customers).
    """
    price = np.log1p(-depth)
    _, pair = np.unique(customer.astype(np.int64) << 32 | category.astype(np.int64) + 1, return_inverse=True)
    varied = _spread_within(pair, price) > _CLOSE
    rows = np.flatnonzero(varied[pair])
    of_rows = np.unique(customer[rows], return_inverse=True)[1]
    customers = int(of_rows.max(initial=-1)) + 1
    if len(rows) < LEAST_LINES or customers < LEAST_CUSTOMERS:
        return Elasticity(estimate=UNKNOWN, lines=len(rows), customers=customers)
    groups = [np.unique(each[rows], return_inverse=True)[1] for each in (pair, month)]
    price, pieces = (_without(groups, each[rows]) for each in (price, np.log(quantity)))
    weight = float(price @ price)
    if not weight > _CLOSE:
        return Elasticity(estimate=UNKNOWN, lines=len(rows), customers=customers)
    slope = float(price @ pieces) / weight
    pulls = np.bincount(of_rows, price * (pieces - slope * price))
    error = math.sqrt(float(pulls @ pulls) * customers / (customers - 1)) / weight
    estimate = Estimate(value=slope, low=slope - Z * error, high=slope + Z * error)
    return Elasticity(estimate=estimate, lines=len(rows), customers=customers)


def _spread_within(group: NDArray[np.intp], values: Floats) -> Floats:
    """[groups]: the largest less the smallest value."""
    largest, smallest = np.full(group.max(initial=-1) + 1, -np.inf), np.full(group.max(initial=-1) + 1, np.inf)
    np.maximum.at(largest, group, values)
    np.minimum.at(smallest, group, values)
    return largest - smallest


def _without(groups: list[NDArray[np.intp]], values: Floats) -> Floats:
    """The values less the means of each grouping, until no mean is left."""
    left = values.astype(np.float64)
    counts = [np.bincount(group) for group in groups]
    for _ in range(_MOST_ROUNDS):
        moved = 0.0
        for group, count in zip(groups, counts, strict=True):
            means = np.bincount(group, left) / np.maximum(count, 1)
            left = left - means[group]
            moved = max(moved, float(np.abs(means).max()))
        if moved < _CLOSE:
            break
    return left
