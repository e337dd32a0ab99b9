"""Real merchants of a secure sum and a Grid that loses, forges or delays what they say, on a clock of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from numpy.typing import NDArray

from client.app import make_client_app
from client.ledger import open_ledger
from client.secure_sums import SecureSums
from client.shop import Shop
from flower_edge.records import to_record, wire_from_record
from pp_model.discrete_noise import Words
from pp_model.integer_sum import as_update, noise_shares, top_up_of
from pp_model.model import fresh_arrays, trainable_shapes
from pp_model.plan import Peer, SecureSumPlan, TrainingPlan
from pp_model.protocol import SumAnswer, Task
from pp_model.serialization import Arrays, fingerprint
from pp_model.train import named_arrays
from secure_sum.masks import words
from secure_sum.member import Member
from secure_sum.messages import kind_of
from server.app import ServerSettings
from server.rounds import RoundOutcome, initial_state
from server.secure_strategy import SecureSumStrategy
from simulations.grid import InProcessGrid
from simulations.seeded import SeededSource
from tests.support.ledgers import LINEAGE
from tests.support.plans import tiny_plan, tiny_server
from tests.support.secure_sums import identity, roster_of
from tests.support.shops import WatchedSource, tiny_orders, tiny_policy

FIRST_NODE = 10
SET_UP, ALL_THERE, SOME_LOST = ["open", "roll", "delivery"], ["task", "survivors"], ["task", "survivors", "quorum"]
TIMEOUT = 100.0
QUICK = 0.01  # seconds of an exchange in which all answer
DELTA, BUDGET = 1e-3, 50.0

Where = Callable[[str, int, int], bool]  # step, round, merchant
Forge = Callable[[str, int, int, bytes], bytes]  # kind of the answer, round, merchant, letter


def sum_plan(*, merchants: int, threshold: int, dishonest: int = 1, rounds: int = 3, **changes: Any) -> TrainingPlan:
    """A `tiny_plan` whose releases are masked; blocks of 256 rounds where `rounds_per_block` says nothing else."""
    keys = roster_of(merchants)
    peers = tuple(Peer(name=name_of(index), key=key) for index, key in enumerate(keys))
    timeout, block = changes.pop("timeout", TIMEOUT), changes.pop("rounds_per_block", 256)
    plan = tiny_plan(
        trust="secure_sum",
        secure_sum=SecureSumPlan(roster=peers, dishonest=dishonest, rounds_per_block=block),
        rounds=rounds,
        server=tiny_server(min_completions=threshold, round_timeout_seconds=timeout),
        **changes,
    )
    return dataclasses.replace(plan, init_fingerprint=fingerprint(first_arrays(plan)))


def first_arrays(plan: TrainingPlan) -> Arrays:
    """The model before the first round."""
    return fresh_arrays(plan.model, seed=0)


def name_of(index: int) -> str:
    """What the merchant is called on the roster."""
    return f"merchant-{index}"


class NotingSums(SecureSums):
    """Secure sums that note what was added before it was masked.

    Attributes:
        added: by round, the integers.
        top_ups: by round, their part that the platform may take out again.
    """

    def __init__(self, index: int) -> None:
        super().__init__(identity(index))
        self.added: dict[int, NDArray[np.uint64]] = {}
        self.top_ups: dict[int, NDArray[np.uint64]] = {}

    def top_up(self, task: Task) -> Words:
        """See `SecureSums`."""
        members = self._open(task).members
        size = sum(int(np.prod(shape)) for shape in trainable_shapes(task.plan.model).values())
        shares = noise_shares(task.plan, members=members, parameters=size)
        seed = self._open(task).top_up_seed(task.round)
        self.top_ups[task.round] = top_up_of(size, shares, words(seed))
        return super().top_up(task)

    def masked(self, task: Task, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """See `SecureSums`."""
        self.added[task.round] = values.copy()
        return super().masked(task, values)

    def member(self, plan: TrainingPlan, block: int) -> Member:
        """The member of that block, for a merchant that does as no honest one would."""
        return self._members[plan.fingerprint, block]


class Clock:
    """Stands in for the module `time`: seconds pass when a Grid says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Seconds so far."""
        return self.now


class SumTown:
    """Merchants with their ledgers in `folder`; what is changed here between two rounds holds from then on.

    Attributes:
        away: numbers of those that are not connected.
        deaf: which questions never reach a merchant.
        mute: which answers never come back.
        forge: what an answer is changed to on the way.
        asked: step of every exchange and the merchants asked, in order; `timeouts` are their seconds.
        outcomes, begun: what the strategy told of every round; `seconds` is how long each took.
    """

    def __init__(self, folder: Path, plan: TrainingPlan) -> None:
        assert plan.secure_sum is not None
        self.folder, self.plan, self.clock = folder, plan, Clock()
        self.shops = [self._shop(index) for index in range(len(plan.secure_sum.roster))]
        self.away: set[int] = set()
        self.deaf: Where = lambda *_: False
        self.mute: Where = lambda *_: False
        self.forge: Forge = lambda *given: given[-1]
        self.asked: list[tuple[str, list[int]]] = []
        self.timeouts: list[float] = []
        self.outcomes: list[RoundOutcome] = []
        self.seconds: list[float] = []
        self.begun: list[int] = []
        self.between: Callable[[RoundOutcome], object] = lambda _: None

    def run(self, monkeypatch: pytest.MonkeyPatch) -> Arrays:
        """The model after the plan's last round.

        Raises:
            RunStoppedError: three void rounds in a row.
        """
        monkeypatch.setattr("server.secure_strategy.time", self.clock)
        self.strategy = SecureSumStrategy(
            plan=self.plan,
            state=initial_state(self.plan, first_arrays(self.plan)),
            trainable=trainable_shapes(self.plan.model),
            record=self._record,
            save=lambda _: None,
            merchants=self.names,
            begin=self.begun.append,
        )
        with self.grid() as grid:
            return self.strategy.start(grid).arrays

    def settings(self) -> ServerSettings:
        """The same for a whole platform, with its files below the folder."""
        directory = self.folder / "platform"
        directory.mkdir(exist_ok=True)
        return ServerSettings(
            plan=self.plan,
            initial=first_arrays(self.plan),
            trainable=trainable_shapes(self.plan.model),
            directory=directory,
            registry=directory / "registry.sqlite",
            merchants=self.names,
        )

    def names(self) -> Mapping[int, str]:
        """The name of each node."""
        return {FIRST_NODE + index: name_of(index) for index in range(len(self.shops))}

    def grid(self) -> LossyGrid:
        """What the platform reaches the merchants by."""
        return LossyGrid(self)

    def restart(self, index: int) -> None:
        """The merchant's process ends and comes again: it knows nothing of what was set up."""
        self.shops[index].sums = NotingSums(index)

    def sums(self, index: int) -> NotingSums:
        """The merchant's part in secure sums."""
        sums = self.shops[index].sums
        assert isinstance(sums, NotingSums)
        return sums

    def plain_update(self, round: int, survivors: Iterable[int], *, members: int) -> Arrays:
        """What the round must give: the integers of these merchants, added without a mask."""
        added = list(survivors)
        total = np.zeros_like(self.sums(added[0]).added[round])
        for index in added:
            total += self.sums(index).added[round]
            if len(added) == members:
                total -= self.sums(index).top_ups[round]
        return named_arrays(as_update(total, self.plan), trainable_shapes(self.plan.model))

    def charges(self, index: int) -> int:
        """How often the merchant was charged."""
        return len(self.shops[index].ledger.events)

    def steps(self) -> list[str]:
        """The step of every exchange."""
        return [step for step, _ in self.asked]

    def close(self) -> None:
        """Closes the ledgers."""
        for shop in self.shops:
            shop.ledger.close()

    def _record(self, outcome: RoundOutcome, seconds: float) -> None:
        self.outcomes.append(outcome)
        self.seconds.append(seconds)
        self.between(outcome)

    def _shop(self, index: int) -> Shop:
        return Shop(
            source=WatchedSource(log=tiny_orders(seed=index)),
            ledger=open_ledger(self.folder / f"{index}.ledger", lineage=LINEAGE, budget=BUDGET, delta=DELTA),
            policy=tiny_policy(trust_modes=("secure_sum",)),
            secret=SeededSource(index),
            device="cpu",
            sums=NotingSums(index),
        )


