"""Requests to a running `pp-client serve`, and what is seen of its answers: of `benchmarks.serving`.

A third each is an id, posted orders, and fifty candidates to re-rank; now and then a portrait.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.generated_shop import FIRST_DAY, NUM_DAYS
from client.serving import purchase_power_pb2 as pb
from client.serving.grpc_api import SERVICE

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
