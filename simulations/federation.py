"""One federated run in this process: real Flower apps, real ledgers, real checkpoints, an in-process Grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Message, UserConfig

from client.app import make_client_app
from client.ledger import open_ledger
from client.shop import Shop
from pp_model.accounting import PrivacyEvent
from pp_model.model import trainable_shapes
from pp_model.plan import TrainingPlan
from pp_model.randomness import SecretSource, SystemSource
from pp_model.schema import OrderLog
from pp_model.serialization import Arrays
from server.app import ServerSettings, make_server_app
from server.checkpoints import load_checkpoint
from server.registry import Registry
from simulations.grid import InProcessGrid
from simulations.planning import lineage_of, policy_of
from simulations.scenario import Scenario
from simulations.seeded import SeededSource
from simulations.shops import source_of

FIRST_NODE = 10
HISTORY_POINTS = 20

OnRound = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Federated:
    """What a run left behind.

    Attributes:
        arrays: the published model.
        history: (round, arrays) at some twenty rounds, the start and the end among them.
        spent: each merchant's charged events, out of its own ledger.
        refusals, rejected: how often, by code, over all rounds.
    """

    arrays: Arrays
    history: Sequence[tuple[int, Arrays]]
    spent: Mapping[str, tuple[PrivacyEvent, ...]]
    refusals: Mapping[str, int]
    rejected: Mapping[str, int]


def federate(
    shops: Mapping[str, OrderLog],
    plan: TrainingPlan,
    init: Arrays,
    scenario: Scenario,
    *,
    directory: Path,
    secret_for: Callable[[str], SecretSource],
    on_round: OnRound | None = None,
) -> Federated:
    """Trains the plan over all shops, each with its own ledger in `directory`.

    An interrupted run continues where it stopped, under the same ledgers and with nothing charged twice.
    """
    with _open_shops(shops, scenario, directory, secret_for) as opened:
        nodes = {FIRST_NODE + number: name for number, name in enumerate(opened)}
        settings = ServerSettings(
            plan=plan,
            initial=init,
            trainable=trainable_shapes(plan.model),
            directory=directory / "platform",
            registry=directory / "platform" / "registry.sqlite",
            keep_checkpoints=None,
        )
        settings.directory.mkdir(parents=True, exist_ok=True)
        seen: set[str] = set()

        def count(messages: Sequence[Message], _: Sequence[Message]) -> None:
            seen.update(message.metadata.group_id for message in messages)
            if on_round:
                on_round(len(seen))

        client_app = make_client_app(lambda context: opened[str(context.node_config["merchant"])])
        configs: dict[int, UserConfig] = {node: {"merchant": name} for node, name in nodes.items()}
        with InProcessGrid(client_app, node_configs=configs, on_round=count) as grid:
            make_server_app(lambda _: settings)(grid, grid.server_context())
        history = [(0, init), *_history(settings, plan)]
        refusals, rejected = _troubles(settings.registry)
        return Federated(
            arrays=history[-1][1],
            history=history,
            spent={name: shop.ledger.events for name, shop in opened.items()},
            refusals=refusals,
            rejected=rejected,
        )


def secrets_for(scenario: Scenario) -> Callable[[str], SecretSource]:
    """Where the shops' noise comes from: the operating system, and nothing else, as soon as an order is real.

    Seeded noise is no protection, so it serves made-up customers alone (checklist D27).
    """
    if scenario.synthetic is None:
        return lambda _: SystemSource()
    names: dict[str, int] = {}
    return lambda name: SeededSource(scenario.seed * 1_000_003 + names.setdefault(name, len(names)))


@contextmanager
def _open_shops(
    shops: Mapping[str, OrderLog],
    scenario: Scenario,
    directory: Path,
    secret_for: Callable[[str], SecretSource],
) -> Iterator[dict[str, Shop]]:
    folder = directory / "merchants"
    folder.mkdir(parents=True, exist_ok=True)
    policy = policy_of(scenario)
    with ExitStack() as stack:
        yield {
            name: Shop(
                source=source_of(log, name=name),
                ledger=stack.enter_context(
                    open_ledger(
                        folder / f"{number:05d}.ledger",
                        lineage=lineage_of(name, scenario),
                        budget=scenario.epsilon,
                        delta=scenario.delta,
                    )
                ),
                policy=policy,
                secret=secret_for(name),
                device=scenario.device,
            )
            for number, (name, log) in enumerate(shops.items())
        }


def _history(settings: ServerSettings, plan: TrainingPlan) -> list[tuple[int, Arrays]]:
    every = max(1, plan.rounds // HISTORY_POINTS)
    wanted = {*range(every, plan.rounds + 1, every), plan.rounds}
    files = sorted(settings.checkpoints.glob("round-*.safetensors"))
    states = [load_checkpoint(path, plan) for path in files if int(path.stem.split("-")[1]) in wanted]
    return [(state.round, state.published) for state in states]


def _troubles(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    refusals: dict[str, int] = {}
    rejected: dict[str, int] = {}
    with Registry(path) as registry:
        for run in registry.runs():
            for entry in registry.rounds(run[0]):
                for code, number in entry.refusals.items():
                    refusals[code] = refusals.get(code, 0) + number
                for code in entry.rejections.values():
                    rejected[str(code)] = rejected.get(str(code), 0) + 1
    return refusals, rejected