class LossyGrid(InProcessGrid):
    """The town's Grid. An exchange in which somebody says nothing lasts as long as it may."""

    def __init__(self, town: SumTown) -> None:
        self._town = town
        super().__init__(
            make_client_app(lambda context: town.shops[int(str(context.node_config["index"]))]),
            node_configs={FIRST_NODE + index: {"index": index} for index in range(len(town.shops))},
        )

    def get_node_ids(self) -> list[int]:
        """See `Grid`."""
        return [node for node in super().get_node_ids() if node - FIRST_NODE not in self._town.away]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """See `Grid`."""
        town, sent, replies = self._town, list(messages), []
        assert timeout is not None
        step = _step(sent)
        town.asked.append((step, [message.metadata.dst_node_id - FIRST_NODE for message in sent]))
        town.timeouts.append(timeout)
        for message in sent:
            round, index = int(message.metadata.group_id), message.metadata.dst_node_id - FIRST_NODE
            if town.deaf(step, round, index):
                continue
            [reply] = super().send_and_receive([message])
            if not town.mute(step, round, index):
                replies.append(_forged(reply, message, town.forge))
        town.clock.now += timeout if len(replies) < len(sent) else QUICK
        return replies


def _step(messages: Sequence[Message]) -> str:
    wire = wire_from_record(messages[0].content)
    return kind_of(wire.letter) if wire.letter else "task"


def _forged(reply: Message, message: Message, forge: Forge) -> Message:
    wire = wire_from_record(reply.content)
    if wire.scalars["kind"] != "sum_answer":
        return reply
    round, index = int(message.metadata.group_id), message.metadata.dst_node_id - FIRST_NODE
    letter = forge(kind_of(wire.letter), round, index, wire.letter)
    if letter == wire.letter:
        return reply
    return Message(to_record(SumAnswer(letter=letter).to_wire()), reply_to=message)
