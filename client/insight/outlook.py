"""Expected spend by category and month, with intervals that rest on how wrong the same method was before.

A customer's expected spend is spread over categories by the shares of its own past spend, and over months as the spend
of the customers known at the time was spread over the days of the same horizon a year earlier (52 weeks, so that
weekdays match), or, where the orders do not reach back that far, over those of the horizon just past.

The method is then tried at earlier cutoffs, one horizon apart, with what was known on those days. From the
trials come three numbers for single cells, for categories, for months and for the whole:
- the correction: what was spent, divided by what was forecast, over the `CORRECTED_BY` newest trials;
- the scatter: the squared deviations of single customers, by unit of forecast. Customers decide on their own, so the
  variance of a sum of them is the sum of theirs;
- the drift: how much further apart forecast and spend lay than scatter explains, as a share of the forecast. What moves
  all customers at once (a season, a price, a competitor) does not average out in a large shop.
The interval is forecast -+ t x sqrt(scatter x forecast + drift^2 x forecast^2), with t of Student's distribution by the
number of trials, since a drift seen two or three times is not well known.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from client.insight.customers import Interests, interests_of, summed
from client.insight.earlier import said_at
from client.scoring import HIGH, Scorer
from pp_model.features import YEAR_DAYS
from pp_model.schema import SECONDS_PER_DAY, OrderLog, day_start

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Level = Literal["cell", "category", "month", "total"]
LEVELS: tuple[Level, ...] = ("cell", "category", "month", "total")

MOST_TRIALS, CORRECTED_BY = 4, 3
LEAST_CUSTOMERS = 30  # known on the day of a trial; with fewer it tells nothing
MOST_SAMPLED = 50_000  # customers of a trial: the error of a sum over so many is a hundredth
_STEADY_LINES = 50.0  # of the year before: with as many lines, its months count as much as equal days do
_PRIOR_CUSTOMERS = 30.0  # of a category's scatter, from all categories


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A forecast as of an earlier cutoff, and what happened.

    Attributes:
        forecast, happened: [categories, months], cents; uncorrected.
        scatter: by level, the sums of squared deviations of single customers: by category for "cell" and "category",
            else one number.
    """

    cutoff: dt.date
    forecast: Floats
    happened: Floats
    scatter: Mapping[Level, Floats]

    @property
    def ratio(self) -> float:
        """What was spent, by unit of forecast."""
        return float(self.happened.sum() / self.forecast.sum())


@dataclass(frozen=True, kw_only=True)
class Errors:
    """What trials say of the method: see the module.

    Attributes:
        scatter: by level; [categories] for "cell" and "category".
        drift: by level.
        trials: how many the drift rests on.
    """

    correction: float
    scatter: Mapping[Level, Floats]
    drift: Mapping[Level, float]
    trials: int

    def interval(self, forecast: Floats, level: Level) -> tuple[Floats, Floats]:
        """The 80 % interval around corrected forecasts: [categories, months], [categories], [months] or one."""
        scatter = self.scatter[level]
        if level == "cell":
            scatter = scatter[:, None]
        half = float(student.ppf(HIGH, self.trials)) * np.sqrt(scatter * forecast + (self.drift[level] * forecast) ** 2)
        return np.maximum(forecast - half, 0.0), forecast + half


