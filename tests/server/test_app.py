from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from pp_model.errors import CheckpointError, ConfigError
from pp_model.protocol import Release
from pp_model.serialization import fingerprint, from_safetensors
from server.app import ServerSettings, make_server_app
from server.checkpoints import load_checkpoint
from server.registry import Registry
from server.rounds import RunStoppedError
from simulations.grid import InProcessGrid
from tests.support.fake_merchants import TRAINABLE, filled, merchants_app, random_arrays
from tests.support.plans import tiny_plan, tiny_server

INITIAL = {**random_arrays(100), "frozen": np.arange(3, dtype=np.float32)}
ADAM = {"optimizer": "adam", "learning_rate": 0.1, "final_learning_rate": 0.01, "momentum": 0.9, "averaging": 0.8}


class MachineDownError(BaseException):
    """The platform's process ends here."""


def settings(directory: Path, *, rounds=5, server=ADAM, **changes) -> ServerSettings:
    plan = tiny_plan(rounds=rounds, server=tiny_server(**server), init_fingerprint=fingerprint(INITIAL))
    fields = {
        "plan": plan,
        "initial": INITIAL,
        "trainable": TRAINABLE,
        "directory": directory,
        "registry": directory / "registry.sqlite",
        "public_check": False,  # these arrays are no model
    }
    return ServerSettings(**{**fields, **changes})


def honest(task, node):
    """The same answer to the same task, as a sealed release is."""
    seed = int(task.fingerprint[:8], 16) + node
    return Release(task=task.fingerprint, update=random_arrays(seed)).to_wire()


def run(wanted: ServerSettings, *, answer=honest, on_round=None) -> None:
    app = make_server_app(lambda _: wanted)
    with InProcessGrid(merchants_app(answer), node_configs={11: {}, 12: {}}, on_round=on_round) as grid:
        app(grid, grid.server_context())


def model_file(directory: Path) -> bytes:
    return (directory / "model.safetensors").read_bytes()


def test_a_run_ends_with_a_published_model_and_a_finished_line(tmp_path):
    run(settings(tmp_path))
    arrays, _ = from_safetensors(model_file(tmp_path))
    assert np.array_equal(arrays["frozen"], INITIAL["frozen"])
    assert "| Merchants | 2 |" in (tmp_path / "model_card.md").read_text()
    with Registry(tmp_path / "registry.sqlite") as registry:
        assert [run[2:] for run in registry.runs()] == [(1, "finished")]
        assert [record.completions for record in registry.rounds(1)] == [2] * 5
        assert len(registry.models()) == 1


@pytest.mark.parametrize("last", [1, 2, 4])
def test_a_run_resumed_after_any_round_ends_with_the_bits_of_one_that_never_stopped(tmp_path, last):
    run(settings(tmp_path / "whole"))

    def fail_in_next_round(messages, replies):
        if messages[0].metadata.group_id == str(last + 1):
            raise MachineDownError

    with pytest.raises(MachineDownError):
        run(settings(tmp_path / "halves"), on_round=fail_in_next_round)
    asked = []
    run(settings(tmp_path / "halves"), on_round=lambda messages, _: asked.append(messages[0].metadata.group_id))
    assert asked == [str(number) for number in range(last + 1, 6)]
    assert model_file(tmp_path / "halves") == model_file(tmp_path / "whole")
    with Registry(tmp_path / "halves" / "registry.sqlite") as registry:
        assert [run[2:] for run in registry.runs()] == [(1, "failed"), (last + 1, "finished")]


def test_a_crash_between_the_registry_and_the_checkpoint_plays_the_round_again(tmp_path, monkeypatch):
    run(settings(tmp_path / "whole"))

    def fails(*_, **__):
        raise MachineDownError

    monkeypatch.setattr("server.app.save_checkpoint", fails)
    with pytest.raises(MachineDownError):
        run(settings(tmp_path / "halves"))
    monkeypatch.undo()
    run(settings(tmp_path / "halves"))
    assert model_file(tmp_path / "halves") == model_file(tmp_path / "whole")


def test_what_is_published_is_the_average_over_rounds(tmp_path):
    run(settings(tmp_path, server={"averaging": 0.5}, rounds=2), answer=lambda task, _: unit_step(task))
    arrays, _ = from_safetensors(model_file(tmp_path))
    expected = INITIAL["head.bias"] + (0.5 * 1 + 2) / 1.5  # after round 1 it is one up, after round 2 two up
    assert arrays["head.bias"] == pytest.approx(expected, rel=1e-5)


def unit_step(task):
    return Release(task=task.fingerprint, update=filled(1.0)).to_wire()


def test_a_run_that_stops_is_failed_and_publishes_nothing(tmp_path):
    def answer(task, node):
        return Release(task=task.fingerprint, update=filled(np.nan)).to_wire()

    with pytest.raises(RunStoppedError):
        run(settings(tmp_path), answer=answer)
    assert not (tmp_path / "model.safetensors").exists()
    with Registry(tmp_path / "registry.sqlite") as registry:
        assert [run[2:] for run in registry.runs()] == [(1, "failed")]
        assert [record.rejections for record in registry.rounds(1)] == [{11: "not_finite", 12: "not_finite"}] * 3


