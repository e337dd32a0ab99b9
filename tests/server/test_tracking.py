"""Checklist: D36, D37.

Rounds for TensorBoard and MLflow: each once, however often it is stopped, and nothing but what was released.
"""

from __future__ import annotations

import math
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daemons.exit_codes import Exit
from pp_model.accounting import epsilon_spent
from pp_model.protocol import RefusalCode
from server.public_check import Finding, Verdict
from server.registry import Registry
from server.tracking import NUMBER, Tracker, TrackingError, figures_of, open_writer
from tests.support.plans import tiny_dp, tiny_plan
from tests.support.platform import new_platform, pp_server
from tests.support.published import outcome, record, troubled

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # of MLflow, not ours

PLAN = tiny_plan()
Seen = dict[str, list[tuple[int, float]]]  # by name: (step, value), in order


def tensorboard_figures(folder: Path) -> dict[str, Seen]:
    """What TensorBoard's own reader finds, by run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        read = EventAccumulator(str(place), size_guidance={"scalars": 0, "tensors": 0}).Reload()
        found[place.name] = {
            tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]
        }
    return found


def mlflow_figures(folder: Path) -> dict[str, Seen]:
    """The same out of MLflow's database."""
    database = sqlite3.connect(folder / "mlflow.db")
    rows = database.execute(
        "SELECT name, key, step, value FROM metrics JOIN runs USING (run_uuid) ORDER BY timestamp, step"
    ).fetchall()
    database.close()
    found: dict[str, Seen] = {}
    for run, key, step, value in rows:
        found.setdefault(run, {}).setdefault(key, []).append((step, value))
    return found


READERS: dict[str, Callable[[Path], dict[str, Seen]]] = {"tensorboard": tensorboard_figures, "mlflow": mlflow_figures}


