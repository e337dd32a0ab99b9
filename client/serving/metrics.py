"""What this machine's monitoring may ask of the service, in Prometheus' form."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from client.serving.hot_swap import Keeper
from client.serving.limits import Gate

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
        self.registry.register(_State(keeper, gate))

    def answered(self, door: str, call: str, code: str, seconds: float) -> None:
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
        yield _gauge("pp_serving_refused", "1 if what is new was refused.", float(keeper.refused is not None))
        if shop is not None:
            today = dt.datetime.now(dt.UTC).date()
            yield _gauge("pp_serving_model_id", "The model that serves.", shop.data.model_id)
            yield _gauge("pp_serving_orders_age_days", "Days since the newest order.", (today - shop.newest_order).days)
            yield _gauge("pp_serving_cutoff_age_days", "Days since the cutoff.", (today - shop.data.cutoff).days)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=value)
