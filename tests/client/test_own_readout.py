"""The merchant's own readout: the best between the shared one and its own customers, from the past alone, kept here."""

from __future__ import annotations

import ast
import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import client.own_readout as own_readout
from client.own_readout import LARGEST_WEIGHT, fitted, shared_weight, with_own_readout
from pp_model.customer_rows import CustomerRows
from pp_model.features import build_examples
from pp_model.loss import ziln_loss
from pp_model.model import Readout, load_model
from pp_model.model_spec import ENCODERS, ModelSpec
from pp_model.plan import Peer, SecureSumPlan, TrainingPlan
from pp_model.schema import OrderLog
from pp_model.serialization import Arrays
from pp_model.train import predict
from tests.support.examples import CUTOFF, shop_log
from tests.support.scored import shipped

PEERS = tuple(Peer(name=f"merchant {number}", key=f"{number:064x}") for number in range(4))
SUM = SecureSumPlan(roster=PEERS, dishonest=1, rounds_per_block=5)
ROOT = Path(__file__).parents[2]
WIDTH = 6


def plan_and_model(**changes: object) -> tuple[TrainingPlan, Arrays]:
    plan, arrays = shipped("mlp")
    days = (28, 364)
    return replace(plan, cutoffs=tuple(plan.holdout_start - dt.timedelta(days=d) for d in days), **changes), arrays


def random_rows(windows: list[int], *, seed: int = 0, buying: float = 0.5) -> CustomerRows:
    rng, rows = np.random.default_rng(seed), sum(windows)
    return CustomerRows(
        inputs=(
            torch.from_numpy(rng.normal(0, 1, (rows, WIDTH)).astype(np.float32)),
            torch.from_numpy(rng.normal(8, 1, rows).astype(np.float32)),
        ),
        spend_cents=torch.from_numpy((rng.lognormal(8, 1, rows) * (rng.random(rows) < buying)).astype(np.int64)),
        first=np.concatenate([[0], np.cumsum(windows)]).astype(np.int64),
    )


def readout(*, seed: int = 0) -> Readout:
    made = Readout(WIDTH)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(0, 0.3, tuple(parameter.shape))))
    return made


def numbers(of: Readout) -> np.ndarray:
    return torch.cat([parameter.detach().ravel() for parameter in of.parameters()]).double().numpy()


def distance(one: Readout, other: Readout) -> float:
    return float(np.linalg.norm(numbers(one) - numbers(other)))


def objective(own: Readout, shared: Readout, rows: CustomerRows, *, shared_weight: float) -> float:
    """Written out customer by customer: two thirds of a customer's loss are the newest of two windows'."""
    total = 0.5 * shared_weight * distance(own, shared) ** 2
    with torch.no_grad():
        losses = ziln_loss(own(*rows.inputs), rows.spend_cents).double().numpy()
    for start, end in zip(rows.first[:-1], rows.first[1:], strict=True):
        share = {0: [], 1: [1.0], 2: [2 / 3, 1 / 3]}[end - start]
        total += float(np.dot(share, losses[start:end]))
    return total


def test_no_step_away_from_the_fitted_readout_is_better():
    shared, rows = readout(), random_rows([2, 1, 0, 2] * 15)
    best = fitted(shared, rows, shared_weight=5.0)
    least = objective(best, shared, rows, shared_weight=5.0)
    assert least < objective(shared, shared, rows, shared_weight=5.0) - 1
    rng = np.random.default_rng(2)
    for size in (0.01, 0.1, 1.0):
        for _ in range(20):
            other = Readout(WIDTH)
            with torch.no_grad():
                for to, parameter in zip(other.parameters(), best.parameters(), strict=True):
                    step = rng.normal(0, 1, tuple(parameter.shape))
                    to.copy_(parameter + size * torch.from_numpy(step / np.linalg.norm(step)))
            assert objective(other, shared, rows, shared_weight=5.0) > least


@pytest.mark.parametrize("windows", [[], [0, 0, 0]], ids=["no customers", "customers without a past"])
def test_without_a_row_it_is_the_shared_readout(windows):
    shared = readout()
    assert np.array_equal(numbers(fitted(shared, random_rows(windows), shared_weight=1.0)), numbers(shared))


def test_the_more_the_shared_readout_weighs_the_nearer_it_is():
    shared, rows = readout(), random_rows([1] * 40)
    away = [distance(fitted(shared, rows, shared_weight=weight), shared) for weight in (1.0, 10.0, 100.0, 1e6)]
    assert away == sorted(away, reverse=True)
    assert away[-1] < 1e-3 < away[0]


