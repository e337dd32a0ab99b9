"""The merchants of a simulation: a file's orders dealt out, or synthetic shops; and what is held out of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.orders import Orders, read_orders
from client.sources import open_source
from client.sources.contract import DataContract
from client.sources.memory import MemorySource
from pp_model.errors import BadOrdersError, ConfigError
from pp_model.features import Examples, FeatureSpec, build_examples
from pp_model.schema import SECONDS_PER_DAY, EventType, OrderLog, day_start, fingerprint64
from simulations.scenario import OrdersSpec, Scenario, SyntheticSpec
from synthetic.shops import draw_traits, synthetic_shop

Codes = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Market:
    """All merchants of a simulation, by name, with their orders; `skipped` counts what the contract left out."""

    shops: Mapping[str, OrderLog]
    skipped: Mapping[str, int]
    synthetic: bool

    @property
    def num_orders(self) -> int:
        """Rows of all merchants."""
        return sum(len(log) for log in self.shops.values())


def open_market(scenario: Scenario) -> Market:
    """The scenario's merchants.

    Raises:
        BadOrdersError: the file breaks the data contract.
        ConfigError: fewer merchants or customers than asked for.
    """
    if scenario.synthetic is not None:
        return Market(shops=_synthetic(scenario.synthetic, scenario), skipped={}, synthetic=True)
    assert scenario.orders is not None
    spec = scenario.orders
    contract = spec.contract
    if spec.merchant_column:
        contract = replace(contract, columns={**contract.columns, "merchant": spec.merchant_column})
    orders = read_orders(open_source(str(Path(spec.file).expanduser()), contract), window=None)
    if not len(orders.log):
        raise BadOrdersError("no orders are left to use; check the columns and the data contract", place=spec.file)
    skipped = {reason.name.lower(): skip.count for reason, skip in orders.report.skipped.items()}
    return Market(shops=_dealt_out(orders, spec, scenario), skipped=skipped, synthetic=False)


def source_of(log: OrderLog, *, name: str) -> MemorySource:
    """A shop's orders behind the interface that a merchant's daemon reads."""
    ids = np.arange(log.num_customers).astype(str).tolist()
    return MemorySource(log=log, customer_ids=ids, place=name, contract=DataContract(duplicates="lines"))


def holdout(market: Market, scenario: Scenario, features: FeatureSpec) -> dict[str, Examples]:
    """Each merchant's rows at the cutoff: what predictions are judged on.

    Raises:
        ConfigError: nobody has an order before the cutoff or before the newest training window, or no order falls into
            the holdout window.
    """
    newest = scenario.cutoff - dt.timedelta(days=scenario.horizon_days)
    firsts = [int(log.timestamp.min()) for log in market.shops.values() if len(log)]
    if firsts and day_start(newest) <= min(firsts) < day_start(scenario.cutoff):
        raise ConfigError(
            f"there is nothing to train on: no order lies before {newest}, one horizon before the cutoff; choose a "
            "later --cutoff or a shorter --horizon-days"
        )
    rows = {name: build_examples(log, [scenario.cutoff], features) for name, log in market.shops.items()}
    if not sum(len(part) for part in rows.values()):
        raise ConfigError(f"no customer has an order before the cutoff {scenario.cutoff}; choose a later --cutoff")
    if not sum(int(part.spend_cents.sum()) for part in rows.values()):
        raise ConfigError(
            f"nobody spends in the {scenario.horizon_days} days from {scenario.cutoff}; choose an earlier --cutoff "
            "or a longer --horizon-days"
        )
    return rows


def _dealt_out(orders: Orders, spec: OrdersSpec, scenario: Scenario) -> dict[str, OrderLog]:
    log = orders.log
    if orders.merchant is None:
        if len(orders.customer_ids) < scenario.merchants:
            raise ConfigError(
                f"there are fewer customers than the {scenario.merchants} merchants asked for; lower --merchants"
            )
        salt = f"{scenario.seed}|"
        shop_of_customer = np.array(
            [fingerprint64(salt + customer) % scenario.merchants for customer in orders.customer_ids], np.int64
        )
        shop, names = shop_of_customer[log.customer], [f"merchant-{i + 1:02d}" for i in range(scenario.merchants)]
    else:
        shop, names = orders.merchant.astype(np.int64), list(orders.merchant_names)
        if spec.customers_at == "home":
            shop = _home(log, shop, len(names))[log.customer]
        shop, names = _merge_small(log, shop, names, scenario.merchants)
    return {name: _compact(log.select(shop == number)) for number, name in enumerate(names)}


def _home(log: OrderLog, shop: Codes, num_shops: int) -> Codes:
    """The shop with most visits (purchase days) of each customer; of equal ones, the first."""
    visits = np.unique(
        np.stack([log.customer, shop, log.timestamp // SECONDS_PER_DAY], axis=1)[log.event_type == EventType.PURCHASE],
        axis=0,
    )
    pairs, counts = np.unique(visits[:, 0] * num_shops + visits[:, 1], return_counts=True)
    home = np.zeros(log.num_customers, np.int64)
    order = np.lexsort((-(pairs % num_shops), counts))  # the last one written wins: most visits, then the first shop
    home[pairs[order] // num_shops] = pairs[order] % num_shops
    return home


def _merge_small(log: OrderLog, shop: Codes, names: list[str], wanted: int) -> tuple[Codes, list[str]]:
    """The `wanted` - 1 merchants with most customers as they are, all the others as one; all, where they are few."""
    if len(names) < wanted:
        raise ConfigError(f"the merchant column has {len(names)} merchants, {wanted} are asked for; lower --merchants")
    if len(names) == wanted:
        return shop, names
    pairs = np.unique(np.stack([shop, log.customer], axis=1), axis=0)
    by_size = np.argsort(-np.bincount(pairs[:, 0], minlength=len(names)), kind="stable")
    place = np.full(len(names), wanted - 1, np.int64)
    place[by_size[: wanted - 1]] = np.arange(wanted - 1)
    largest = [names[i] for i in by_size[: wanted - 1]]
    others = "others together"
    while others in largest:  # or one of the two would take the other's place
        others += " too"
    return place[shop], [*largest, others]


def _compact(log: OrderLog) -> OrderLog:
    """The same rows with customers numbered from 0."""
    customers, codes = np.unique(log.customer, return_inverse=True)
    return log.with_customers(codes.astype(np.int32), num_customers=len(customers))


def _synthetic(spec: SyntheticSpec, scenario: Scenario) -> dict[str, OrderLog]:
    """One trade's traits, varied from merchant to merchant: a bakery and a florist differ less than any two shops."""
    rng = np.random.default_rng(scenario.seed)
    trade = replace(draw_traits(rng), visits_per_year=12.0, browsing=2.0, return_chance=0.05, season=0.3)
    shares = rng.dirichlet(np.full(scenario.merchants, 4.0))
    shops = {}
    for number, share in enumerate(shares):
        traits = replace(
            trade,
            visits_per_year=trade.visits_per_year * float(np.exp(rng.normal(0, 0.3))),
            mean_basket_cents=trade.mean_basket_cents * float(np.exp(rng.normal(0, 0.5))),
            rhythm_shape=max(1.0, trade.rhythm_shape * float(np.exp(rng.normal(0, 0.2)))),
        )
        customers = max(20, round(spec.customers * float(share)))
        shop = synthetic_shop(traits, num_customers=customers, first_day=spec.first_day, num_days=spec.days, rng=rng)
        shops[f"merchant-{number + 1:02d}"] = shop.log
    return shops
