import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simulations.federation as federation
from client.ledger import PrivacyLedger, open_ledger
from client.own_readout import with_own_readout
from flower_edge.records import anchor_from_record, to_record, wire_from_record, with_anchor
from pp_model.accounting import PrivacyEvent, epsilon_spent
from pp_model.errors import BadOrdersError
from pp_model.model import fresh_arrays, trainable_shapes
from pp_model.plan import TrainingPlan
from pp_model.protocol import PROTOCOL_VERSION, Refusal, RefusalCode, Wire, task_from_wire
from pp_model.randomness import SystemSource
from pp_model.serialization import fingerprint, from_safetensors, shapes_of
from server.registry import Registry
from server.rounds import RunStoppedError
from simulations.baselines import train_together
from simulations.evaluate import Judge
from simulations.federation import Federated, federate, secrets_for
from simulations.planning import lineage_of, plan_of
from simulations.run import simulate
from simulations.scenario import OrdersSpec, Scenario, SyntheticSpec
from simulations.seeded import SeededSource
from simulations.shops import holdout, open_market, source_of
from tests.support.ledgers import entries
from tests.support.orders import write_csv
from tests.support.shops import (
    CANARIES,
    CANARY_TEXT,
    Silent,
    bytes_of,
    market_rows,
    record_wire,
    tiny_scenario,
)

FEDAVG = {"algorithm": "fedavg", "steps_per_round": 3, "local_learning_rate": 0.1}


class MachineDownError(BaseException):
    """The one process of the simulation ends here."""


def federated(directory: Path, scenario: Scenario | None = None, **how: Any) -> Federated:
    scenario = scenario or tiny_scenario()
    init = fresh_arrays(scenario.recipe.model, seed=0)
    shops = how.pop("shops", None) or open_market(scenario).shops
    fields = {"directory": directory, "secret_for": secrets_for(scenario), **how}
    return federate(shops, plan_of(scenario, init), init, scenario, **fields)


def ledger_files(directory: Path) -> list[Path]:
    return sorted((directory / "merchants").glob("*.ledger"))


def ledger_of(directory: Path, number: int, scenario: Scenario) -> PrivacyLedger:
    """The ledger of merchant-<number>, from 1, made if there is none."""
    path = directory / "merchants" / f"{number - 1:05d}.ledger"
    path.parent.mkdir(parents=True, exist_ok=True)
    lineage = lineage_of(f"merchant-{number:02d}", scenario)
    return open_ledger(path, lineage=lineage, budget=scenario.epsilon, delta=scenario.delta)


@pytest.fixture
def wire(monkeypatch):
    return record_wire(monkeypatch)


def break_source_of(monkeypatch, name: str, *, times: int, error: BaseException) -> None:
    """The orders of one merchant cannot be read the first `times` times."""
    source_of, failures = federation.source_of, [0]

    def broken(log, *, name: str):
        source = source_of(log, name=name)
        return _Failing(source) if name == wanted else source

    class _Failing:
        def __init__(self, source):
            self.source, self.place, self.contract = source, source.place, source.contract

        def read(self, window):
            failures[0] += 1
            if failures[0] <= times:
                raise error
            return self.source.read(window)

    wanted = name
    monkeypatch.setattr(federation, "source_of", broken)


# What crosses the wire.


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(tiny_scenario(), id="fedsgd"),
        pytest.param(tiny_scenario(recipe={"encoder": "mlp", "hidden": (4,)}), id="frozen-encoder"),
        pytest.param(
            tiny_scenario(recipe=FEDAVG),
            id="fedavg",
        ),
    ],
)
def test_every_byte_from_a_merchant_is_a_trainable_array_a_word_or_the_ledgers_anchor(tmp_path, wire, scenario):
    federated(tmp_path, scenario)
    assert len(wire) == 4 * 3  # rounds and merchants
    for sent, reply in wire:
        task = task_from_wire(wire_from_record(sent.content))
        update = wire_from_record(reply.content).arrays
        assert shapes_of(update) == trainable_shapes(task.plan.model)
        words = {"version": PROTOCOL_VERSION, "kind": "release", "task": task.fingerprint}
        # Built again from these alone, the message is the same to the last byte: there is nothing else in it.
        anchor = anchor_from_record(reply.content)
        assert anchor is not None
        assert anchor.seq == 2 * task.round  # a charge and a seal a round
        assert bytes_of(reply.content) == bytes_of(with_anchor(to_record(Wire(arrays=update, scalars=words)), anchor))


