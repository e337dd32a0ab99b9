"""What the engine does around Ray: its workers are called here, in this process."""

import itertools
import json
import logging
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simulations.ray_engine as ray_engine
from pp_model.accounting import epsilon_spent
from pp_model.config import to_mapping
from pp_model.errors import ConfigError, LedgerError
from pp_model.model import fresh_arrays
from pp_model.randomness import SystemSource
from pp_model.schema import COLUMNS
from pp_model.serialization import fingerprint
from server.registry import Registry
from simulations.federation import Federated, federate, secrets_for
from simulations.planning import plan_of
from simulations.ray_engine import RayEngineError, Worker, federate_ray
from simulations.scenario import OrdersSpec, Scenario
from simulations.seeded import SeededSource
from simulations.shops import open_market
from tests.support.ledgers import entries
from tests.support.orders import write_csv
from tests.support.shops import CANARY_TEXT, market_rows, raiser, tiny_scenario


class MachineDownError(BaseException):
    """The process that leads the run ends here."""


class WorkersHere:
    """As many workers as it is told; each message goes to the next one, so that a merchant never finds its last."""

    def __init__(self, folder: Path, *, size: int) -> None:
        self.size, self.workers = 1, [Worker(folder) for _ in range(size)]
        self._turns = itertools.count()

    def answer(self, message, context):
        return self.workers[next(self._turns) % len(self.workers)](message, context)


@pytest.fixture
def here(monkeypatch):
    """Sets how many workers there are; they are found in the list that it returns."""
    made: list[WorkersHere] = []

    def give(size: int) -> list[WorkersHere]:
        @contextmanager
        def workers(folder, scenario, *, most):
            made.append(WorkersHere(folder, size=size))
            yield made[-1]

        monkeypatch.setattr(ray_engine, "_workers", workers)
        monkeypatch.setattr(ray_engine, "_need_ray", lambda: None)
        return made

    give(2)
    return give


def trained(directory: Path, scenario: Scenario | None = None, *, engine: Any = federate_ray, **how: Any) -> Federated:
    scenario = scenario or tiny_scenario()
    init = fresh_arrays(scenario.recipe.model, seed=0)
    fields = {"directory": directory, "secret_for": secrets_for(scenario), **how}
    return engine(open_market(scenario).shops, plan_of(scenario, init), init, scenario, **fields)


def csv_scenario(folder: Path, **changes: Any) -> Scenario:
    orders = OrdersSpec(file=write_csv(folder / "orders.csv", market_rows()), merchant_column="merchant")
    return tiny_scenario(**{"synthetic": None, "orders": orders, **changes})


def ledger_files(directory: Path) -> list[Path]:
    return sorted((directory / "merchants").glob("*.ledger"))


# A run.


def test_every_round_is_valid_and_every_ledger_is_charged_once_a_round(tmp_path, here):
    scenario, rounds = tiny_scenario(), []
    run = trained(tmp_path, scenario, on_round=rounds.append)
    assert rounds == [1, 2, 3, 4]
    with Registry(tmp_path / "platform" / "registry.sqlite") as registry:
        assert [(entry.completions, entry.void) for entry in registry.rounds(1)] == [(3, False)] * 4
    assert [len(events) for events in run.spent.values()] == [4, 4, 4]
    assert all(epsilon_spent(events, delta=scenario.delta) <= scenario.epsilon for events in run.spent.values())
    assert [number for number, _ in run.history] == [0, 1, 2, 3, 4]
    assert (run.refusals, run.rejected) == ({}, {})


def test_without_noise_and_sampling_the_model_is_that_of_one_process_to_the_last_bit(tmp_path, here):
    scenario = tiny_scenario(epsilon=float("inf"), recipe={"sample_rate": 1.0})
    there = trained(tmp_path / "there", scenario)
    assert fingerprint(there.arrays) == fingerprint(trained(tmp_path / "here", scenario, engine=federate).arrays)
    assert fingerprint(there.arrays) != fingerprint(there.history[0][1])


@pytest.mark.parametrize("sizes", [(1, 1), (1, 2), (3, 2)])
def test_a_seeded_run_repeats_to_the_last_bit_whichever_worker_gets_a_message(tmp_path, here, sizes):
    runs = []
    for name, size in zip(("first", "second"), sizes, strict=True):
        here(size)
        runs.append(trained(tmp_path / name))
    assert fingerprint(runs[0].arrays) == fingerprint(runs[1].arrays)
    first, second = ([entries(path) for path in ledger_files(tmp_path / name)] for name in ("first", "second"))
    assert first == second


