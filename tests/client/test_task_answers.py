"""When a task is answered, and what leaves with the answer."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from client.task import answer
from pp_model.accounting import epsilon_spent
from pp_model.errors import BadOrdersError, NotApprovedError
from pp_model.model import trainable_shapes
from pp_model.model_spec import ModelSpec
from pp_model.plan import TrainingPlan
from pp_model.protocol import PROTOCOL_VERSION, Refusal, RefusalCode, Release
from pp_model.serialization import shapes_of
from tests.support.replies import refused, replied
from tests.support.shops import (
    CANARY_TEXT,
    WatchedSource,
    raiser,
    tiny_orders,
    tiny_shop,
    tiny_task,
)

RELEASE_KEYS = {"version", "kind", "task"}


def extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    usual = {*vars(logging.makeLogRecord({})), "message"}
    return {key: value for key, value in vars(record).items() if key not in usual}


# When it is answered.


class Clock:
    """Seconds that pass in sleep, and in whatever is made to take some."""

    def __init__(self) -> None:
        self.now = 1_000.25

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += max(seconds / 2, 1e-3)  # woken early, as a sleep may be

    def taking(self, seconds: float, then: BaseException | None = None) -> Any:
        def takes() -> None:
            self.now += seconds
            if then is not None:
                raise then

        return takes


@pytest.mark.parametrize(("training", "answered"), [(0.0, 5.0), (0.1, 5.0), (4.9, 5.0), (5.1, 10.0), (23.0, 25.0)])
@pytest.mark.parametrize("error", [None, BadOrdersError("bad", place="orders.csv")], ids=["release", "failure"])
def test_a_task_is_answered_at_a_whole_multiple_whatever_it_took_and_whatever_became_of_it(
    tmp_path, training, answered, error
):
    clock = Clock()
    shop = tiny_shop(tmp_path, source=WatchedSource(on_read=clock.taking(training, then=error)))
    task, came = tiny_task(answer_every_seconds=5.0), clock.now
    reply = answer(task.to_wire(), shop, clock=clock, sleep=clock.sleep)
    assert isinstance(reply, Refusal if error else Release)
    assert clock.now - came == pytest.approx(answered, abs=2e-3)
    answer(task.to_wire(), shop, clock=clock, sleep=clock.sleep)  # the repeat too
    assert (clock.now - came) % 5 == pytest.approx(0, abs=4e-3)


def test_a_plan_may_want_its_answer_at_once(tmp_path):
    clock = Clock()
    shop = tiny_shop(tmp_path, source=WatchedSource(on_read=clock.taking(0.7)))
    assert isinstance(answer(tiny_task().to_wire(), shop, clock=clock, sleep=raiser(AssertionError())), Release)


def test_a_plan_that_nobody_agreed_to_makes_nobody_wait(tmp_path):
    shop, task = tiny_shop(tmp_path), tiny_task(answer_every_seconds=3600.0)
    shop.agreed = raiser(NotApprovedError("not yet"))
    reply = answer(task.to_wire(), shop, clock=Clock(), sleep=raiser(AssertionError()))
    assert reply == refused(RefusalCode.NOT_APPROVED, task)


# What leaves.


@pytest.mark.parametrize("trained", ["readout", "all"])
def test_a_release_is_the_trainable_arrays_and_three_scalars(tmp_path, trained):
    task = tiny_task(model=ModelSpec(encoder="mlp", hidden=(4,), trainable=trained))
    wire = replied(tiny_shop(tmp_path), task).to_wire()
    assert wire.scalars == {"version": PROTOCOL_VERSION, "kind": "release", "task": task.fingerprint}
    assert shapes_of(wire.arrays) == trainable_shapes(task.plan.model)
    assert {array.dtype for array in wire.arrays.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("customers", [0, 1, 9, 10, 11, 20])
def test_a_shop_of_any_size_answers_with_a_message_of_one_form_and_one_charge(tmp_path, customers):
    shop = tiny_shop(tmp_path, source=WatchedSource(log=tiny_orders(customers=customers)))
    task = tiny_task()
    wire = replied(shop, task).to_wire()
    assert set(wire.scalars) == RELEASE_KEYS
    assert shapes_of(wire.arrays) == trainable_shapes(task.plan.model)
    assert [charge.event for charge in shop.ledger.charges()] == [task.plan.dp.event]


def test_with_nobody_in_a_batch_what_leaves_is_noise_on_every_array(tmp_path):
    shop = tiny_shop(tmp_path, source=WatchedSource(log=tiny_orders(customers=0)))
    first, second = replied(shop, tiny_task()), replied(shop, tiny_task(round=2))
    assert isinstance(first, Release)
    assert isinstance(second, Release)
    for key, array in first.update.items():
        assert (array != 0).all()
        assert (array != second.update[key]).all()


def test_the_merchants_own_log_names_no_customer_amount_or_count(tmp_path, caplog):
    with caplog.at_level(logging.DEBUG):
        shop = tiny_shop(tmp_path)
        replied(shop, tiny_task())
        replied(shop, tiny_task(round=2))
        shop.source.on_read = raiser(ValueError(CANARY_TEXT))
        replied(shop, tiny_task(plan_id="other"))
    ours = [record for record in caplog.records if record.name.split(".")[0] in ("client", "pp_model")]
    fields = [(record.getMessage(), extra_fields(record)) for record in ours]
    # How long it trained is for the merchant alone to know; this log stays where it is.
    assert all(0 <= values.pop("seconds") < 60 for message, values in fields if message == "task trained")
    tasks = (tiny_task(), tiny_task(round=2), tiny_task(plan_id="other"))
    first, second, third = (task.fingerprint[:12] for task in tasks)
    assert fields == [
        ("task trained", {"task": first, "round": 1}),
        ("task trained", {"task": second, "round": 2}),
        ("task refused", {"task": third, "code": "unavailable", "error": "ValueError"}),
    ]


def test_the_price_of_a_run_is_in_the_ledger_when_it_ends(tmp_path):
    shop = tiny_shop(tmp_path)
    plan: TrainingPlan = tiny_task().plan
    for round_ in range(1, plan.rounds + 1):
        assert isinstance(replied(shop, tiny_task(round=round_)), Release)
    assert shop.ledger.spent == epsilon_spent(plan.events, delta=1e-3)
