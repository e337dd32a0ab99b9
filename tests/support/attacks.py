"""A small federation, some of whose merchants attack it: `python -m tests.support.attacks` prints the damage.

Everything on the platform's side is the product's: `collect` and `apply_round`, or the norm bound and the mean that a
secure sum comes to. The merchants' shops are made up, and noise is seeded, so that a failure repeats.
"""

from __future__ import annotations

import datetime as dt
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pp_model.customer_rows import CustomerRows
from pp_model.features import Examples, build_examples
from pp_model.metrics import evaluate
from pp_model.model import fresh_arrays, load_model, trainable_shapes
from pp_model.plan import TrainingPlan
from pp_model.protocol import Release, Wire
from pp_model.schema import OrderLog
from pp_model.serialization import Arrays
from pp_model.train import customer_rows, flat_values, named_arrays, predict, train_locally
from server.aggregation import RejectionCode
from server.recipe import Recipe, make_plan
from server.rounds import RoundOutcome, RunStoppedError, TrainingState, apply_round, collect, initial_state
from server.watch import Watch
from simulations.seeded import SeededSource
from synthetic.shops import synthetic_shop
from tests.support.examples import changed_traits

Vectors = NDArray[np.float64]  # [merchants, parameters]
After = Callable[[TrainingState], TrainingState] | None  # told every state; what it gives is gone on from
Attack = Callable[
    [Vectors, int], Vectors
]  # honest updates and the round, to what is sent; the first are the attacker's

MERCHANTS, CUSTOMERS, ROUNDS = 10, 200, 25
CUTOFF, HORIZON_DAYS, HISTORY_DAYS = dt.date(2024, 6, 1), 60, 500
TASK = "a" * 64
TRAITS = changed_traits(visits_per_year=10.0, one_time_share=0.2, old_share=0.4, pause_chance=0.1, spend_between=0.8)


@dataclass(frozen=True, kw_only=True)
class Federation:
    """The merchants' training rows, with true labels and with wrong ones; a plan for them; customers to judge on."""

    plan: TrainingPlan
    init: Arrays
    rows: tuple[CustomerRows, ...]
    wrong: tuple[CustomerRows, ...]
    judged: Examples

    def log_loss(self, arrays: Arrays) -> float:
        """Of buying, on later customers of the merchants."""
        return self._figures(arrays)[0]

    def mae(self, arrays: Arrays) -> float:
        """Of spend, on the same."""
        return self._figures(arrays)[1]

    def _figures(self, arrays: Arrays) -> tuple[float, float]:
        predicted = predict(self.plan.model, arrays, self.judged)
        figures = evaluate(
            spend_cents=self.judged.spend_cents,
            expected_cents=predicted.expected_spend_cents,
            buying_probability=predicted.buying_probability,
        )
        return figures.log_loss, figures.mae


@lru_cache(maxsize=1)
def federation() -> Federation:
    """Ten shops of one trade, differing in size, price and rhythm; epsilon 3 with local noise."""
    recipe = Recipe(rounds=ROUNDS, learning_rate=0.04, declared_customers=100)
    init = fresh_arrays(recipe.model, seed=0)  # with everything to learn, so that it shows who hinders it
    plan = make_plan(
        recipe,
        init,
        plan_id="attacked",
        epsilon=3.0,
        delta=1e-3,
        horizon_days=HORIZON_DAYS,
        holdout_start=CUTOFF,
        min_completions=3,
        round_timeout_seconds=5.0,
        answer_every_seconds=0.0,
    )
    logs = [_shop(number) for number in range(MERCHANTS)]
    model = load_model(plan.model, init)
    examples = [build_examples(log, plan.cutoffs, plan.features) for log in logs]
    return Federation(
        plan=plan,
        init=init,
        rows=tuple(customer_rows(model, part) for part in examples),
        wrong=tuple(customer_rows(model, _mislabelled(part)) for part in examples),
        judged=build_examples(_shop(99, customers=1_500), [CUTOFF], plan.features),
    )


def _shop(number: int, *, customers: int | None = None) -> OrderLog:
    rng = np.random.default_rng(number)
    traits = replace(
        TRAITS,
        visits_per_year=TRAITS.visits_per_year * float(np.exp(rng.normal(0, 0.3))) if customers is None else 10.0,
        mean_basket_cents=TRAITS.mean_basket_cents * float(np.exp(rng.normal(0, 0.5))),
    )
    size = customers or int(CUSTOMERS * np.exp(rng.normal(0, 0.5)))
    first = CUTOFF - dt.timedelta(days=HISTORY_DAYS)
    days = HISTORY_DAYS + HORIZON_DAYS
    return synthetic_shop(traits, num_customers=size, first_day=first, num_days=days, rng=rng).log