def test_rows_that_a_worker_could_not_keep_are_made_again_and_the_run_is_the_same(tmp_path, here, monkeypatch):
    first = trained(tmp_path / "first")
    monkeypatch.setattr(ray_engine, "KEPT_SHOPS", 1)
    made = here(1)
    second = trained(tmp_path / "second")
    assert [len(worker._shops) for worker in made[-1].workers] == [1]
    assert fingerprint(first.arrays) == fingerprint(second.arrays)


def test_a_merchant_whose_worker_raises_is_an_error_of_that_merchant_and_its_text_goes_nowhere(
    tmp_path, here, monkeypatch, caplog
):
    answer = Worker.__call__

    def broken(self, message, context):
        if context.node_config["merchant"] == 1:
            raise RuntimeError(CANARY_TEXT)
        return answer(self, message, context)

    monkeypatch.setattr(Worker, "__call__", broken)
    with caplog.at_level(logging.DEBUG):
        run = trained(tmp_path)
    assert run.rejected == {"error": 4}
    assert [len(events) for events in run.spent.values()] == [4, 0, 4]
    assert CANARY_TEXT not in repr([vars(record) for record in caplog.records])


# Secrets.


def test_no_two_tasks_and_no_two_merchants_get_the_same_numbers(tmp_path, here, monkeypatch):
    seeds = []

    class Watched(SeededSource):
        def __init__(self, seed):
            seeds.append(seed)
            super().__init__(seed)

    monkeypatch.setattr(ray_engine, "SeededSource", Watched)
    trained(tmp_path, secret_for=lambda _: Watched(0))
    tasks = seeds[3:]  # the first are the caller's, which are looked at and not used
    assert len(tasks) == len(set(tasks)) == 4 * 3
    assert len(np.unique([SeededSource(seed).uniform(1000) for seed in tasks])) == 12_000


def test_real_orders_get_their_noise_from_the_operating_system_whatever_the_seed(tmp_path, here):
    scenario = csv_scenario(tmp_path, seed=42)
    first, second = (trained(tmp_path / name, scenario) for name in ("first", "second"))
    assert fingerprint(first.arrays) != fingerprint(second.arrays)


def test_the_operating_systems_noise_can_be_asked_for_with_synthetic_orders(tmp_path, here):
    how = {"secret_for": lambda _: SystemSource()}
    first, second = (trained(tmp_path / name, **how) for name in ("first", "second"))
    assert fingerprint(first.arrays) != fingerprint(second.arrays)


@pytest.mark.parametrize("source", [SeededSource(1), object()], ids=["seeded", "unknown"])
def test_for_real_orders_no_other_source_is_accepted_and_nothing_is_begun(tmp_path, here, source):
    scenario = csv_scenario(tmp_path)
    with pytest.raises(ConfigError, match="SystemSource, for orders are real"):
        trained(tmp_path / "run", scenario, secret_for=lambda _: source)
    assert not (tmp_path / "run").exists()


def test_a_source_that_no_worker_could_make_is_refused(tmp_path, here):
    with pytest.raises(ConfigError, match="allowed for Ray's workers: SystemSource or SeededSource"):
        trained(tmp_path, secret_for=lambda name: SeededSource(1) if name.endswith("1") else SystemSource())


# Ledgers.


def test_a_ledger_is_open_only_while_a_message_of_its_merchant_is_answered(tmp_path, here, monkeypatch):
    opened: dict[int, int] = {}
    open_ledger, answer, during = ray_engine._ledger, Worker.__call__, []

    def watched(directory, number, name, scenario):
        ledger = open_ledger(directory, number, name, scenario)
        opened[number] = opened.get(number, 0) + 1
        close = ledger.close

        def closing():
            opened[number] -= 1
            close()

        monkeypatch.setattr(ledger, "close", closing)
        return ledger

    def answered(self, message, context):
        assert set(opened.values()) <= {0}
        make_app = ray_engine.make_client_app
        with monkeypatch.context() as patched:
            patched.setattr(ray_engine, "make_client_app", lambda shop_for: _after(make_app(shop_for), during, opened))
            reply = answer(self, message, context)
        assert set(opened.values()) == {0}
        return reply

    monkeypatch.setattr(ray_engine, "_ledger", watched)
    monkeypatch.setattr(Worker, "__call__", answered)
    trained(tmp_path)
    assert during == [{0: 1}, {1: 1}, {2: 1}] * 4


def _after(app, during, opened):
    """The app, which notes what is open when it has answered and its reply is not yet on its way."""

    def answer(message, context):
        reply = app(message, context)
        during.append({number: count for number, count in opened.items() if count})
        return reply

    return answer


