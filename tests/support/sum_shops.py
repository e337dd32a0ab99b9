"""Merchants of a secure sum, asked one by one by a platform's side that does what a test says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from client.shop import Shop
from client.task import answer
from pp_model.integer_sum import secure_sum_of
from pp_model.plan import TrainingPlan
from pp_model.protocol import Refusal, Reply, SumAnswer, SumQuestion, Task
from secure_sum.collector import Collector
from tests.support.sum_town import first_arrays


def collector_for(plan: TrainingPlan, *, block: int = 1, first_round: int = 1, rounds: int = 0) -> Collector:
    """The platform's side of one block, with nobody in it; of all rounds of the plan where none are said."""
    return Collector(
        plan=plan.fingerprint,
        roster=[peer.key for peer in secure_sum_of(plan).roster],
        block=block,
        first_round=first_round,
        rounds=rounds or plan.rounds,
        threshold=plan.server.min_completions,
    )


def asked(shop: Shop, plan: TrainingPlan, letter: bytes, *, block: int = 1) -> Reply | Refusal:
    """What the merchant says to a step of the protocol."""
    return answer(SumQuestion(plan=plan, block=block, letter=letter).to_wire(), shop)


def letter_of(reply: Reply | Refusal) -> bytes:
    """The letter of an answer, which it must be."""
    if not isinstance(reply, SumAnswer):
        raise TypeError(f"{reply} is no answer")
    return reply.letter


def set_up(shops: Sequence[Shop], collector: Collector, plan: TrainingPlan, *, block: int = 1) -> Collector:
    """The three exchanges; the block is ready."""
    opening = collector.opening()
    for index, shop in enumerate(shops):
        collector.add_keys(index, letter_of(asked(shop, plan, opening, block=block)))
    roll = collector.roll()
    for index, shop in enumerate(shops):
        collector.add_shares(index, letter_of(asked(shop, plan, roll, block=block)))
    for index, shop in enumerate(shops):
        collector.add_ready(index, letter_of(asked(shop, plan, collector.delivery(index), block=block)))
    return collector


def sum_task(plan: TrainingPlan, *, round: int = 1, block: int = 1, shift: float = 0.0) -> Task:
    """A round of the plan, on its first weights moved by `shift`."""
    arrays = {name: array + np.float32(shift) for name, array in first_arrays(plan).items()}
    return Task(plan=plan, round=round, arrays=arrays, block=block)
