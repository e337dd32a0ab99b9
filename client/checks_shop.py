"""What pp-client doctor looks at, part three: the orders, what was declared about them, and the ledger.

Counts and dates are data too: they are shown here, to the merchant, and go nowhere else.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import numpy as np

from client.checks import Examination, Finding, SkippedError, count, fault, ok, warning
from client.orders import read_orders
from client.settings import open_orders
from client.spending import read_spending
from pp_model.schema import SECONDS_PER_DAY, OrderLog

_STALE_DAYS = 45
_DOUBLED_SHARE = 0.01
_EPOCH = dt.date(1970, 1, 1)


def check_orders(examination: Examination) -> Iterator[Finding]:
    """They open, every row passes the contract, and they look like all orders, once each, up to now."""
    source = open_orders(examination.order_settings, home=examination.home)
    if examination.quick:
        raise SkippedError("--quick")
    examination.orders = found = read_orders(source, window=None)
    log, report = found.log, found.report
    if not len(log):
        yield fault(
            "orders", f"{report.place}: {report.rows:,} rows, and none of them usable. See the contract's rules."
        )
        return
    first, last = (_EPOCH + dt.timedelta(days=int(day)) for day in _ends(log))
    yield ok(
        "orders",
        f"{report.place}: {count(report.used, 'row')} of {count(len(found.customer_ids), 'customer')}, from {first} "
        f"to {last} (shown to you only)",
    )
    for line in report.lines()[1:]:
        yield warning("orders", line)
    if (doubled := _doubled(log, rows=report.rows)) >= _DOUBLED_SHARE * len(log):
        yield warning(
            "orders",
            f"{count(doubled, 'row')} repeat an earlier row to the last cell. If the export holds them twice, export "
            "again; if they are lines of one order, all is well.",
        )
    yield _age(last, today=examination.now.date())


def check_customers(examination: Examination) -> Iterator[Finding]:
    """The orders hold as many customers as were declared."""
    policy = examination.policy
    if examination.orders is None:
        raise SkippedError("the orders have to be read first")
    counted, declared = len(examination.orders.customer_ids), policy.declared_customers
    if counted < declared:
        yield fault(
            "customers",
            f"policy.declared_customers is {declared:,}, and the orders hold {counted:,}. Declare a number well below "
            "that, or name all the orders.",
        )
    else:
        yield ok("customers", f"at least the {declared:,} that you declare; delta {policy.delta:g} suits them")


def check_period(examination: Examination) -> Iterator[Finding]:
    """Today is in the period of the budget."""
    period, today = examination.period, examination.now.date()
    span = f"{period.name!r}, {period.starts} to {period.ends}"
    if today < period.starts:
        yield fault("period", f"{span}, has not begun, so every task is refused. Wait, or check the clock ({today}).")
    elif today > period.ends:
        yield fault(
            "period", f"{span}, is over, so every task is refused. Write a new [period] with a name of its own."
        )
    else:
        yield ok("period", f"{span}; {count((period.ends - today).days, 'day')} left")


def check_ledger(examination: Examination) -> Iterator[Finding]:
    """The ledger is whole, and what is left of the budget."""
    settings = examination.settings
    spending = read_spending(settings)  # begins none
    if not settings.paths.ledger.exists():
        yield ok("ledger", f"not begun; it begins with the first task. Epsilon {spending.left:.2f} left")
        return
    budget, left = spending.budget, spending.left
    tasks = count(len(spending.charges), "task")
    text = f"whole; {tasks} charged, epsilon {spending.spent:.2f} spent, {left:.2f} of {budget:.2f} left"
    if left < 0.01 * budget:
        yield warning("ledger", f"{text}. Nothing more can be paid for until a new period begins.")
    else:
        yield ok("ledger", text)


def _ends(log: OrderLog) -> tuple[int, int]:
    return int(log.timestamp.min()) // SECONDS_PER_DAY, int(log.timestamp.max()) // SECONDS_PER_DAY


def _doubled(log: OrderLog, *, rows: int) -> int:
    """Rows that are equal to another one in every column."""
    numbered = (log.order < -rows) | (log.order >= 0)  # a row without an order id is given a number from -1 down
    order = np.where(numbered, log.order, -1)
    columns = (log.customer, log.timestamp, order, log.spend_cents, log.quantity, log.category, log.event_type)
    at = np.lexsort(columns)
    same = np.ones(max(0, len(log) - 1), np.bool_)
    for column in columns:
        ordered = column[at]
        same &= ordered[1:] == ordered[:-1]
    return int(same.sum())


def _age(last: dt.date, *, today: dt.date) -> Finding:
    days = (today - last).days
    if days < -1:
        return warning(
            "freshness",
            f"the newest order is of {last}, still to come. Check the clock, or set no_later_than in the contract.",
        )
    if days > _STALE_DAYS:
        return warning("freshness", f"the newest order is {days:,} days old ({last}). Export the orders again.")
    return ok("freshness", f"the newest order is {count(max(days, 0), 'day')} old ({last})")
