"""A private run and what it is compared with, on the same customers: what each says of who will buy."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.bootstrap import Flags, Floats
from benchmarks.central import bgnbd_buying, fitted_bgnbd, histories, joined, lightgbm_buying
from client.own_readout import with_own_readout
from pp_model.features import Examples
from pp_model.schema import OrderLog
from pp_model.serialization import Arrays
from server.starting_point import load_init
from simulations.baselines import baseline_prediction
from simulations.evaluate import Judge
from simulations.federation import federate_by_engine, secrets_for
from simulations.planning import features_of, plan_of
from simulations.scenario import Scenario
from simulations.shops import Market, holdout, open_market

OURS, SHARED_READOUT = "secure sum", "secure sum, shared readout alone"
ALONE, BGNBD, LIGHTGBM = "each merchant alone", "BG/NBD, central", "LightGBM, central"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What each model of one seed says of every customer of the holdout; customers in the same order for all seeds.

    Attributes:
        customer: [customers], ascending: a code that is the same whichever merchant the customer was dealt to.
        bought: [customers].
        buying: each model's probabilities, [customers].
    """

    customer: NDArray[np.int64]
    bought: Flags
    buying: Mapping[str, Floats]


def judged(scenario: Scenario, *, central: bool) -> Judged:
    """The private run and what it is compared with; those in one place, which no seed changes, only where asked for.

    Nothing that is said of a customer is written to disk.
    """
    market, features = open_market(scenario), features_of(scenario)
    rows = holdout(market, scenario, features)
    judge = Judge(scenario.recipe.model, rows)
    init = load_init(scenario.recipe.init, scenario.recipe.model, seed=scenario.seed)
    buying = _private(market, judge, init, scenario)
    alone = replace(scenario, recipe=replace(scenario.recipe, trust="local"))  # nobody else's to be masked with
    with tempfile.TemporaryDirectory() as folder:
        predicted = baseline_prediction("local_only", market, judge, init, alone, directory=Path(folder))
    buying[ALONE] = predicted.buying_probability
    if central:
        past = joined(
            [histories(log, rows[name].customer, cutoff=scenario.cutoff) for name, log in market.shops.items()]
        )
        buying[BGNBD] = bgnbd_buying(fitted_bgnbd(past), past, horizon_days=scenario.horizon_days)
        trees = lightgbm_buying(market.shops, judge.rows, cutoff=scenario.cutoff, features=features)
        buying |= {} if trees is None else {LIGHTGBM: trees}
    customer = customer_codes(market.shops, rows)
    order = np.argsort(customer)
    return Judged(
        customer=customer[order],
        bought=(judge.rows.spend_cents > 0)[order],
        buying={name: probability[order] for name, probability in buying.items()},
    )


def _private(market: Market, judge: Judge, init: Arrays, scenario: Scenario) -> dict[str, Floats]:
    plan = plan_of(scenario, init)
    with tempfile.TemporaryDirectory() as folder:
        run = federate_by_engine(
            market.shops, plan, init, scenario, directory=Path(folder), secret_for=secrets_for(scenario)
        )
    models = {
        name: with_own_readout(plan, run.arrays, log, cutoff=scenario.cutoff) for name, log in market.shops.items()
    }
    return {
        OURS: judge.predict_own(models).buying_probability,
        SHARED_READOUT: judge.predict(run.arrays).buying_probability,
    }


def customer_codes(shops: Mapping[str, OrderLog], rows: Mapping[str, Examples]) -> NDArray[np.int64]:
    """A code of each customer with a row, merchant after merchant: the least of its orders' fingerprints.

    It is the same at whichever merchant the customer is, and of this customer alone where no two share an order.
    """
    codes = []
    for name, log in shops.items():
        least = np.full(log.num_customers, np.iinfo(np.int64).max)
        np.minimum.at(least, log.customer, log.order)
        codes.append(least[rows[name].customer])
    return np.concatenate(codes)
