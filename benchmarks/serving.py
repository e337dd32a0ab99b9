"""`pp-client serve` under load from a second process: a part of `make bench`, and `python -m benchmarks.serving`.

The service is a process of its own over a generated shop and the shipped model. Requests come at random moments of a
fixed rate, 200 a second on average, whether or not earlier ones are answered (an open loop), and a latency counts from
the moment at which its request was due: a service that falls behind shows it. A third each is an id, posted orders, and
fifty candidates to re-rank; now and then a portrait. HTTP and gRPC take turns; the ratio is the median of the turns'
p99, as a share of 20 ms. The quick form has one short turn and a tenth of the customers: its latencies have no bar and
are not compared. `make bench-check` compares that no request fails; one that is turned away, as the service does when
too many wait, is no failure there, since a machine that is busy with something else is enough for it.

A day of a shop that is asked four times a second takes half an hour, as fast as it is answered, and is no part of the
bench: `python -m benchmarks.serving --soak 345600` holds memory to its bar, a growth of 5 %.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environments import ROOT, ask
from benchmarks.generated_shop import CUTOFF, make_shop
from benchmarks.harness import spread
from benchmarks.report import Report, Row, row_of, table
from benchmarks.scoring import ORDERS_EACH
from benchmarks.serving_load import KINDS, Running, Seen, load, soak
from client.serving.run import TOKEN_FILE
from pp_model.model_spec import ENCODERS, Encoder

NAME, TITLE = "serving", "Scores while a customer waits"
BAR_MILLISECONDS, BAR_GROWTH = 20.0, 0.05
DOORS = {"http": "HTTP", "grpc": "gRPC"}
CUSTOMERS, FEW_CUSTOMERS, RATE = 100_000, 10_000, 200.0
_EFFORT = {  # by whether it is the quick form
    True: ("--turns", "1", "--seconds", "3", "--customers", str(FEW_CUSTOMERS)),
    False: ("--turns", "3", "--seconds", "30", "--customers", str(CUSTOMERS)),
}
_GOOD = {"200", "OK"}
_TURNED_AWAY = {"429", "503", "504", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"}  # so many at once

Turns = Mapping[str, Sequence[Mapping[str, Any]]]  # by door, the figures of every turn


def measure(*, quick: bool) -> Report:
    """The report of this part."""
    turns: Turns = ask("benchmarks.serving", "--door", *DOORS, *_EFFORT[quick])["turns"]
    customers = FEW_CUSTOMERS if quick else CUSTOMERS
    rows = rows_of(turns, customers=customers)
    how = (__doc__ or "").split("\n\n", 1)[1].strip()
    versions = {package: version(package) for package in ("fastapi", "grpcio", "torch")}
    return Report(name=NAME, title=TITLE, rows=rows, text=how + "\n\n" + _doors_table(turns), versions=versions)


def rows_of(turns: Turns, *, customers: int) -> list[Row]:
    """The slowest answers of each door, and who got none; with fewer customers than in full, failures alone count."""
    full = customers == CUSTOMERS
    found = [turn for each in turns.values() for turn in each]
    requests = sum(turn["requests"] for turn in found)
    failed, away = (spread([sum(turn[kind] for turn in found) / requests]) for kind in ("failed", "turned_away"))
    latencies = [
        row_of(
            f"serving over {DOORS[door]}, {RATE:g} requests a second, {customers:,} customers: "
            f"p99 / {BAR_MILLISECONDS:g} ms",
            spread([turn["all"]["p99_ms"] / BAR_MILLISECONDS for turn in each]),
            "<= 1" if full else "<=",
            quick=False,
        )
        for door, each in turns.items()
    ]
    return [
        *latencies,
        row_of("serving: requests that failed / all", failed, "<= 0"),
        row_of("serving: requests that were turned away / all", away, "<= 0" if full else "<=", quick=False),
    ]


def _doors_table(turns: Turns) -> str:
    """The middle turn of each door."""
    lines = []
    for door, found in turns.items():
        turn = sorted(found, key=lambda turn: float(turn["all"]["p99_ms"]))[len(found) // 2]
        parts = [f"{turn[kind]['p99_ms']:.1f}" if kind in turn else "" for kind in ("all", *KINDS)]
        memory = " to ".join(f"{megabytes:.0f}" for megabytes in turn["megabytes"])
        cells = [f"{turn['all']['p50_ms']:.1f}", *parts, f"{turn['cpu_ms_a_request']:.1f}", memory]
        lines.append([DOORS[door], str(turn["requests"]), *cells])
    latencies = ("p50, ms", "p99, ms", *(f"p99 of {kind}" for kind in KINDS))
    return table(["door", "requests", *latencies, "CPU ms a request", "resident MiB"], lines)


@contextmanager
def service(folder: Path, *, encoder: Encoder, orders: int, customers: int, more: Sequence[str]) -> Iterator[Running]:
    """A shop and its service, until the block ends."""
    config = make_shop(folder / "shop", customers=customers, orders=orders, encoder=encoder, kind="parquet")
    command = [sys.executable, "-m", "client.cli", "serve", "--config", str(config), "--cutoff", CUTOFF.isoformat()]
    command += ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", *more]
    log = folder / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        try:
            _wait(lambda: " serving " in log.read_text(), process, log)
            ports = [int(port) for port in re.findall(r"(?:HTTP: http://|gRPC: )\S+?:(\d+)", log.read_text())]
            token = (folder / "shop" / "secrets" / TOKEN_FILE).read_text(encoding="ascii").strip()
            yield Running(process=process, token=token, http_port=ports[0], grpc_port=ports[1])
        finally:
            process.terminate()
            process.wait(60)


def _wait(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    while not condition():
        if process.poll() is not None:
            raise SystemExit(log.read_text())
        time.sleep(0.1)


def growth(megabytes: Sequence[float]) -> float:
    """By how much the last tenth is above the second one, as a share; the first tenth is the start."""
    tenth = max(1, len(megabytes) // 10)
    return statistics.median(megabytes[-tenth:]) / statistics.median(megabytes[tenth : 2 * tenth]) - 1


def figures(seen: Seen, *, cpu_seconds: float) -> dict[str, Any]:
    """What was seen, in numbers."""
    found: dict[str, Any] = {"requests": len(seen.latencies), "statuses": dict(seen.statuses)}
    found["turned_away"] = sum(seen.statuses[status] for status in _TURNED_AWAY)
    found["failed"] = sum(seen.statuses.values()) - found["turned_away"] - sum(seen.statuses[good] for good in _GOOD)
    for kind in ("all", *KINDS):
        values = [value for of, value in seen.latencies if kind in ("all", of)]
        if values:
            low, high, worst = np.quantile(values, [0.5, 0.99, 1.0])
            found[kind] = {"p50_ms": round(low, 2), "p99_ms": round(high, 2), "worst_ms": round(worst, 1)}
    found["cpu_ms_a_request"] = round(1000 * cpu_seconds / max(1, len(seen.latencies)), 2)
    found["megabytes"] = [round(seen.megabytes[0], 1), round(seen.megabytes[-1], 1)]
    found["growth"] = round(growth(seen.megabytes), 4)
    return found


def _turn(running: Running, door: str, args: argparse.Namespace) -> dict[str, Any]:
    used, among = running.cpu_seconds(), {"door": door, "customers": args.customers}
    if args.soak:
        seen = asyncio.run(soak(running, requests=args.soak, **among))
    else:
        seen = asyncio.run(load(running, rate=args.rate, seconds=args.seconds, **among))
    return figures(seen, cpu_seconds=running.cpu_seconds() - used)


def meets(turn: Mapping[str, Any], *, soaked: bool) -> bool:
    """Whether a turn meets the bars: of latency, or after a soak of memory; and everybody was answered."""
    fine = turn["growth"] <= BAR_GROWTH if soaked else turn["all"]["p99_ms"] <= BAR_MILLISECONDS
    return bool(fine and not turn["failed"] and not turn["turned_away"])


def main() -> None:
    """Prints the figures of every turn as JSON, and whether all of them meet the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--door", nargs="+", choices=list(DOORS), default=["http"], help="several take turns")
    parser.add_argument("--turns", type=int, default=1, help="of each door")
    parser.add_argument("--rate", type=float, default=RATE, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30.0, help="of a turn")
    parser.add_argument("--customers", type=int, default=CUSTOMERS, help="who have ten orders each on average")
    parser.add_argument("--encoder", choices=ENCODERS, default="mlp")
    parser.add_argument("--soak", type=int, default=0, metavar="REQUESTS", help="so many, as fast as they are answered")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="further arguments of pp-client serve")
    args = parser.parse_args()
    gc.freeze()  # what imports made is not looked through while a request waits for us
    shop = {"encoder": args.encoder, "customers": args.customers, "orders": ORDERS_EACH * args.customers}
    turns: dict[str, list[dict[str, Any]]] = {door: [] for door in args.door}
    with tempfile.TemporaryDirectory() as name, service(Path(name), **shop, more=args.more) as running:
        for _ in range(args.turns):
            for door, found in turns.items():
                found.append(_turn(running, door, args))
    met = all(meets(turn, soaked=bool(args.soak)) for found in turns.values() for turn in found)
    print(json.dumps({"asked": vars(args), "turns": turns, "met": met}))


if __name__ == "__main__":
    main()