@pytest.mark.parametrize("last", [1, 2, 4])
@pytest.mark.parametrize("engines", [(federate_ray, federate_ray), (federate, federate_ray), (federate_ray, federate)])
def test_an_interrupted_run_is_completed_with_one_charge_a_round_by_either_engine(tmp_path, here, last, engines):
    def down(round_: int) -> None:
        if round_ == last:
            raise MachineDownError

    with pytest.raises(MachineDownError):
        trained(tmp_path, engine=engines[0], on_round=down)
    run = trained(tmp_path, engine=engines[1])
    assert [len(events) for events in run.spent.values()] == [4, 4, 4]
    assert [len(entries(path)) for path in ledger_files(tmp_path)] == [1 + 4 + 4] * 3
    assert [number for number, _ in run.history] == [0, 1, 2, 3, 4]


def test_a_worker_that_dies_after_the_charge_costs_nothing_more_and_its_task_has_the_same_noise(
    tmp_path, here, monkeypatch
):
    calm = trained(tmp_path / "calm")
    answer, died = Worker.__call__, []

    def dying(self, message, context):
        task = (context.node_config["merchant"], message.metadata.group_id)
        if task in died:
            return answer(self, message, context)
        died.append(task)
        with monkeypatch.context() as patched:
            patched.setattr("client.task.train_locally", raiser(MachineDownError()))  # after the charge
            with pytest.raises(MachineDownError):
                answer(self, message, context)
        return answer(self, message, context)  # as Ray repeats it

    monkeypatch.setattr(Worker, "__call__", dying)
    run = trained(tmp_path / "dying")
    assert len(died) == 12
    assert run.spent == calm.spent
    assert fingerprint(run.arrays) == fingerprint(calm.arrays)


def test_trouble_with_a_ledger_ends_the_run_before_a_worker_is_there(tmp_path, here):
    trained(tmp_path)
    made = here(1)
    before = len(made)
    path = ledger_files(tmp_path)[1]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LedgerError, match="damaged"):
        trained(tmp_path)
    assert len(made) == before


# What is handed to the workers.


def test_the_orders_are_on_the_disk_once_for_their_owner_alone_and_gone_when_the_run_ends(tmp_path, here):
    folder, seen = tmp_path / "ray", []

    def look(_: int) -> None:
        seen.append((folder.stat().st_mode & 0o777, sorted(path.name for path in folder.iterdir())))

    trained(tmp_path, on_round=look)
    assert seen == [(0o700, ["00000.npz", "00001.npz", "00002.npz", "job.json"])] * 4
    assert not folder.exists()
    with pytest.raises(MachineDownError):
        trained(tmp_path / "other", on_round=raiser(MachineDownError()))
    assert not (tmp_path / "other" / "ray").exists()


def test_what_a_killed_run_left_is_replaced(tmp_path, here):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "00000.npz").write_text("half a file")
    (tmp_path / "ray" / "00009.npz").write_text("of another run")
    assert trained(tmp_path).refusals == {}
    assert not (tmp_path / "ray").exists()


def test_the_orders_come_back_as_they_were_and_hold_no_pickle(tmp_path):
    scenario = tiny_scenario()
    shops = open_market(scenario).shops
    with ray_engine._handed_out(shops, scenario, tmp_path, seeded=True) as folder:
        for number, log in enumerate(shops.values()):
            read = ray_engine._load_orders(ray_engine._orders_file(folder, number))
            assert read.num_customers == log.num_customers
            for column in COLUMNS:
                assert getattr(read, column).dtype == getattr(log, column).dtype
                assert np.array_equal(getattr(read, column), getattr(log, column))


@pytest.mark.parametrize("epsilon", [3.0, float("inf")])
def test_a_worker_knows_the_very_scenario(tmp_path, epsilon):
    scenario = csv_scenario(tmp_path, epsilon=epsilon)
    with ray_engine._handed_out(open_market(scenario).shops, scenario, tmp_path, seeded=False) as folder:
        assert Worker(folder)._scenario == scenario
        assert json.loads((folder / "job.json").read_text())["scenario"] == to_mapping(scenario)


# Without Ray.


def test_without_ray_the_error_says_how_to_install_it_and_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "find_spec", lambda _: None)
    with pytest.raises(RayEngineError, match=r"install purchase-power\[ray\]"):
        trained(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_cluster_that_does_not_listen_is_an_error_at_once():
    with pytest.raises(OSError):
        ray_engine._reach("127.0.0.1:1")
