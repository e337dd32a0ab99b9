"""What the model reads of a customer's past: names and formulas of the features."""

from __future__ import annotations

import numpy as np

from pp_model.feature_history import CATEGORY_TOKENS, LEAST_BASKET_CENTS, NEWCOMER_BASKET_CENTS, Floats, History
from pp_model.schema import SECONDS_PER_DAY

RECENT_HORIZONS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def log_anchor(h: History) -> Floats:
    # E[visits | at least one] of a Poisson number with the customer's own rate.
    rate = np.maximum(h.expected_visits, 1e-3)
    return np.asarray(np.log(h.mean_visit * rate / -np.expm1(-rate)), np.float64)


def feature_columns(h: History) -> dict[str, Floats]:
    horizon = h.horizon
    columns: dict[str, Floats] = {
        "log_recency": np.log((h.recency + 0.5) / horizon),
        "recency": np.minimum(h.recency / horizon, 8.0) / 2,
        "log_tenure": np.log((h.tenure + 0.5) / horizon),
        "log_visits": np.log1p(h.visits),
        "log_expected_visits": np.log(h.expected_visits + 0.02),
        "buying_probability_at_own_rate": -np.expm1(-h.expected_visits) * 2 - 1,
        "no_visit": (h.visits == 0).astype(np.float64),
        "one_visit": (h.visits == 1).astype(np.float64),
        "two_visits": (h.visits == 2).astype(np.float64),
        "log_mean_visit": (np.log(h.mean_visit) - np.log(NEWCOMER_BASKET_CENTS)) / 2,
        "log_baskets_per_visit": np.log((h.baskets + 0.1) / (h.visits + 0.1)),
    }
    columns |= _gap_columns(h)
    spend_rate = np.maximum(h.spend, LEAST_BASKET_CENTS) / (h.tenure + 0.5 * horizon)
    for share in RECENT_HORIZONS:
        visits = h.by_visit.how_many(h.visit_age <= share * horizon)
        columns[f"log_visits_last_{share:g}"] = np.log1p(visits)
        if share >= 1:
            columns[f"visit_trend_{share:g}"] = np.log((visits + 0.3) / (h.expected_visits * share + 0.3))
    for share in (2.0, 4.0):
        spend = np.maximum(h.spend_within(share * horizon), 0)
        typical = spend_rate * share * horizon
        columns[f"spend_trend_{share:g}"] = np.log((spend + 0.3 * h.mean_visit) / (typical + 0.3 * h.mean_visit))
    columns |= _basket_columns(h)
    columns |= _calendar_columns(h)
    columns |= _browsing_columns(h)
    columns |= _category_columns(h)
    return columns


def _gap_columns(h: History) -> dict[str, Floats]:
    """How regular the customer is, and how unusual the present silence is for it."""
    visits, number = h.by_visit, np.maximum(h.visits - 1, 0)
    # One gap for each visit, and none before the first one: there it counts 0 in every sum.
    gap = np.empty(len(h.visit_age))
    gap[1:] = h.visit_age[:-1] - h.visit_age[1:]
    gap[visits.first] = 0.0
    log_gap = np.log(gap + 0.5)
    log_gap[visits.first] = 0.0
    mean_log = visits.total(log_gap) / np.maximum(number, 1)
    deviation = np.subtract(log_gap, np.repeat(mean_log, visits.count), out=log_gap)
    deviation[visits.first] = 0.0
    variance = visits.total(np.multiply(deviation, deviation, out=deviation)) / np.maximum(number - 1, 1)
    mean = visits.total(gap) / np.maximum(number, 1)
    longest, latest = visits.largest(gap), visits.latest(gap)
    longer = visits.how_many(gap > np.repeat(h.recency, visits.count))
    some = number > 0
    # With no gap yet, the horizon stands in: neither regular nor overdue.
    usual = np.where(some, mean, h.horizon)
    return {
        "log_usual_gap": np.log((usual + 0.5) / h.horizon),
        "log_silence_in_gaps": np.log((h.recency + 0.5) / (usual + 0.5)),
        "log_silence_in_typical_gaps": np.where(some, np.log(h.recency + 0.5) - mean_log, 0.0) / 2,
        "gap_spread": np.where(number > 1, np.sqrt(variance), 1.0),
        "log_longest_gap": np.where(some, np.log((longest + 0.5) / (mean + 0.5)), 0.0),
        "log_latest_gap": np.where(some, np.log((latest + 0.5) / (mean + 0.5)), 0.0),
        "silence_rank": np.where(some, (longer + 0.5) / (number + 1.0), 0.5) * 2 - 1,
        "log_silence_in_longest_gap": np.where(some, np.log((h.recency + 0.5) / (longest + 0.5)), 0.0) / 2,
    }


