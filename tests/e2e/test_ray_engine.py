"""The engine with Ray's own processes. Nothing here runs where Ray is not installed: `pip install .[ray]`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import simulations.ray_engine as ray_engine
from pp_model.model import fresh_arrays
from pp_model.serialization import Arrays, fingerprint, from_safetensors
from simulations.evaluate import Judge
from simulations.federation import Federated, federate, secrets_for
from simulations.planning import features_of, plan_of
from simulations.ray_engine import RayEngineError, Worker, Workers, federate_ray
from simulations.scenario import Scenario, SyntheticSpec
from simulations.shops import holdout, open_market
from tests.support.ledgers import entries
from tests.support.pp_sim import ROOT, environment
from tests.support.shops import tiny_scenario
from tests.support.traced import read_trace, strace_is_missing, traced

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed; pip install .[ray]"),
]

ROUNDS, MERCHANTS = 5, 4
ENDS_WITHIN_SECONDS = 60.0
STRANGER = """
import sys
from ray._raylet import GcsClient
print(len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=10)))
"""
# What leads a run is a process of its own, as for an operator.
LEAD = "import sys; from pathlib import Path; from tests.e2e.test_ray_engine import {0}; {0}(Path(sys.argv[1]))"


def market() -> Scenario:
    return tiny_scenario(
        merchants=MERCHANTS, synthetic=SyntheticSpec(customers=2_000, days=300), recipe={"rounds": ROUNDS}
    )


def trained(directory: Path, *, engine: Any = federate_ray, **how: Any) -> Federated:
    scenario = market()
    init = fresh_arrays(scenario.recipe.model, seed=0)
    fields = {"directory": directory, "secret_for": secrets_for(scenario), **how}
    return engine(open_market(scenario).shops, plan_of(scenario, init), init, scenario, **fields)


def ledgers(directory: Path) -> list[list[tuple[int, str, str]]]:
    return [entries(path) for path in sorted((directory / "merchants").glob("*.ledger"))]


def session() -> str:
    """The folder of the running Ray, which stands in the command line of every process of it."""
    from ray._private.worker import _global_node

    return str(_global_node.get_session_dir_path())


def processes_of(session: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:  # it ended while we looked
                continue
            if session in command:
                found.append(int(entry.name))
    return found


def wait_until(true: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        time.sleep(0.2)


def leads(function: Callable[[Path], None], directory: Path) -> list[str]:
    return [sys.executable, "-c", LEAD.format(function.__name__), str(directory)]


def plain_run(directory: Path) -> None:
    """Says where Ray's session is as soon as the first round is done."""
    trained(directory, on_round=lambda number: print(session(), flush=True) if number == 1 else None)


def watched_run(directory: Path) -> None:
    """In the first round strangers try to join; in the second a worker is killed while messages wait for it."""
    import ray

    workers: list[Workers] = []
    found: dict[str, Any] = {"pid": os.getpid()}

    class Watched(Workers):
        def __init__(self, folder: Path, **how: Any) -> None:
            super().__init__(folder, **how)
            workers.append(self)

    def on_round(number: int) -> None:
        if number == 1:
            found["session"], found["seconds"] = session(), time.monotonic() - began
            found["joining"] = joining(ray.get_runtime_context().gcs_address)
        if number == 2:
            actor = workers[0]._idle.get()
            actor.run.options(max_task_retries=0).remote(
                lambda: lambda **_: os.kill(os.getpid(), signal.SIGKILL), None, "", None
            )
            workers[0]._idle.put(actor)  # the next message is sent to it before it is known to be dead

    ray_engine.Workers = Watched  # type: ignore[misc]
    handler, began = signal.getsignal(signal.SIGTERM), time.monotonic()
    run = trained(directory, on_round=on_round)
    found |= {"refusals": run.refusals, "rejected": run.rejected, "charges": [len(e) for e in run.spent.values()]}
    found |= {"left": ray.is_initialized(), "handler kept": signal.getsignal(signal.SIGTERM) is handler}
    (directory / "found.json").write_text(json.dumps(found))