def test_running_a_finished_plan_again_asks_nobody_and_publishes_the_same_model(tmp_path):
    run(settings(tmp_path))
    asked = []
    run(settings(tmp_path), on_round=lambda *_: asked.append(1))
    assert asked == []
    with Registry(tmp_path / "registry.sqlite") as registry:
        assert len(registry.models()) == 1


def test_a_folder_of_another_plan_is_refused(tmp_path):
    run(settings(tmp_path))
    with pytest.raises(CheckpointError, match="another plan"):
        run(settings(tmp_path, rounds=6))


def test_all_checkpoints_are_kept_where_wanted_and_each_can_be_read(tmp_path):
    wanted = settings(tmp_path, keep_checkpoints=None)
    run(wanted)
    states = [load_checkpoint(path, wanted.plan) for path in sorted(wanted.checkpoints.iterdir())]
    assert [state.round for state in states] == [1, 2, 3, 4, 5]
    published, _ = from_safetensors(model_file(tmp_path))
    assert all(np.array_equal(states[-1].published[name], published[name]) for name in published)


def test_the_parent_of_a_model_is_kept(tmp_path):
    registry_file = tmp_path / "registry.sqlite"
    run(settings(tmp_path / "first", registry=registry_file))
    run(settings(tmp_path / "second", registry=registry_file, rounds=2, parent_model=1))
    with Registry(registry_file) as registry:
        assert [(model.id, model.parent) for model in registry.models()] == [(1, None), (2, 1)]


def test_initial_arrays_that_are_not_the_plans_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="fingerprint"):
        settings(tmp_path, initial=random_arrays(7))


@pytest.mark.parametrize("trainable", [{"head.bias": (4,)}, {"missing": (3,)}])
def test_trainable_arrays_that_the_model_has_not_are_refused(tmp_path, trainable):
    with pytest.raises(ConfigError, match="is not in the initial arrays"):
        settings(tmp_path, trainable=trainable)


NAMES = {11: "bakery", 12: "florist"}


def test_only_merchants_that_may_be_asked_are_and_the_registry_names_those_who_released(tmp_path):
    asked = []
    run(
        settings(tmp_path, rounds=2, merchants=lambda: {12: "florist", 99: "not connected"}),
        on_round=lambda messages, _: asked.append([message.metadata.dst_node_id for message in messages]),
    )
    assert asked == [[12], [12]]
    with Registry(tmp_path / "registry.sqlite") as registry:
        assert [entry.merchants for entry in registry.rounds(1)] == [("florist",)] * 2


def test_who_may_be_asked_is_looked_up_anew_in_every_round(tmp_path):
    lives = iter([NAMES, {11: "bakery"}, NAMES])
    run(settings(tmp_path, rounds=3, merchants=lambda: next(lives)))
    with Registry(tmp_path / "registry.sqlite") as registry:
        names = [entry.merchants for entry in registry.rounds(1)]
    assert names == [("bakery", "florist"), ("bakery",), ("bakery", "florist")]


def test_an_offender_is_named_and_its_release_is_not_among_those_used(tmp_path):
    def answer(task, node):
        return Release(task=task.fingerprint, update=filled(np.nan if node == 12 else 1.0)).to_wire()

    run(settings(tmp_path, rounds=1, merchants=lambda: NAMES), answer=answer)
    with Registry(tmp_path / "registry.sqlite") as registry:
        (entry,) = registry.rounds(1)
    assert (entry.merchants, entry.offenders) == (("bakery",), {"florist": "not_finite"})


def test_each_round_is_recorded_with_the_digest_of_its_checkpoint(tmp_path):
    wanted = settings(tmp_path, rounds=3, keep_checkpoints=None)
    run(wanted)
    files = [sha256(path.read_bytes()).hexdigest() for path in sorted(wanted.checkpoints.iterdir())]
    with Registry(tmp_path / "registry.sqlite") as registry:
        assert [entry.checkpoint for entry in registry.checkpointed_rounds(wanted.plan.fingerprint)] == files


def test_a_model_is_signed_before_its_run_is_finished(tmp_path):
    seen = []

    def sign(registry, model):
        seen.append((model, registry.runs()[-1][3]))

    run(settings(tmp_path, sign=sign))
    assert seen == [(1, "running")]


def test_a_model_that_could_not_be_signed_is_signed_when_the_run_is_resumed(tmp_path):
    def fails(registry, model):
        raise MachineDownError

    with pytest.raises(MachineDownError):
        run(settings(tmp_path, sign=fails))
    signed, asked = [], []
    run(settings(tmp_path, sign=lambda _, model: signed.append(model)), on_round=lambda *_: asked.append(1))
    assert (signed, asked) == ([1], [])
