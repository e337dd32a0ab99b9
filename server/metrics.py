"""What the platform's monitoring may ask, in Prometheus' form, on loopback.

Merchants are named here, as the platform names them everywhere; what is said of them is who they are, when they last
asked for something, and how many of them released, refused or were rejected. A figure of one merchant's customers is
not among it: the platform has none.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from daemons.supervisor import ChildState, State
from server.registry_glance import Glance, RunGlance, read_glance

LOOK_AGAIN_SECONDS = 1.0  # scrapes that come closer to each other are answered from one look
STATES = ("running", "finished", "failed")


@dataclass(frozen=True, kw_only=True)
class Live:
    """What the running platform knows of itself.

    Attributes:
        online: names of the merchants that are connected; None while the SuperLink cannot be asked.
        certificate_days: whole days until the certificate expires.
    """

    children: Sequence[ChildState]
    online: frozenset[str] | None
    certificate_days: int


def metrics_registry(registry: Path, live: Callable[[], Live]) -> CollectorRegistry:
    """A registry that looks anew at every scrape, at most once in `LOOK_AGAIN_SECONDS`; `live` is called from any
    thread."""
    found = CollectorRegistry(auto_describe=False)
    found.register(_Collector(registry, live))
    return found


class _Collector:
    def __init__(self, registry: Path, live: Callable[[], Live]) -> None:
        self._registry, self._live = registry, live
        self._lock = threading.Lock()
        self._seen: Glance | None = None
        self._due = 0.0

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        live, now = self._live(), dt.datetime.now(dt.UTC)
        yield from _platform(live)
        seen = self._look()
        yield _gauge("registry_readable", "1 if the registry can be read.", float(seen is not None))
        if seen is not None:  # no number is better than a wrong one
            yield from _merchants(seen, live.online, now)
            yield from _runs(seen)
            yield from _watched(seen.watched, now)
            yield from _model(seen, now)

    def _look(self) -> Glance | None:
        with self._lock:
            if time.monotonic() >= self._due:
                self._seen = read_glance(self._registry)
                self._due = time.monotonic() + LOOK_AGAIN_SECONDS
            return self._seen


def _platform(live: Live) -> Iterator[Metric]:
    up = _family("child_up", "Whether a child process runs.", "child")
    restarts = CounterMetricFamily("pp_server_child_restarts", "Restarts since the platform started.", labels=["child"])
    for child in live.children:
        up.add_metric([child.name], float(child.state is State.RUNNING))
        restarts.add_metric([child.name], child.restarts)
    yield from (up, restarts)
    yield _gauge("certificate_days_left", "Whole days until the certificate expires.", live.certificate_days)


def _merchants(seen: Glance, online: frozenset[str] | None, now: dt.datetime) -> Iterator[Metric]:
    connected = _family("merchant_connected", "1 if the merchant's node is connected.", "merchant")
    unseen = _family("merchant_unseen_seconds", "Seconds since its last signed request, to the minute.", "merchant")
    version = _family("merchant_info", "The version of its program, as it says.", "merchant", "version")
    for name, last, stated in seen.merchants:
        if online is not None:
            connected.add_metric([name], float(name in online))
        if last is not None:
            unseen.add_metric([name], _age(last, now))
        version.add_metric([name, stated], 1.0)
    yield _gauge("merchants", "Merchants that are registered.", len(seen.merchants))
    if online is not None:
        there = sum(name in online for name, _, _ in seen.merchants)
        yield _gauge("merchants_connected", "Merchants that are connected.", there)
    yield from (connected, unseen, version)


def _runs(seen: Glance) -> Iterator[Metric]:
    runs = _family("runs", "Runs by state.", "state")
    for state in STATES:
        runs.add_metric([state], seen.runs.get(state, 0))
    yield runs
    played, void, completions = seen.totals
    yield _counter("rounds", "Rounds played, void ones too.", played)
    yield _counter("rounds_void", "Rounds with too few valid releases.", void)
    yield _counter("completions", "Releases used.", completions)
    for name, about, counts in (
        ("refusals", "Merchants' refusals of a task, by code.", seen.refusals),
        ("rejections", "Answers that were not used, by code.", seen.rejections),
    ):
        family = CounterMetricFamily(f"pp_server_{name}", about, labels=["code"])
        for code, count in sorted(counts.items()):
            family.add_metric([code], count)
        yield family


_RUN_FIGURES = {
    "run_running": "1 while the run is under way.",
    "run_rounds_done": "The last round that moved the model.",
    "run_rounds_planned": "Rounds of the plan.",
    "run_round_asked": "The round that merchants are asked for; 0 while none are.",
    "run_deadline_seconds": "Seconds until the round that is asked for ends; below 0 when it should have.",
    "round_cohort": "Merchants asked in the round played last.",
    "round_completions": "Releases used in the round played last.",
    "round_seconds": "How long the round played last took.",
    "round_void": "1 if the round played last had too few valid releases.",
    "round_age_seconds": "Seconds since the round played last ended.",
    "sum_norm": "L2 norm of the aggregate in the last round that moved the model.",
    "public_check_log_loss": "Log loss of buying on made-up customers, after that round.",
    "public_check_spend_error": "Error of the logarithm of spend on made-up customers, after that round.",
    "public_check_bad": "1 if the check found the model bad or collapsed after that round.",
    "checkpoint_age_seconds": "Seconds since the newest state of the plan was written.",
}


def _watched(runs: Sequence[RunGlance], now: dt.datetime) -> Iterator[Metric]:
    families = {name: _family(name, about, "plan", "run") for name, about in _RUN_FIGURES.items()}
    refusals = _family("round_refusals", "Refusals in the round played last, by code.", "plan", "run", "code")
    rejections = _family("round_rejections", "Rejections in the round played last, by code.", "plan", "run", "code")
    for run in runs:
        labels = [run.plan, str(run.run)]
        for name, value in _figures(run, now).items():
            families[name].add_metric(labels, value)
        for family, counts in ((refusals, run.refusals), (rejections, run.rejections)):
            for code, count in sorted(counts.items()):
                family.add_metric([*labels, code], count)
    yield from (*families.values(), refusals, rejections)


def _figures(run: RunGlance, now: dt.datetime) -> dict[str, float]:
    found: dict[str, object] = {
        "run_running": run.running,
        "run_rounds_done": run.done,
        "run_rounds_planned": run.rounds,
        "run_round_asked": run.asked_round,
    }
    if run.deadline:
        found["run_deadline_seconds"] = -_age(run.deadline, now)
    if run.last is not None:
        found |= {f"round_{name}": run.last[name] for name in ("cohort", "completions", "seconds", "void")}
        if run.last["ended"]:
            found["round_age_seconds"] = _age(str(run.last["ended"]), now)
    if run.model is not None:
        found["sum_norm"] = run.model["norm"]
        found |= {f"public_check_{name}": run.model[name] for name in ("log_loss", "spend_error")}
        found["public_check_bad"] = run.model["finding"] in ("bad", "collapsed")
    if run.checkpoint:
        found["checkpoint_age_seconds"] = _age(run.checkpoint, now)
    return {name: float(value) for name, value in found.items() if isinstance(value, (int, float))}


def _model(seen: Glance, now: dt.datetime) -> Iterator[Metric]:
    if seen.newest_model is None:
        return
    number, published = seen.newest_model
    yield _gauge("model_number", "Number of the newest model that merchants can have.", number)
    if published:
        yield _gauge("model_age_seconds", "Seconds since it was published.", _age(published, now))


def _age(moment: str, now: dt.datetime) -> float:
    return (now - dt.datetime.fromisoformat(moment)).total_seconds()


def _family(name: str, about: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"pp_server_{name}", about, labels=list(labels))


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"pp_server_{name}", about, value=value)


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(f"pp_server_{name}", about, value=value)
