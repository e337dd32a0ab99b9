"""A merchant whose pages have something to show, and its pages on a port of this machine."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
from prometheus_client import CollectorRegistry

from agreement.node_keys import fingerprint_of
from agreement.offer import EVERYBODY, Offer, sign_offer
from client.agreements import open_agreements, within_budget
from client.drift import KeptRun, histogram, keep_run
from client.insight import NAMES
from client.insight.made import Made, list_file
from client.insight.store import cutoff_folder, write_made
from client.pages.app import merchant_app
from client.pages.jobs import Jobs
from client.pages.login import Login
from client.pages.merchant import Merchant
from client.settings import load_settings
from client.shop_status import StatusKeeper
from daemons.health import HealthServer, Status
from pp_model.plan import Peer, SecureSumPlan
from tests.support.market import market_plan
from tests.support.merchant_home import PLAN_KEY, TODAY
from tests.support.plans import tiny_dp, tiny_server
from tests.support.scored import ScoredShop, scored_shop
from tests.support.served import served
from web.charts import Chart, Series
from web.report import Column, Figure, Report, Table
from web.words import phrase

DAY, HOUR = dt.timedelta(days=1), dt.timedelta(hours=1)
CUTOFF = TODAY - DAY
SOMEBODY = "customer-7"
_FIELD = re.compile(r'name="form_token" value="([^"]+)"')


def offered(shop: ScoredShop, *, serial: int, hours: int = 240, **changes: Any) -> Offer:
    """An offer of `market_plan`, with `changes`, that the merchant has considered."""
    settings, now = shop.settings, dt.datetime.now(dt.UTC).replace(microsecond=0)
    plan = market_plan(**{"plan_id": f"plan-{serial}", **changes})
    offer = Offer(
        platform="Fair Prices",
        serial=serial,
        issued=now - HOUR,
        not_before=now - HOUR,
        expires=now + hours * HOUR,
        audience=EVERYBODY,
        plan=plan,
    )
    open_agreements(settings).consider(
        sign_offer(offer, PLAN_KEY), policy=settings.policy, afford=within_budget(settings), now=now
    )
    return offer


def approve(shop: ScoredShop, offer: Offer) -> None:
    """A person says yes."""
    settings = shop.settings
    open_agreements(settings).approve(
        offer.id, policy=settings.policy, afford=within_budget(settings), by="ann", now=dt.datetime.now(dt.UTC)
    )


def charge(shop: ScoredShop, offer: Offer, *, rounds: int) -> None:
    """So many rounds of the offer's plan go into the ledger."""
    with shop.settings.open_ledger() as ledger:
        for number in range(rounds):
            task = f"{offer.serial:032x}{number:032x}"
            ledger.charge(task, offer.plan.event, plan=offer.plan.fingerprint, most_tasks=offer.plan.rounds)


def quiet(shop: ScoredShop) -> None:
    """No daemon of somebody else is taken for this merchant's: its status port is one where nothing listens."""
    text = shop.config.read_text(encoding="utf-8")
    shop.config.write_text(re.sub(r"health_http = .*", 'health_http = "127.0.0.1:9"', text), encoding="utf-8")