def months_of(cutoff: dt.date, horizon_days: int) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The months that the horizon touches, such as "2026-06", and the place among them of each of its days."""
    days = [cutoff + dt.timedelta(days=number) for number in range(horizon_days)]
    names = tuple(dict.fromkeys(f"{day:%Y-%m}" for day in days))
    return names, np.array([names.index(f"{day:%Y-%m}") for day in days], np.int64)


def by_level(cells: Floats, level: Level) -> Floats:
    """[categories, months] summed up to a level."""
    axis = {"cell": (), "category": (1,), "month": (0,), "total": (0, 1)}[level]
    return np.asarray(cells.sum(axis=axis), np.float64)


def month_shares(log: OrderLog, cutoff: dt.date, month_of_day: NDArray[np.int64]) -> Floats:
    """[months]: the share of known customers' spend in each month of the horizon; see the module.

    Args:
        log: may go on after the cutoff; that is not looked at.
    """
    horizon, now = len(month_of_day), day_start(cutoff)
    equal = np.bincount(month_of_day) / horizon
    oldest = int(log.timestamp.min()) if len(log) else now
    for days_back in (YEAR_DAYS, horizon):
        start = now - days_back * SECONDS_PER_DAY
        if days_back < horizon or oldest > start - horizon * SECONDS_PER_DAY:
            continue
        rows, month = _spent_by_known(log, start, month_of_day)
        spent = np.maximum(summed(month, log.spend_cents[rows], len(equal)), 0.0)
        if spent.sum() > 0:
            trust = len(rows) / (len(rows) + _STEADY_LINES)
            return np.asarray(trust * spent / spent.sum() + (1 - trust) * equal, np.float64)
    return equal


def spread(
    customer: Ints, expected: Floats, interests: Interests, codes: NDArray[np.int32]
) -> tuple[Floats, tuple[Ints, Ints, Floats]]:
    """Expected spend by category: [categories] of `codes`, and the rows (customer, category, cents) that it sums.

    What is expected of customers without a category, who got back all that they paid, goes as the others' does, and
    is in no row.
    """
    of_code = np.zeros(len(interests.starts) - 1)
    of_code[customer] = expected
    category = np.searchsorted(codes, interests.codes)[interests.category]
    cents = of_code[interests.customer] * interests.share
    sums = summed(category, cents, len(codes))
    total = float(sums.sum())
    scale = float(expected.sum()) / total if total > 0 else 0.0
    return sums * scale, (interests.customer, category, cents)


def trials_of(scorer: Scorer, log: OrderLog, codes: NDArray[np.int32]) -> tuple[Trial, ...]:
    """The method at earlier cutoffs, the newest first; none where the orders do not reach back two horizons.

    Args:
        codes: the categories, ascending.
    """
    log = _sample(log)
    if not len(log):
        return ()
    horizon = scorer.features.horizon_days
    oldest = int(log.timestamp.min())
    found = []
    for number in range(1, MOST_TRIALS + 1):
        cutoff = scorer.cutoff - dt.timedelta(days=number * horizon)
        if oldest > day_start(cutoff) - horizon * SECONDS_PER_DAY:
            break
        trial = _trial(scorer, log, cutoff, codes)
        if trial is None:
            break
        found.append(trial)
    return tuple(found)


def errors_of(trials: Sequence[Trial]) -> Errors | None:
    """What the trials say, the newest first; None without any.

    A trial's own deviation is taken after the correction that the trials before it give, as a forecast has it.
    """
    if not trials:
        return None
    judged = list(trials[:-1]) or list(trials)
    corrections = [correction_of(trials[place + 1 :]) for place in range(len(judged))]
    scatter, drift = {}, {}
    for level in LEVELS:
        scatter[level] = _scatter(trials, level)
        excess, weight = 0.0, 0.0
        for trial, correction in zip(judged, corrections, strict=True):
            forecast, happened = correction * by_level(trial.forecast, level), by_level(trial.happened, level)
            own = scatter[level][:, None] if level == "cell" else scatter[level]
            # Of (happened - forecast)^2, what the scatter of customers does not explain; by forecast, as cells are
            # weighed by what is at stake in them.
            squares = np.where(forecast > 0, ((happened - forecast) ** 2 - own * forecast) / np.maximum(forecast, 1), 0)
            excess, weight = excess + float(squares.sum()), weight + float(forecast.sum())
        drift[level] = float(np.sqrt(max(0.0, excess / weight))) if weight else 0.0
    return Errors(correction=correction_of(trials), scatter=scatter, drift=drift, trials=len(judged))


def correction_of(trials: Sequence[Trial]) -> float:
    """What was spent by unit of forecast in the newest of the trials; 1 without any."""
    newest = trials[:CORRECTED_BY]
    forecast = sum(float(trial.forecast.sum()) for trial in newest)
    return sum(float(trial.happened.sum()) for trial in newest) / forecast if forecast else 1.0


def _sample(log: OrderLog) -> OrderLog:
    if log.num_customers <= MOST_SAMPLED:
        return log
    chosen = np.zeros(log.num_customers, np.bool_)
    chosen[np.random.default_rng(0).choice(log.num_customers, MOST_SAMPLED, replace=False)] = True
    return log.select(chosen[log.customer])


def _spent_by_known(log: OrderLog, start: int, month_of_day: Ints) -> tuple[NDArray[np.intp], Ints]:
    """Rows with money in the horizon from `start` on, of customers known by then, and the month of each."""
    end = start + len(month_of_day) * SECONDS_PER_DAY
    known = np.zeros(log.num_customers, np.bool_)
    known[log.customer[log.timestamp < start]] = True
    rows = np.flatnonzero((log.timestamp >= start) & (log.timestamp < end) & (log.spend_cents != 0))
    rows = rows[known[log.customer[rows]]]
    return rows, month_of_day[(log.timestamp[rows] - start) // SECONDS_PER_DAY]


def _trial(scorer: Scorer, log: OrderLog, cutoff: dt.date, codes: NDArray[np.int32]) -> Trial | None:
    now = day_start(cutoff)
    names, month_of_day = months_of(cutoff, scorer.features.horizon_days)
    said = said_at(scorer, log, cutoff)
    customer, expected = said.customer, said.expected_spend_cents
    rows, month = _spent_by_known(log, now, month_of_day)
    spent, size = log.spend_cents[rows].astype(np.float64), (len(codes), len(names))
    if len(customer) < LEAST_CUSTOMERS or not (expected.sum() > 0 and spent.sum() > 0):
        return None
    shares = month_shares(log, cutoff, month_of_day)
    interests = interests_of(log.select(log.timestamp < now), cutoff=cutoff)
    sums, (of, category, cents) = spread(customer, expected, interests, codes)
    place = np.searchsorted(codes, log.category[rows])
    ratio = float(spent.sum() / expected.sum())
    # One row for each customer, category and month: what was spent, and less what was expected.
    deviations = _Deviations(
        customer=np.concatenate([log.customer[rows].astype(np.int64), np.repeat(of, size[1])]),
        category=np.concatenate([place, np.repeat(category, size[1])]),
        month=np.concatenate([month, np.tile(np.arange(size[1]), len(of))]),
        cents=np.concatenate([spent, -ratio * np.outer(cents, shares).ravel()]),
    )
    return Trial(
        cutoff=cutoff,
        forecast=np.outer(sums, shares),
        happened=summed(place * size[1] + month, spent, size[0] * size[1]).reshape(size),
        scatter={level: deviations.squares(level, categories=size[0], months=size[1]) for level in LEVELS},
    )


@dataclass(frozen=True, kw_only=True)
class _Deviations:
    customer: Ints
    category: Ints
    month: Ints
    cents: Floats

    def squares(self, level: Level, *, categories: int, months: int) -> Floats:
        """Sums of squared deviations of single customers: [categories], or one number."""
        with_category, with_month = level in ("cell", "category"), level in ("cell", "month")
        key = self.customer
        key = key * categories + self.category if with_category else key
        key = key * months + self.month if with_month else key
        cells, row = np.unique(key, return_inverse=True)
        squares = summed(row, self.cents, len(cells)) ** 2
        if not with_category:
            return np.asarray(squares.sum(), np.float64)
        category = (cells // months if with_month else cells) % categories
        return summed(category, squares, categories)


def _scatter(trials: Sequence[Trial], level: Level) -> Floats:
    """Squared deviations by unit of corrected forecast; categories with few customers lean on all the others."""
    by_category = level in ("cell", "category")
    weigh: Level = "category" if by_category else "total"
    squares = sum(trial.scatter[level] for trial in trials)
    forecast = sum(trial.ratio * by_level(trial.forecast, weigh) for trial in trials)
    overall = float(np.sum(squares)) / max(float(np.sum(forecast)), 1.0)
    if not by_category:
        return np.asarray(overall, np.float64)
    prior = _PRIOR_CUSTOMERS * overall  # scatter is about what one purchase costs, so this is the forecast of so many
    return np.asarray((squares + overall * prior) / (forecast + prior), np.float64)
