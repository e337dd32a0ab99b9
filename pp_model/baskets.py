"""Lines of one order into one basket: the unit in which a customer decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pp_model.schema import NO_CATEGORY, SECONDS_PER_DAY, EventType, OrderLog

Ints = NDArray[np.int64]
Kinds = NDArray[np.int8]
Places = NDArray[np.intp]

KIND_BITS = (len(EventType) - 1).bit_length()
LINES_AT_ONCE = 16_384  # packed
LINES_PER_BLOCK = 100_000  # a column of a block is less than a megabyte: the few in use at a time stay in the cache


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
    event_type: Kinds
    num_customers: int


def baskets_of(log: OrderLog) -> Baskets:
    """The baskets of a log. A basket's time is its first line's, its category that of its most expensive line."""
    return next(basket_blocks(log, lines_per_block=max(len(log), 1)))


def basket_blocks(log: OrderLog, *, lines_per_block: int = LINES_PER_BLOCK) -> Iterator[Baskets]:
    """The baskets of a log, some customers at a time in ascending order; at least one block, each customer in one."""
    lines = _Lines(log)
    for places, customer, kind, new_day in lines.blocks(lines_per_block):
        yield _baskets(lines, places, customer, kind, new_day)


class _Lines:
    """The lines of a log, to be read by customer, day and kind of event, with one random access for all columns.

    Customer, day, kind and place of a line are one integer: sorting these is many times faster than sorting places by
    several keys. Two more have what else is known of the line side by side: quantity and category, spend and time.
    Times or spend in a range that no shop has do not fit, and change only the speed.
    """

    def __init__(self, log: OrderLog) -> None:
        first, last = (int(log.timestamp.min()), int(log.timestamp.max())) if len(log) else (0, 0)
        largest = max(int(log.spend_cents.max()), -int(log.spend_cents.min())) if len(log) else 0
        self.log, self.midnight = log, first // SECONDS_PER_DAY * SECONDS_PER_DAY
        self.time_bits, self.place_bits = (last - self.midnight).bit_length(), len(log).bit_length()
        self.day_bits = ((last - self.midnight) // SECONDS_PER_DAY).bit_length()
        self.spend_fits = largest.bit_length() + self.time_bits <= 63
        self.key_fits = log.num_customers.bit_length() + self.day_bits + KIND_BITS + self.place_bits <= 63
        self.cells, self.key = np.empty((len(log), 2), np.int64), np.arange(len(log))
        for start in range(0, len(log), LINES_AT_ONCE):
            self._pack(slice(start, start + LINES_AT_ONCE))

    def _pack(self, part: slice) -> None:
        log, cells, narrow = self.log, self.cells[part], self.cells[part].view(np.int32)
        narrow[:, 0], narrow[:, 1] = log.quantity[part], log.category[part]
        time, key = log.timestamp[part] - self.midnight, log.customer[part].astype(np.int64)
        key = (key << self.day_bits) + time // SECONDS_PER_DAY
        key = (key << KIND_BITS) + log.event_type[part]
        self.key[part] += key << self.place_bits
        cells[:, 1] = (log.spend_cents[part] << self.time_bits) + time if self.spend_fits else time

    def blocks(self, lines_per_block: int) -> Iterator[tuple[Places, Ints, Kinds, NDArray[np.bool_]]]:
        """Places of lines in order, their customers and kinds of event, and where a customer's day begins."""
        key, log = self.key, self.log
        if not self.key_fits:
            order = np.lexsort((log.event_type, log.timestamp // SECONDS_PER_DAY, log.customer))
            customer = log.customer.take(order).astype(np.int64)
            for start, end in pairwise(_cuts(customer, customer[::lines_per_block])):
                places, ours = order[start:end], customer[start:end]
                day = log.timestamp.take(places) // SECONDS_PER_DAY
                yield places, ours, log.event_type.take(places), first_of_run(ours, day)
            return
        key.sort()
        above = self.place_bits + KIND_BITS
        cuts = _cuts(key, key[::lines_per_block] >> above + self.day_bits << above + self.day_bits)
        for block in (key[start:end] for start, end in pairwise(cuts)):
            day, kind = block >> above, (block >> self.place_bits).astype(np.int8) & (1 << KIND_BITS) - 1
            yield block & (1 << self.place_bits) - 1, day >> self.day_bits, kind, first_of_run(day)

    def columns(self, places: Places) -> tuple[NDArray[Any], ...]:
        """Timestamp, spend, quantity and category of some lines."""
        cells = self.cells.take(places, axis=0, mode="clip")  # the lines are all there: without the check it is faster
        narrow, paid = cells.view(np.int32), cells[:, 1]
        time = (paid & (1 << self.time_bits) - 1) + self.midnight
        spend = paid >> self.time_bits if self.spend_fits else self.log.spend_cents.take(places)
        return time, spend, narrow[:, 0].copy(), narrow[:, 1].copy()


def order_by(*keys: NDArray[Any]) -> Places:
    """Places of rows in the stable order by integer keys, the first key first; keys of a small range are packed."""
    rows = len(keys[0])
    least = [int(key.min()) if rows else 0 for key in keys]
    bits = [(int(key.max()) - low).bit_length() if rows else 0 for key, low in zip(keys, least, strict=True)]
    if sum(bits) + rows.bit_length() > 63:
        return np.lexsort(keys[::-1])
    packed = np.zeros(rows, np.int64)
    for key, low, width in zip((*keys, np.arange(rows)), (*least, 0), (*bits, rows.bit_length()), strict=True):
        packed <<= width
        packed += key - low
    packed.sort()
    return packed & (1 << rows.bit_length()) - 1


def _cuts(ascending: Ints, values: Ints) -> list[int]:
    return [0, *np.unique(np.searchsorted(ascending, values))[1:].tolist(), len(ascending)]


def first_of_run(*keys: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a row differs from the one before it in any key; so does the first row."""
    first = np.ones(len(keys[0]), np.bool_)
    np.not_equal(keys[0][1:], keys[0][:-1], out=first[1:])
    for key in keys[1:]:
        first[1:] |= key[1:] != key[:-1]
    return first


def _baskets(of: _Lines, lines: Places, customer: Ints, kind: Kinds, new: NDArray[np.bool_]) -> Baskets:
    """The baskets of some lines of a log, which stand in the order of customer, day and kind of event."""
    timestamp, spend, quantity, category = of.columns(lines)
    # Most lines are their customer's only one of the day: they are a basket, and stand where they belong.
    shared = np.flatnonzero(~(new & np.append(new[1:], True)))
    if len(shared):
        day, order = np.cumsum(new.take(shared), dtype=np.int64), of.log.order.take(lines.take(shared))
        place, new[shared] = _basket_order(day, timestamp.take(shared), order, kind.take(shared))
        place = shared.take(place)
        for column in (timestamp, spend, quantity, category, kind):
            column[shared] = column.take(place)
    number = np.ones(len(lines), np.int64)
    if not new.all():
        starts = np.flatnonzero(new)
        number = np.diff(starts, append=len(lines))
        dearest = np.repeat(np.maximum.reduceat(np.abs(spend), starts), number)
        category = np.maximum.reduceat(np.where(np.abs(spend) == dearest, category, NO_CATEGORY), starts)
        customer, timestamp = customer[starts], np.minimum.reduceat(timestamp, starts)
        spend, quantity = np.add.reduceat(spend, starts), np.add.reduceat(quantity, starts, dtype=np.int64)
        kind = kind[starts]
    return Baskets(
        customer=customer,
        timestamp=timestamp,
        spend_cents=spend,
        quantity=quantity,
        lines=number,
        category=category,
        event_type=kind,
        num_customers=of.log.num_customers,
    )


def _basket_order(day: Ints, timestamp: Ints, order: Ints, kind: Kinds) -> tuple[Places, NDArray[np.bool_]]:
    """Places of lines so that baskets stand together and in order, and where each basket begins."""
    by_order = np.argsort(order)
    new_order = first_of_run(order.take(by_order))
    if new_order.all():  # every line is a basket
        return by_order.take(order_by(day.take(by_order), timestamp.take(by_order))), new_order
    rank = np.empty(len(order), np.int64)
    rank[by_order] = np.cumsum(new_order)
    place = order_by(day, rank, kind)
    new = first_of_run(day.take(place), rank.take(place), kind.take(place))
    basket = np.cumsum(new, dtype=np.int64) - 1
    first = np.minimum.reduceat(timestamp.take(place), np.flatnonzero(new))
    by_time = order_by(day.take(place), first.take(basket))  # stable: the lines of a basket stay together
    return place.take(by_time), first_of_run(basket.take(by_time))
