"""Lines of one order into one basket: the unit in which a customer decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pp_model.schema import NO_CATEGORY, SECONDS_PER_DAY, OrderLog

Ints = NDArray[np.int64]
Places = NDArray[np.intp]

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
    event_type: Ints
    num_customers: int


def baskets_of(log: OrderLog) -> Baskets:
    """The baskets of a log. A basket's time is its first line's, its category that of its most expensive line."""
    return next(basket_blocks(log, lines_per_block=max(len(log), 1)))


def basket_blocks(log: OrderLog, *, lines_per_block: int = LINES_PER_BLOCK) -> Iterator[Baskets]:
    """The baskets of a log, some customers at a time in ascending order; at least one block, each customer in one."""
    keys = (log.customer, log.timestamp // SECONDS_PER_DAY, log.event_type)
    for lines, (customer, day, kind) in sorted_blocks(*keys, rows_per_block=lines_per_block):
        yield _baskets(log, lines, customer=customer, day=day, kind=kind)


def sorted_blocks(*keys: NDArray[Any], rows_per_block: int) -> Iterator[tuple[Places, list[Ints]]]:
    """Places of rows in the stable order by integer keys, the first key first, with the keys in that order.

    They come in blocks of about `rows_per_block` that do not split a value of the first key; at least one block.
    Keys of a small range are packed into one integer together with the row's place: sorting that is many times
    faster than sorting places by several keys, and the keys need not be fetched.
    """
    rows = len(keys[0])
    least = [int(key.min()) if rows else 0 for key in keys]
    bits = [(int(key.max()) - low).bit_length() if rows else 0 for key, low in zip(keys, least, strict=True)]
    shifts = [rows.bit_length() + sum(bits[i + 1 :]) for i in range(len(keys))]
    if shifts[0] + bits[0] > 63:  # a range that no shop has: the slow way
        order = np.lexsort(keys[::-1])
        cuts = _cuts(keys[0].take(order), keys[0].take(order[::rows_per_block]))
        for places in (order[start:end] for start, end in pairwise(cuts)):
            yield places, [key.take(places).astype(np.int64) for key in keys]
        return
    packed = np.arange(rows)
    for start in range(0, rows, LINES_PER_BLOCK):
        part = slice(start, start + LINES_PER_BLOCK)
        for key, low, shift in zip(keys, least, shifts, strict=True):
            packed[part] += np.subtract(key[part], low, dtype=np.int64) << shift
    packed.sort()
    cuts = _cuts(packed, packed[::rows_per_block] >> shifts[0] << shifts[0])
    for block in (packed[start:end] for start, end in pairwise(cuts)):
        unpacked = zip(shifts, bits, least, strict=True)
        in_order = [(block >> shift & (1 << width) - 1) + low for shift, width, low in unpacked]
        yield block & (1 << rows.bit_length()) - 1, in_order


def _cuts(ascending: Ints, values: Ints) -> list[int]:
    return [0, *np.unique(np.searchsorted(ascending, values))[1:].tolist(), len(ascending)]


def first_of_run(*keys: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a row differs from the one before it in any key; so does the first row."""
    first = np.zeros(len(keys[0]), np.bool_)
    first[:1] = True
    for key in keys:
        first[1:] |= key[1:] != key[:-1]
    return first


def _baskets(log: OrderLog, lines: Places, *, customer: Ints, day: Ints, kind: Ints) -> Baskets:
    """The baskets of some lines of a log, which stand in the order of customer, day and kind of event."""
    timestamp, new = _at(log.timestamp, lines), first_of_run(customer, day)
    # Most lines are their customer's only one of the day: they are a basket, and stand where they belong.
    shared = np.flatnonzero(~(new & np.append(new[1:], True)))
    if len(shared):
        several = lines[shared]
        visit, time, kinds = np.cumsum(new[shared], dtype=np.int64), timestamp[shared], kind[shared]
        place, new[shared] = _basket_order(visit, time, _at(log.order, several), kinds)
        lines[shared], timestamp[shared], kind[shared] = several[place], time[place], kinds[place]
    spend, category = _at(log.spend_cents, lines), _at(log.category, lines)
    quantity = _at(log.quantity, lines)
    starts = np.flatnonzero(new)
    number = np.ones(len(lines), np.int64)
    if len(starts) < len(lines):
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
        event_type=kind.astype(np.int8),
        num_customers=log.num_customers,
    )


def _basket_order(day: Ints, timestamp: Ints, order: Ints, kind: Ints) -> tuple[Places, NDArray[np.bool_]]:
    """Places of lines so that baskets stand together and in order, and where each basket begins."""
    by_order = np.argsort(order)
    new_order = first_of_run(order.take(by_order))
    if new_order.all():  # every line is a basket
        by_time, _ = _sorted(day.take(by_order), timestamp.take(by_order))
        return by_order.take(by_time), new_order
    rank = np.empty(len(order), np.int64)
    rank[by_order] = np.cumsum(new_order)
    place, keys = _sorted(day, rank, kind)
    new = first_of_run(*keys)
    basket = np.cumsum(new, dtype=np.int64) - 1
    first = np.minimum.reduceat(timestamp.take(place), np.flatnonzero(new))
    by_time, _ = _sorted(keys[0], first.take(basket))  # stable: the lines of a basket stay together
    return place.take(by_time), first_of_run(basket.take(by_time))


def _sorted(*keys: Ints) -> tuple[Places, list[Ints]]:
    return next(sorted_blocks(*keys, rows_per_block=len(keys[0])))


def _at(column: NDArray[Any], lines: Places) -> NDArray[Any]:
    return column.take(lines, mode="clip")  # the lines are all there: without the check it is a fifth faster