@pytest.fixture(scope="module")
def fresh_mlflow(tmp_path_factory):
    """An empty database of MLflow: to make its tables takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    with open_writer("mlflow", folder):
        pass
    return folder / "mlflow.db"


@pytest.fixture(params=["tensorboard", pytest.param("mlflow", marks=pytest.mark.slow)])
def kind(request):
    return request.param


@pytest.fixture
def folder(kind, tmp_path, request):
    made = tmp_path / "curves"
    made.mkdir()
    if kind == "mlflow":
        shutil.copy(request.getfixturevalue("fresh_mlflow"), made / "mlflow.db")
    return made


@pytest.fixture
def registry(tmp_path):
    with Registry(tmp_path / "registry.sqlite") as opened:
        yield opened


def track(registry: Registry, kind: str, folder: Path, *, told=lambda *_: None) -> int:
    with open_writer(kind, folder) as writer:
        return Tracker(registry, writer, told=told).catch_up()


def rounds(registry: Registry, numbers, *, plan=PLAN, end=None) -> int:
    run = registry.start_run(plan, first_round=1)
    for number in numbers:
        record(registry, run, outcome(round=number, norm=number / 4))
    if end:
        registry.end_run(run, end)
    return run


def test_every_round_of_every_run_is_there_once_however_often_it_is_written(registry, kind, folder):
    rounds(registry, (1, 2), end="failed")
    rounds(registry, (2, 3), end="finished")
    rounds(registry, (1,), plan=tiny_plan(plan_id="other"))
    assert track(registry, kind, folder) == 5
    before = READERS[kind](folder)
    assert [[step for step, _ in run["norm"]] for run in before.values()] == [[1], [1, 2], [2, 3]] or [
        [step for step, _ in before[name]["norm"]] for name in sorted(before)
    ] == [[1], [1, 2], [2, 3]]
    for _ in range(3):
        assert track(registry, kind, folder) == 0
    assert READERS[kind](folder) == before


@pytest.mark.parametrize("last", [1, 2, 4])
def test_who_is_stopped_after_any_round_goes_on_with_the_next(registry, kind, folder, last):
    class StopError(Exception):
        pass

    def stop(done, of):
        if done == last:
            raise StopError

    rounds(registry, range(1, 6))
    with pytest.raises(StopError):
        track(registry, kind, folder, told=stop)
    assert track(registry, kind, folder) == 5 - last
    ((_, seen),) = READERS[kind](folder).items()
    assert [step for step, _ in seen["norm"]] == [1, 2, 3, 4, 5]
    assert [value for _, value in seen["norm"]] == [0.25, 0.5, 0.75, 1.0, 1.25]


def test_new_rounds_are_found_by_who_keeps_looking(registry, kind, folder):
    run = rounds(registry, (1,))
    with open_writer(kind, folder) as writer:
        tracker = Tracker(registry, writer)
        assert [tracker.catch_up(), tracker.catch_up()] == [1, 0]
        record(registry, run, outcome(round=2))
        other = rounds(registry, (1,), plan=tiny_plan(plan_id="other"))
        assert [tracker.catch_up(), tracker.catch_up()] == [2, 0]
        registry.end_run(run, "failed")
        record(registry, other, outcome(round=2))
        assert [tracker.catch_up(), tracker.catch_up()] == [1, 0]
    assert sum(len(seen["norm"]) for seen in READERS[kind](folder).values()) == 4


def test_a_round_that_was_asked_twice_is_there_twice(registry, kind, folder):
    run = registry.start_run(PLAN, first_round=1)
    registry.record_round(run, outcome(void=True, norm=0.0), seconds=1.0)
    record(registry, run, outcome())
    assert track(registry, kind, folder) == 2
    ((_, seen),) = READERS[kind](folder).items()
    assert sorted(seen["void"]) == [(1, 0.0), (1, 1.0)]
    assert seen["norm"] == [(1, 0.5)]


def test_a_round_waits_until_its_model_is_judged_and_no_longer_than_its_run(registry, kind, folder):
    run = rounds(registry, (1,))
    registry.record_round(run, outcome(round=2), seconds=1.0)
    assert track(registry, kind, folder) == 1
    registry.record_check(run, 2, Verdict(log_loss=0.5, spend_error=1.0), Finding.GOOD)
    assert track(registry, kind, folder) == 1
    registry.record_round(run, outcome(round=3), seconds=1.0)
    assert track(registry, kind, folder) == 0
    registry.end_run(run, "failed")
    assert track(registry, kind, folder) == 1
    ((_, seen),) = READERS[kind](folder).items()
    assert [step for step, _ in seen["norm"]] == [1, 2, 3]
    assert [step for step, _ in seen["public_check/log_loss"]] == [1, 2]


def test_the_figures_are_counts_norm_check_and_price_and_nothing_else(registry):
    run = registry.start_run(PLAN, first_round=1)
    record(registry, run, troubled(refusals={12: RefusalCode.BUDGET, 14: RefusalCode.BUDGET, 15: RefusalCode.POLICY}))
    (entry,) = registry.rounds(run)
    assert figures_of(entry, PLAN) == {
        "cohort": 4,
        "completions": 1,
        "void": 0,
        "norm": 0.5,
        "refusals/budget": 2,
        "refusals/policy": 1,
        "public_check/log_loss": 0.61,
        "public_check/spend_error": 1.25,
        "epsilon": epsilon_spent([PLAN.dp.event], delta=PLAN.delta),
    }


def test_epsilon_by_round_ends_with_that_of_the_whole_plan(registry, kind, folder):
    rounds(registry, (1, 2, 3))
    track(registry, kind, folder)
    ((_, seen),) = READERS[kind](folder).items()
    spent = [value for _, value in seen["epsilon"]]
    assert spent == sorted(spent)
    assert spent[-1] == pytest.approx(epsilon_spent(PLAN.events, delta=PLAN.delta), rel=1e-6)


def test_a_plan_without_privacy_has_an_infinite_price_and_is_written_all_the_same(registry, kind, folder):
    rounds(registry, (1,), plan=tiny_plan(dp=tiny_dp(noise_multiplier=0.0)))
    assert track(registry, kind, folder) == 1
    ((_, seen),) = READERS[kind](folder).items()
    assert seen["epsilon"][0][1] in (math.inf, sys.float_info.max, 1.7976931348623157e308)


def test_no_merchant_is_in_what_is_written(registry, kind, folder):
    run = registry.start_run(PLAN, first_round=1)
    record(registry, run, troubled())
    assert registry.rounds(run)[0].merchants == ("bakery",)
    assert registry.rounds(run)[0].offenders == {"grocer": "norm"}
    track(registry, kind, folder)
    written = b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
    assert b"completions" in written
    for name in (b"bakery", b"florist", b"grocer"):
        assert name not in written


@pytest.mark.slow
def test_runs_of_mlflow_end_as_the_platforms_did(registry, tmp_path, fresh_mlflow):
    folder = tmp_path / "curves"
    folder.mkdir()
    shutil.copy(fresh_mlflow, folder / "mlflow.db")
    run = rounds(registry, (1,), end="failed")
    rounds(registry, (1,), plan=tiny_plan(plan_id="other"))
    track(registry, "mlflow", folder)
    database = sqlite3.connect(folder / "mlflow.db")
    states = dict(database.execute("SELECT name, status FROM runs").fetchall())
    database.close()
    assert {name.partition("-run-")[0]: status for name, status in states.items()} == {
        "tiny": "FAILED",
        "other": "RUNNING",
    }
    assert run == 1


@pytest.mark.parametrize(("kind", "package"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow")])
def test_without_the_package_the_command_that_installs_it_is_told(tmp_path, monkeypatch, kind, package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TrackingError, match=r"pip install 'purchase-power\[tracking\]'"):
        open_writer(kind, tmp_path / "curves")


@pytest.mark.slow
def test_a_file_that_is_none_of_mlflows_is_told(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"nothing" * 1000)
    with pytest.raises(TrackingError, match="name another folder"):
        open_writer("mlflow", tmp_path)


def test_the_command_writes_and_goes_on_where_it_stopped_and_changes_nothing_of_the_platforms(tmp_path, capsys):
    home = new_platform(tmp_path / "p")
    home.registry.touch(mode=0o600)
    with Registry(home.registry) as registry:
        rounds(registry, (1, 2))
        capsys.readouterr()
        flags = ("track", "--to", "tensorboard", str(tmp_path / "curves"))
        assert pp_server(home, *flags) == Exit.DONE
        assert "2 rounds written" in capsys.readouterr().out
        before = registry.run_records(), registry.rounds(1)
        record(registry, 1, outcome(round=3))
        assert pp_server(home, *flags) == Exit.DONE
        assert "1 rounds written" in capsys.readouterr().out
        assert (registry.run_records()[0].started, registry.rounds(1)[:2]) == (before[0][0].started, before[1])
    ((_, seen),) = tensorboard_figures(tmp_path / "curves").items()
    assert [step for step, _ in seen[NUMBER]] == [1, 2, 3]


def test_a_round_that_had_to_wait_is_not_forgotten_for_those_that_came_after_it(registry, folder, kind):
    first = rounds(registry, (1,))
    registry.record_round(first, outcome(round=2), seconds=1.0)  # not judged yet
    with open_writer(kind, folder) as writer:
        tracker = Tracker(registry, writer)
        rounds(registry, (1,), plan=tiny_plan(plan_id="other"))
        assert tracker.catch_up() == 2
        registry.record_check(first, 2, Verdict(log_loss=0.5, spend_error=1.0), Finding.GOOD)
        assert [tracker.catch_up(), tracker.catch_up()] == [1, 0]
