"""A whole simulation: merchants, plan, federated run, baselines, figures; what it found is one dict."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from client.own_readout import with_own_readout
from client.policy import epsilon_by_merchants
from client.statement import privacy_statement
from pp_model.accounting import PrivacyEvent, epsilon_spent
from pp_model.config import to_mapping
from pp_model.features import Examples
from pp_model.loss import Prediction, tiers
from pp_model.metrics import CENTS_PER_UNIT, calibration_table, decile_table
from pp_model.plan import TrainingPlan
from server.starting_point import load_init
from simulations.baselines import run_baseline
from simulations.evaluate import Judge
from simulations.federation import engine_for, federate_by_engine, secrets_for
from simulations.planning import features_of, plan_of
from simulations.pretrain import trainable_parameters
from simulations.scenario import Scenario
from simulations.shops import Market, holdout, open_market

PACKAGES = ("purchase-power", "torch", "flwr", "opacus", "dp-accounting", "numpy", "pyarrow")


class Progress(Protocol):
    """Who is told how far a run is: a phase begins with its number of steps, and counts them."""

    def begin(self, phase: str, steps: int) -> Callable[[int], None]:
        """Announce a phase; the returned function is called with the steps done so far."""
        ...


def simulate(scenario: Scenario, directory: Path, progress: Progress) -> dict[str, Any]:
    """Everything about one simulation, as plain values for `result.json` (see `docs/results.md` for the keys).

    Raises:
        PurchasePowerError: bad orders, an impossible scenario, a run that was stopped; each says what to do.
    """
    started, versions = time.monotonic(), _versions()
    progress.begin("reading orders", 1)
    market = open_market(scenario)
    model, features = scenario.recipe.model, features_of(scenario)
    init = load_init(scenario.recipe.init, model, seed=scenario.seed)
    progress.begin("finding the noise", 1)
    plan = plan_of(scenario, init)
    judge = Judge(model, holdout(market, scenario, features))
    run = federate_by_engine(
        market.shops,
        plan,
        init,
        scenario,
        directory=directory,
        secret_for=secrets_for(scenario),
        on_round=progress.begin("training rounds", plan.rounds),
    )
    own = progress.begin("readouts of the merchants' own", len(market.shops))
    models = {}
    for number, (name, log) in enumerate(market.shops.items(), start=1):
        models[name] = with_own_readout(plan, run.arrays, log, cutoff=scenario.cutoff)
        own(number)
    predicted = judge.predict_own(models)
    merchants = judge.by_merchant(predicted)
    seconds = time.monotonic() - started
    baselines = {}
    for name in scenario.baselines:
        tick = progress.begin(f"baseline {name}", 1)
        baselines[name] = run_baseline(name, market, judge, init, scenario, directory=directory)
        tick(1)
    spent = max(run.spent.values(), key=lambda events: epsilon_spent(events, delta=plan.delta))
    return {
        "name": scenario.name,
        **judge.together(predicted),
        **_privacy(plan, spent),
        **_size(scenario, market, plan, judge),
        "seconds": round(seconds, 2),
        "merchants": merchants,
        "shared_readout": judge.together(judge.predict(run.arrays)),
        "baselines": baselines,
        "history": [{"round": number, **judge.together(judge.predict(arrays))} for number, arrays in run.history],
        "epsilon_by_round": _epsilon_by_round(plan),
        "budget": _number(scenario.epsilon),
        **_tables(judge.rows, predicted),
        "refusals": dict(run.refusals),
        "rejected": dict(run.rejected),
        "skipped_orders": dict(market.skipped),
        "engine": engine_for(scenario, plan, init),
        "noise_source": "operating system" if scenario.synthetic is None else "seeded, for made-up customers only",
        "config": _strict(to_mapping(scenario)),
        "plan": _strict(to_mapping(plan)),
        "versions": versions,
    }


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _privacy(plan: TrainingPlan, spent: tuple[PrivacyEvent, ...]) -> dict[str, Any]:
    by_merchants = epsilon_by_merchants(spent, delta=plan.delta)
    statement = privacy_statement(plan, spent_events=spent)
    return {
        "epsilon": _number(by_merchants[1]),
        "delta": plan.delta,
        "epsilon_two_merchants": _number(by_merchants[2]),
        "noise_multiplier": plan.dp.noise_multiplier,
        "sample_rate": plan.dp.sample_rate,
        "max_grad_norm": plan.dp.max_grad_norm,
        "rounds": plan.rounds,
        "steps_per_round": plan.dp.num_steps,
        "privacy": {
            "paragraphs": [list(pair) for pair in statement.paragraphs()],
            "epsilon_by_merchants": {str(k): _number(value) for k, value in by_merchants.items()},
            "delta": plan.delta,
        },
    }


def _size(scenario: Scenario, market: Market, plan: TrainingPlan, judge: Judge) -> dict[str, Any]:
    return {
        "encoder": plan.model.encoder,
        "algorithm": plan.algorithm,
        "parameters": trainable_parameters(plan.model),
        "customers": len(judge.rows),
        "orders": market.num_orders,
        "horizon_days": scenario.horizon_days,
        "cutoff": scenario.cutoff.isoformat(),
        "synthetic_orders": market.synthetic,
    }


def _epsilon_by_round(plan: TrainingPlan) -> list[dict[str, Any]]:
    every = max(1, plan.rounds // 20)
    rounds = sorted({*range(every, plan.rounds + 1, every), plan.rounds})
    return [{"round": r, "epsilon": _number(epsilon_spent([plan.event.times(r)], delta=plan.delta))} for r in rounds]


def _tables(rows: Examples, predicted: Prediction) -> dict[str, Any]:
    spend = rows.spend_cents / CENTS_PER_UNIT
    expected = predicted.expected_spend_cents / CENTS_PER_UNIT
    names = ("predicted", "actual", "customers")
    deciles = [dict(zip(names, row, strict=True)) for row in decile_table(spend, expected)]
    bins = calibration_table(rows.spend_cents > 0, predicted.buying_probability)
    calibration = [dict(zip(("predicted", "observed", "customers"), row, strict=True)) for row in bins]
    tier = tiers(predicted.score)
    total = max(float(spend.sum()), 1e-9)
    return {
        "deciles": deciles,
        "calibration": calibration,
        "tiers": {
            name: {"customers": int((tier == code).sum()), "share_of_spend": float(spend[tier == code].sum() / total)}
            for code, name in ((2, "high"), (1, "middle"), (0, "low"))
        },
    }


def _number(value: float) -> float | str:
    """JSON has no infinity; "inf" reads back as one in most languages."""
    return "inf" if math.isinf(value) else float(value)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return _number(float(value)) if isinstance(value, float | np.floating) else value
