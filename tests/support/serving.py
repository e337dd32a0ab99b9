"""A shop that is served: its orders, what would be posted of them, and the service over it with both doors' parts."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from client.insight.data import InsightData, load_data
from client.models import KeptModel, newest_kept
from client.score_run import score_all
from client.serving.bearer import Bearer
from client.serving.desk import Desk
from client.serving.hot_swap import Keeper
from client.serving.http_api import make_app
from client.serving.http_guard import Guard
from client.serving.limits import Gate
from client.serving.metrics import Metrics
from client.serving.run import health_of
from client.serving.service import Service
from client.serving.snapshot import Snapshot, snapshot_of
from pp_model.model_spec import Encoder
from tests.support.merchant_home import DAY, TODAY, new_shop
from tests.support.orders import write_csv
from tests.support.scored import ScoredShop, rows_of, shipped

COLUMNS = ("customer_id", "timestamp", "amount", "order_id", "quantity", "category", "event_type")
BEARER = Bearer(token=b"t" * 43)
SHOWN = {"authorization": "Bearer " + "t" * 43}
CATEGORIES = ("tea", "coffee", "bread", "milk", "cheese", "")


def quiet(what: str, total: int | None) -> Any:
    """No progress is shown."""
    return lambda _: None


def served_shop(folder: Path, *, customers: int = 120, encoder: Encoder = "mlp", seed: int = 0) -> ScoredShop:
    """A shop with every kind of event, up to yesterday: lines that share an order, returns, visits, newcomers."""
    shop = ScoredShop(config=new_shop(folder / "shop", columns={name: name for name in COLUMNS}).config)
    write_csv(shop.orders, order_rows(customers, seed=seed))
    shop.keep_model(*shipped(encoder))
    return shop


def order_rows(customers: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Rows of an export; every fifth customer has a single order, of the last four weeks."""
    rng = np.random.default_rng(seed)
    rows = []
    for customer in range(customers):
        visits, oldest = (1, 27) if customer % 5 == 0 else (int(rng.integers(2, 9)), 400)
        level = float(np.exp(rng.normal(3, 0.8)))
        for visit in range(visits):
            when = dt.datetime.combine(TODAY - int(rng.integers(1, oldest)) * DAY, dt.time()) + dt.timedelta(
                seconds=int(rng.integers(0, 86_400))
            )
            for _ in range(int(rng.integers(1, 4))):
                kind = "purchase" if visit == 0 else str(rng.choice(["purchase"] * 6 + ["return", "view", "cart"]))
                cents = max(1, round(100 * level * float(np.exp(rng.normal(0, 0.5)))))
                rows.append(
                    {
                        "customer_id": f"customer-{customer}",
                        "timestamp": when.isoformat(sep=" "),
                        "amount": f"{cents / 100:.2f}",
                        "order_id": f"{customer}-{visit}" if visits == 1 or rng.random() < 0.8 else "",
                        "quantity": str(int(rng.integers(1, 5))),
                        "category": str(rng.choice(CATEGORIES)),
                        "event_type": kind,
                    }
                )
    return rows


def posted(rows: Sequence[Mapping[str, str]], customer_id: str) -> list[dict[str, Any]]:
    """The rows of a customer as a program posts them."""
    return [
        {
            "timestamp": row["timestamp"].replace(" ", "T"),
            "amount_cents": round(float(row["amount"]) * 100),
            "order_id": row["order_id"],
            "quantity": int(row["quantity"]),
            "category": row["category"],
            "event_type": row["event_type"],
        }
        for row in rows
        if row["customer_id"] == customer_id
    ]


def shop_data(shop: ScoredShop, *, cutoff: dt.date = TODAY) -> InsightData:
    """What is served of the shop."""
    return load_data(shop.settings, cutoff=cutoff, models=shop.settings.paths.models, progress=quiet)


def score_lines(shop: ScoredShop, out: Path, *, cutoff: dt.date = TODAY) -> dict[str, dict[str, Any]]:
    """The lines of `pp-client score`, by customer id."""
    score_all(
        shop.settings,
        cutoff=cutoff,
        out=out,
        models=shop.settings.paths.models,
        force=True,
        stale=True,
        progress=quiet,
    )
    return {row["customer_id"]: row for row in rows_of(out)}


def keeper_of(shop: ScoredShop, **changes: Any) -> Keeper:
    """A keeper of the shop, which has loaded nothing yet."""
    settings = shop.settings

    def newest() -> KeptModel:
        return newest_kept(settings.paths.models, settings.plan_key)

    def load(cutoff: dt.date, model: KeptModel) -> Snapshot:
        return snapshot_of(load_data(settings, cutoff=cutoff, models=model, progress=quiet))

    given = {"models": settings.paths.models, "cutoff": lambda: TODAY, "reread_seconds": 1e9}
    return Keeper(**{**given, "newest": newest, "load": load, **changes})


@dataclass(frozen=True, kw_only=True)
class Behind:
    """All that is behind the doors."""

    keeper: Keeper
    desk: Desk

    def app(self, *, loopback: bool = True) -> Guard:
        """The HTTP door's application."""
        app = make_app(self.desk, lambda: health_of(self.keeper))
        turned_away = partial(self.desk.metrics.turned_away, "http")
        return Guard(app, bearer=BEARER, loopback=loopback, turned_away=turned_away)


def behind(keeper: Keeper, *, workers: int = 1, waiting: int = 8, seconds: float = 10.0, service: Any = None) -> Behind:
    """What is behind the doors; another service may be given."""
    gate = Gate(workers=workers, waiting=waiting, seconds=seconds)
    found = service or Service(lambda: keeper.current)
    return Behind(keeper=keeper, desk=Desk(service=found, gate=gate, metrics=Metrics(keeper, gate)))


def samples(whole: Behind) -> list[Sample]:
    """All that the metrics show."""
    text = generate_latest(whole.desk.metrics.registry).decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def shown(whole: Behind) -> tuple[str, dict[tuple[str, str, str], float]]:
    """The metrics as text; and what is counted so far of answers and of what was turned away, by door and reason."""
    counts = {
        (each.name, each.labels["door"], each.labels.get("reason") or each.labels["code"]): each.value
        for each in samples(whole)
        if each.name in {"pp_serving_answers_total", "pp_serving_turned_away_total"} and each.value
    }
    return generate_latest(whole.desk.metrics.registry).decode(), counts


def items(*given: tuple[str, float, int, str]) -> list[dict[str, Any]]:
    """Candidates: id, relevance, price in cents, category."""
    names = ("item_id", "relevance", "price_cents", "category")
    return [dict(zip(names, each, strict=True)) for each in given]


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Sends requests to an application, without a socket between the two.

    Attributes:
        peer: the address that they seem to come from.
    """

    app: Guard
    base_url: str = "http://127.0.0.1"
    headers: Mapping[str, str] = field(default_factory=lambda: dict(SHOWN))
    peer: str = "127.0.0.1"

    def request(self, method: str, path: str, **given: Any) -> httpx.Response:
        """The answer; `given` as in httpx."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, client=(self.peer, 50_000), raise_app_exceptions=False)
            async with httpx.AsyncClient(
                transport=transport, base_url=self.base_url, headers=dict(self.headers), trust_env=False
            ) as client:
                return await client.request(method, path, **given)

        return asyncio.run(ask())

    def get(self, path: str, **given: Any) -> httpx.Response:
        """See `request`."""
        return self.request("GET", path, **given)

    def post(self, path: str, **given: Any) -> httpx.Response:
        """See `request`."""
        return self.request("POST", path, **given)
