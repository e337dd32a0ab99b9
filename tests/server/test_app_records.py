"""What a run leaves in the registry for whoever watches it: the round that is asked for, the check, the times."""

from __future__ import annotations

import datetime as dt

import pytest

from pp_model.errors import PurchasePowerError
from pp_model.model import fresh_arrays, trainable_shapes
from pp_model.protocol import Release
from pp_model.serialization import fingerprint, from_safetensors
from server.app import ServerSettings, train_and_publish
from server.public_check import PublicCheck
from server.registry import Registry
from simulations.grid import InProcessGrid
from tests.support.fake_merchants import filled, merchants_app
from tests.support.plans import tiny_plan, tiny_server

INITIAL = fresh_arrays(tiny_plan().model, seed=1)
SHAPES = trainable_shapes(tiny_plan().model)


def settings(folder, *, rounds=2, value=0.001, **changes) -> tuple[ServerSettings, object]:
    plan = tiny_plan(
        rounds=rounds, init_fingerprint=fingerprint(INITIAL), server=tiny_server(round_timeout_seconds=30.0)
    )

    def answer(task, node):
        return Release(task=task.fingerprint, update=filled(value, SHAPES)).to_wire()

    fields = {"plan": plan, "initial": INITIAL, "trainable": SHAPES, "directory": folder}
    return ServerSettings(**fields, registry=folder / "registry.sqlite", **changes), merchants_app(answer)


def run(folder, *, on_round=None, **changes):
    wanted, app = settings(folder, **changes)
    with InProcessGrid(app, node_configs={11: {}}, on_round=on_round) as grid:
        train_and_publish(grid, wanted)
    return wanted


def test_every_round_has_what_the_check_says_of_its_model_and_the_model_that_of_its_own_arrays(tmp_path):
    wanted = run(tmp_path)
    with Registry(wanted.registry) as registry:
        rounds, (model,) = registry.rounds(1), registry.models()
    assert [entry.finding for entry in rounds] == ["good", "good"]
    assert all(0 < entry.log_loss < 10 and 0 < entry.spend_error < 100 for entry in rounds)
    arrays, _ = from_safetensors((tmp_path / "model.safetensors").read_bytes())
    verdict = PublicCheck(wanted.plan.model, wanted.plan.features).judge(arrays)
    assert (model.log_loss, model.spend_error) == (verdict.log_loss, verdict.spend_error)


def test_a_run_without_the_check_has_no_figure_of_it(tmp_path):
    wanted = run(tmp_path, public_check=False)
    with Registry(wanted.registry) as registry:
        assert [(e.log_loss, e.spend_error, e.finding) for e in registry.rounds(1)] == [(None, None, "")] * 2
        assert registry.models()[0].log_loss is None


def test_a_model_that_collapsed_is_recorded_as_what_it_was(tmp_path):
    with pytest.raises(PurchasePowerError, match="collapsed again"):
        run(tmp_path, value=40.0, rounds=9)
    with Registry(tmp_path / "registry.sqlite") as registry:
        assert {entry.finding for entry in registry.rounds(1)} >= {"collapsed"}
        assert [entry.finding for entry in registry.rounds(1)][-1] == "collapsed"


def test_while_a_round_is_asked_for_its_number_and_its_end_are_known_and_afterwards_none(tmp_path):
    seen = []

    def look(messages, replies):
        with Registry(tmp_path / "registry.sqlite", read_only=True) as registry:
            (record,) = registry.run_records()
        seen.append((record.asked_round, dt.datetime.fromisoformat(record.deadline)))

    before = dt.datetime.now(dt.UTC)
    run(tmp_path, on_round=look)
    after = dt.datetime.now(dt.UTC)
    assert [number for number, _ in seen] == [1, 2]
    half_a_minute = dt.timedelta(seconds=30)
    assert all(before + half_a_minute - dt.timedelta(seconds=1) <= end <= after + half_a_minute for _, end in seen)
    with Registry(tmp_path / "registry.sqlite") as registry:
        (record,) = registry.run_records()
    assert (record.asked_round, record.deadline, record.state) == (0, "", "finished")