def test_what_flower_writes_around_a_reply_was_in_the_task(tmp_path, wire):
    federated(tmp_path)
    for sent, reply in wire:
        asked, said = sent.metadata, reply.metadata
        assert (said.message_type, said.group_id) == (asked.message_type, asked.group_id)
        assert (said.src_node_id, said.dst_node_id) == (asked.dst_node_id, asked.src_node_id)
        assert (said.run_id, said.reply_to_message_id) == (asked.run_id, asked.message_id)


def test_merchants_of_different_sizes_send_messages_of_one_size_and_form(tmp_path, wire):
    scenario = tiny_scenario(synthetic=SyntheticSpec(customers=300, days=300))
    shops = open_market(scenario).shops
    assert len({log.num_customers for log in shops.values()}) == 3
    federated(tmp_path, scenario, shops=shops)
    assert len({len(bytes_of(reply.content)) for _, reply in wire}) == 1
    forms = {str({name: sorted(record) for name, record in sorted(reply.content.items())}) for _, reply in wire}
    assert len(forms) == 1


def test_the_platform_asks_every_merchant_the_same_and_never_to_evaluate(tmp_path, wire):
    federated(tmp_path)
    rounds = [wire[start : start + 3] for start in range(0, len(wire), 3)]
    assert [len({bytes_of(sent.content) for sent, _ in pairs}) for pairs in rounds] == [1] * 4
    assert {sent.metadata.message_type for sent, _ in wire} == {"train"}


def test_a_refusal_says_a_code_and_nothing_else(tmp_path, wire, monkeypatch):
    error = BadOrdersError(CANARY_TEXT, place=CANARY_TEXT, line=7)
    break_source_of(monkeypatch, "merchant-02", times=99, error=error)
    run = federated(tmp_path)
    assert run.refusals == {"unavailable": 4}
    for sent, reply in wire[1::3]:
        task = task_from_wire(wire_from_record(sent.content))
        no = Refusal(task=task.fingerprint, code=RefusalCode.UNAVAILABLE)
        anchor = anchor_from_record(reply.content)
        assert bytes_of(reply.content) == bytes_of(with_anchor(to_record(no.to_wire()), anchor))


LOGGED = {
    "task trained": {"task", "round", "seconds"},
    "task refused": {"task", "code", "error"},
    "run": {"plan", "round", "rounds"},
    "round done": {"round", "cohort", "completions", "refusals", "rejections", "seconds"},
    "model published": {"run_id", "model_id"},
}


def test_no_log_line_has_a_customer_an_amount_or_the_size_of_a_batch(tmp_path, caplog, capfd, monkeypatch):
    """Who is in a batch, and how many, must stay secret: the amplification by sampling rests on it."""
    break_source_of(monkeypatch, "merchant-02", times=1, error=ValueError(CANARY_TEXT))
    with caplog.at_level(logging.DEBUG):
        federated(tmp_path)
    usual = {*vars(logging.makeLogRecord({})), "message"}
    ours = [record for record in caplog.records if record.name.split(".")[0] in ("client", "pp_model", "server")]
    assert {record.getMessage() for record in ours} == set(LOGGED)
    for record in ours:
        assert set(vars(record)) - usual == LOGGED[record.getMessage()]
    everything = repr([vars(record) for record in caplog.records]) + "".join(capfd.readouterr())
    assert [canary for canary in CANARIES if canary in everything] == []


# What is charged.


