"""What a customer did before a cutoff, as sums over its own events."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pp_model.baskets import Baskets, Places, first_of_run
from pp_model.schema import SECONDS_PER_DAY, EventType

Floats = NDArray[np.float64]

CATEGORY_BUCKETS = 8  # a power of two: the bucket of a category is its last bits
CATEGORY_TOKENS = CATEGORY_BUCKETS + 2  # 0 is padding, 1 no category, then the buckets
LEAST_BASKET_CENTS = 50.0
NEWCOMER_BASKET_CENTS = 3_000.0  # stands in for a mean basket where there is no purchase yet


class Groups:
    """Events of rows, those of a row side by side and in time order; a row may have none.

    A row's figures come from its own events alone and in their order: they are the same bits in any company.

    Attributes:
        row: [events], ascending.
        number: [rows], events of each.
        first, last: [rows with events], places of their first and last event.
    """

    def __init__(self, row: Places, *, num_rows: int) -> None:
        self.row = row
        self.first = np.flatnonzero(first_of_run(row))
        self.last = np.append(self.first[1:], len(row))[: len(self.first)] - 1
        self.present = row[self.first]
        self.number = np.zeros(num_rows)
        self.number[self.present] = self.last - self.first + 1

    def total(self, values: NDArray[Any]) -> Floats:
        """The sum of each row's values; 0 where there is none."""
        return self._reduced(np.add, values)

    def largest(self, values: NDArray[Any]) -> Floats:
        """The largest of each row's values; 0 where there is none."""
        return self._reduced(np.maximum, values)

    def latest(self, values: NDArray[Any]) -> Floats:
        """The last of each row's values; 0 where there is none."""
        found = np.zeros(len(self.number))
        found[self.present] = values[self.last]
        return found

    def _reduced(self, ufunc: np.ufunc, values: NDArray[Any]) -> Floats:
        found = np.zeros(len(self.number))
        if len(values):
            found[self.present] = ufunc.reduceat(values, self.first)
        return found


class History:
    """The past of some customers at one cutoff, one row each: who bought what, how long ago.

    Attributes:
        customer: [rows], ascending.
        past, bought, returned, browsed: places in `all_baskets`, of what was before the cutoff.
        by_event, by_basket, by_return, by_browsing, by_visit: the same, grouped by row.
        basket_age, visit_age: days from each of them to the cutoff, > 0.
        visit_day: days from 1970 to each visit.
        paid: cents of each purchase.
    """

    def __init__(self, all_baskets: Baskets, *, now: int, horizon: float) -> None:
        self.all_baskets, self.now, self.horizon = all_baskets, now, horizon
        self.past = np.flatnonzero(all_baskets.timestamp < now)
        bucket = (all_baskets.category & (CATEGORY_BUCKETS - 1)).astype(np.uint8)
        self.category_token = (bucket + 2) * (all_baskets.category >= 0) + (all_baskets.category < 0)
        customer, kind = all_baskets.customer.take(self.past), all_baskets.event_type.take(self.past)
        new = np.flatnonzero(first_of_run(customer))
        self.customer, self.num_rows = customer[new].astype(np.int64), len(new)
        row = np.repeat(np.arange(len(new)), np.diff(new, append=len(customer)))
        self.by_event = Groups(row, num_rows=len(new))
        self.bought, self.by_basket = self._those(kind == EventType.PURCHASE)
        self.returned, self.by_return = self._those(kind == EventType.RETURN)
        self.browsed, self.by_browsing = self._those(kind > EventType.RETURN)
        self.baskets, self.paid = self.by_basket.number, all_baskets.spend_cents.take(self.bought).astype(np.float64)
        # A visit is a day with at least one purchase: two baskets on one day are one decision to come.
        day = all_baskets.timestamp.take(self.bought) // SECONDS_PER_DAY
        visit = np.flatnonzero(first_of_run(self.by_basket.row, day))
        self.by_visit = Groups(self.by_basket.row.take(visit), num_rows=len(new))
        self.basket_age = self.age_days(self.bought)
        self.visit_age, self.visit_day, self.visits = self.basket_age.take(visit), day.take(visit), self.by_visit.number
        self.gross = self.by_basket.total(self.paid)
        self.refunds = 0.0 - self._refunded_within(np.inf)  # never minus zero: rows stay bit-identical
        self.spend = self.gross - self.refunds
        self.tenure = np.maximum(self.age_days(self.past[self.by_event.first]), 1.0)
        self.recency = np.where(self.visits > 0, self.by_visit.latest(self.visit_age), self.tenure)
        self.mean_visit = np.where(
            self.visits > 0,
            np.maximum(self.spend, 0.25 * self.gross) / np.maximum(self.visits, 1),
            NEWCOMER_BASKET_CENTS,
        ).clip(min=LEAST_BASKET_CENTS)
        # Visits expected in a horizon; half a horizon of prior time keeps a newcomer's single visit from exploding.
        self.expected_visits = self.visits * horizon / (self.tenure + 0.5 * horizon)

    def age_days(self, places: Places) -> Floats:
        """Days from these baskets to the cutoff."""
        return (self.now - self.all_baskets.timestamp.take(places)).astype(np.float64) / SECONDS_PER_DAY

    def spend_within(self, days: float) -> Floats:
        """Purchases less returns of the last `days`, in cents."""
        return self.by_basket.total(self.paid * (self.basket_age <= days)) + self._refunded_within(days)

    def _refunded_within(self, days: float) -> Floats:
        refunded = self.all_baskets.spend_cents[self.returned].astype(np.float64)
        return self.by_return.total(refunded * (self.age_days(self.returned) <= days))

    def _those(self, chosen: NDArray[np.bool_]) -> tuple[Places, Groups]:
        places = np.flatnonzero(chosen)
        return self.past.take(places), Groups(self.by_event.row.take(places), num_rows=self.num_rows)