def cluster_run(directory: Path) -> None:
    """On a cluster of two nodes with room for one worker each, which is there before the run, and after it."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        os.environ["RAY_ADDRESS"] = cluster.address
        trained(directory)
        assert len(cluster.list_all_nodes()) == 2
    finally:
        cluster.shutdown()


def joining(address: str) -> dict[str, tuple[int, str, str]]:
    """What comes of it: with the run's token, with none, and with a guessed one."""
    ours = dict(os.environ)
    none = {name: value for name, value in ours.items() if not name.startswith("RAY_")}
    guessed = {**none, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    found = {}
    for name, env in (("ours", ours), ("none", none), ("guessed", guessed)):
        command = [sys.executable, "-c", STRANGER, address]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
        found[name] = (done.returncode, done.stdout, done.stderr)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What `watched_run` found, and its folder."""
    folder = tmp_path_factory.mktemp("ray")
    subprocess.run(leads(watched_run, folder), cwd=ROOT, env=environment(), check=True, timeout=400)
    return {**json.loads((folder / "found.json").read_text()), "folder": folder, "arrays": model_in(folder)}


def model_in(directory: Path) -> Arrays:
    return from_safetensors((directory / "platform" / "model.safetensors").read_bytes())[0]


def test_every_round_is_valid_and_every_ledger_has_one_charge_a_round_though_a_worker_was_killed(run):
    assert (run["refusals"], run["rejected"]) == ({}, {})
    assert run["charges"] == [ROUNDS] * MERCHANTS
    assert [len(ledger) for ledger in ledgers(run["folder"])] == [1 + 2 * ROUNDS] * MERCHANTS


def test_rays_workers_give_the_bits_and_the_ledgers_of_workers_in_this_process(run, tmp_path, monkeypatch):
    class Here:
        size = 1

        def __init__(self, folder):
            self.answer = Worker(folder)

    @contextmanager
    def workers(folder, scenario, *, most):
        yield Here(folder)

    monkeypatch.setattr(ray_engine, "_workers", workers)
    here = trained(tmp_path)
    assert fingerprint(here.arrays) == fingerprint(run["arrays"])
    assert ledgers(tmp_path) == ledgers(run["folder"])


def test_the_model_is_about_as_good_as_that_of_one_process(run, tmp_path):
    scenario = market()
    judge = Judge(scenario.recipe.model, holdout(open_market(scenario), scenario, features_of(scenario)))
    ours, theirs = (
        judge.together(judge.predict(arrays)) for arrays in (run["arrays"], trained(tmp_path, engine=federate).arrays)
    )
    assert ours["spearman"] == pytest.approx(theirs["spearman"], abs=0.1)


def test_nothing_of_ray_is_left_and_no_copy_of_the_orders(run):
    assert not run["left"]
    assert run["handler kept"]
    wait_until(lambda: not processes_of(run["session"]), seconds=ENDS_WITHIN_SECONDS)
    assert not (run["folder"] / "ray").exists()


def test_who_does_not_know_the_runs_token_cannot_join(run):
    assert run["joining"]["ours"][:2] == [0, "1\n"]  # a twin: the address is right
    for name in ("none", "guessed"):
        code, _, said = run["joining"][name]
        assert code != 0
        assert "InvalidAuthToken" in said


def test_a_cluster_of_two_nodes_gives_the_same_model_and_ledgers(run, tmp_path):
    subprocess.run(leads(cluster_run, tmp_path), cwd=ROOT, env=environment(), check=True, timeout=400)
    assert fingerprint(model_in(tmp_path)) == fingerprint(run["arrays"])
    assert ledgers(tmp_path) == ledgers(run["folder"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_run_that_is_stopped_leaves_no_process_and_is_completed_with_one_charge_a_round(tmp_path, number):
    with subprocess.Popen(
        leads(plain_run, tmp_path), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as leader:
        assert leader.stdout is not None
        folder = leader.stdout.readline().strip()
        assert processes_of(folder)
        leader.send_signal(number)
        leader.wait(timeout=ENDS_WITHIN_SECONDS)
    wait_until(lambda: not processes_of(folder), seconds=ENDS_WITHIN_SECONDS)
    assert (tmp_path / "ray").exists() == (number == signal.SIGKILL)
    run = trained(tmp_path, engine=federate)
    assert [len(events) for events in run.spent.values()] == [ROUNDS] * MERCHANTS
    assert [len(ledger) for ledger in ledgers(tmp_path)] == [1 + 2 * ROUNDS] * MERCHANTS


@pytest.mark.skipif(strace_is_missing() != "", reason=strace_is_missing())
def test_no_process_of_a_run_asks_for_a_name_or_speaks_to_another_machine(tmp_path):
    trace = tmp_path / "trace"
    command = traced(leads(plain_run, tmp_path / "run"), trace)
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, timeout=400, stdout=subprocess.DEVNULL)
    contacts = {(contact.host.removeprefix("::ffff:"), contact.port) for contact in read_trace(trace).all}
    # Ray learns its own address from a socket that it connects and never uses.
    others = {host for host, port in contacts if port} - {"127.0.0.1", "8.8.8.8"}
    assert others <= own_addresses()
    assert ("127.0.0.1", 9) in contacts  # a twin: that is where the clouds' metadata servers were looked for


def own_addresses() -> set[str]:
    found = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True)
    return set(found.stdout.split())


def test_a_cluster_that_is_not_there_is_an_error_that_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(RayEngineError, match=r"did not connect to 127\.0\.0\.1:1 \(RAY_ADDRESS\).*refused"):
        trained(tmp_path)