def test_every_ledger_is_charged_once_a_round_and_together_no_more_than_the_target(tmp_path):
    scenario = tiny_scenario()
    run = federated(tmp_path, scenario)
    for events in run.spent.values():
        assert len(events) == 4
        assert epsilon_spent(events, delta=scenario.delta) <= scenario.epsilon
        assert epsilon_spent(events, delta=scenario.delta) > 0.97 * scenario.epsilon  # and no noise is wasted
    assert len(ledger_files(tmp_path)) == len(run.spent) == 3


def test_every_local_step_of_every_round_is_charged(tmp_path):
    scenario = tiny_scenario(recipe=FEDAVG)
    run = federated(tmp_path, scenario)
    assert {sum(event.num_steps for event in events) for events in run.spent.values()} == {4 * 3}
    assert {event.noise_multiplier for events in run.spent.values() for event in events} == {
        plan_of(scenario, fresh_arrays(scenario.recipe.model, seed=0)).dp.noise_multiplier
    }
    assert all(epsilon_spent(events, delta=scenario.delta) <= scenario.epsilon for events in run.spent.values())
    assert fingerprint(run.arrays) != fingerprint(run.history[0][1])


def test_a_second_run_on_spent_ledgers_is_refused_and_stops_with_what_to_do(tmp_path):
    scenario = tiny_scenario()
    federated(tmp_path / "first", scenario)
    shutil.copytree(tmp_path / "first" / "merchants", tmp_path / "second" / "merchants")
    before = [entries(path) for path in ledger_files(tmp_path / "second")]
    with pytest.raises(RunStoppedError, match=r"0 of 3 asked.*See the registry"):
        federated(tmp_path / "second", tiny_scenario(recipe={"learning_rate": 0.01}))
    with Registry(tmp_path / "second" / "platform" / "registry.sqlite") as registry:
        assert [entry.refusals for entry in registry.rounds(1)] == [{"budget": 3}] * 3
    assert [entries(path) for path in ledger_files(tmp_path / "second")] == before


def test_the_same_run_on_spent_ledgers_is_never_computed_again(tmp_path):
    """A platform that lost its checkpoints asks for rounds that were paid, and whose replies are no longer kept."""
    scenario = tiny_scenario(recipe={"rounds": 12})
    federated(tmp_path / "first", scenario)
    shutil.copytree(tmp_path / "first" / "merchants", tmp_path / "second" / "merchants")
    with pytest.raises(RunStoppedError):
        federated(tmp_path / "second", scenario)
    with Registry(tmp_path / "second" / "platform" / "registry.sqlite") as registry:
        assert [entry.refusals for entry in registry.rounds(1)] == [{"already_answered": 3}] * 3


def test_a_platform_that_lost_everything_gets_the_same_model_while_the_replies_are_kept(tmp_path):
    first = federated(tmp_path / "first")
    shutil.copytree(tmp_path / "first" / "merchants", tmp_path / "second" / "merchants")
    second = federated(tmp_path / "second", secret_for=lambda _: SystemSource())
    assert fingerprint(second.arrays) == fingerprint(first.arrays)
    assert second.spent == first.spent


def test_one_merchant_without_budget_refuses_and_the_others_go_on(tmp_path):
    scenario = tiny_scenario()
    with ledger_of(tmp_path, 2, scenario) as ledger:
        ledger.charge(
            "another run",
            PrivacyEvent(sample_rate=0.5, noise_multiplier=1.4, num_steps=4),
            plan="another plan",
            most_tasks=1,
        )
    run = federated(tmp_path, scenario)
    assert run.refusals == {"budget": 4}
    assert [len(events) for events in run.spent.values()] == [4, 1, 4]
    with Registry(tmp_path / "platform" / "registry.sqlite") as registry:
        assert [entry.completions for entry in registry.rounds(1)] == [2] * 4


