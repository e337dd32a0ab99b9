"""Orders into bounded tensors and labels at a cutoff, by public constants alone.

Nothing here is fitted: no mean, maximum, quantile or vocabulary of the data, so that one customer's row does not
depend on any other customer (checklist D10 to D13). Durations are measured in horizons, money against the
customer's own mean basket, so that one model serves every rhythm and every currency.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pp_model.baskets import Baskets, Ints, basket_blocks, baskets_of
from pp_model.errors import ConfigError
from pp_model.feature_columns import RECENT_HORIZONS, feature_columns, log_anchor
from pp_model.feature_history import CATEGORY_TOKENS, Floats, History
from pp_model.schema import EventType, OrderLog, day_start, order_log

FEATURE_BOUND = 6.0
YEAR_DAYS = 364  # whole weeks

# Tokens of the sequence; 0 is padding in every field.
AMOUNT_TOKENS, GAP_TOKENS, EVENT_TOKENS = 16, 16, len(EventType) + 1
TOKEN_SIZES = (CATEGORY_TOKENS, AMOUNT_TOKENS, GAP_TOKENS, EVENT_TOKENS)


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """What the model sees of a customer; public, in the plan, the same for every merchant."""

    horizon_days: int
    sequence_length: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.horizon_days <= 730:
            raise ConfigError(f"features.horizon_days is {self.horizon_days}; allowed: 1 to 730")
        if not 1 <= self.sequence_length <= 512:
            raise ConfigError(f"features.sequence_length is {self.sequence_length}; allowed: 1 to 512")


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Rows of one customer at one cutoff each; a customer's rows belong to one example of the private step.

    Attributes:
        features: float32 [rows, len(FEATURE_NAMES)], each bounded.
        sequence: uint8 [rows, sequence_length, 4], tokens (category, amount, gap, event type), newest last,
            0 = padding.
        log_anchor: float32 [rows], log cents that the customer would spend, given a purchase, at its own past rate.
        spend_cents: int64 [rows], the label: net spend in the horizon, at least 0.
        customer: int64 [rows], ascending within each cutoff's block.
        num_customers: customers who may have rows.
    """

    features: NDArray[np.float32]
    sequence: NDArray[np.uint8]
    log_anchor: NDArray[np.float32]
    spend_cents: NDArray[np.int64]
    customer: NDArray[np.int64]
    num_customers: int

    def __len__(self) -> int:
        return len(self.customer)

    def select(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Examples:
        """The chosen rows; customer codes stay."""
        return Examples(**{name: getattr(self, name)[rows] for name in _COLUMNS}, num_customers=self.num_customers)


_COLUMNS = ("features", "sequence", "log_anchor", "spend_cents", "customer")


def training_cutoffs(holdout_start: dt.date, *, horizon_days: int, count: int) -> tuple[dt.date, ...]:
    """The `count` newest cutoffs, one horizon apart, and the one a year before the holdout; newest first.

    The newest label window ends where the holdout starts: what customers do now is learnt from it. The one a year
    before covers the holdout's own season, 52 weeks back so that weekdays match; it is left out where it is not older
    than the others.
    """
    newest = [holdout_start - dt.timedelta(days=horizon_days * (i + 1)) for i in range(count)]
    year_before = holdout_start - dt.timedelta(days=YEAR_DAYS)
    return (*newest, year_before) if year_before < newest[-1] else tuple(newest)


def build_examples(log: OrderLog, cutoffs: Sequence[dt.date], spec: FeatureSpec) -> Examples:
    """One row for each customer and cutoff with an event before it; features and sequence from the past only.

    The label counts purchases less returns in [cutoff, cutoff + horizon), floored at 0; where the log ends earlier,
    it counts what is there.
    """
    parts: list[list[Examples]] = [[] for _ in cutoffs]
    for baskets in basket_blocks(log):
        for of_cutoff, cutoff in zip(parts, cutoffs, strict=True):
            of_cutoff.append(rows_at(baskets, cutoff, spec))
    rows = [part for of_cutoff in parts for part in of_cutoff]
    columns = {name: np.concatenate([getattr(part, name) for part in rows]) for name in _COLUMNS}
    return Examples(**columns, num_customers=log.num_customers)


def rows_at(baskets: Baskets, cutoff: dt.date, spec: FeatureSpec) -> Examples:
    """The rows of `build_examples` at one cutoff, of the customers of these baskets: a block's, say."""
    now = day_start(cutoff)
    history = History(baskets, now=now, horizon=float(spec.horizon_days))
    columns = feature_columns(history)
    features = np.empty((history.num_rows, len(FEATURE_NAMES)), np.float32)
    for place, name in enumerate(FEATURE_NAMES):
        features[:, place] = columns[name]
    np.clip(features, -FEATURE_BOUND, FEATURE_BOUND, out=features)
    features[np.isnan(features)] = 0.0
    return Examples(
        features=features,
        sequence=_sequences(history, spec.sequence_length),
        log_anchor=log_anchor(history).astype(np.float32),
        spend_cents=_labels(history),
        customer=history.customer,
        num_customers=baskets.num_customers,
    )


def _labels(h: History) -> Ints:
    """Net spend of each row's customer in the horizon, at least 0."""
    ahead = np.flatnonzero((h.age > -h.horizon) & ~h.before)
    spend = np.append(0, np.cumsum(h.all_baskets.spend_cents.take(ahead)))
    label = spend[np.searchsorted(ahead, h.stop)] - spend[np.searchsorted(ahead, h.start)]
    return np.asarray(np.maximum(label, 0), np.int64)


def _sequences(h: History, length: int) -> NDArray[np.uint8]:
    kept = np.minimum(h.by_event.count, length)
    row_end = np.cumsum(kept)
    newest = np.arange(kept.sum())
    slot = newest + np.repeat(np.arange(1, h.num_rows + 1) * length - row_end, kept)
    places = newest + np.repeat(h.start + h.by_event.count - row_end, kept)
    age, oldest = h.age.take(places), row_end - kept
    gap = np.empty(len(age))
    np.subtract(age[:-1], age[1:], out=gap[1:])
    before = h.age.take(np.maximum(places.take(oldest) - 1, h.start))  # of the event before the oldest one kept, if any
    gap[oldest] = before - age[oldest]
    spend = h.all_baskets.spend_cents.take(places)
    relative = np.abs(spend.astype(np.float64)) / np.repeat(h.mean_visit, kept)
    tokens = np.empty((len(places), len(TOKEN_SIZES)), np.uint8)
    tokens[:, 0] = h.category_token.take(places)
    tokens[:, 1] = _logarithmic(relative + 1e-9, steps=2, middle=9, least=2, most=AMOUNT_TOKENS - 1)
    tokens[spend == 0, 1] = 1
    tokens[:, 2] = _logarithmic((gap + 0.05) / h.horizon, steps=1.5, middle=12, least=1, most=GAP_TOKENS - 1)
    tokens[:, 3] = h.all_baskets.event_type.take(places) + 1
    sequence = np.zeros((h.num_rows, length, len(TOKEN_SIZES)), np.uint8)
    sequence.view(np.uint32).reshape(-1)[slot] = tokens.view(np.uint32)[:, 0]  # the four tokens of an event at once
    return sequence


def _logarithmic(values: Floats, *, steps: float, middle: int, least: int, most: int) -> Floats:
    """Tokens of so many steps an octave; `middle` is that of 1. The memory of `values` is used again."""
    np.log2(values, out=values)
    np.multiply(values, steps, out=values)
    np.round(values, out=values)
    np.add(values, middle, out=values)
    return np.clip(values, least, most, out=values)


# What the encoder reads: a customer's rhythm, silence and basket, the same in every kind of shop. The other features
# mean something else in every shop (how many lines a basket has, which category is which), so a model trained on
# synthetic shops must not lean on them; only the readout, trained on real customers, sees them.
CORE_FEATURES: tuple[str, ...] = (
    *("log_recency", "recency", "log_tenure", "log_visits", "log_expected_visits", "buying_probability_at_own_rate"),
    *("no_visit", "one_visit", "two_visits"),
    *(f"log_visits_last_{share:g}" for share in RECENT_HORIZONS),
    *("basket_spread", "log_typical_basket", "log_latest_basket", "log_largest_basket"),
    *("spend_trend_2", "spend_trend_4"),
)


def _feature_names() -> tuple[str, ...]:
    history = History(baskets_of(order_log([], num_customers=0)), now=0, horizon=1.0)
    others = [name for name in feature_columns(history) if name not in CORE_FEATURES]
    return (*CORE_FEATURES, *others)


FEATURE_NAMES: tuple[str, ...] = _feature_names()
