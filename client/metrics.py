"""What this machine's monitoring may ask: the budget and how the daemon is, in Prometheus' form, on loopback."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from client.settings import MerchantSettings
from client.shop_status import ShopStatus, read_status
from daemons.supervisor import ChildState
from pp_model.protocol import RefusalCode


@dataclass(frozen=True, kw_only=True)
class LedgerGlance:
    """What the ledger's file says, looked at and not verified: a number on a screen, which decides nothing.

    Attributes:
        spent: epsilon after the last charge, as priced then; 0 before the first.
        charges: tasks charged.
    """

    spent: float
    charges: int


@dataclass(frozen=True, kw_only=True)
class DaemonState:
    """What the daemon knows of itself.

    Attributes:
        connected: whether the platform answered lately.
        clock_apart: this machine's clock minus the platform's, in seconds; None before the platform answered.
        waiting: plans that wait for a person.
    """

    connected: bool
    clock_apart: float | None
    waiting: int
    children: Sequence[ChildState]


def glance(ledger: Path) -> LedgerGlance | None:
    """A look at the ledger by a reader that cannot write; None where there is nothing to be read."""
    query = "SELECT body FROM entries WHERE json_extract(body, '$.kind') = 'charge' ORDER BY seq DESC LIMIT 1"
    count = "SELECT count(*) FROM entries WHERE json_extract(body, '$.kind') = 'charge'"
    try:
        uri = f"{ledger.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=1.0)) as connection:
            charges = int(connection.execute(count).fetchone()[0])
            last = connection.execute(query).fetchone()
        return LedgerGlance(spent=float(json.loads(last[0])["epsilon_after"]) if last else 0.0, charges=charges)
    except (sqlite3.Error, ValueError, KeyError, TypeError):
        return None


def metrics_registry(settings: MerchantSettings, state: Callable[[], DaemonState]) -> CollectorRegistry:
    """A registry that looks anew at every scrape; `state` is called from any thread."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(settings, state))
    return registry


class _Collector:
    def __init__(self, settings: MerchantSettings, state: Callable[[], DaemonState]) -> None:
        self._settings, self._state = settings, state

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        policy, seen = self._settings.policy, glance(self._settings.paths.ledger)
        yield _gauge("pp_epsilon_budget", "Epsilon that may be spent in the period.", policy.epsilon_budget)
        yield _gauge("pp_delta", "Delta of the ledger.", policy.delta)
        yield _gauge("pp_ledger_readable", "1 if the ledger can be read.", float(seen is not None))
        if seen is not None:  # no number is better than a wrong one
            left = max(0.0, policy.epsilon_budget - seen.spent)
            yield _gauge("pp_epsilon_spent", "Epsilon of all charges together.", seen.spent)
            yield _gauge("pp_epsilon_left", "Epsilon between what is spent and the budget.", left)
            yield _counter("pp_tasks_charged", "Tasks charged in the period.", seen.charges)
        state = self._state()
        yield _gauge("pp_platform_connected", "1 if the platform answered lately.", float(state.connected))
        if state.clock_apart is not None:
            about = "This clock minus the platform's at its last answer, good to a second."
            yield _gauge("pp_clock_apart_seconds", about, state.clock_apart)
        yield _gauge("pp_plans_waiting", "Plans that wait for a person's approval.", state.waiting)
        yield from _children(state.children)
        status = read_status(self._settings.paths.agreements.parent)
        if status is not None:
            yield from _runner(status)


def _children(children: Sequence[ChildState]) -> Iterator[Metric]:
    restarts = CounterMetricFamily("pp_child_restarts", "Restarts since the daemon started.", labels=["child"])
    running = GaugeMetricFamily("pp_child_running", "1 if the child serves.", labels=["child"])
    for child in children:
        restarts.add_metric([child.name], child.restarts)
        running.add_metric([child.name], float(child.state == "running"))
    yield from (restarts, running)


def _runner(status: ShopStatus) -> Iterator[Metric]:
    yield _counter("pp_tasks_answered", "Tasks answered with a release since the runner started.", status.answered)
    refused = CounterMetricFamily("pp_tasks_refused", "Tasks refused since the runner started.", labels=["code"])
    for code in RefusalCode:  # those that never were, too: an increase is seen from the first
        refused.add_metric([code.value], status.refused.get(code.value, 0))
    yield refused
    yield _gauge("pp_orders_readable", "0 if the orders could not be read.", float(not status.fault))
    if status.last_task:
        moment = dt.datetime.fromisoformat(status.last_task).timestamp()
        yield _gauge("pp_last_task_timestamp_seconds", "When the last task was done or refused.", moment)
    if status.newest_order:
        age = dt.datetime.now(dt.UTC).date() - dt.date.fromisoformat(status.newest_order)
        yield _gauge("pp_orders_age_days", "Days since the newest order.", age.days)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=value)


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(name, about, value=value)