def full_shop(folder: Path) -> ScoredShop:
    """Charges of two plans, one that waits, one secure sum, one refused; a model, reports, kept scorings."""
    shop = scored_shop(folder)
    quiet(shop)
    spring = offered(shop, serial=1, plan_id="spring", rounds=8)
    summer = offered(shop, serial=2, plan_id="summer", rounds=6, dp=tiny_dp(sample_rate=0.04, noise_multiplier=1.2))
    for offer, rounds in ((spring, 8), (summer, 4)):
        approve(shop, offer)
        charge(shop, offer, rounds=rounds)
    offered(shop, serial=3, plan_id="autumn", rounds=5)
    own = fingerprint_of(shop.settings.node_key().public_key())
    peers = {"bakery": own, "florist": "SHA256:florist", "grocer": "SHA256:grocer", "bookshop": "SHA256:bookshop"}
    offered(
        shop,
        serial=4,
        plan_id="together",
        trust="secure_sum",
        secure_sum=SecureSumPlan(
            roster=tuple(Peer(name=name, key=key) for name, key in peers.items()), dishonest=1, rounds_per_block=5
        ),
        server=tiny_server(min_completions=3),
    )
    offered(shop, serial=5, plan_id="loud", dp=tiny_dp(noise_multiplier=0.1))
    for at, (cutoff, mean) in enumerate(((CUTOFF - 30 * DAY, 48.0), (CUTOFF, 53.0))):
        rng = np.random.default_rng(at)
        scores = np.clip(rng.normal(mean, 18, 300), 0, 100)
        features = {name: rng.normal(at * 0.4, 1.5, 300) for name in ("recency", "visits", "basket")}
        keep_run(
            shop.settings.paths.scores,
            KeptRun(
                cutoff=cutoff,
                model="a" * 64,
                customer_ids=pa.array([f"customer-{n}" for n in range(300)]),
                score=scores,
                histograms={
                    "score": histogram("score", scores).tolist(),
                    **{name: histogram(name, values).tolist() for name, values in features.items()},
                },
            ),
        )
    for name in NAMES:
        put_report(shop, name)
    return shop


def put_report(shop: ScoredShop, name: str, *, cutoff: dt.date = CUTOFF, **changes: Any) -> Report:
    """A made-up report under a real name, with every kind of part."""
    lists = {"customers": portraits() if name == "portraits" else pa.table({"customer_id": ["customer-1", "c,2"]})}
    names = ("low", "middle", "high")
    report = Report(
        name=name,
        made=dt.datetime.now(dt.UTC).replace(microsecond=0),
        cutoff=cutoff,
        horizon_days=28,
        model_id=1,
        model="a" * 64,
        currency="GBP",
        figures=(
            Figure(label=phrase("data.customers"), value=300, kind="count"),
            Figure(label=phrase("customer.expected"), value=123456, kind="money", band=(100000.0, 150000.0)),
            Figure(label=phrase("customer.churn"), value=0.61, kind="share", warning=True),
            Figure(label=phrase("data.newest"), value=None, kind="date"),
        ),
        charts=(
            Chart(
                kind="bar",
                title=phrase("data.scores_chart"),
                x=phrase("customer.tier"),
                y=phrase("data.share"),
                categories=tuple(phrase(f"insight.tier.{tier}") for tier in names),
                series=(
                    Series(
                        label=phrase("data.share"), values=(0.5, 0.4, 0.1), band=((0.4, 0.6), (0.3, 0.5), (0.05, 0.2))
                    ),
                    Series(label=phrase("budget.limit"), values=(0.45, 0.35, 0.2), shape="dashed"),
                ),
                kind_of_value="share",
            ),
            Chart(
                kind="scatter",
                title=phrase("customer.expected"),
                x=phrase("data.score"),
                y=phrase("customer.expected"),
                series=(Series(label=phrase("data.score"), x=(1.0, 2.0, 3.0), values=(1.1, 1.9, 3.2)),),
                diagonal=True,
            ),
            Chart(kind="line", title=phrase("data.month"), x=phrase("data.month"), y=phrase("data.rows"), series=()),
        ),
        tables=(
            Table(
                title=phrase("data.customers"),
                columns=(
                    Column(label=phrase("customer.id"), kind="text"),
                    Column(label=phrase("customer.expected"), kind="money"),
                    Column(label=phrase("customer.tier"), kind="text"),
                ),
                rows=(("customer-1", 1234, phrase("insight.tier.high")), ("<script>alert(1)</script>", None, "x")),
                file=list_file(name, "customers"),
            ),
        ),
        files=(list_file(name, "customers"),),
        notes=(phrase("customer.note"),),
    )
    report = replace(report, **changes)
    write_made(cutoff_folder(shop.settings.paths.insight, cutoff), Made(report=report, lists=lists))
    return report


