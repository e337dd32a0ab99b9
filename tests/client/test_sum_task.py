"""Checklist: D9, D10, D23, D48.

A merchant's part in a secure sum: questions cost nothing and tell nothing of an order; what does is charged, masked
once and sealed, in that order.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.secure_sums import SecureSums
from client.shop import Shop, everything_agreed
from client.task import answer
from pp_model.accounting import epsilon_spent
from pp_model.errors import BadOrdersError, ExpiredError, LedgerError, NotApprovedError
from pp_model.model import trainable_shapes
from pp_model.plan import TrainingPlan
from pp_model.protocol import MaskedRelease, Refusal, RefusalCode, Release, SumAnswer, SumQuestion, Task, seal
from secure_sum.messages import kind_of
from tests.support.ledgers import entries
from tests.support.plans import tiny_plan
from tests.support.secure_sums import identity
from tests.support.shops import CANARIES, CANARY_TEXT, WatchedSource, raiser, tiny_task
from tests.support.sum_shops import asked, collector_for, letter_of, set_up, sum_task
from tests.support.sum_town import SumTown, sum_plan

N = 3


@pytest.fixture
def town_of(tmp_path):
    towns = []

    def open_town(plan: TrainingPlan) -> SumTown:
        folder = tmp_path / str(len(towns))
        folder.mkdir()
        towns.append(SumTown(folder, plan))
        return towns[-1]

    yield open_town
    for town in towns:
        town.close()


def plan_of_three(**changes: Any) -> TrainingPlan:
    return sum_plan(merchants=N, threshold=N, **changes)


@pytest.fixture
def ready(town_of) -> SumTown:
    """Three merchants that are set up for every round of their plan."""
    town = town_of(plan_of_three())
    set_up(town.shops, collector_for(town.plan), town.plan)
    return town


def replied(shop: Shop, task: Task) -> Any:
    return answer(task.to_wire(), shop)


def refused(code: RefusalCode, task: Task | None = None) -> Refusal:
    return Refusal(task=task.fingerprint if task else "", code=code)


def written(shop: Shop, folder: Path, index: int = 0) -> list[tuple[int, str, str]]:
    return entries(folder / f"{index}.ledger")


def unread(shop: Shop) -> WatchedSource:
    """The merchant's source, which must not be read."""
    shop.source = WatchedSource(on_read=raiser(AssertionError("the orders were read")))
    return shop.source


# Questions.


def test_a_whole_set_up_reads_no_order_and_charges_nothing(town_of):
    town = town_of(plan_of_three())
    before = [written(shop, town.folder, index) for index, shop in enumerate(town.shops)]
    sources = [unread(shop) for shop in town.shops]
    collector = set_up(town.shops, collector_for(town.plan), town.plan)
    assert collector.complete()
    assert [source.windows for source in sources] == [[]] * N
    assert [written(shop, town.folder, index) for index, shop in enumerate(town.shops)] == before


NOT_AGREED = [
    pytest.param(NotApprovedError(CANARY_TEXT), RefusalCode.NOT_APPROVED, id="not-approved"),
    pytest.param(ExpiredError(CANARY_TEXT), RefusalCode.EXPIRED, id="expired"),
]


@pytest.mark.parametrize(("error", "code"), NOT_AGREED)
def test_a_question_under_a_plan_that_is_not_agreed_is_refused_by_its_code(town_of, error, code):
    town = town_of(plan_of_three())
    shop, seen = town.shops[0], []
    shop.agreed = lambda plan: seen.append(plan) or raiser(error)()
    assert asked(shop, town.plan, collector_for(town.plan).opening()) == refused(code)
    assert seen == [town.plan]
    shop.agreed = everything_agreed
    assert isinstance(asked(shop, town.plan, collector_for(town.plan).opening()), SumAnswer)


@pytest.mark.parametrize(("error", "code"), NOT_AGREED)
def test_a_merchant_that_has_said_no_reveals_nothing_more_of_a_round_that_it_masked(town_of, error, code):
    town = town_of(plan_of_three())
    collector = set_up(town.shops, collector_for(town.plan), town.plan)
    summing = collector.round_sum(1, size=sizes(town.plan))
    for index, shop in enumerate(town.shops):
        summing.add(index, replied(shop, sum_task(town.plan)).values)
    question = summing.survivors()
    town.shops[0].agreed = raiser(error)
    assert asked(town.shops[0], town.plan, question) == refused(code)


def test_a_question_against_the_policy_is_refused(town_of):
    town = town_of(plan_of_three())
    shop = town.shops[0]
    shop.policy = dataclasses.replace(shop.policy, trust_modes=("local",))
    assert asked(shop, town.plan, collector_for(town.plan).opening()) == refused(RefusalCode.POLICY)


