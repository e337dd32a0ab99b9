"""Checklist: D2 (windows are half-open spans of whole days), D11 (categories by a public hash, no fitted list)."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pp_model.schema import (
    COLUMNS,
    NO_CATEGORY,
    SECONDS_PER_DAY,
    EventType,
    Order,
    category_code,
    concatenate,
    day_start,
    fingerprint64,
    order_log,
)

orders = st.builds(
    Order,
    customer=st.integers(0, 9),
    timestamp=st.datetimes(dt.datetime(1971, 1, 1), dt.datetime(2100, 1, 1)),
    spend_cents=st.integers(-(10**12), 10**12),
    order_id=st.text(max_size=5),
    quantity=st.integers(-1_000, 1_000),
    category=st.text(max_size=5),
    event_type=st.sampled_from(EventType),
)


def order(**changes) -> Order:
    return Order(**{"customer": 0, "timestamp": dt.datetime(2025, 1, 1), "spend_cents": 100, **changes})


@given(st.lists(orders, max_size=20))
def test_columns_hold_what_the_orders_said(rows):
    log = order_log(rows, num_customers=10)
    assert len(log) == len(rows)
    assert log.customer.tolist() == [o.customer for o in rows]
    assert log.spend_cents.tolist() == [o.spend_cents for o in rows]
    assert log.quantity.tolist() == [o.quantity for o in rows]
    assert log.event_type.tolist() == [int(o.event_type) for o in rows]
    assert log.category.tolist() == [category_code(o.category) for o in rows]
    assert {name: getattr(log, name).dtype.type for name in COLUMNS} == COLUMNS


@given(st.datetimes(dt.datetime(1960, 1, 1), dt.datetime(2100, 1, 1)))
def test_an_event_never_moves_to_another_day(timestamp):
    seconds = int(order_log([order(timestamp=timestamp)], num_customers=1).timestamp[0])
    assert day_start(timestamp.date()) <= seconds < day_start(timestamp.date()) + SECONDS_PER_DAY


def test_an_event_just_before_midnight_stays_before_the_cutoff():
    log = order_log([order(timestamp=dt.datetime(2025, 5, 31, 23, 59, 59, 999_999))], num_customers=1)
    assert log.timestamp[0] == day_start(dt.date(2025, 6, 1)) - 1


def test_lines_of_one_order_share_its_code_and_orders_without_an_id_do_not():
    log = order_log([order(order_id="A7"), order(order_id="A7"), order(), order()], num_customers=1)
    assert log.order[0] == log.order[1]
    assert len(set(log.order.tolist())) == 3


def test_codes_are_the_same_in_every_process_and_version():
    assert fingerprint64("A7") == 2_408_213_594_071_369_446
    assert category_code("Shoes") == 568_912_005
    program = "from pp_model.schema import *; print(fingerprint64('A7'), category_code('Shoes'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(fingerprint64("A7")), str(category_code("Shoes"))]


def test_a_category_is_blind_to_case_and_outer_space():
    assert category_code(" Shoes ") == category_code("SHOES") == category_code("shoes")
    assert category_code("") == category_code("   ") == NO_CATEGORY


@given(st.text(min_size=1))
def test_a_category_code_fits_its_column(name):
    assert NO_CATEGORY <= category_code(name) <= np.iinfo(np.int32).max


@given(st.lists(orders, max_size=5), st.lists(orders, max_size=5))
def test_joined_logs_hold_all_rows(first, second):
    logs = [order_log(first, num_customers=10), order_log(second, num_customers=10)]
    joined = concatenate(logs, num_customers=10)
    for name in COLUMNS:
        parts = [getattr(log, name).tolist() for log in logs]
        assert getattr(joined, name).tolist() == parts[0] + parts[1]


def test_no_logs_join_to_an_empty_log():
    empty = concatenate([], num_customers=4)
    assert (len(empty), empty.num_customers) == (0, 4)
    assert {name: getattr(empty, name).dtype.type for name in COLUMNS} == COLUMNS


def test_chosen_rows_and_new_codes_leave_the_log_as_it_was():
    log = order_log([order(customer=c, spend_cents=c) for c in (0, 1, 2)], num_customers=3)
    assert log.select(np.array([True, False, True])).spend_cents.tolist() == [0, 2]
    renamed = log.with_customers(np.array([5, 5, 6], np.int32), num_customers=7)
    assert (renamed.customer.tolist(), renamed.num_customers) == ([5, 5, 6], 7)
    assert (log.customer.tolist(), log.num_customers) == ([0, 1, 2], 3)


def test_a_timestamp_with_a_zone_is_refused():
    with pytest.raises(TypeError):
        order_log([order(timestamp=dt.datetime(2025, 1, 1, tzinfo=dt.UTC))], num_customers=1)
