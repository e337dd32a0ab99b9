"""What a customer did before a cutoff, as sums over its own events."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pp_model.baskets import Baskets, Places, first_of_run
from pp_model.schema import SECONDS_PER_DAY, EventType

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

CATEGORY_BUCKETS = 8  # a power of two: the bucket of a category is its last bits
CATEGORY_TOKENS = CATEGORY_BUCKETS + 2  # 0 is padding, 1 no category, then the buckets
LEAST_BASKET_CENTS = 50.0
NEWCOMER_BASKET_CENTS = 3_000.0  # stands in for a mean basket where there is no purchase yet


class Groups:
    """Events of rows, those of a row side by side and in time order; a row may have none.

    A row's figures come from its own events alone and in their order: they are the same bits in any company.

    Attributes:
        count, number: [rows], events of each, as integers and as floats.
        first, last: [rows with events], places of their first and last event.
    """

    def __init__(self, count: Places) -> None:
        self.count, self.number, end = count, count.astype(np.float64), np.cumsum(count)
        self.present = np.flatnonzero(count)
        self.first, self.last = (end - count)[self.present], end[self.present] - 1
        self._counter = np.min_scalar_type(count.max(initial=0))  # counting in bytes is twice as fast, where they hold

    def total(self, values: NDArray[Any]) -> Floats:
        """The sum of each row's values; 0 where there is none."""
        return self._by_row(np.add.reduceat(values, self.first))

    def how_many(self, chosen: Mask) -> Floats:
        """The number of each row's chosen events."""
        return self._by_row(np.add.reduceat(chosen.view(np.uint8), self.first, dtype=self._counter))

    def largest(self, values: NDArray[Any]) -> Floats:
        """The largest of each row's values; 0 where there is none."""
        return self._by_row(np.maximum.reduceat(values, self.first))

    def latest(self, values: NDArray[Any]) -> Floats:
        """The last of each row's values; 0 where there is none."""
        return self._by_row(values[self.last])

    def _by_row(self, values: NDArray[Any]) -> Floats:
        found = np.zeros(len(self.count))
        found[self.present] = values
        return found


class History:
    """The past of some customers at one cutoff, one row each: who bought what, how long ago.

    Attributes:
        customer: [rows], ascending.
        start, stop: [rows], places in `all_baskets` of the customer's first basket and of the next customer's.
        age: days from each of `all_baskets` to the cutoff.
        before: which of them were before the cutoff; bought, browsed: places of those that were.
        by_event, by_basket, by_return, by_browsing, by_visit: what was before the cutoff, grouped by row.
        basket_age, visit_age: days from each of them to the cutoff, > 0.
        visit_day: days from 1970 to each visit.
        paid, refunded, refund_age: cents of each purchase; of each return, < 0, and days from it to the cutoff.
    """

    def __init__(self, all_baskets: Baskets, *, now: int, horizon: float) -> None:
        self.all_baskets, self.now, self.horizon = all_baskets, now, horizon
        self.age = (now - all_baskets.timestamp).astype(np.float64)
        self.age /= SECONDS_PER_DAY
        bucket = (all_baskets.category & (CATEGORY_BUCKETS - 1)).astype(np.uint8)
        self.category_token = np.where(all_baskets.category < 0, np.uint8(1), bucket + np.uint8(2))
        self.before, kind = self.age > 0, all_baskets.event_type
        first = np.flatnonzero(first_of_run(all_baskets.customer))
        past = Groups(np.diff(first, append=len(kind))).how_many(self.before).astype(np.intp)
        rows = np.flatnonzero(past)  # a customer's past comes first among its baskets
        self.start, self.stop = first[rows], np.append(first[1:], len(kind))[rows]
        self.customer, self.num_rows = all_baskets.customer[self.start], len(rows)
        bought = self.before & (kind == EventType.PURCHASE)
        other = np.flatnonzero(self.before & ~bought)
        returned, self.by_return = self._those(other[kind[other] == EventType.RETURN])
        self.browsed, self.by_browsing = self._those(other[kind[other] > EventType.RETURN])
        self.by_event = Groups(past[rows])
        self.bought = np.flatnonzero(bought)
        self.by_basket = Groups(self.by_event.count - self.by_return.count - self.by_browsing.count)
        self.baskets, self.paid = self.by_basket.number, all_baskets.spend_cents.take(self.bought).astype(np.float64)
        # A visit is a day with at least one purchase: two baskets on one day are one decision to come.
        day = all_baskets.timestamp.take(self.bought) // SECONDS_PER_DAY
        new_day = first_of_run(day)
        new_day[self.by_basket.first] = True
        visit = np.flatnonzero(new_day)
        self.by_visit = Groups(self.by_basket.how_many(new_day).astype(np.intp))
        self.basket_age = self.age.take(self.bought)
        self.visits, self.visit_age = self.by_visit.number, self.basket_age.take(visit)
        self.visit_day = day.take(visit).astype(np.int32)
        self.gross = self.by_basket.total(self.paid)
        self.refunded, self.refund_age = all_baskets.spend_cents[returned].astype(np.float64), self.age[returned]
        self.refunds = 0.0 - self._refunded_within(np.inf)  # never minus zero: rows stay bit-identical
        self.spend = self.gross - self.refunds
        self.tenure = np.maximum(self.age[self.start], 1.0)
        self.recency = np.where(self.visits > 0, self.by_visit.latest(self.visit_age), self.tenure)
        self.mean_visit = np.where(
            self.visits > 0,
            np.maximum(self.spend, 0.25 * self.gross) / np.maximum(self.visits, 1),
            NEWCOMER_BASKET_CENTS,
        ).clip(min=LEAST_BASKET_CENTS)
        # Visits expected in a horizon; half a horizon of prior time keeps a newcomer's single visit from exploding.
        self.expected_visits = self.visits * horizon / (self.tenure + 0.5 * horizon)

    def spend_within(self, days: float) -> Floats:
        """Purchases less returns of the last `days`, in cents."""
        return self.by_basket.total(self.paid * (self.basket_age <= days)) + self._refunded_within(days)

    def _refunded_within(self, days: float) -> Floats:
        return self.by_return.total(self.refunded * (self.refund_age <= days))

    def _those(self, places: Places) -> tuple[Places, Groups]:
        return places, Groups(np.diff(np.searchsorted(places, self.start), append=len(places)))