def test_a_merchant_without_a_key_for_sums_takes_no_part(town_of):
    town = town_of(plan_of_three())
    town.shops[0].sums = None
    assert asked(town.shops[0], town.plan, collector_for(town.plan).opening()) == refused(RefusalCode.NO_BLOCK)
    task = sum_task(town.plan)
    assert replied(town.shops[0], task) == refused(RefusalCode.NO_BLOCK, task)
    assert town.charges(0) == 0


def test_a_merchant_that_is_not_on_the_roster_takes_no_part(town_of):
    town = town_of(plan_of_three())
    town.shops[0].sums = SecureSums(identity(N))
    assert asked(town.shops[0], town.plan, collector_for(town.plan).opening()) == refused(RefusalCode.BAD_TASK)


@pytest.mark.parametrize("letter", [b"x", bytes(1_000), b"\xff" * 40], ids=["a-byte", "zeros", "ones"])
def test_a_letter_that_is_none_is_refused(ready, letter):
    assert asked(ready.shops[0], ready.plan, letter) == refused(RefusalCode.BAD_TASK)


def test_an_opening_of_another_block_than_its_message_says_or_of_another_plan_is_refused(town_of):
    town = town_of(plan_of_three())
    other = collector_for(plan_of_three(plan_id="other"))
    assert asked(town.shops[0], town.plan, collector_for(town.plan, block=2).opening()) == refused(RefusalCode.BAD_TASK)
    assert asked(town.shops[0], town.plan, other.opening()) == refused(RefusalCode.BAD_TASK)


def test_what_a_merchant_says_is_no_question_to_one(ready):
    """An answer of its own kind sent back to it: keys, shares, ready."""
    collector = collector_for(ready.plan, block=2)
    keys = letter_of(asked(ready.shops[0], ready.plan, collector.opening(), block=2))
    assert kind_of(keys) == "keys"
    assert asked(ready.shops[0], ready.plan, keys, block=2) == refused(RefusalCode.BAD_TASK)


def test_a_question_of_a_block_that_this_process_does_not_know_is_refused_by_its_code(town_of):
    town = town_of(plan_of_three())
    collector = collector_for(town.plan)
    for index, shop in enumerate(town.shops):
        collector.add_keys(index, letter_of(asked(shop, town.plan, collector.opening())))
    town.restart(0)
    assert asked(town.shops[0], town.plan, collector.roll()) == refused(RefusalCode.NO_BLOCK)


# Tasks that cannot be masked cost nothing.


def not_charged(town: SumTown, task: Task, code: RefusalCode) -> None:
    """The first merchant refuses the task by that code, reads nothing and writes nothing."""
    shop = town.shops[0]
    before, source = written(shop, town.folder), unread(shop)
    assert replied(shop, task) == refused(code, task)
    assert (written(shop, town.folder), source.windows) == (before, [])


def test_a_task_of_an_unknown_block_is_refused_and_not_charged(ready):
    not_charged(ready, sum_task(ready.plan, block=2), RefusalCode.NO_BLOCK)


def test_a_task_before_any_set_up_is_refused_and_not_charged(town_of):
    town = town_of(plan_of_three())
    not_charged(town, sum_task(town.plan), RefusalCode.NO_BLOCK)


def test_a_task_amid_a_set_up_is_refused_and_not_charged(town_of):
    town = town_of(plan_of_three())
    collector = collector_for(town.plan)
    for index, shop in enumerate(town.shops):
        collector.add_keys(index, letter_of(asked(shop, town.plan, collector.opening())))
    not_charged(town, sum_task(town.plan), RefusalCode.NO_BLOCK)
    letter_of(asked(town.shops[0], town.plan, collector.roll()))
    not_charged(town, sum_task(town.plan), RefusalCode.NO_BLOCK)


def test_a_restarted_merchant_knows_nothing_of_its_block_and_is_not_charged(ready):
    ready.restart(0)
    not_charged(ready, sum_task(ready.plan), RefusalCode.NO_BLOCK)


def test_a_round_that_is_none_of_the_blocks_is_refused_and_not_charged(town_of):
    town = town_of(plan_of_three())
    set_up(town.shops, collector_for(town.plan, first_round=2, rounds=2), town.plan)
    not_charged(town, sum_task(town.plan, round=1), RefusalCode.SUM)
    assert isinstance(replied(town.shops[1], sum_task(town.plan, round=2)), MaskedRelease)


