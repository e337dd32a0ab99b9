"""A task at a merchant: paid first, computed once, and nothing but what was agreed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import client.task
from client.ledger import KEEP_SEALED
from client.task import answer
from pp_model.errors import BadOrdersError, ExpiredError, NotApprovedError
from pp_model.protocol import PROTOCOL_VERSION, Anchor, RefusalCode, Release, Wire, seal
from pp_model.randomness import SystemSource
from tests.support.ledgers import entries
from tests.support.plans import tiny_dp
from tests.support.replies import refused, replied
from tests.support.shops import (
    CANARY_TEXT,
    WatchedSource,
    charged,
    raiser,
    tiny_shop,
    tiny_task,
)


def file_entries(folder: Any) -> list[tuple[int, str, str]]:
    return entries(folder / "ledger.sqlite")


# Paid before anything is looked at.


def test_the_charge_is_on_disk_when_the_first_order_is_read(tmp_path):
    seen = []
    shop = tiny_shop(tmp_path, source=WatchedSource(on_read=lambda: seen.append(charged(tmp_path))))
    task = tiny_task()
    assert isinstance(replied(shop, task), Release)
    assert seen == [[task.fingerprint]]


def test_the_reply_is_sealed_on_disk_before_anybody_has_it(tmp_path, monkeypatch):
    shop, task, sealed = tiny_shop(tmp_path), tiny_task(), []
    unseal = client.task.unseal
    monkeypatch.setattr(client.task, "unseal", lambda data: sealed.append(len(file_entries(tmp_path))) or unseal(data))
    assert isinstance(replied(shop, task), Release)
    assert sealed == [3]  # genesis, charge, seal


def test_a_source_that_fails_leaves_the_charge_and_is_answered_by_a_code(tmp_path):
    error = BadOrdersError(CANARY_TEXT, place="orders.csv", line=3, column="amount")
    shop, task = tiny_shop(tmp_path, source=WatchedSource(on_read=raiser(error))), tiny_task()
    assert replied(shop, task) == refused(RefusalCode.UNAVAILABLE, task)
    assert charged(tmp_path) == [task.fingerprint]


def test_what_is_charged_is_the_plans_own_event(tmp_path):
    task = tiny_task(algorithm="fedavg", dp=tiny_dp(num_steps=3, sample_rate=0.25), local_learning_rate=0.1)
    shop = tiny_shop(tmp_path)
    assert isinstance(replied(shop, task), Release)
    (charge,) = shop.ledger.charges()
    assert (charge.event, charge.plan) == (task.plan.dp.event, task.plan.fingerprint)
    assert charge.event.num_steps == 3


# Refused before anything is charged.


def test_over_budget_nothing_is_read_and_nothing_is_written(tmp_path):
    source = WatchedSource()
    shop, task = tiny_shop(tmp_path, source=source, budget=0.1), tiny_task()
    before = file_entries(tmp_path)
    assert replied(shop, task) == refused(RefusalCode.BUDGET, task)
    assert (source.windows, file_entries(tmp_path)) == ([], before)


@pytest.mark.parametrize(
    ("policy", "plan"),
    [
        pytest.param({"encoders": ("linear",)}, {}, id="encoder"),
        pytest.param({"longest_horizon_days": 27}, {}, id="horizon"),
        pytest.param({"least_noise_multiplier": 1.1}, {}, id="noise"),
        pytest.param({"epsilon_budget": 0.5}, {}, id="price-of-the-whole-run"),
        pytest.param({}, {"dp": tiny_dp(noise_multiplier=0.0)}, id="no-noise"),
    ],
)
def test_a_plan_that_the_policy_forbids_is_refused_before_any_charge(tmp_path, policy, plan):
    source = WatchedSource()
    shop, task = tiny_shop(tmp_path, source=source, **policy), tiny_task(**plan)
    before = file_entries(tmp_path)
    assert replied(shop, task) == refused(RefusalCode.POLICY, task)
    assert (source.windows, file_entries(tmp_path)) == ([], before)


ANY_ARRAY = "readout.linear.bias"
BAD_ARRAYS = {
    "one-too-few": lambda arrays: arrays.pop(ANY_ARRAY),
    "one-too-many": lambda arrays: arrays.update({"head.bias": arrays[ANY_ARRAY]}),
    "none": lambda arrays: arrays.clear(),
    "another-shape": lambda arrays: arrays.update({ANY_ARRAY: np.zeros((3, 1), np.float32)}),
    "a-scalar": lambda arrays: arrays.update({ANY_ARRAY: np.float32(1).reshape(())}),
    "float64": lambda arrays: arrays.update({ANY_ARRAY: np.zeros(3)}),
    "nan": lambda arrays: arrays.update({ANY_ARRAY: np.array([0, np.nan, 0], np.float32)}),
    "infinity": lambda arrays: arrays.update({ANY_ARRAY: np.array([0, 0, -np.inf], np.float32)}),
    "larger-than-training-makes": lambda arrays: arrays.update({ANY_ARRAY: np.array([0, 0, -1_001], np.float32)}),
    "nan-in-a-frozen-array": lambda arrays: arrays.update({"center": arrays["center"] * np.float32(np.nan)}),
}


@pytest.mark.parametrize("spoil", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_arrays_that_are_not_the_plans_model_are_refused_before_any_charge(tmp_path, spoil):
    source = WatchedSource()
    shop, task = tiny_shop(tmp_path, source=source), tiny_task()
    before = file_entries(tmp_path)
    spoil(task.arrays)
    reply = replied(shop, task)
    assert (reply.code, reply.to_wire().arrays) == (RefusalCode.BAD_TASK, {})
    assert (source.windows, file_entries(tmp_path)) == ([], before)


def scalars(**changes: object) -> dict[str, Any]:
    return {key: value for key, value in {**tiny_task().to_wire().scalars, **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    "words",
    [
        pytest.param({}, id="nothing"),
        pytest.param(scalars(version=PROTOCOL_VERSION + 1), id="version"),
        pytest.param(scalars(version=True), id="version-true"),
        pytest.param(scalars(kind="release"), id="kind"),
        pytest.param(scalars(round=0), id="round-0"),
        pytest.param(scalars(round=4), id="round-after-the-last"),
        pytest.param(scalars(round=1.0), id="round-with-a-fraction"),
        pytest.param(scalars(round=True), id="round-true"),
        pytest.param(scalars(plan="{}"), id="plan-empty"),
        pytest.param(scalars(plan="[" * 100_000), id="plan-nested"),
        pytest.param(scalars(plan=7), id="plan-a-number"),
        pytest.param(scalars(seed=42), id="a-seed-from-the-platform"),
        pytest.param(scalars(evaluate="auc"), id="a-metric-asked-for"),
        pytest.param(scalars(round=...), id="round-missing"),
        pytest.param(scalars(block=...), id="block-missing"),
        pytest.param(scalars(block=1), id="a-block-without-a-secure-sum"),
    ],
)
def test_a_message_that_is_no_task_is_refused_before_any_charge(tmp_path, words):
    source = WatchedSource()
    shop = tiny_shop(tmp_path, source=source)
    before = file_entries(tmp_path)
    reply = answer(Wire(arrays=tiny_task().arrays, scalars=words), shop)
    assert reply == refused(RefusalCode.BAD_TASK)
    assert (source.windows, file_entries(tmp_path)) == ([], before)


# A repeated task is answered, never computed, again.


def test_a_repeated_task_gets_the_same_bytes_and_no_new_charge(tmp_path):
    source = WatchedSource()
    shop, task = tiny_shop(tmp_path, source=source), tiny_task()
    first = replied(shop, task)
    written = file_entries(tmp_path)
    assert isinstance(first, Release)
    assert seal(replied(shop, task)) == seal(first)
    assert (len(source.windows), file_entries(tmp_path)) == (1, written)


def test_a_repeated_task_gets_the_same_bytes_from_the_next_process(tmp_path):
    task, shop = tiny_task(), tiny_shop(tmp_path)
    first = replied(shop, task)
    shop.ledger.close()
    source = WatchedSource(on_read=raiser(AssertionError("the orders were read again")))
    again = tiny_shop(tmp_path, source=source, seed=6)  # other noise, were it computed
    assert isinstance(first, Release)
    assert seal(replied(again, task)) == seal(first)
    assert (source.windows, charged(tmp_path)) == ([], [task.fingerprint])


def test_a_repeated_task_is_answered_whatever_the_policy_and_budget_say_by_now(tmp_path):
    task, shop = tiny_task(), tiny_shop(tmp_path)
    first = replied(shop, task)
    assert isinstance(first, Release)
    assert seal(replied(tiny_shop(tmp_path, encoders=("linear",)), task)) == seal(first)


def test_a_reply_that_is_no_longer_kept_is_never_computed_again(tmp_path):
    source = WatchedSource()
    shop = tiny_shop(tmp_path, source=source)
    tasks = [tiny_task(rounds=KEEP_SEALED + 1, shift=0.01 * number) for number in range(KEEP_SEALED + 1)]
    assert all(isinstance(replied(shop, task), Release) for task in tasks)
    written = file_entries(tmp_path)
    shop.source = WatchedSource(on_read=raiser(AssertionError("the orders were read again")))
    shop._rows.clear()
    shop._examples.clear()
    assert replied(shop, tasks[0]) == refused(RefusalCode.ALREADY_ANSWERED, tasks[0])
    assert file_entries(tmp_path) == written


@pytest.mark.parametrize(
    "other", [tiny_task(shift=1e-6), tiny_task(round=2), tiny_task(plan_id="other")], ids=["arrays", "round", "plan"]
)
def test_anything_but_the_identical_task_is_a_new_charge(tmp_path, other):
    shop, task = tiny_shop(tmp_path), tiny_task()
    first, second = replied(shop, task), replied(shop, other)
    assert isinstance(first, Release)
    assert isinstance(second, Release)
    assert charged(tmp_path) == [task.fingerprint, other.fingerprint]
    assert all((first.update[key] != second.update[key]).any() for key in first.update)  # other noise on every array


def test_two_messengers_with_one_task_get_the_same_bytes_and_one_charge(tmp_path, monkeypatch):
    shop, task = tiny_shop(tmp_path), tiny_task()
    together, one_by_one, train_locally = threading.Barrier(2), threading.Lock(), client.task.train_locally

    def trained_once_both_have_charged(*arguments: Any, **how: Any) -> Any:
        together.wait(timeout=60)
        with one_by_one:
            return train_locally(*arguments, **how)

    monkeypatch.setattr(client.task, "train_locally", trained_once_both_have_charged)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: replied(shop, task), range(2))
    assert isinstance(first, Release)
    assert seal(first) == seal(second)
    assert charged(tmp_path) == [task.fingerprint]


def test_two_restarts_never_use_the_same_noise_twice(tmp_path):
    """With the source that the product uses: what a restart computes anew has nothing of the first attempt."""
    replies = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        shop = tiny_shop(folder)
        shop.secret = SystemSource()
        replies.append(replied(shop, tiny_task()))
    first, second = (np.concatenate([a.ravel() for a in reply.update.values()]) for reply in replies)
    assert not np.isin(first, second).any()


# What was agreed, and no more of it.


def test_a_plan_is_charged_for_as_many_tasks_as_it_has_rounds_whatever_arrays_are_sent(tmp_path):
    """An old round with new arrays is a new task: without this, the platform could ask until the budget is gone."""
    source = WatchedSource()
    shop = tiny_shop(tmp_path, source=source)
    tasks = [tiny_task(round=1, shift=0.01 * number) for number in range(3)]
    assert all(isinstance(replied(shop, task), Release) for task in tasks)
    before = file_entries(tmp_path)
    for task in (tiny_task(round=1, shift=1.0), tiny_task(round=3)):
        assert replied(shop, task) == refused(RefusalCode.POLICY, task)
    assert file_entries(tmp_path) == before
    assert isinstance(replied(shop, tasks[0]), Release)  # a repeat is no further task
    assert isinstance(replied(shop, tiny_task(plan_id="another")), Release)


NOT_AGREED = [
    pytest.param(NotApprovedError(CANARY_TEXT), RefusalCode.NOT_APPROVED, id="not-approved"),
    pytest.param(ExpiredError(CANARY_TEXT), RefusalCode.EXPIRED, id="expired"),
]


@pytest.mark.parametrize(("error", "code"), NOT_AGREED)
def test_a_plan_that_is_not_agreed_is_refused_by_its_code_before_any_charge(tmp_path, error, code):
    source, asked = WatchedSource(), []
    shop, task = tiny_shop(tmp_path, source=source), tiny_task()
    shop.agreed = lambda plan: asked.append(plan) or raiser(error)()
    before = file_entries(tmp_path)
    assert replied(shop, task) == refused(code, task)
    assert (asked, source.windows, file_entries(tmp_path)) == ([task.plan], [], before)


@pytest.mark.parametrize(("error", "code"), NOT_AGREED)
def test_what_was_sealed_stays_at_the_merchant_once_its_yes_has_ended(tmp_path, error, code):
    """Paid for or not: who has said no must be able to rely on it. A new yes lets the same bytes go."""
    shop, task = tiny_shop(tmp_path), tiny_task()
    first = replied(shop, task)
    agreed, shop.agreed = shop.agreed, raiser(error)
    assert replied(shop, task) == refused(code, task)
    shop.agreed = agreed
    assert isinstance(first, Release)
    assert seal(replied(shop, task)) == seal(first)
    assert charged(tmp_path) == [task.fingerprint]


# An old copy of the ledger.


@pytest.mark.parametrize("with_head", [True, False], ids=["with its head", "the file alone"])
def test_an_old_ledger_put_back_answers_nothing_not_even_what_it_had_sealed(tmp_path, with_head):
    first, second = tiny_task(), tiny_task(round=2)
    shop = tiny_shop(tmp_path)
    assert isinstance(replied(shop, first), Release)
    shop.ledger.close()
    backup = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    shop = tiny_shop(tmp_path)
    assert isinstance(replied(shop, second), Release)
    known = shop.ledger.anchor
    shop.ledger.close()
    for name, content in backup.items():
        (tmp_path / name).write_bytes(content)
    if not with_head:
        (tmp_path / "ledger.sqlite-head").unlink()

    source = WatchedSource()
    shop = tiny_shop(tmp_path, source=source)
    before = file_entries(tmp_path)
    for task in (first, second, tiny_task(round=3)):
        assert answer(task.to_wire(), shop, anchor=known) == refused(RefusalCode.LEDGER, task)
    assert (source.windows, file_entries(tmp_path)) == ([], before)


def test_a_ledger_begun_anew_answers_nothing_whatever_its_new_budget(tmp_path):
    shop = tiny_shop(tmp_path)
    assert isinstance(replied(shop, tiny_task()), Release)
    known = shop.ledger.anchor
    (tmp_path / "anew").mkdir()
    for budget in (50.0, 500.0):
        shop = tiny_shop(tmp_path / "anew", budget=budget)
        task = tiny_task(round=2)
        assert answer(task.to_wire(), shop, anchor=known) == refused(RefusalCode.LEDGER, task)
        assert shop.ledger.charges() == []
        (tmp_path / "anew" / "ledger.sqlite-head").unlink()
        shop.ledger.close()
        (tmp_path / "anew" / "ledger.sqlite").unlink()


def test_an_anchor_of_another_lineage_says_nothing_about_this_ledger(tmp_path):
    other = Anchor(ledger="0" * 64, seq=99, hash="0" * 64)
    assert isinstance(answer(tiny_task().to_wire(), tiny_shop(tmp_path), anchor=other), Release)