def test_the_fit_leaves_the_shared_readout_as_it_was():
    shared = readout()
    before = numbers(shared)
    fitted(shared, random_rows([1] * 40), shared_weight=1.0)
    assert np.array_equal(numbers(shared), before)
    assert {parameter.dtype for parameter in shared.parameters()} == {torch.float32}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_only_the_readout_changes_and_the_model_can_be_loaded(encoder):
    plan, arrays = shipped(encoder)
    changed = with_own_readout(plan, arrays, shop_log(60), cutoff=CUTOFF)
    load_model(plan.model, changed)
    for name, array in arrays.items():
        assert np.array_equal(changed[name], array) == (not name.startswith("readout."))
        assert changed[name].dtype == np.float32


def test_a_model_that_is_trained_whole_gets_a_readout_too():
    plan, arrays = shipped("mlp")
    whole = replace(plan, model=ModelSpec(encoder="mlp", trainable="all"))
    one, other = (with_own_readout(each, arrays, shop_log(60), cutoff=CUTOFF) for each in (plan, whole))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_merchants_customers_are_foretold_better_by_its_own_readout():
    plan, arrays = plan_and_model()
    log = shop_log(800, seed=3)
    own = with_own_readout(plan, arrays, log, cutoff=CUTOFF)
    now = build_examples(log, [CUTOFF], plan.features)
    bought = now.spend_cents > 0

    def log_loss(of: Arrays) -> float:
        chance = predict(plan.model, of, now).buying_probability
        return float(-np.log(np.where(bought, chance, 1 - chance)).mean())

    assert log_loss(own) < log_loss(arrays) - 0.005


def test_nothing_from_the_cutoff_on_is_looked_at():
    plan, arrays = plan_and_model()
    log = shop_log(200)
    day = int(dt.datetime.combine(CUTOFF, dt.time(), dt.UTC).timestamp())
    past = log.select(log.timestamp < day)
    assert len(past) < len(log)
    one, other = (with_own_readout(plan, arrays, each, cutoff=CUTOFF) for each in (log, past))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_the_same_orders_give_the_same_readout():
    plan, arrays = plan_and_model()
    one, other = (with_own_readout(plan, arrays, shop_log(100), cutoff=CUTOFF) for _ in range(2))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_the_windows_move_with_the_cutoff(monkeypatch):
    asked: list[list[dt.date]] = []

    def noted(log: OrderLog, cutoffs: list[dt.date], spec: object) -> object:
        asked.append(cutoffs)
        return build_examples(log, cutoffs, spec)  # type: ignore[arg-type]

    monkeypatch.setattr(own_readout, "build_examples", noted)
    plan, arrays = plan_and_model()
    with_own_readout(plan, arrays, shop_log(20), cutoff=CUTOFF)
    assert asked == [[CUTOFF - dt.timedelta(days=28), CUTOFF - dt.timedelta(days=364)]]


def test_the_more_noise_the_less_the_shared_readout_weighs():
    plan, _ = plan_and_model()
    weights = [
        shared_weight(replace(plan, dp=replace(plan.dp, noise_multiplier=noise))) for noise in (0.0, 0.01, 1.0, 9.0)
    ]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] == LARGEST_WEIGHT


def test_noise_that_is_shared_out_leaves_the_shared_readout_more_weight():
    plan, _ = plan_and_model()
    four = replace(plan, server=replace(plan.server, min_completions=4))
    sums = replace(four, trust="secure_sum", secure_sum=SUM)
    variance = [1 / shared_weight(each) - 1 / LARGEST_WEIGHT for each in (plan, four, sums)]
    assert variance[0] == pytest.approx(4 * variance[1])
    assert variance[1] == pytest.approx(4 * variance[2])


def test_the_same_noise_over_more_rounds_is_less():
    plan, _ = plan_and_model()
    variance = [1 / shared_weight(replace(plan, rounds=rounds)) - 1 / LARGEST_WEIGHT for rounds in (3, 12)]
    assert variance[0] == pytest.approx(4 * variance[1])


def test_of_a_large_shop_some_customers_are_enough(monkeypatch):
    plan, arrays = plan_and_model()
    log = shop_log(90)
    monkeypatch.setattr(own_readout, "MOST_CUSTOMERS", 40)
    some = with_own_readout(plan, arrays, log, cutoff=CUTOFF)
    third = with_own_readout(plan, arrays, log.select(log.customer % 3 == 0), cutoff=CUTOFF)
    assert all(np.array_equal(some[name], third[name]) for name in some)


def test_only_scoring_and_the_simulation_know_of_it():
    """It is made of the orders without noise: whatever sends must not get hold of it."""
    assert importers("own_readout") == {"client/score_run.py", "simulations/run.py"}
    assert importers("own_scorer") == {"client/insight/data.py"}


def importers(name: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for package in ("agreement", "client", "daemons", "flower_edge", "secure_sum", "server", "simulations", "web")
        for path in (ROOT / package).rglob("*.py")
        if name in {part for imported in imported_names(path) for part in imported.split(".")}
    }


def imported_names(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found += [f"{node.module or ''}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found
