"""What this machine's monitoring may ask of the service, in Prometheus' form."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from client.serving.faults import Code, Unheard
from client.serving.hot_swap import WHATS, Keeper
from client.serving.limits import Gate

Door = Literal["http", "grpc"]
DOORS: tuple[Door, ...] = ("http", "grpc")
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class Metrics:
    """Counts answers; looks at the keeper and the gate at every scrape."""

    def __init__(self, keeper: Keeper, gate: Gate) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        labels = ["door", "call", "code"]
        self._answers = Counter("pp_serving_answers", "Requests answered.", labels, registry=self.registry)
        self._seconds = Histogram(
            "pp_serving_seconds", "From coming to answer.", ["door", "call"], buckets=_SECONDS, registry=self.registry
        )
        self._turned_away = Counter(
            "pp_serving_turned_away",
            "Requests refused before they came to the desk.",
            ["door", "reason"],
            registry=self.registry,
        )
        for door in DOORS:  # from the start, so that the first one is an increase
            for reason in (*Code, *(Unheard if door == "http" else ())):
                self._turned_away.labels(door, reason.value)
        self.registry.register(_State(keeper, gate))

    def turned_away(self, door: Door, reason: Code | Unheard) -> None:
        """Notes a request that never came to the desk, or a connection without one; what comes there is an answer."""
        self._turned_away.labels(door, reason.value).inc()

    def answered(self, door: Door, call: str, code: str, seconds: float) -> None:
        """Notes one answer; all three words come from lists of ours."""
        self._answers.labels(door, call, code).inc()
        self._seconds.labels(door, call).observe(seconds)


class _State:
    def __init__(self, keeper: Keeper, gate: Gate) -> None:
        self._keeper, self._gate = keeper, gate

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        keeper, shop = self._keeper, self._keeper.current
        yield _gauge("pp_serving_ready", "1 if a model is loaded.", float(shop is not None))
        yield _gauge("pp_serving_inside", "Requests that work or wait.", self._gate.inside)
        yield _gauge("pp_serving_places", "Workers and waiting places.", self._gate.most_inside)
        yield _gauge("pp_serving_swaps", "Snapshots made since the start.", keeper.swaps)
        refused = GaugeMetricFamily("pp_serving_refused", "1 if the newest was refused.", labels=["what"])
        for what in WHATS:
            refused.add_metric([what], float(what in keeper.refused))
        yield refused
        if shop is not None:
            today = dt.datetime.now(dt.UTC).date()
            yield _gauge("pp_serving_model_id", "The model that serves.", shop.data.model_id)
            yield _gauge("pp_serving_orders_age_days", "Days since the newest order.", (today - shop.newest_order).days)
            yield _gauge("pp_serving_cutoff_age_days", "Days since the cutoff.", (today - shop.data.cutoff).days)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=value)
