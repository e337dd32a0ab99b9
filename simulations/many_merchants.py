"""A federated run whose merchants are trained together: the platform's own app, one file of ledgers, no ClientApp.

Each merchant says the same yes or no, is charged the same, and computes the same as by `federate`, to float
precision; see `vectorised` for the training.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from flwr.app import Message, RecordDict
from torch import nn

from client.policy import Policy
from client.shop import read_examples
from client.sources import OrderSource
from client.task import admitted, refused, released
from flower_edge.records import to_record, wire_from_record
from pp_model.clipping import clip_update
from pp_model.customer_rows import CustomerRows
from pp_model.features import Examples
from pp_model.model import PurchasePowerModel, frozen_fingerprint, load_model, trainable_shapes, trained_part
from pp_model.plan import TrainingPlan
from pp_model.protocol import Refusal, Release, Reply, Task, task_from_wire, unseal
from pp_model.randomness import SecretSource
from pp_model.schema import OrderLog
from pp_model.serialization import Arrays
from pp_model.train import customer_rows, flat_values, named_arrays, pick_device
from simulations.federation import FIRST_NODE, MANY_LEDGERS, Federated, OnRound, counted, train_over
from simulations.grid import TogetherGrid
from simulations.many_ledgers import ManyLedgers, MerchantLedger
from simulations.planning import lineage_of, policy_of
from simulations.scenario import Scenario
from simulations.shops import source_of
from simulations.vectorised import train_stacked

REPLY_BYTES, MOST_AT_ONCE = 64 * 2**20, 1_024  # of the replies that are in memory at the same time, and how many

log = logging.getLogger(__name__)


def federate_vectorised(
    shops: Mapping[str, OrderLog],
    plan: TrainingPlan,
    init: Arrays,
    scenario: Scenario,
    *,
    directory: Path,
    secret_for: Callable[[str], SecretSource],
    on_round: OnRound | None = None,
) -> Federated:
    """See `federate`; the ledgers are one file."""
    directory.mkdir(parents=True, exist_ok=True)
    with ManyLedgers(
        directory / MANY_LEDGERS,
        lineages=[lineage_of(name, scenario) for name in shops],
        budget=scenario.epsilon,
        delta=scenario.delta,
    ) as ledgers:
        policy = policy_of(scenario)
        merchants = {
            FIRST_NODE + number: Merchant(
                source=source_of(log, name=name), ledger=ledger, policy=policy, secret=secret_for(name)
            )
            for number, ((name, log), ledger) in enumerate(zip(shops.items(), ledgers.ledgers, strict=True))
        }
        together = ManyMerchants(merchants, ledgers, device=scenario.device)
        grid = TogetherGrid(list(merchants), together.contents, on_round=counted(on_round))
        return train_over(
            grid,
            plan,
            init,
            directory,
            spent=lambda: {name: ledger.events for name, ledger in zip(shops, ledgers.ledgers, strict=True)},
        )


@dataclass(kw_only=True)
class Merchant:
    """What one merchant brings to a round. Rows are read once for a plan, when the first task of it was paid."""

    source: OrderSource
    ledger: MerchantLedger
    policy: Policy
    secret: SecretSource
    examples: tuple[str, Examples] | None = None
    rows: tuple[str, CustomerRows] | None = None


class ManyMerchants:
    """Merchants by node; a group of them at a time is charged, trained, sealed and answered for."""

    def __init__(self, merchants: Mapping[int, Merchant], ledgers: ManyLedgers, *, device: str) -> None:
        self._merchants, self._ledgers, self._device = merchants, ledgers, device

    def contents(self, messages: Sequence[Message]) -> Iterator[RecordDict]:
        """The content of each message's reply, in the order of the messages."""
        for _, same in groupby(messages, key=lambda message: id(message.content)):
            asked = list(same)
            task = task_from_wire(wire_from_record(asked[0].content))
            for reply in self.answers(task, [message.metadata.dst_node_id for message in asked]):
                yield to_record(reply.to_wire())

    def answers(self, task: Task, nodes: Sequence[int]) -> Iterator[Reply | Refusal]:
        """What each of the nodes says to a task, in their order."""
        round_ = _Round(task, device=self._device)
        at_once = max(1, min(MOST_AT_ONCE, REPLY_BYTES // (4 * len(round_.start))))
        for first in range(0, len(nodes), at_once):
            began = time.monotonic()
            group = [self._merchants[node] for node in nodes[first : first + at_once]]
            yield from self._of_group(round_, group)
            seconds = round(time.monotonic() - began, 3)
            log.info("merchants trained", extra={"round": task.round, "merchants": len(group), "seconds": seconds})

    def _of_group(self, round_: _Round, group: Sequence[Merchant]) -> list[Reply | Refusal]:
        task, replies = round_.task, dict[int, Reply | Refusal]()
        charged: list[int] = []
        with self._ledgers.together():
            for number, merchant in enumerate(group):
                try:
                    sealed = admitted(task, ledger=merchant.ledger, policy=merchant.policy)
                    if sealed is None:
                        charged.append(number)
                    else:
                        replies[number] = unseal(sealed)
                except Exception as error:  # a no of this merchant; see `client.task.answer`
                    replies[number] = refused(task.fingerprint, error)
        rows: dict[int, CustomerRows] = {}
        for number in charged:  # looked at only now, when what it costs is on disk
            try:
                rows[number] = round_.rows(group[number])
            except Exception as error:
                replies[number] = refused(task.fingerprint, error)
        updates = round_.updates(list(rows.values()), [group[number].secret for number in rows])
        with self._ledgers.together():
            for number, update in zip(rows, updates, strict=True):
                replies[number] = unseal(
                    released(Release(task=task.fingerprint, update=update), ledger=group[number].ledger)
                )
        return [replies[number] for number in range(len(group))]


class _Round:
    """One task, and what is derived from it once for all merchants."""

    def __init__(self, task: Task, *, device: str) -> None:
        self.task = task
        self._shapes = trainable_shapes(task.plan.model)
        self.start = flat_values(task.arrays, self._shapes)
        self._model: PurchasePowerModel = load_model(task.plan.model, task.arrays).to(pick_device(device))
        self._module: nn.Module = trained_part(self._model)
        self._rows_key = f"{task.plan.fingerprint}|{frozen_fingerprint(task.plan.model, task.arrays)}"

    def rows(self, merchant: Merchant) -> CustomerRows:
        """See `client.shop.Shop.rows`."""
        if merchant.rows is None or merchant.rows[0] != self._rows_key:
            plan = self.task.plan
            if merchant.examples is None or merchant.examples[0] != plan.fingerprint:
                merchant.examples = plan.fingerprint, read_examples(merchant.source, plan)
            merchant.rows = self._rows_key, customer_rows(self._model, merchant.examples[1])
        return merchant.rows[1]

    def updates(self, rows: Sequence[CustomerRows], secrets: Sequence[SecretSource]) -> Iterator[Arrays]:
        """Each merchant's, as `train_locally` gives it."""
        plan = self.task.plan
        moved = train_stacked(
            self._module,
            self.start,
            rows,
            secrets,
            dp=plan.dp,
            learning_rate=plan.local_learning_rate,
            nominal_batch_size=plan.nominal_batch_size,
        )
        for one in moved:
            clipped, _ = clip_update({"": one}, update_clip_norm=plan.update_clip_norm)
            yield named_arrays(clipped[""], self._shapes)