def _mislabelled(examples: Examples) -> Examples:
    """Buyers bought nothing, the others a hundred times what they usually spend."""
    much = np.exp(examples.log_anchor.astype(np.float64) + math.log(100)).astype(np.int64)
    return replace(examples, spend_cents=np.where(examples.spend_cents > 0, 0, much))


def scaled(attackers: int, times: float) -> Attack:
    """The attackers send their honest update, so many times as long; backwards where `times` is negative."""

    def attack(honest: Vectors, round: int) -> Vectors:
        return np.concatenate([times * honest[:attackers], honest[attackers:]])

    return attack


def little_is_enough(attackers: int, deviations: float) -> Attack:
    """All attackers send the others' mean, off by so many standard deviations in every coordinate.

    Source: Baruch, Baruch and Goldberg 2019 (arXiv:1902.06156), Algorithm 3.
    """

    def attack(honest: Vectors, round: int) -> Vectors:
        others = honest[attackers:]
        sent = others.mean(axis=0) - deviations * others.std(axis=0)
        return np.concatenate([np.tile(sent, (attackers, 1)), others])

    return attack


def one_direction(attackers: int, times: float) -> Attack:
    """The attackers send one fixed random direction, so many times as long as the others' median update."""
    direction = np.random.default_rng(5).standard_normal(10_000)

    def attack(honest: Vectors, round: int) -> Vectors:
        length = times * float(np.median(np.linalg.norm(honest[attackers:], axis=1)))
        unit = direction[: honest.shape[1]] / np.linalg.norm(direction[: honest.shape[1]])
        return np.concatenate([np.tile(length * unit, (attackers, 1)), honest[attackers:]])

    return attack


@dataclass
class Run:
    """A run that was attacked.

    Attributes:
        named: the code that each node was named by, in the last round in which it was.
        left_out: rounds in which so many nodes were named, by node.
        back_at: rounds after which the model was put back.
    """

    state: TrainingState
    named: dict[int, RejectionCode] = field(default_factory=dict)
    left_out: dict[int, int] = field(default_factory=dict)
    back_at: list[int] = field(default_factory=list)
    outcomes: list[RoundOutcome] = field(default_factory=list)


def updates_of(fed: Federation, plan: TrainingPlan, state: TrainingState, *, mislabelled: int, seed: int) -> Vectors:
    """What each merchant's own honest program answers; that of the first `mislabelled` on wrong labels."""
    rows = (*fed.wrong[:mislabelled], *fed.rows[mislabelled:])
    shapes, at = trainable_shapes(plan.model), seed * 10_000 + state.round * 100
    answers = [
        train_locally(state.arrays, part, plan, secret=SeededSource(at + number)) for number, part in enumerate(rows)
    ]
    return np.stack([flat_values(answer, shapes) for answer in answers])


def attacked(
    attack: Attack,
    *,
    aggregation: str = "mean",
    mislabelled: int = 0,
    seed: int = 1,
    after: After = None,
    rounds: int = ROUNDS,
) -> Run:
    """A run with local noise."""
    fed = federation()
    plan = replace(fed.plan, server=replace(fed.plan.server, aggregation=aggregation))
    run = Run(state=initial_state(plan, fed.init))
    while run.state.round < rounds:
        sent = attack(updates_of(fed, plan, run.state, mislabelled=mislabelled, seed=seed), run.state.round + 1)
        outcome = played(sent, plan, round=run.state.round + 1)
        run.outcomes.append(outcome)
        run.named |= outcome.rejections
        for node in outcome.rejections:
            run.left_out[node] = run.left_out.get(node, 0) + 1
        _go_on(run, apply_round(run.state, outcome), after)
    return run


def played(sent: Vectors, plan: TrainingPlan, *, round: int) -> RoundOutcome:
    """The outcome of a round to which node 0, 1, ... answer with these updates."""
    shapes = trainable_shapes(plan.model)

    def answers() -> Iterator[tuple[int, Wire]]:
        for node, update in enumerate(sent):
            yield node, Release(task=TASK, update=named_arrays(update, shapes)).to_wire()

    return collect(answers(), cohort=range(len(sent)), plan=plan, round=round, task=TASK, trainable=shapes)


