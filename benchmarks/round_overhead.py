"""What a round costs beside training, in a real deployment on this machine: `python benchmarks/round_overhead.py`.

A platform and merchants as real processes over TLS on loopback, each with its warm daemon. The overhead of a round is
its whole time at the platform minus the longest training of a merchant. Where it goes comes from the merchants' logs.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from server.registry import Registry
from simulations.deployment import Deployment
from simulations.export import write_orders_csv
from simulations.scenario import load_scenario
from simulations.shops import open_market

MERCHANT_FLAGS = (
    *("--epsilon", "3", "--delta", "1e-5", "--declared-customers", "250", "--population", "synthetic customers"),
    *("--period", "bench", "--period-starts", "2020-01-01", "--period-ends", "2099-12-31"),
    *("--approve", "automatic", "--approve-under", "3"),
)
SECONDS_A_MERCHANT = 20.0  # to start; each loads PyTorch
STEPS = {  # name of a step -> (event at its start, event at its end), in a merchant's log
    "task's parts fetched": ("receiving", "received"),
    "runner takes the task, training included": ("received", "trained"),
    "reply waits for its whole second, handed over": ("trained", "sending"),
    "reply sent": ("sending", "sent"),
}
EVENTS = {
    "receiving": r"Receiving: train message",
    "received": r"Received successfully",
    "trained": r"task trained .*round=(?P<round>\d+) seconds=(?P<seconds>[\d.]+)",
    "sending": r"Sending: train message",
    "sent": r"Sent successfully",
}


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One round at one merchant: when each event was, in seconds, and how long it trained."""

    round: int
    at: dict[str, float]
    training_seconds: float


def visits(log: Path) -> Iterator[Visit]:
    """The rounds in a merchant's log."""
    at: dict[str, float] = {}
    number, seconds = 0, 0.0
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        for name, pattern in EVENTS.items():
            if match := re.search(pattern, entry["event"]):
                if name == "receiving":
                    at = {}
                at[name] = dt.datetime.fromisoformat(entry["time"]).timestamp()
                if name == "trained":
                    number, seconds = int(match["round"]), float(match["seconds"])
                if name == "sent" and set(at) == set(EVENTS):
                    yield Visit(round=number, at=at, training_seconds=seconds)


def train(folder: Path, *, merchants: int, customers: int, rounds: int, answer_every: float) -> list[str]:
    """Runs the deployment and gives the lines of the report."""
    market = open_market(
        load_scenario("demo", {"merchants": merchants, "synthetic": {"customers": customers * merchants, "days": 760}})
    )
    with Deployment(folder) as deployed:
        deployed.make_platform()
        for name, log in market.shops.items():
            name = name.replace(" ", "-")
            deployed.make_merchant(name, write_orders_csv(log, folder / f"{name}.csv"), *MERCHANT_FLAGS)
        began = time.monotonic()
        deployed.start(seconds=max(90.0, SECONDS_A_MERCHANT * len(deployed.merchants)))  # they share the cores
        started = time.monotonic() - began
        deployed.pp_server(
            *("plan", "new", "bench", "--epsilon", "2", "--holdout", "2024-10-01", "--horizon-days", "60"),
            *("--rounds", str(rounds), "--min-merchants", str(merchants), "--answer-every", str(answer_every)),
        )
        deployed.pp_server("plan", "sign", "bench")
        deployed.pp_server("run", "bench", "--wait", "300", timeout=60.0 * rounds + 600)
        seen = {
            name: list(visits(deployed.merchant_home(name) / "log" / "client.jsonl")) for name in deployed.merchants
        }
        with Registry(deployed.platform_home / "state" / "registry.sqlite") as registry:
            seconds = {r.round: r.seconds for r in registry.rounds(1)}
            completions = [r.completions for r in registry.rounds(1)]
    assert completions == [merchants] * rounds, completions
    return report(seen, seconds, started=started, answer_every=answer_every)


def report(
    seen: dict[str, list[Visit]], seconds: dict[int, float], *, started: float, answer_every: float
) -> list[str]:
    """The table. The first round reads the orders and is left out: its daemons are not warm."""
    by_round = {number: [v for visited in seen.values() for v in visited if v.round == number] for number in seconds}
    warm = [number for number in sorted(seconds) if number > 1]
    overhead = [seconds[n] - max(v.training_seconds for v in by_round[n]) for n in warm]
    at_platform = [seconds[n] - max(v.at["sent"] - v.at["receiving"] for v in by_round[n]) for n in warm]
    low, middle, high = quartiles(overhead)
    lines = [
        f"{len(seen)} merchants, {len(warm)} warm rounds, answers at whole multiples of {answer_every:g} s; "
        f"all daemons up in {started:.0f} s.",
        "",
        "| Overhead of a round (all but training) | seconds |",
        "| --- | --- |",
        f"| median | {middle:.2f} |",
        f"| quartiles | {low:.2f} to {high:.2f} |",
        f"| longest | {max(overhead):.2f} |",
        "",
        "| Where it goes (median over rounds and merchants) | seconds |",
        "| --- | --- |",
        f"| platform: task out, polls of SuperNodes, replies in | {statistics.median(at_platform):.2f} |",
    ]
    for step, (start, end) in STEPS.items():
        times = [v.at[end] - v.at[start] for n in warm for v in by_round[n]]
        lines.append(f"| merchant: {step} | {statistics.median(times):.2f} |")
    training = statistics.median(v.training_seconds for n in warm for v in by_round[n])
    return [*lines, f"| of which training | {training:.2f} |"]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The three of them."""
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--merchants", type=int, default=3)
    parser.add_argument("--customers", type=int, default=300, help="of each merchant")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--answer-every", type=float, default=1.0, metavar="S")
    parser.add_argument("--out", type=Path, help="write the table to this file too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = train(
            Path(folder),
            merchants=args.merchants,
            customers=args.customers,
            rounds=args.rounds,
            answer_every=args.answer_every,
        )
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, flwr {version('flwr')}."
    text = "\n".join(["# Overhead of a round", "", machine, "", *lines]) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