def test_a_merchant_whose_orders_cannot_be_read_has_paid_all_the_same(tmp_path, monkeypatch):
    break_source_of(monkeypatch, "merchant-02", times=2, error=BadOrdersError("broken", place="orders"))
    run = federated(tmp_path)
    assert run.refusals == {"unavailable": 2}
    assert [len(events) for events in run.spent.values()] == [4, 4, 4]


def test_a_void_round_that_is_asked_again_costs_nobody_anything(tmp_path, monkeypatch):
    for name in ("merchant-01", "merchant-02"):
        break_source_of(monkeypatch, name, times=1, error=OSError("the disk is away"))
    run = federated(tmp_path)
    with Registry(tmp_path / "platform" / "registry.sqlite") as registry:
        assert [(entry.round, entry.void) for entry in registry.rounds(1)] == [
            (1, True), (1, False), (2, False), (3, False), (4, False),
        ]  # fmt: skip
    assert [len(events) for events in run.spent.values()] == [4, 4, 4]


# A run can be repeated, and can be interrupted.


def test_a_seeded_run_repeats_to_the_last_bit_of_model_and_ledgers(tmp_path):
    runs = [federated(tmp_path / name) for name in ("first", "second")]
    assert fingerprint(runs[0].arrays) == fingerprint(runs[1].arrays)
    assert runs[0].spent == runs[1].spent
    first, second = ([entries(path) for path in ledger_files(tmp_path / name)] for name in ("first", "second"))
    assert first == second  # the hashes of all sealed replies among them


def test_another_seed_gives_another_model(tmp_path):
    market = open_market(tiny_scenario()).shops
    first = federated(tmp_path / "first", shops=market)
    second = federated(tmp_path / "second", tiny_scenario(seed=1), shops=market)
    assert fingerprint(first.arrays) != fingerprint(second.arrays)


def test_two_merchants_never_share_their_noise():
    secret_for = secrets_for(tiny_scenario())
    first, second = secret_for("bakery").uniform(1000), secret_for("florist").uniform(1000)
    assert not np.isin(first, second).any()


@pytest.mark.parametrize("last", [1, 2, 4])
def test_a_run_interrupted_after_any_round_is_completed_with_one_charge_a_round(tmp_path, last):
    scenario = tiny_scenario()

    def down(round_: int) -> None:
        if round_ == last:
            raise MachineDownError

    with pytest.raises(MachineDownError):
        federated(tmp_path, scenario, on_round=down)
    run = federated(tmp_path, scenario)
    for path, events in zip(ledger_files(tmp_path), run.spent.values(), strict=True):
        assert len(events) == 4
        assert epsilon_spent(events, delta=scenario.delta) <= scenario.epsilon
        assert len(entries(path)) == 1 + 4 + 4  # genesis, charges, seals: no reply was sealed twice
    assert [number for number, _ in run.history] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("call", [1, 4, 7, 12])
def test_a_run_interrupted_inside_any_merchants_step_is_completed_with_one_charge_a_round(tmp_path, call):
    scenario, calls = tiny_scenario(), [0]

    class DyingSource:
        def uniform(self, size):
            calls[0] += 1
            if calls[0] == call:
                raise MachineDownError
            return SystemSource().uniform(size)

        def standard_normal(self, size):
            return SystemSource().standard_normal(size)

        def words(self, size):
            return SystemSource().words(size)

    with pytest.raises(MachineDownError):
        federated(tmp_path, scenario, secret_for=lambda _: DyingSource())
    run = federated(tmp_path, scenario)
    assert [len(events) for events in run.spent.values()] == [4, 4, 4]
    assert [len(entries(path)) for path in ledger_files(tmp_path)] == [1 + 4 + 4] * 3


def test_two_continuations_of_one_interrupted_run_draw_different_noise(tmp_path):
    def down(round_: int) -> None:
        if round_ == 2:
            raise MachineDownError

    how = {"secret_for": lambda _: SystemSource()}
    with pytest.raises(MachineDownError):
        federated(tmp_path / "first", on_round=down, **how)
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    first, second = (federated(tmp_path / name, **how) for name in ("first", "second"))
    at = [dict(run.history) for run in (first, second)]
    assert fingerprint(at[0][2]) == fingerprint(at[1][2])  # the replies to round 2 were sealed before the end
    for name, array in at[0][3].items():
        if name.startswith("readout."):
            assert (array != at[1][3][name]).any()