def test_a_second_vector_for_a_round_is_refused_and_not_charged(ready):
    """Two vectors behind one mask differ by what the merchant alone knows."""
    first = sum_task(ready.plan)
    assert isinstance(replied(ready.shops[0], first), MaskedRelease)
    not_charged(ready, sum_task(ready.plan, shift=0.01), RefusalCode.SUM)
    assert [charge.task for charge in ready.shops[0].ledger.charges()] == [first.fingerprint]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"policy": {"encoders": ("linear",)}}, RefusalCode.POLICY),
        ({"policy": {"trust_modes": ("local",)}}, RefusalCode.POLICY),
        ({"agreed": raiser(NotApprovedError("no"))}, RefusalCode.NOT_APPROVED),
    ],
    ids=["encoder", "trust", "not-agreed"],
)
def test_a_task_that_is_not_allowed_is_not_charged_and_uses_no_mask(ready, change, code):
    shop, task = ready.shops[0], sum_task(ready.plan)
    policy, agreed, source = shop.policy, shop.agreed, shop.source
    shop.policy = dataclasses.replace(policy, **change.get("policy", {}))
    shop.agreed = change.get("agreed", agreed)
    not_charged(ready, task, code)
    shop.policy, shop.agreed, shop.source = policy, agreed, source
    assert isinstance(replied(shop, task), MaskedRelease)


def test_arrays_that_are_not_the_plans_model_cost_nothing_and_use_no_mask(ready):
    task = sum_task(ready.plan)
    bad = dataclasses.replace(task, arrays={name: array[..., :0] for name, array in task.arrays.items()})
    source = ready.shops[0].source
    not_charged(ready, bad, RefusalCode.BAD_TASK)
    ready.shops[0].source = source
    assert isinstance(replied(ready.shops[0], task), MaskedRelease)


# Charged, then read, then masked, then sealed.


def sizes(plan: TrainingPlan) -> int:
    return sum(int(np.prod(shape)) for shape in trainable_shapes(plan.model).values())


def test_what_is_charged_is_the_plans_event_with_its_shared_noise(ready):
    task = sum_task(ready.plan)
    assert isinstance(replied(ready.shops[0], task), MaskedRelease)
    (charge,) = ready.shops[0].ledger.charges()
    assert (charge.task, charge.plan) == (task.fingerprint, ready.plan.fingerprint)
    assert charge.event == ready.plan.event
    assert charge.event.shared


def test_the_charge_is_on_disk_before_an_order_is_read_and_before_anything_is_masked(ready):
    shop, sums, task, seen = ready.shops[0], ready.sums(0), sum_task(ready.plan), []

    def look(when: str) -> None:
        seen.append((when, len(written(shop, ready.folder))))

    shop.source.on_read = lambda: look("read")
    masked = sums.masked

    def noticed(*given: Any) -> Any:
        look("masked")
        result = masked(*given)
        look("masked done")
        return result

    sums.masked = noticed  # type: ignore[method-assign]
    assert isinstance(replied(shop, task), MaskedRelease)
    assert seen == [("read", 2), ("masked", 2), ("masked done", 2)]  # genesis and charge
    assert len(written(shop, ready.folder)) == 3  # and the seal


def test_a_resent_task_gets_the_same_sealed_bytes_without_a_second_charge_or_mask(ready):
    shop, task = ready.shops[0], sum_task(ready.plan)
    first = replied(shop, task)
    before, source = written(shop, ready.folder), unread(shop)
    assert seal(replied(shop, task)) == seal(first)
    assert (written(shop, ready.folder), source.windows) == (before, [])


def test_a_restarted_merchant_resends_what_it_sealed_though_it_knows_no_block(ready):
    shop, task = ready.shops[0], sum_task(ready.plan)
    first = replied(shop, task)
    ready.restart(0)
    unread(shop)
    assert seal(replied(shop, task)) == seal(first)
    assert ready.charges(0) == 1


def test_a_source_that_fails_leaves_the_charge_and_the_mask_for_the_same_task_alone(ready):
    shop, task = ready.shops[0], sum_task(ready.plan)
    shop.source.on_read = raiser(BadOrdersError(CANARY_TEXT, place="orders.csv"))
    assert replied(shop, task) == refused(RefusalCode.UNAVAILABLE, task)
    assert [charge.task for charge in shop.ledger.charges()] == [task.fingerprint]
    shop.source.on_read = lambda: None
    assert isinstance(replied(shop, task), MaskedRelease)
    assert ready.charges(0) == 1


def test_a_vector_that_could_not_be_sealed_never_leaves_and_is_never_masked_again(ready, monkeypatch):
    shop, task = ready.shops[0], sum_task(ready.plan)
    with monkeypatch.context() as broken:
        broken.setattr(shop.ledger, "seal", raiser(LedgerError("the disk is full")))
        assert replied(shop, task) == refused(RefusalCode.LEDGER, task)
    assert replied(shop, task) == refused(RefusalCode.SUM, task)
    assert ready.charges(0) == 1


