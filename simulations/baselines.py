"""What the federated model is compared with. All start where it starts, so that only the training differs."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from client.shop import read_examples
from client.sources import OrderSource
from pp_model.loss import Prediction
from pp_model.model import load_model
from pp_model.plan import TrainingPlan
from pp_model.randomness import SystemSource
from pp_model.schema import OrderLog, concatenate
from pp_model.serialization import Arrays
from pp_model.train import customer_rows, pick_device, train_locally
from server.optimizer import ServerOptimizer
from server.recipe import Recipe
from simulations.evaluate import Figures, Judge
from simulations.federation import federate_by_engine
from simulations.planning import plan_of
from simulations.scenario import Scenario
from simulations.shops import Market, source_of

LABELS = {
    "local_only": "each merchant alone, without privacy",
    "central_non_private": "all orders in one place, without privacy (no merchant could do this in reality)",
    "fedavg_non_private": "federated averaging, without privacy",
    "synthetic_only": "synthetic shops only, no real order seen",
}


def run_baseline(
    name: str, market: Market, judge: Judge, init: Arrays, scenario: Scenario, *, directory: Path
) -> Figures:
    """The figures of one baseline, over all customers and per merchant, with its label and seconds.

    None of them has privacy, and none touches a merchant's ledger: they exist in a simulation only.
    """
    started = time.monotonic()
    predicted = baseline_prediction(name, market, judge, init, scenario, directory=directory)
    return {
        **judge.together(predicted),
        "label": LABELS[name],
        "seconds": round(time.monotonic() - started, 2),
        "merchants": judge.by_merchant(predicted),
    }


def baseline_prediction(
    name: str, market: Market, judge: Judge, init: Arrays, scenario: Scenario, *, directory: Path
) -> Prediction:
    """What one baseline says of every holdout customer, in the order of the judge's rows."""
    if name == "synthetic_only":
        return judge.predict(init)
    if name == "fedavg_non_private":
        average = without_privacy(scenario, algorithm="fedavg", **Recipe.fedavg())
        run = federate_by_engine(
            market.shops,
            plan_of(average, init),
            init,
            average,
            directory=directory / "baselines" / name,
            secret_for=lambda _: SystemSource(),
        )
        return judge.predict(run.arrays)
    plan = plan_of(without_privacy(scenario), init)
    if name == "central_non_private":
        everyone = source_of(_all_orders(market), name="everyone")
        return judge.predict(train_together(everyone, plan, init, device=scenario.device))
    return judge.predict_own(
        {
            merchant: train_together(source_of(log, name=merchant), plan, init, device=scenario.device)
            for merchant, log in market.shops.items()
        }
    )


def train_together(source: OrderSource, plan: TrainingPlan, init: Arrays, *, device: str) -> Arrays:
    """The rounds of a plan over one source without messages or ledger: for baselines without privacy only."""
    model = load_model(plan.model, init).to(pick_device(device))
    rows, secret = customer_rows(model, read_examples(source, plan)), SystemSource()
    optimizer, arrays = ServerOptimizer(plan=plan.server, rounds=plan.rounds), init
    for round_ in range(1, plan.rounds + 1):
        update = train_locally(arrays, rows, plan, secret=secret)
        arrays, optimizer = optimizer.step(arrays, update, round=round_)
    return optimizer.published(arrays)


def without_privacy(scenario: Scenario, **recipe: object) -> Scenario:
    """The same scenario with infinite epsilon, and the recipe changed where asked."""
    return replace(scenario, epsilon=float("inf"), recipe=replace(scenario.recipe, **recipe))  # type: ignore[arg-type]


def _all_orders(market: Market) -> OrderLog:
    logs, first = [], 0
    for log in market.shops.values():
        logs.append(log.with_customers(log.customer + first, num_customers=first + log.num_customers))
        first += log.num_customers
    return concatenate(logs, num_customers=first)
