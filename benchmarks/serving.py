"""`pp-client serve` under load from a second process: `python -m benchmarks.serving`.

The service is a process of its own over a generated shop and the shipped model. Requests come at random moments of a
fixed rate, whether or not earlier ones are answered (an open loop), and a latency counts from the moment at which its
request was due: a service that falls behind shows it. A third each is an id, posted orders, and fifty candidates to
re-rank; now and then a portrait. `--soak 345600` asks so often, as fast as it is answered, and holds memory to its bar:
a day of a shop that is asked four times a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.scoring import CUTOFF, FIRST_DAY, NUM_DAYS, ROOT, make_shop, write_orders
from client.serving import purchase_power_pb2 as pb
from client.serving.grpc_api import SERVICE
from client.serving.run import TOKEN_FILE
from pp_model.model_spec import ENCODERS

BAR_MILLISECONDS, BAR_GROWTH = 20.0, 0.05
KINDS = ("id", "orders", "rerank", "portrait")
SHARES = (0.33, 0.33, 0.33, 0.01)
_WARM_SECONDS = 3.0
_SOAKERS = 6
_CALLS = {"id": "ScoreCustomer", "orders": "ScoreOrders", "rerank": "Rerank", "portrait": "Portrait"}
_REQUESTS = {
    "id": pb.ScoreCustomerRequest, "orders": pb.ScoreOrdersRequest, "rerank": pb.RerankRequest,
    "portrait": pb.PortraitRequest,
}  # fmt: skip
_PATHS = {"id": "/v1/score", "orders": "/v1/score-orders", "rerank": "/v1/rerank", "portrait": "/v1/portrait"}

Ask = Callable[[int], Awaitable[str]]


@dataclass(frozen=True, kw_only=True)
class Running:
    """A service that answers."""

    process: subprocess.Popen[bytes]
    token: str
    http_port: int
    grpc_port: int

    def resident_megabytes(self) -> float:
        """Its memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    def cpu_seconds(self) -> float:
        """What it has used, in all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(kw_only=True)
class Seen:
    """What a run of load saw: kind and milliseconds of each request, statuses, and memory over time."""

    latencies: list[tuple[str, float]] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    megabytes: list[float] = field(default_factory=list)


@contextmanager
def service(folder: Path, *, encoder: str, orders: int, customers: int, more: Sequence[str]) -> Iterator[Running]:
    """A shop and its service, until the block ends."""
    config = make_shop(folder / "shop", encoder=encoder, orders_file="orders.parquet")
    write_orders(folder / "shop" / "orders.parquet", orders=orders, customers=customers)
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


def bodies(customers: int, *, number: int, seed: int = 1) -> list[tuple[str, dict[str, Any]]]:
    """Requests as they come, by kind."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(KINDS, size=number, p=SHARES).tolist()
    return [(kind, _body(kind, customers, rng)) for kind in kinds]


def _body(kind: str, customers: int, rng: np.random.Generator) -> dict[str, Any]:
    customer = {"customer_id": f"customer-{int(rng.random() ** 1.5 * customers):08d}"}
    if kind == "orders":
        days = rng.integers(0, NUM_DAYS, rng.integers(1, 21))
        first = np.datetime64(FIRST_DAY)
        return {
            "orders": [
                {"timestamp": f"{first + day}T12:00:00", "amount_cents": int(cents), "category": "category 3"}
                for day, cents in zip(days, np.exp(rng.normal(8, 1, len(days))).astype(int), strict=True)
            ]
        }
    if kind == "rerank":
        prices = np.exp(rng.normal(8, 1, 50)).astype(int).tolist()
        items = [
            {"item_id": f"item-{place}", "relevance": round(1 - place / 60, 4), "price_cents": price,
             "category": f"category {int(rng.integers(200))}"}
            for place, price in enumerate(prices)
        ]  # fmt: skip
        return {**customer, "items": items}
    return customer


async def over_http(running: Running, asked: Sequence[tuple[str, dict[str, Any]]]) -> Ask:
    """Asks over connections that stay open; gives the status."""
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    raw = []
    for kind, body in asked:
        content = json.dumps(body).encode()
        head = (
            f"POST {_PATHS[kind]} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {running.token}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        raw.append(head.encode() + content)

    async def connection() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while idle:
            reader, writer = idle.pop()  # the one used last; the service closes those that are not
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", running.http_port)

    async def ask(number: int) -> str:
        reader, writer = await connection()
        try:
            writer.write(raw[number % len(raw)])
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.findall(rb"(?i)content-length: (\d+)", head)[0]))
        except (OSError, asyncio.IncompleteReadError) as error:
            writer.close()
            return type(error).__name__
        idle.append((reader, writer))
        return head[9:12].decode()

    return ask