def test_the_price_of_a_run_is_that_of_its_plan(ready):
    for round_ in range(1, ready.plan.rounds + 1):
        assert isinstance(replied(ready.shops[0], sum_task(ready.plan, round=round_)), MaskedRelease)
    assert ready.shops[0].ledger.spent == epsilon_spent(ready.plan.events, delta=1e-3)


# What leaves.


def test_a_masked_release_is_two_scalars_a_version_and_a_letter(ready):
    wire = replied(ready.shops[0], sum_task(ready.plan)).to_wire()
    assert set(wire.scalars) == {"version", "kind", "task"}
    assert wire.arrays == {}
    assert len(wire.letter) == 8 * sizes(ready.plan)


def test_no_vector_leaves_without_its_mask(ready):
    task = sum_task(ready.plan)
    for index, shop in enumerate(ready.shops):
        values = replied(shop, task).values
        plain = ready.sums(index).added[task.round]
        assert not np.isin(values, plain).any()
        assert not np.isin(values - ready.sums(index).top_ups[task.round], plain).any()


def test_the_sum_of_what_left_is_the_sum_of_the_integers_to_the_last_bit(town_of):
    town = town_of(plan_of_three())
    summing = set_up(town.shops, collector_for(town.plan), town.plan).round_sum(1, size=sizes(town.plan))
    for index, shop in enumerate(town.shops):
        summing.add(index, replied(shop, sum_task(town.plan)).values)
    question = summing.survivors()
    for index, shop in enumerate(town.shops):
        summing.add_answer(index, letter_of(asked(shop, town.plan, question)))
    added = np.sum([town.sums(index).added[1] for index in range(N)], axis=0, dtype=np.uint64)
    assert summing.result().values.tolist() == added.tolist()


def test_the_merchants_log_of_a_sum_names_no_customer(ready, caplog):
    with caplog.at_level(logging.DEBUG):
        replied(ready.shops[0], sum_task(ready.plan))
        replied(ready.shops[0], sum_task(ready.plan, shift=1.0))
        asked(ready.shops[0], ready.plan, b"x")
    told = " ".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert not any(canary in told for canary in CANARIES)


# Blocks of several plans.


def test_a_local_task_of_a_merchant_that_also_adds_up_is_answered_as_ever(ready):
    shop = ready.shops[0]
    shop.policy = dataclasses.replace(shop.policy, trust_modes=("local", "secure_sum"))
    assert isinstance(replied(shop, tiny_task()), Release)
    assert isinstance(replied(shop, sum_task(ready.plan)), MaskedRelease)


def test_a_question_under_a_local_plan_is_no_task(ready):
    wire = SumQuestion(plan=tiny_plan(), block=1, letter=b"x").to_wire()
    assert answer(wire, ready.shops[0]) == refused(RefusalCode.BAD_TASK)


def test_the_next_block_of_a_plan_is_set_up_while_the_last_is_under_way_and_no_third_is_kept(town_of):
    plan = plan_of_three(rounds=6)
    town = town_of(plan)
    for block in (1, 2):
        set_up(town.shops, collector_for(plan, block=block, first_round=2 * block - 1, rounds=2), plan, block=block)
    assert isinstance(replied(town.shops[0], sum_task(plan, round=1, block=1)), MaskedRelease)
    assert isinstance(replied(town.shops[0], sum_task(plan, round=3, block=2)), MaskedRelease)
    set_up(town.shops, collector_for(plan, block=3, first_round=5, rounds=2), plan, block=3)
    not_charged(town, sum_task(plan, round=2, block=1), RefusalCode.NO_BLOCK)
    assert isinstance(replied(town.shops[1], sum_task(plan, round=4, block=2)), MaskedRelease)
    assert isinstance(replied(town.shops[1], sum_task(plan, round=5, block=3)), MaskedRelease)


def test_a_block_of_one_plan_is_not_forgotten_over_the_set_up_of_another(ready):
    other = plan_of_three(plan_id="other")
    set_up(ready.shops, collector_for(other), other)
    assert isinstance(replied(ready.shops[0], sum_task(ready.plan)), MaskedRelease)
    assert isinstance(replied(ready.shops[0], sum_task(other)), MaskedRelease)


def test_a_block_that_is_opened_anew_forgets_what_was_set_up(ready):
    """Nothing of the block before is answered any more: neither with its masks nor about its rounds."""
    assert isinstance(asked(ready.shops[0], ready.plan, collector_for(ready.plan).opening()), SumAnswer)
    not_charged(ready, sum_task(ready.plan), RefusalCode.NO_BLOCK)