def _basket_columns(h: History) -> dict[str, Floats]:
    log_paid = np.log(np.maximum(h.paid, LEAST_BASKET_CENTS))
    number = np.maximum(h.baskets, 1)
    mean_log = h.by_basket.total(log_paid) / number
    latest = h.by_basket.latest(log_paid)
    deviation = np.subtract(log_paid, np.repeat(mean_log, h.by_basket.count), out=log_paid)
    variance = h.by_basket.total(np.multiply(deviation, deviation, out=deviation)) / np.maximum(h.baskets - 1, 1)
    lines = h.baskets  # as many, where no basket has several
    if h.all_baskets.lines.max(initial=1) > 1:
        lines = h.by_basket.total(h.all_baskets.lines.take(h.bought))
    quantity = h.by_basket.total(h.all_baskets.quantity.take(h.bought))
    any_bought = h.visits > 0
    log_mean = np.log(h.mean_visit)
    return {
        "basket_spread": np.where(h.baskets > 1, np.sqrt(variance), 0.7),
        "log_typical_basket": np.where(any_bought, mean_log - log_mean, 0.0),
        "log_latest_basket": np.where(any_bought, latest - log_mean, 0.0),
        "log_largest_basket": np.log((h.by_basket.largest(h.paid) + h.mean_visit) / (2 * h.mean_visit)),
        "log_lines": np.log((lines + 1) / (number + 1)) / 2,
        "log_quantity": np.log((np.maximum(quantity, 0) + 1) / (number + 1)) / 2,
        "returned_share": np.minimum(h.refunds / np.maximum(h.gross, LEAST_BASKET_CENTS), 1.0) * 2,
        "returns_per_basket": np.minimum(h.by_return.number / number, 2.0),
    }


def _calendar_columns(h: History) -> dict[str, Floats]:
    day = h.visit_day + 3  # since a Monday: 1970-01-01 was a Thursday
    weekend = h.by_visit.how_many(day - day // 7 * 7 >= 5)  # several times faster than the remainder
    # The coming horizon, one year ago: the customer's own season.
    last_year = h.by_visit.how_many((h.visit_age <= 365.25) & (h.visit_age > 365.25 - h.horizon))
    known = np.clip((h.tenure - 365.25) / h.horizon + 1, 0.0, 1.0)
    # The middle of the coming horizon as a point on the year's circle; a horizon of a year or more has no season.
    angle = 2 * np.pi * (h.now / SECONDS_PER_DAY + h.horizon / 2) / 365.25
    strength = max(0.0, 1 - h.horizon / 365.25)
    return {
        "season_cosine": np.full(h.num_rows, strength * np.cos(angle)),
        "season_sine": np.full(h.num_rows, strength * np.sin(angle)),
        "weekend_share": weekend / np.maximum(h.visits, 1) - 2 / 7,
        "log_visits_same_season": np.log((last_year + 0.3) / (h.expected_visits + 0.3)) * known,
        "same_season_known": known,
    }


def _browsing_columns(h: History) -> dict[str, Floats]:
    age = h.age[h.browsed]
    return {
        f"log_browsing_last_{share:g}": np.log1p(h.by_browsing.how_many(age <= share * h.horizon)) / 2
        for share in (0.125, 1.0)
    }


def _category_columns(h: History) -> dict[str, Floats]:
    # One count over rows and tokens at a time; the last of a row's tokens are the buckets.
    cell = np.repeat(np.arange(h.num_rows) * CATEGORY_TOKENS, h.by_basket.count)
    cell += h.category_token.take(h.bought)
    counts = np.bincount(cell, minlength=h.num_rows * CATEGORY_TOKENS).reshape(h.num_rows, CATEGORY_TOKENS)[:, 2:]
    shares = (counts / (counts.sum(axis=1, keepdims=True) + 1e-9)).T
    return {f"category_share_{bucket}": share for bucket, share in enumerate(shares)}
