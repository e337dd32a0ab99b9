"""Checklist: D35, D36, D48.

A round answered for all merchants together: who is charged before whose orders are looked at, and what is sent.
What it computes is held to the reference in tests/contracts/test_engines.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, MessageType, RecordDict

import simulations.many_merchants as many_merchants
from client.policy import Policy
from flower_edge.records import to_record, wire_from_record
from pp_model.clipping import update_norm
from pp_model.errors import BadOrdersError
from pp_model.model import trainable_shapes
from pp_model.protocol import Refusal, RefusalCode, Release, Task, reply_from_wire
from pp_model.randomness import SystemSource
from pp_model.serialization import fingerprint, shapes_of
from simulations.grid import TogetherGrid
from simulations.many_ledgers import ManyLedgers
from simulations.many_merchants import ManyMerchants, Merchant
from tests.support.ledgers import LINEAGE
from tests.support.shops import CANARY_TEXT, WatchedSource, raiser, tiny_orders, tiny_policy, tiny_task

NODES = (11, 12, 13, 14, 15)


def opened(folder: Path) -> ManyLedgers:
    lineages = [replace(LINEAGE, merchant=str(node)) for node in NODES]
    return ManyLedgers(folder / "ledgers.sqlite", lineages=lineages, budget=50.0, delta=1e-3)


def charged(folder: Path) -> list[int]:
    """How many tasks each merchant was charged for, as another program reads it."""
    with opened(folder) as ledgers:
        return [len(ledger.events) for ledger in ledgers.ledgers]


def merchants_of(
    ledgers: ManyLedgers,
    *,
    on_read: Callable[[int], object] = lambda _: None,
    policies: dict[int, Policy] | None = None,
) -> ManyMerchants:
    merchants = {
        node: Merchant(
            source=WatchedSource(log=tiny_orders(customers=node, seed=node), on_read=lambda node=node: on_read(node)),
            ledger=ledger,
            policy=(policies or {}).get(node, tiny_policy()),
            secret=SystemSource(),
        )
        for node, ledger in zip(NODES, ledgers.ledgers, strict=True)
    }  # fmt: skip
    return ManyMerchants(merchants, ledgers, device="cpu")


def answers(folder: Path, task: Task, *, nodes: Sequence[int] = NODES, **how: Any) -> list[Release | Refusal]:
    with opened(folder) as ledgers:
        return list(merchants_of(ledgers, **how).answers(task, nodes))


def test_every_charge_is_on_disk_when_the_first_order_is_read(tmp_path):
    seen: list[list[int]] = []
    answers(tmp_path, tiny_task(), on_read=lambda _: seen.append(charged(tmp_path)))
    assert seen == [[1] * 5] * 5


def test_every_reply_is_on_disk_before_anybody_has_one(tmp_path):
    task = tiny_task()
    with opened(tmp_path) as ledgers:
        first = next(merchants_of(ledgers).answers(task, NODES))
        with opened(tmp_path) as read:
            assert all(ledger.sealed(task.fingerprint) for ledger in read.ledgers)
    again = answers(tmp_path, task)
    assert fingerprint(again[0].update) == fingerprint(first.update)


def test_a_repeated_task_gets_the_identical_release_and_no_order_is_read_for_it(tmp_path):
    task, read = tiny_task(), []
    first = answers(tmp_path, task)
    second = answers(tmp_path, task, on_read=read.append)
    assert [fingerprint(reply.update) for reply in second] == [fingerprint(reply.update) for reply in first]
    assert len({fingerprint(reply.update) for reply in first}) == len(NODES)
    assert (read, charged(tmp_path)) == ([], [1] * 5)


def test_a_no_of_one_is_a_code_and_the_others_answer(tmp_path, caplog):
    def broken(node: int) -> None:
        if node == 12:
            raise BadOrdersError(CANARY_TEXT, place=CANARY_TEXT, line=3)

    task = tiny_task()
    replies = answers(tmp_path, task, on_read=broken, policies={14: tiny_policy(encoders=("gru",))})
    assert [isinstance(reply, Release) for reply in replies] == [True, False, True, False, True]
    assert replies[1] == Refusal(task=task.fingerprint, code=RefusalCode.UNAVAILABLE)
    assert replies[3] == Refusal(task=task.fingerprint, code=RefusalCode.POLICY)
    assert charged(tmp_path) == [1, 1, 1, 0, 1]
    assert CANARY_TEXT not in "".join(str(vars(record)) for record in caplog.records)


def test_a_release_is_no_longer_than_the_platform_takes(tmp_path):
    for reply in answers(tmp_path, tiny_task(update_clip_norm=0.01)):
        assert 0.0099 < update_norm(reply.update) <= 0.01


def test_orders_are_read_once_for_a_plan(tmp_path):
    read: list[int] = []
    with opened(tmp_path) as ledgers:
        merchants = merchants_of(ledgers, on_read=read.append)
        for round_ in (1, 2, 3):
            assert all(isinstance(reply, Release) for reply in merchants.answers(tiny_task(round=round_), NODES))
    assert sorted(read) == list(NODES)


@pytest.mark.parametrize("at_once", [1, 2, 1000])
def test_replies_come_in_the_order_of_the_nodes_however_many_are_made_at_once(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(many_merchants, "MOST_AT_ONCE", at_once)
    sizes: list[int] = []
    train = many_merchants.train_stacked
    monkeypatch.setattr(many_merchants, "train_stacked", lambda *a, **k: sizes.append(len(a[2])) or train(*a, **k))
    order = (13, 11, 15, 12, 14)
    in_order = answers(tmp_path, tiny_task(), nodes=order)
    assert sizes == {1: [1] * 5, 2: [2, 2, 1], 1000: [5]}[at_once]
    again = dict(zip(NODES, answers(tmp_path, tiny_task()), strict=True))
    assert [fingerprint(reply.update) for reply in in_order] == [fingerprint(again[node].update) for node in order]


def contents(folder: Path, tasks: dict[int, Task]) -> list[RecordDict]:
    """What the merchants send when each is asked its own of these tasks."""
    records = {task.fingerprint: to_record(task.to_wire()) for task in tasks.values()}
    with opened(folder) as ledgers:
        grid = TogetherGrid(list(NODES), merchants_of(ledgers).contents, on_round=lambda _: None)
        with grid:
            asked = [Message(records[task.fingerprint], node, MessageType.TRAIN) for node, task in tasks.items()]
            return [reply.content for reply in grid.send_and_receive(asked)]


def test_the_content_of_a_reply_is_the_release_alone(tmp_path):
    task = tiny_task()
    for content in contents(tmp_path, dict.fromkeys(NODES, task)):
        wire = wire_from_record(content)
        assert isinstance(reply_from_wire(wire), Release)
        assert shapes_of(wire.arrays) == trainable_shapes(task.plan.model)
        assert set(content) == {"arrays", "scalars"}


def test_merchants_that_are_asked_different_tasks_answer_their_own(tmp_path):
    first, second = tiny_task(round=1), tiny_task(round=2)
    asked = dict(zip(NODES, (first, first, second, second, first), strict=True))
    replies = [reply_from_wire(wire_from_record(content)) for content in contents(tmp_path, asked)]
    assert [reply.task for reply in replies] == [task.fingerprint for task in asked.values()]


def test_a_failure_that_is_nobodys_no_ends_the_run_and_refunds_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(many_merchants, "train_stacked", raiser(MemoryError()))
    with pytest.raises(MemoryError):
        answers(tmp_path, tiny_task())
    assert charged(tmp_path) == [1] * 5
    monkeypatch.undo()
    assert all(isinstance(reply, Release) for reply in answers(tmp_path, tiny_task()))
    assert charged(tmp_path) == [1] * 5