def portraits() -> pa.Table:
    """The list of the portraits report, of 300 customers."""
    number = list(range(300))
    return pa.table(
        {
            "customer_id": [f"customer-{n}" for n in number],
            "score": [n / 3 for n in number],
            "tier": ["low" if n < 150 else "middle" if n < 270 else "high" for n in number],
            "purchase_probability": [n / 300 for n in number],
            "churn_risk": [1 - n / 300 for n in number],
            "expected_spend_cents": [100 * n for n in number],
            "spend_low_cents": [50 * n for n in number],
            "spend_high_cents": [200 * n for n in number],
            "change": [None if n % 2 else 1.5 for n in number],
            "reason_1": ["spend:+"] * 300,
            "reason_2": ["recency:-"] * 300,
            "reason_3": [None] * 300,
            "newcomer": [n < 20 for n in number],
            "orders_seen": [2] * 300,
            "spend_so_far_cents": [1000 * n for n in number],
            "first_order": pa.array([TODAY - 90 * DAY] * 300),
            "last_order": pa.array([TODAY - 3 * DAY] * 300),
            "usual_gap_days": [None if n % 3 else 14.0 for n in number],
            "category_1": ["bread & butter"] * 300,
            "share_1": [0.7] * 300,
            "category_2": ["cake"] * 300,
            "share_2": [0.3] * 300,
            "category_3": pa.array([None] * 300, pa.string()),
            "share_3": pa.array([None] * 300, pa.float64()),
        }
    )


@contextmanager
def daemon_page(shop: ScoredShop, *, ok: bool = True) -> Iterator[None]:
    """The status page of a daemon, where merchant.toml says it is, and what a runner writes."""
    text = shop.config.read_text(encoding="utf-8")
    parts = {"supernode": True, "runner": True, "platform": ok, "ledger": True}
    with HealthServer(status=lambda: Status(parts=parts), registry=CollectorRegistry()) as server:
        place = f'health_http = "127.0.0.1:{server.http_port}"'
        shop.config.write_text(re.sub(r"health_http = .*", place, text), encoding="utf-8")
        keeper = StatusKeeper(shop.settings.paths.agreements.parent, pid=os.getpid())
        keeper.update(
            ready=True,
            newest_order=(TODAY - DAY).isoformat(),
            answered=12,
            refused={"busy": 2},
            last_task=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        )
        try:
            yield
        finally:
            shop.config.write_text(text, encoding="utf-8")


@dataclass(kw_only=True)
class Running:
    """Pages that are served."""

    origin: str
    login: Login
    jobs: Jobs
    links: list[str] = field(default_factory=list)
    clients: list[httpx.Client] = field(default_factory=list)

    @property
    def token(self) -> str:
        """Of the newest link."""
        return self.links[-1]

    def cookies(self) -> dict[str, str]:
        """Of a browser that has logged in."""
        cookie = self.login.use(self.token)
        assert cookie
        return {"pp_client_session": cookie}

    def browser(self) -> Browser:
        """Something that asks as a browser does, logged in."""
        client = httpx.Client(base_url=self.origin, cookies=self.cookies(), trust_env=False, timeout=30)
        self.clients.append(client)
        return Browser(client=client)


@dataclass(kw_only=True)
class Browser:
    """Asks for pages and sends their forms."""

    client: httpx.Client

    def get(self, path: str, **headers: str) -> httpx.Response:
        """One page."""
        return self.client.get(path, headers=headers)

    @cached_property
    def form_token(self) -> str:
        """What every form has."""
        match = _FIELD.search(self.get("/rules").text)
        assert match
        return match[1]

    def post(self, path: str, *, token: str | None = None, **fields: str) -> httpx.Response:
        """A form, with its token unless another is given."""
        data = {"form_token": self.form_token if token is None else token, **fields}
        return self.client.post(path, data=data, headers={"origin": str(self.client.base_url)})


@contextmanager
def running_pages(config: Path) -> Iterator[Running]:
    """The merchant's pages on a port of the kernel's choice, in a thread."""
    merchant, links = Merchant(config), list[str]()
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
    jobs = Jobs(environment={**environment, "OMP_NUM_THREADS": "1"}, cwd=load_settings(config).home)
    login = Login(on_link=links.append)
    try:
        with served(merchant_app(merchant, jobs=jobs, login=login)) as origin:
            running = Running(origin=origin, login=login, jobs=jobs, links=links)
            try:
                yield running
            finally:
                for client in running.clients:
                    client.close()
    finally:
        jobs.close()
