"""One federated run in this process: real Flower apps, real ledgers, real checkpoints, an in-process Grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Message

from client.app import make_client_app
from client.ledger import open_ledger
from client.secure_sums import SecureSums
from client.shop import Shop
from pp_model.accounting import PrivacyEvent
from pp_model.errors import ConfigError, UnknownLayerError
from pp_model.model import load_model, trainable_shapes, trained_part
from pp_model.plan import TrainingPlan
from pp_model.randomness import SecretSource, SystemSource
from pp_model.schema import OrderLog
from pp_model.serialization import Arrays, from_safetensors
from pp_model.stacked.batch_sums import StackedGradients
from pp_model.train import pick_device
from server.app import ServerSettings, make_server_app
from server.checkpoints import load_checkpoint
from server.model_card import MODEL_FILE
from server.registry import Registry
from simulations.grid import InProcessGrid, LocalGrid
from simulations.identities import identity, peer_name
from simulations.planning import lineage_of, policy_of
from simulations.scenario import Engine, Scenario
from simulations.seeded import SeededSource
from simulations.shops import source_of

FIRST_NODE = 10
LEDGERS, MANY_LEDGERS = "merchants", "merchants.sqlite"  # a file each, or one for all
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


def engine_for(scenario: Scenario, plan: TrainingPlan, init: Arrays) -> Engine:
    """The engine that the scenario names; of "auto", "vectorised" where it can do the model, else "in_process".

    Raises:
        ConfigError: it cannot do what was asked.
    """
    if scenario.engine == "in_process" or (scenario.engine == "ray" and plan.secure_sum is None):
        return scenario.engine
    obstacle = _obstacle(scenario, plan, init)
    if not obstacle:
        return "vectorised"
    if scenario.engine == "auto":
        return "in_process"
    raise ConfigError(f"the engine {scenario.engine} cannot do {obstacle}; choose --engine in_process")


def federate_by_engine(
    shops: Mapping[str, OrderLog],
    plan: TrainingPlan,
    init: Arrays,
    scenario: Scenario,
    *,
    directory: Path,
    secret_for: Callable[[str], SecretSource],
    on_round: OnRound | None = None,
) -> Federated:
    """As `federate`, by the engine of the scenario.

    Raises:
        ConfigError: the engine cannot do what was asked, or the run in `directory` was begun with ledgers of another.
    """
    engine = engine_for(scenario, plan, init)
    other = LEDGERS if engine == "vectorised" else MANY_LEDGERS
    if (directory / other).exists():
        raise ConfigError(
            f"{directory} has the ledgers of a run that was begun with another engine than {engine}; continue it with "
            "--engine in_process or --engine vectorised, whichever it was, or choose another --out"
        )
    run = federate if engine == "in_process" else _imported(engine)
    return run(shops, plan, init, scenario, directory=directory, secret_for=secret_for, on_round=on_round)


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

    One merchant after the other, as a merchant's own program answers: the reference for every other engine. An
    interrupted run continues where it stopped, under the same ledgers and with nothing charged twice.
    """
    with _open_shops(shops, scenario, directory, secret_for) as opened:
        nodes = {FIRST_NODE + number: name for number, name in enumerate(opened)}
        count = counted(on_round)
        grid = InProcessGrid(
            make_client_app(lambda context: opened[str(context.node_config["merchant"])]),
            node_configs={node: {"merchant": name} for node, name in nodes.items()},
            on_round=lambda asked, _: count(asked),
        )
        return train_over(
            grid,
            plan,
            init,
            directory,
            spent=lambda: {name: shop.ledger.events for name, shop in opened.items()},
            merchants={node: peer_name(number) for number, node in enumerate(nodes)} if plan.secure_sum else None,
        )


def train_over(
    grid: LocalGrid,
    plan: TrainingPlan,
    init: Arrays,
    directory: Path,
    *,
    spent: Callable[[], Mapping[str, tuple[PrivacyEvent, ...]]],
    merchants: Mapping[int, str] | None = None,
) -> Federated:
    """What is left when the platform's app has run over a grid; its files are in `directory`.

    Args:
        merchants: the name of each node, which a secure sum must know.
    """
    settings = ServerSettings(
        plan=plan,
        initial=init,
        trainable=trainable_shapes(plan.model),
        directory=directory / "platform",
        registry=directory / "platform" / "registry.sqlite",
        keep_checkpoints=None,
        merchants=None if merchants is None else lambda: merchants,
    )
    settings.directory.mkdir(parents=True, exist_ok=True)
    with grid:
        make_server_app(lambda _: settings)(grid, grid.server_context())
    history = [(0, init), *_history(settings, plan)]
    published, _ = from_safetensors((settings.directory / MODEL_FILE).read_bytes())
    refusals, rejected = _troubles(settings.registry)
    return Federated(arrays=published, history=history, spent=spent(), refusals=refusals, rejected=rejected)


def counted(on_round: OnRound | None) -> Callable[[Sequence[Message]], None]:
    """Told the messages of each round, it tells `on_round` how many different rounds there were so far."""
    seen: set[str] = set()

    def count(messages: Sequence[Message]) -> None:
        seen.update(message.metadata.group_id for message in messages)
        if on_round:
            on_round(len(seen))

    return count


def _obstacle(scenario: Scenario, plan: TrainingPlan, init: Arrays) -> str:
    """What of the run the vectorised engine cannot do; "" if it can do all."""
    if plan.secure_sum is not None:
        return "secure sums"
    device = pick_device(scenario.device)
    if device.type not in ("cpu", "cuda"):
        return f"device {device.type}"
    try:
        StackedGradients(trained_part(load_model(plan.model, init)), merchants=1, device=device)
    except UnknownLayerError as unknown:
        return f"the layer {unknown.layer}"
    return ""


def _imported(engine: Engine) -> Callable[..., Federated]:
    """The others are imported when they are asked for: they build on this module."""
    if engine == "vectorised":
        from simulations.many_merchants import federate_vectorised

        return federate_vectorised
    from simulations.ray_engine import federate_ray

    return federate_ray


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
    folder = directory / LEDGERS
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
                sums=SecureSums(identity(number, scenario)) if scenario.recipe.trust == "secure_sum" else None,
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
