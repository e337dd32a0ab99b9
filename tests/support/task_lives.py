"""Many short lives of one merchant, each killed at one place, repeated by a fresh process, and judged.

As a program: reads lives from its standard input, writes what was wrong with each to its standard output. It forks a
process for every part of a life, so that one costs milliseconds and nothing but the disk outlives it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from flwr.app import Message, MessageType

import client.task
from client.app import make_client_app
from client.shop import Shop
from flower_edge.records import to_record, wire_from_record
from pp_model.accounting import epsilon_spent
from pp_model.protocol import RefusalCode, Release, Task, reply_from_wire, seal
from pp_model.randomness import SystemSource
from simulations.grid import InProcessGrid
from tests.support.kill_points import install
from tests.support.ledgers import entries
from tests.support.plans import tiny_dp
from tests.support.shops import tiny_shop, tiny_task

ROUNDS = 3
NODE = 11
REFUSALS = {code.encode() for code in RefusalCode}


def _trains_before_it_charges(task: Task, shop: Shop) -> bytes:
    update = client.task.train_locally(task.arrays, shop.rows(task), task.plan, secret=shop.secret)
    shop.ledger.charge(task.fingerprint, task.plan.dp.event, plan=task.plan.fingerprint, most_tasks=task.plan.rounds)
    return shop.ledger.seal(task.fingerprint, client.task.seal(Release(task=task.fingerprint, update=update)))


def _sends_what_it_never_sealed(task: Task, shop: Shop) -> bytes:
    shop.ledger.charge(task.fingerprint, task.plan.dp.event, plan=task.plan.fingerprint, most_tasks=task.plan.rounds)
    update = client.task.train_locally(task.arrays, shop.rows(task), task.plan, secret=shop.secret)
    return client.task.seal(Release(task=task.fingerprint, update=update))


def _charges_for_every_attempt(task: Task, shop: Shop) -> bytes:
    if (sealed := shop.ledger.sealed(task.fingerprint)) is not None:
        return sealed
    event, plan = task.plan.dp.event, task.plan.fingerprint
    shop.ledger.charge(task.fingerprint, event, plan=plan, most_tasks=None)
    shop.ledger.charge(f"{task.fingerprint} {os.getpid()}", event, plan=plan, most_tasks=None)
    update = client.task.train_locally(task.arrays, shop.rows(task), task.plan, secret=shop.secret)
    return shop.ledger.seal(task.fingerprint, client.task.seal(Release(task=task.fingerprint, update=update)))


ORDERS: dict[str, Callable[[Task, Shop], bytes]] = {
    "as it is": client.task._paid_bytes,
    "trains before it charges": _trains_before_it_charges,
    "sends what it never sealed": _sends_what_it_never_sealed,
    "charges for every attempt": _charges_for_every_attempt,
}


def the_tasks() -> list[Task]:
    """One task for each round, two private steps each."""
    dp = tiny_dp(num_steps=2)
    return [
        tiny_task(rounds=ROUNDS, round=number, shift=0.1 * number, algorithm="fedavg", dp=dp, local_learning_rate=0.1)
        for number in range(1, ROUNDS + 1)
    ]


def live(folder: Path, tasks: list[Task], *, name: str, order: str) -> None:
    """Answers every task as the installed ClientApp does; what was looked at and what was sent is on the disk."""
    diary = os.open(folder / f"{name}.diary", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    train = client.task.train_locally

    def look(arrays: Any, rows: Any, plan: Any, **how: Any) -> Any:
        os.write(diary, f"looked {task.fingerprint}\n".encode())
        return train(arrays, rows, plan, **how)

    client.task.train_locally = look
    client.task._paid_bytes = ORDERS[order]
    shop = tiny_shop(folder / "shop")
    shop.secret = SystemSource()
    with InProcessGrid(make_client_app(lambda _: shop), node_configs={NODE: {}}) as grid:
        for task in tasks:
            (reply,) = grid.send_and_receive([Message(to_record(task.to_wire()), NODE, MessageType.TRAIN)])
            said = reply_from_wire(wire_from_record(reply.content))
            words = seal(said) if isinstance(said, Release) else said.code.encode()
            (folder / f"{name}.{task.round}").write_bytes(words)
            os.write(diary, f"sent {task.fingerprint}\n".encode())


def in_a_child(work: Callable[[], None]) -> int:
    """How a process that does this work, and nothing else, ends: 0, or the signal that killed it, negative."""
    if (child := os.fork()) == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_life(folder: Path, tasks: list[Task], *, point: str, nth: int, order: str) -> list[str]:
    """What was wrong with a life that is killed when it comes to a point for the nth time, and lived again."""
    (folder / "shop").mkdir(parents=True)

    def first() -> None:
        install(point, nth=nth)
        live(folder, tasks, name="first", order=order)

    if (end := in_a_child(first)) != -signal.SIGKILL:
        return [f"was not killed, but ended with {end}"]
    shutil.copytree(folder / "shop", folder / "after")  # looking into a ledger would clean up what the kill has left
    if (end := in_a_child(lambda: live(folder, tasks, name="second", order=order))) != 0:
        return [f"could not be lived again: {end}"]
    return list(faults(folder, tasks))


def faults(folder: Path, tasks: list[Task]) -> list[str]:
    """What a killed and repeated life did that no life may do."""
    found = []
    diary = [line.split() for line in (folder / "first.diary").read_text().splitlines()]
    looked, sent = ([task for word, task in diary if word == kind] for kind in ("looked", "sent"))
    charged, sealed = paid(folder / "after")
    if missing := {*looked, *sent} - {*charged}:
        found.append(f"under-charged: {len(missing)} looked at or sent, and not charged")
    if len(charged) > len(sent) + 1:
        found.append(f"over-charged: {len(charged)} charged for {len(sent)} sent")
    if unsealed := {*sent} - {*sealed}:
        found.append(f"{len(unsealed)} sent and not sealed")
    at_last, _ = paid(folder / "shop")
    if at_last != [task.fingerprint for task in tasks]:
        found.append(f"{len(at_last)} charges for {len(tasks)} tasks when all was done")
    for task in tasks:
        again = (folder / f"second.{task.round}").read_bytes()
        before = folder / f"first.{task.round}"
        if task.fingerprint in sent and before.read_bytes() != again:
            found.append(f"round {task.round} was sent twice, and not the same")
        if sealed.get(task.fingerprint, again) != again:
            found.append(f"round {task.round} was sealed, and something else was sent")
        if again in REFUSALS:
            found.append(f"round {task.round} was refused: {again.decode()}")
    return found


def paid(folder: Path) -> tuple[list[str], dict[str, bytes]]:
    """The tasks charged in a ledger, in order, and the replies sealed, read past the product."""
    path = folder / "ledger.sqlite"
    bodies = [json.loads(body) for _, body, _ in entries(path)]
    with closing(sqlite3.connect(path)) as connection:
        replies = dict(connection.execute("SELECT seq, payload FROM payloads").fetchall())
    sealed = {body["task"]: replies[body["seq"]] for body in bodies if body["kind"] == "seal"}
    return [body["task"] for body in bodies if body["kind"] == "charge"], sealed


def _main(folder: Path) -> None:
    tasks = the_tasks()
    for number in range(1, ROUNDS + 1):  # priced once here, and not in every child
        epsilon_spent([tasks[0].plan.dp.event] * number, delta=1e-3)
    epsilon_spent(tasks[0].plan.events, delta=1e-3)
    results = []
    for number, life in enumerate(json.load(sys.stdin)):
        results.append({**life, "faults": killed_life(folder / str(number), tasks, **life)})
        shutil.rmtree(folder / str(number))
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