async def over_grpc(running: Running, asked: Sequence[tuple[str, dict[str, Any]]]) -> Ask:
    """Asks over one channel; gives the status."""
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{running.grpc_port}")
    metadata = (("authorization", f"Bearer {running.token}"),)
    methods = {kind: channel.unary_unary(f"/{SERVICE}/{name}") for kind, name in _CALLS.items()}
    raw = [(methods[kind], _REQUESTS[kind](**body).SerializeToString()) for kind, body in asked]

    async def ask(number: int) -> str:
        method, data = raw[number % len(raw)]
        try:
            await method(data, metadata=metadata, timeout=10)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        return "OK"

    return ask


async def load(running: Running, *, door: str, rate: float, seconds: float, customers: int) -> Seen:
    """Asks at random moments, `rate` a second on average, for so long; what was due before it was warm is left out."""
    seen, asked, ask = await _prepared(running, door=door, customers=customers)
    rng, began = np.random.default_rng(2), time.perf_counter()
    due, number, open_requests = 0.0, 0, set[asyncio.Task[None]]()
    sampled = 0.0

    async def one(number: int, due: float) -> None:
        status = await ask(number)
        if due >= _WARM_SECONDS:
            seen.latencies.append((asked[number % len(asked)][0], 1000 * (time.perf_counter() - began - due)))
            seen.statuses[status] += 1

    while due < seconds + _WARM_SECONDS:
        now = time.perf_counter() - began
        if now < due:
            await asyncio.sleep(due - now)
        task = asyncio.create_task(one(number, due))
        open_requests.add(task)
        task.add_done_callback(open_requests.discard)
        if due >= sampled:
            seen.megabytes.append(running.resident_megabytes())
            sampled += max(1.0, seconds / 200)
        due, number = due + float(rng.exponential(1 / rate)), number + 1
    await asyncio.gather(*open_requests)
    return seen


async def soak(running: Running, *, door: str, requests: int, customers: int) -> Seen:
    """Asks so often, a few at a time, each as soon as one is answered."""
    seen, asked, ask = await _prepared(running, door=door, customers=customers)
    numbers, every = iter(range(requests)), max(1, requests // 200)

    async def asker() -> None:
        for number in numbers:
            began = time.perf_counter()
            seen.statuses[await ask(number)] += 1
            seen.latencies.append((asked[number % len(asked)][0], 1000 * (time.perf_counter() - began)))
            if number % every == 0:
                seen.megabytes.append(running.resident_megabytes())

    await asyncio.gather(*(asker() for _ in range(_SOAKERS)))
    return seen


async def _prepared(
    running: Running, *, door: str, customers: int
) -> tuple[Seen, list[tuple[str, dict[str, Any]]], Ask]:
    asked = bodies(customers, number=5_000)
    return Seen(), asked, await (over_http if door == "http" else over_grpc)(running, asked)


def growth(megabytes: Sequence[float]) -> float:
    """By how much the last tenth is above the second one, as a share; the first tenth is the start."""
    tenth = max(1, len(megabytes) // 10)
    return statistics.median(megabytes[-tenth:]) / statistics.median(megabytes[tenth : 2 * tenth]) - 1


def figures(seen: Seen, *, cpu_seconds: float) -> dict[str, Any]:
    """What is printed."""
    found: dict[str, Any] = {"requests": len(seen.latencies), "statuses": dict(seen.statuses)}
    for kind in ("all", *KINDS):
        values = [value for of, value in seen.latencies if kind in ("all", of)]
        if values:
            low, high, worst = np.quantile(values, [0.5, 0.99, 1.0])
            found[kind] = {"p50_ms": round(low, 2), "p99_ms": round(high, 2), "worst_ms": round(worst, 1)}
    found["cpu_ms_a_request"] = round(1000 * cpu_seconds / max(1, len(seen.latencies)), 2)
    found["megabytes"] = [round(seen.megabytes[0], 1), round(seen.megabytes[-1], 1)]
    found["growth"] = round(growth(seen.megabytes), 4)
    return found


def main() -> int:
    """Prints the figures as JSON; the exit code is 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--door", choices=("http", "grpc"), default="http")
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--encoder", choices=ENCODERS, default="mlp")
    parser.add_argument("--soak", type=int, default=0, metavar="REQUESTS", help="so many, as fast as they are answered")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="further arguments of pp-client serve")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, shop = Path(name), {"encoder": args.encoder, "orders": args.orders, "customers": args.customers}
        with service(folder, **shop, more=args.more) as running:
            used = running.cpu_seconds()
            among = {"door": args.door, "customers": args.customers}
            if args.soak:
                seen = asyncio.run(soak(running, requests=args.soak, **among))
            else:
                seen = asyncio.run(load(running, rate=args.rate, seconds=args.seconds, **among))
            used = running.cpu_seconds() - used
    found = figures(seen, cpu_seconds=used)
    print(json.dumps({"asked": vars(args), **found}))
    missed = found["growth"] > BAR_GROWTH if args.soak else found["all"]["p99_ms"] > BAR_MILLISECONDS
    return int(missed or bool(set(seen.statuses) - {"200", "OK"}))


if __name__ == "__main__":
    sys.exit(main())