# Where noise comes from, and what is said where there is none.


def csv_scenario(folder: Path, **changes: Any) -> Scenario:
    place = write_csv(folder / "orders.csv", market_rows())
    fields = {"synthetic": None, "orders": OrdersSpec(file=place, merchant_column="merchant")}
    return tiny_scenario(**{**fields, **changes})


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_real_orders_get_their_noise_from_the_operating_system_whatever_the_seed(tmp_path, seed):
    assert type(secrets_for(csv_scenario(tmp_path, seed=seed))("bakery")) is SystemSource
    assert type(secrets_for(tiny_scenario(seed=seed))("bakery")) is SeededSource


def test_a_whole_run_on_real_orders_with_one_seed_never_repeats_its_noise(tmp_path):
    scenario = csv_scenario(tmp_path, seed=42)
    results = [simulate(scenario, tmp_path / name, Silent()) for name in ("first", "second")]
    models = [(tmp_path / name / "platform" / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert models[0] != models[1]
    assert {result["noise_source"] for result in results} == {"operating system"}
    assert [result["customers"] for result in results] == [results[0]["customers"]] * 2  # dealt out as before


def test_without_privacy_the_run_works_and_says_so_everywhere(tmp_path):
    result = simulate(tiny_scenario(epsilon=float("inf"), engine="in_process"), tmp_path, Silent())
    assert (result["epsilon"], result["epsilon_two_merchants"], result["budget"]) == ("inf", "inf", "inf")
    assert result["noise_multiplier"] == 0
    assert {entry["epsilon"] for entry in result["epsilon_by_round"]} == {"inf"}
    assert "NO PRIVACY" in "".join(result["privacy"]["paragraphs"][0]).upper()
    assert [path.exists() for path in ledger_files(tmp_path)] == [True] * 3  # charged, at an infinite price


def test_the_result_of_a_private_run_has_what_its_ledgers_say(tmp_path):
    scenario = tiny_scenario(engine="in_process")
    result = simulate(scenario, tmp_path, Silent())
    with ledger_of(tmp_path, 1, scenario) as ledger:
        assert result["epsilon"] == ledger.spent <= scenario.epsilon
        assert result["rounds"] * result["steps_per_round"] == sum(event.num_steps for event in ledger.events)


def test_the_figures_are_of_the_merchants_own_readouts_with_those_of_the_shared_one_beside_them(tmp_path):
    scenario = tiny_scenario(engine="in_process")
    result = simulate(scenario, tmp_path, Silent())
    published, metadata = from_safetensors((tmp_path / "platform" / "model.safetensors").read_bytes())
    plan, market = TrainingPlan.from_json(metadata["plan"]), open_market(scenario)
    judge = Judge(plan.model, holdout(market, scenario, plan.features))
    own = {name: with_own_readout(plan, published, log, cutoff=scenario.cutoff) for name, log in market.shops.items()}
    expected = judge.together(judge.predict_own(own))
    assert {name: result[name] for name in expected} == expected
    assert result["shared_readout"] == judge.together(judge.predict(published)) != expected


def test_training_without_messages_gives_the_bits_of_the_federated_run_over_one_shop(tmp_path):
    recipe = {"sample_rate": 1.0}
    scenario = tiny_scenario(epsilon=float("inf"), merchants=1, recipe=recipe)
    init = fresh_arrays(scenario.recipe.model, seed=0)
    run = federated(tmp_path, scenario)
    ((name, log),) = open_market(scenario).shops.items()
    alone = train_together(source_of(log, name=name), plan_of(scenario, init), init, device="cpu")
    assert fingerprint(alone) == fingerprint(run.arrays) != fingerprint(init)
