"""Lines of one order into one basket: the unit in which a customer decides."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from pp_model.schema import SECONDS_PER_DAY, OrderLog

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Baskets:
    """Baskets as columns, sorted by customer, then time; ties stand in the order of the order's fingerprint.

    A basket is all lines of one customer, day, order and event type. The day belongs to it because cutoffs fall on
    midnight: an order continued after a cutoff must not show its later lines before it.
    """

    customer: Ints
    timestamp: Ints
    spend_cents: Ints
    quantity: Ints
    lines: Ints
    category: Ints
    event_type: Ints
    num_customers: int

    def select(self, rows: NDArray[np.bool_]) -> Baskets:
        """The chosen baskets, still sorted."""
        columns = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "num_customers"}
        return Baskets(**columns, num_customers=self.num_customers)


def baskets_of(log: OrderLog) -> Baskets:
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
    return Baskets(
        customer=customer[starts].astype(np.int64)[sort],
        timestamp=first[sort],
        spend_cents=total(log.spend_cents)[sort],
        quantity=total(log.quantity)[sort],
        lines=(ends - starts)[sort],
        category=log.category[last_line].astype(np.int64)[sort],
        event_type=kind_key.astype(np.int64)[sort],
        num_customers=log.num_customers,
    )