def summed(
    attack: Attack,
    *,
    mislabelled: int = 0,
    seed: int = 1,
    after: After = None,
    rounds: int = ROUNDS,
) -> Run:
    """A run in which each merchant adds its share of the noise alone, and the platform sees the mean alone."""
    fed = federation()
    share = fed.plan.dp.noise_multiplier / math.sqrt(MERCHANTS)
    plan = replace(fed.plan, dp=replace(fed.plan.dp, noise_multiplier=share))
    run, shapes = Run(state=initial_state(plan, fed.init)), trainable_shapes(plan.model)
    while run.state.round < rounds:
        number = run.state.round + 1
        sent = attack(updates_of(fed, plan, run.state, mislabelled=mislabelled, seed=seed), number)
        mean = sent.mean(axis=0)
        outcome = RoundOutcome(
            round=number,
            cohort=MERCHANTS,
            completed=tuple(range(MERCHANTS)),
            update=named_arrays(mean, shapes),
            norm=float(np.linalg.norm(mean)),
            void=False,
        )
        run.outcomes.append(outcome)
        _go_on(run, apply_round(run.state, outcome), after)
    return run


def _go_on(run: Run, state: TrainingState, after: After) -> None:
    kept = after(state) if after else state
    if kept is not state:
        run.back_at.append(state.round)
    run.state = kept


ATTACKS: dict[str, tuple[Attack, int]] = {  # and how many of the first merchants train on wrong labels
    "nobody": (scaled(0, 1.0), 0),
    "1 of 10 sends 100 times its update": (scaled(1, 100.0), 0),
    "1 of 10 sends 1000 times its update": (scaled(1, 1_000.0), 0),
    "1 of 10 sends 100 times its update, backwards": (scaled(1, -100.0), 0),
    "1 of 10 sends its update backwards": (scaled(1, -1.0), 0),
    "1 of 10 has wrong labels": (scaled(0, 1.0), 1),
    "3 of 10 have wrong labels": (scaled(0, 1.0), 3),
    "2 of 10 little is enough": (little_is_enough(2, 1.0), 0),
    "1 of 10 one direction, 4 times as long": (one_direction(1, 4.0), 0),
    "6 of 10 send 10 times their update, backwards": (scaled(6, -10.0), 0),
    "all send their update backwards": (scaled(10, -1.0), 0),
}


WAYS = ("mean", "norm_filter", "trimmed_mean", "median", "secure_sum")


def run_of(way: str, attack: Attack, *, mislabelled: int = 0, after: After = None) -> Run:
    """A run by one of `WAYS`."""
    if way == "secure_sum":
        return summed(attack, mislabelled=mislabelled, after=after)
    return attacked(attack, aggregation=way, mislabelled=mislabelled, after=after)


def watched(way: str, attack: Attack, folder: Path, *, mislabelled: int = 0) -> tuple[list[int], str, Arrays]:
    """Rounds after which the public check put the model back, why it stopped the run ("" if it did not), the model."""
    fed = federation()
    watch = Watch(fed.plan, initial_state(fed.plan, fed.init), directory=folder)
    back: list[int] = []
    last = [initial_state(fed.plan, fed.init)]

    def after(state: TrainingState) -> TrainingState:
        kept = watch.after(state)
        back.extend([state.round] if kept is not state else [])
        last[0] = kept
        return kept

    try:
        run_of(way, attack, mislabelled=mislabelled, after=after)
    except RunStoppedError as error:
        return back, str(error), watch.resumed(last[0]).published
    return back, "", watch.final(last[0]).published


def main() -> None:
    """The table: log loss of buying and MAE of spend, who was named how often, what the public check did."""
    fed = federation()
    print(f"start: {fed.log_loss(fed.init):.3f} {fed.mae(fed.init):.1f}")
    for name, (attack, wrong) in ATTACKS.items():
        for way in WAYS:
            run = run_of(way, attack, mislabelled=wrong)
            arrays = run.state.published
            named = f", named {run.left_out}" if run.left_out else ""
            with tempfile.TemporaryDirectory() as folder:
                back, stopped, model = watched(way, attack, Path(folder), mislabelled=wrong)
            check = (
                f"; with the check: back after {back}, {stopped[:9]} {fed.log_loss(model):.3f}"
                if back or stopped
                else ""
            )
            print(f"{name}: {way} {fed.log_loss(arrays):.3f} / {fed.mae(arrays):.1f}{named}{check}", flush=True)


if __name__ == "__main__":
    main()
