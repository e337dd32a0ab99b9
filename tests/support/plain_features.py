"""The features in the plainest numpy, all customers at a time: the twin of `features` for logs of any size.

One masked sum for each figure and one sort by all keys, without blocks, packed keys or shared sums.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from pp_model.features import FEATURE_NAMES, Examples, FeatureSpec
from pp_model.schema import SECONDS_PER_DAY, EventType, OrderLog, day_start

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CATEGORY_BUCKETS, TOKEN_FIELDS = 8, 4
RECENT_HORIZONS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
LEAST_BASKET_CENTS, NEWCOMER_BASKET_CENTS = 50.0, 3_000.0


@dataclass(frozen=True, kw_only=True)
class PlainBaskets:
    """The columns of `pp_model.baskets.Baskets`."""

    customer: Ints
    timestamp: Ints
    spend_cents: Ints
    quantity: Ints
    lines: Ints
    category: Ints
    event_type: Ints
    num_customers: int

    def select(self, rows: NDArray[np.bool_]) -> PlainBaskets:
        """The chosen baskets, still sorted."""
        columns = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "num_customers"}
        return PlainBaskets(**columns, num_customers=self.num_customers)


def plain_baskets(log: OrderLog) -> PlainBaskets:
    """The baskets of a log. A basket's time is its first line's, its category that of its most expensive line."""
    day = log.timestamp // SECONDS_PER_DAY
    # Every key down to the category takes part, so that the result does not depend on the order of the lines.
    keys = (log.category, np.abs(log.spend_cents), log.event_type, log.order, day, log.customer)
    lines = np.lexsort(keys)
    customer, order, kind = log.customer[lines], log.order[lines], log.event_type[lines]
    new = np.ones(len(lines), np.bool_)
    if len(lines):
        new[1:] = (
            (customer[1:] != customer[:-1])
            | (order[1:] != order[:-1])
            | (kind[1:] != kind[:-1])
            | (day[lines][1:] != day[lines][:-1])
        )
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], len(lines)) if len(starts) else starts

    def total(values: NDArray[np.int64] | NDArray[np.int32]) -> Ints:
        wide = values[lines].astype(np.int64)
        return np.add.reduceat(wide, starts) if len(starts) else wide

    first = np.minimum.reduceat(log.timestamp[lines], starts) if len(starts) else log.timestamp[lines]
    order_key, kind_key = order[starts], kind[starts]
    sort = np.lexsort((kind_key, order_key, first, customer[starts]))
    last_line = lines[ends - 1] if len(starts) else lines
    return PlainBaskets(
        customer=customer[starts].astype(np.int64)[sort],
        timestamp=first[sort],
        spend_cents=total(log.spend_cents)[sort],
        quantity=total(log.quantity)[sort],
        lines=(ends - starts)[sort],
        category=log.category[last_line].astype(np.int64)[sort],
        event_type=kind_key.astype(np.int64)[sort],
        num_customers=log.num_customers,
    )


def plain_examples(log: OrderLog, cutoffs: Sequence[dt.date], spec: FeatureSpec) -> Examples:
    """What `build_examples` must give."""
    baskets = plain_baskets(log)
    parts = [_rows_at(baskets, cutoff, spec) for cutoff in cutoffs]
    return Examples(
        features=np.concatenate([part.features for part in parts]),
        sequence=np.concatenate([part.sequence for part in parts]),
        log_anchor=np.concatenate([part.log_anchor for part in parts]),
        spend_cents=np.concatenate([part.spend_cents for part in parts]),
        customer=np.concatenate([part.customer for part in parts]),
        num_customers=log.num_customers,
    )


def _rows_at(baskets: PlainBaskets, cutoff: dt.date, spec: FeatureSpec) -> Examples:
    now = day_start(cutoff)
    past = baskets.select(baskets.timestamp < now)
    end = now + spec.horizon_days * SECONDS_PER_DAY
    ahead = baskets.select((baskets.timestamp >= now) & (baskets.timestamp < end))
    label = np.zeros(baskets.num_customers, np.int64)
    np.add.at(label, ahead.customer, ahead.spend_cents)
    customers, row = np.unique(past.customer, return_inverse=True)
    history = _History(past, row=row, num_rows=len(customers), now=now, horizon=float(spec.horizon_days))
    columns = _feature_columns(history)
    features = np.stack([columns[name] for name in FEATURE_NAMES], axis=1)
    return Examples(
        features=np.clip(np.nan_to_num(features), -6.0, 6.0).astype(np.float32),
        sequence=_sequences(history, spec.sequence_length),
        log_anchor=_log_anchor(history).astype(np.float32),
        spend_cents=np.maximum(label[customers], 0),
        customer=customers.astype(np.int64),
        num_customers=baskets.num_customers,
    )


class _History:
    """The past of every row at one cutoff: who bought what, how long ago, in horizons."""

    def __init__(self, past: PlainBaskets, *, row: NDArray[np.intp], num_rows: int, now: int, horizon: float) -> None:
        self.past, self.row, self.num_rows = past, row, num_rows
        self.now, self.horizon = now, horizon
        self.age_days = (now - past.timestamp) / SECONDS_PER_DAY
        self.bought = past.event_type == EventType.PURCHASE
        self.returned = past.event_type == EventType.RETURN
        # A visit is a day with at least one purchase: two baskets on one day are one decision to come.
        day = past.timestamp // SECONDS_PER_DAY
        buys = np.flatnonzero(self.bought)
        first = np.ones(len(buys), np.bool_)
        first[1:] = (row[buys][1:] != row[buys][:-1]) | (day[buys][1:] != day[buys][:-1])
        self.visit = buys[first]
        self.visits = self.count(self.row[self.visit])
        self.baskets = self.count(self.row[buys])
        self.spend = self.total(past.spend_cents, self.bought | self.returned)
        self.gross = self.total(past.spend_cents, self.bought)
        self.refunds = 0.0 - self.total(past.spend_cents, self.returned)  # never minus zero: rows stay bit-identical
        self.tenure = np.maximum(self.extreme(self.age_days, np.maximum), 1.0)
        visit_age = np.full(num_rows, np.nan)
        visit_age[self.row[self.visit]] = self.age_days[self.visit]  # rows are in time order: the last one stays
        self.recency = np.where(self.visits > 0, visit_age, self.tenure)
        self.mean_visit = np.where(
            self.visits > 0,
            np.maximum(self.spend, 0.25 * self.gross) / np.maximum(self.visits, 1),
            NEWCOMER_BASKET_CENTS,
        ).clip(min=LEAST_BASKET_CENTS)
        # Visits expected in a horizon; half a horizon of prior time keeps a newcomer's single visit from exploding.
        self.expected_visits = self.visits * horizon / (self.tenure + 0.5 * horizon)

    def count(self, rows: NDArray[np.intp]) -> Floats:
        return np.bincount(rows, minlength=self.num_rows).astype(np.float64)

    def total(self, values: NDArray[np.int64] | Floats, where: NDArray[np.bool_]) -> Floats:
        sums = np.bincount(self.row[where], values[where].astype(np.float64), minlength=self.num_rows)
        return np.asarray(sums, np.float64)

    def extreme(self, values: Floats, ufunc: np.ufunc) -> Floats:
        """The largest or smallest value of each row; every row has at least one event."""
        starts = np.flatnonzero(np.diff(self.row, prepend=-1))
        return np.asarray(ufunc.reduceat(values, starts), np.float64) if len(starts) else np.zeros(0)


def _log_anchor(h: _History) -> Floats:
    # E[visits | at least one] of a Poisson number with the customer's own rate.
    rate = np.maximum(h.expected_visits, 1e-3)
    return np.asarray(np.log(h.mean_visit * rate / -np.expm1(-rate)), np.float64)


def _feature_columns(h: _History) -> dict[str, Floats]:
    horizon, eps = h.horizon, 1e-9
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
        recent = h.age_days[h.visit] <= share * horizon
        visits = h.count(h.row[h.visit[recent]])
        columns[f"log_visits_last_{share:g}"] = np.log1p(visits)
        if share >= 1:
            columns[f"visit_trend_{share:g}"] = np.log((visits + 0.3) / (h.expected_visits * share + 0.3))
    for share in (2.0, 4.0):
        spend = np.maximum(h.total(h.past.spend_cents, (h.age_days <= share * horizon) & (h.bought | h.returned)), 0)
        typical = spend_rate * share * horizon
        columns[f"spend_trend_{share:g}"] = np.log((spend + 0.3 * h.mean_visit) / (typical + 0.3 * h.mean_visit))
    columns |= _basket_columns(h)
    columns |= _calendar_columns(h)
    for share in (0.125, 1.0):
        recent_browse = ~(h.bought | h.returned) & (h.age_days <= share * horizon)
        columns[f"log_browsing_last_{share:g}"] = np.log1p(h.count(h.row[recent_browse])) / 2
    category = np.where(h.past.category >= 0, h.past.category % CATEGORY_BUCKETS, -1)
    named = h.bought & (category >= 0)
    all_named = h.count(h.row[named]) + eps
    for bucket in range(CATEGORY_BUCKETS):
        columns[f"category_share_{bucket}"] = h.count(h.row[named & (category == bucket)]) / all_named
    return columns


def _gap_columns(h: _History) -> dict[str, Floats]:
    """How regular the customer is, and how unusual the present silence is for it."""
    row = h.row[h.visit]
    same = row[1:] == row[:-1]
    gap = (h.age_days[h.visit][:-1] - h.age_days[h.visit][1:])[same]
    row = row[1:][same]
    number = np.bincount(row, minlength=h.num_rows)
    log_gap = np.log(gap + 0.5)
    mean_log = np.bincount(row, log_gap, minlength=h.num_rows) / np.maximum(number, 1)
    variance = np.bincount(row, (log_gap - mean_log[row]) ** 2, minlength=h.num_rows) / np.maximum(number - 1, 1)
    mean = np.bincount(row, gap, minlength=h.num_rows) / np.maximum(number, 1)
    longest = np.zeros(h.num_rows)
    np.maximum.at(longest, row, gap)
    latest = np.zeros(h.num_rows)
    latest[row] = gap  # rows are in time order: the last one stays
    longer = np.bincount(row, gap > h.recency[row], minlength=h.num_rows)
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


def _basket_columns(h: _History) -> dict[str, Floats]:
    spend = h.past.spend_cents.astype(np.float64)
    log_spend = np.log(np.maximum(spend, LEAST_BASKET_CENTS))
    number = np.maximum(h.baskets, 1)
    mean_log = h.total(log_spend, h.bought) / number
    variance = h.total((log_spend - mean_log[h.row]) ** 2, h.bought) / np.maximum(h.baskets - 1, 1)
    latest = np.full(h.num_rows, np.log(NEWCOMER_BASKET_CENTS))
    latest[h.row[h.bought]] = log_spend[h.bought]
    largest = np.where(h.bought, spend, 0.0)
    any_bought = h.visits > 0
    log_mean = np.log(h.mean_visit)
    return {
        "basket_spread": np.where(h.baskets > 1, np.sqrt(variance), 0.7),
        "log_typical_basket": np.where(any_bought, mean_log - log_mean, 0.0),
        "log_latest_basket": np.where(any_bought, latest - log_mean, 0.0),
        "log_largest_basket": np.log((h.extreme(largest, np.maximum) + h.mean_visit) / (2 * h.mean_visit)),
        "log_lines": np.log((h.total(h.past.lines.astype(np.float64), h.bought) + 1) / (number + 1)) / 2,
        "log_quantity": np.log((np.maximum(h.total(h.past.quantity, h.bought), 0) + 1) / (number + 1)) / 2,
        "returned_share": np.minimum(h.refunds / np.maximum(h.gross, LEAST_BASKET_CENTS), 1.0) * 2,
        "returns_per_basket": np.minimum(h.count(h.row[h.returned]) / number, 2.0),
    }


def _calendar_columns(h: _History) -> dict[str, Floats]:
    weekday = (h.past.timestamp[h.visit] // SECONDS_PER_DAY + 3) % 7  # 1970-01-01 was a Thursday
    weekend = h.count(h.row[h.visit[weekday >= 5]])
    # The coming horizon, one year ago: the customer's own season.
    age = h.age_days[h.visit]
    last_year = h.count(h.row[h.visit[(age <= 365.25) & (age > 365.25 - h.horizon)]])
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


def _sequences(h: _History, length: int) -> NDArray[np.uint8]:
    tokens = np.zeros((h.num_rows, length, TOKEN_FIELDS), np.uint8)
    if not h.num_rows:
        return tokens
    starts = np.flatnonzero(np.diff(h.row, prepend=-1))
    ends = np.append(starts[1:], len(h.row))
    from_end = ends[h.row] - 1 - np.arange(len(h.row))
    keep = from_end < length
    place = (h.row[keep], length - 1 - from_end[keep])
    gap = np.zeros(len(h.row))
    gap[1:] = np.where(h.row[1:] == h.row[:-1], h.age_days[:-1] - h.age_days[1:], 0.0)
    category = np.where(h.past.category >= 0, h.past.category % CATEGORY_BUCKETS + 2, 1)
    relative = np.abs(h.past.spend_cents) / h.mean_visit[h.row]
    amount = np.where(h.past.spend_cents == 0, 1, np.clip(np.round(2 * np.log2(relative + 1e-9)) + 9, 2, 15))
    pause = np.clip(np.round(1.5 * np.log2((gap + 0.05) / h.horizon)) + 12, 1, 15)
    for field, values in enumerate((category, amount, pause, h.past.event_type + 1)):
        tokens[(*place, field)] = values[keep].astype(np.uint8)
    return tokens
