"""What orders say of each customer without a model: how often, how much, when, and on what."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pp_model.baskets import first_of_run
from pp_model.schema import SECONDS_PER_DAY, EventType, OrderLog, day_start

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

HALF_LIFE_DAYS = 180.0  # of an interest: what was bought half a year ago counts half
NEVER = np.iinfo(np.int32).min  # the day of a purchase that there was not
_DAY_BITS = 20  # of a day or a gap within a packed number: the years 1900 to 2200 need 17
_EPOCH = dt.date(1970, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Columns by customer code.

    Attributes:
        visits: days with a purchase.
        spend_cents: purchases less returns.
        first_day, last_day: of purchases, in days since 1970; `NEVER` without one.
        usual_gap_days: the median of days between a visit and the next; NaN with fewer than two visits.
    """

    visits: Ints
    spend_cents: Ints
    first_day: Ints
    last_day: Ints
    usual_gap_days: Floats


def facts_of(log: OrderLog) -> Facts:
    """The facts of a log's customers."""
    number, bought = log.num_customers, log.event_type == EventType.PURCHASE
    day = log.timestamp[bought] // SECONDS_PER_DAY
    least = int(day.min()) if len(day) else 0
    customer, day = _sorted_pairs(log.customer[bought], day - least)
    new = first_of_run(customer, day)
    customer, day = customer[new], day[new]
    visits = np.bincount(customer, minlength=number)
    first, last = np.full(number, NEVER, np.int64), np.full(number, NEVER, np.int64)
    first[customer[::-1]] = day[::-1] + least  # of several the last assigned stays
    last[customer] = day + least
    follows = ~first_of_run(customer)
    gap_of, gap = _sorted_pairs(customer[follows], np.diff(day, prepend=0)[follows])
    return Facts(
        visits=visits,
        spend_cents=np.rint(np.bincount(log.customer, weights=log.spend_cents, minlength=number)).astype(np.int64),
        first_day=first,
        last_day=last,
        usual_gap_days=_medians(gap_of, gap, number),
    )


@dataclass(frozen=True, kw_only=True)
class Interests:
    """What customers spend on: rows of a customer and a category, by customer, the largest share first.

    Attributes:
        starts: [customers + 1], where each customer's rows begin, and end.
        customer, category: of each row; the category is a place in `codes`.
        share: of the customer's own spend, with older spend counting less; a customer's shares sum to 1.
        codes: category codes, `NO_CATEGORY` for money spent in none.
    """

    starts: Ints
    customer: Ints
    category: Ints
    share: Floats
    codes: NDArray[np.int32]

    def top(self, place: int) -> tuple[NDArray[np.int32], Floats]:
        """Of every customer: the code of its category in this place (0 is the largest) and its share.

        Money spent in no category has no place. Without one the code is that of no category and the share NaN.
        """
        named = np.flatnonzero(self.codes[self.category] >= 0)
        starts = np.searchsorted(self.customer[named], np.arange(len(self.starts)))
        there = starts[:-1] + place < starts[1:]
        rows = named[(starts[:-1] + place)[there]]
        codes, shares = np.full(len(there), -1, np.int32), np.full(len(there), np.nan)
        codes[there], shares[there] = self.codes[self.category[rows]], self.share[rows]
        return codes, shares


def interests_of(log: OrderLog, *, cutoff: dt.date) -> Interests:
    """The interests of a log's customers: net spend by category, halved for each `HALF_LIFE_DAYS` that it is old.

    A category in which a customer got back as much as it paid is none of its interests.
    """
    paid = np.flatnonzero(log.spend_cents)
    codes, place = np.unique(log.category[paid], return_inverse=True)
    age_days = (day_start(cutoff) - log.timestamp[paid]) / SECONDS_PER_DAY
    counted = log.spend_cents[paid] * np.exp2(-age_days / HALF_LIFE_DAYS)
    keys, row = np.unique(log.customer[paid].astype(np.int64) * max(len(codes), 1) + place, return_inverse=True)
    spent = summed(row, counted, len(keys))
    keys, spent = keys[spent > 0], spent[spent > 0]
    customer, category = np.divmod(keys, max(len(codes), 1))
    share = spent / summed(customer, spent, log.num_customers)[customer]
    order = np.lexsort((category, -share, customer))
    return Interests(
        starts=np.searchsorted(customer, np.arange(log.num_customers + 1)),
        customer=customer,  # sorted already
        category=category[order],
        share=share[order],
        codes=codes,
    )


def summed(places: NDArray[np.integer], values: NDArray[Any], number: int) -> Floats:
    """[number]: the sum of the values at each place."""
    return np.asarray(np.bincount(places, weights=values, minlength=number), np.float64)


def as_date(day: int) -> dt.date | None:
    """The date of a day since 1970; None for `NEVER`."""
    return None if day == NEVER else _EPOCH + dt.timedelta(days=int(day))


def _sorted_pairs(customer: NDArray[np.int32] | Ints, value: Ints) -> tuple[Ints, Ints]:
    """Both columns in the order of customer, then value; values are small and not negative."""
    packed = (customer.astype(np.int64) << _DAY_BITS) | value
    packed.sort()
    return packed >> _DAY_BITS, packed & ((1 << _DAY_BITS) - 1)


def _medians(customer: Ints, value: Ints, number: int) -> Floats:
    """The median of each customer's values, which stand in order; NaN where there is none."""
    starts = np.searchsorted(customer, np.arange(number + 1))
    count = np.diff(starts)
    some, found = count > 0, np.full(number, np.nan)
    low, high = (starts[:-1] + (count - 1) // 2)[some], (starts[:-1] + count // 2)[some]
    found[some] = (value[low] + value[high]) / 2
    return found
