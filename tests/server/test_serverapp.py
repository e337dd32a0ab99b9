"""The installed ServerApp on a platform's real folder, with merchants in this process."""

import hashlib
import json
import os

import pytest

from agreement.manifest import verify_manifest
from agreement.offer import DecisionState, verify_offer
from flower_edge.records import to_record, with_anchor
from pp_model.model import trainable_shapes
from pp_model.protocol import Anchor, Refusal, RefusalCode, Release, task_from_wire
from server.chain import verify_chain
from server.registry import Registry
from server.roster import Roster
from server.run_folder import RunFolder
from server.serverapp import StoppedError, app
from simulations.grid import InProcessGrid
from tests.support.fake_merchants import random_arrays
from tests.support.platform import NAME, new_plan, new_platform, pp_server, public_key_file

NODES = {11: "bakery", 12: "florist", 13: "café"}


@pytest.fixture(autouse=True)
def same_umask():
    before = os.umask(0o077)
    yield
    os.umask(before)


def prepared(tmp_path, *, approving=("bakery", "florist")):
    """A platform whose plan `may` is offered, approved by some, and ready to run."""
    home = new_platform(tmp_path / "p")
    assert new_plan(home) == pp_server(home, "plan", "sign", "may") == 0
    data = (home.plans / "may.offer.json").read_bytes()
    offer = verify_offer(data, home.verify_key())
    with Roster(home.registry) as roster:
        for node, name in NODES.items():
            roster.add(name, public_key_file(tmp_path, name).read_bytes())
            roster.set_node(name, node)
        roster.open_offer(data, offer)
        for name in approving:
            roster.decide(offer.id, name, DecisionState.APPROVED, None)
    folder = RunFolder(home.run_folder("may"))
    folder.prepare(offer, data, (home.plans / "may.init.safetensors").read_bytes())
    return home, folder, offer.plan


def merchants(plan, *, anchors=None, answer=None):
    """A ClientApp that answers tasks and remembers which anchor each of them brought."""
    from flwr.clientapp import ClientApp

    from flower_edge.records import anchor_from_record, wire_from_record

    client = ClientApp()
    brought = []

    @client.train()
    def train(message, context):
        from flwr.app import Message

        task = task_from_wire(wire_from_record(message.content))
        brought.append((task.round, context.node_id, anchor_from_record(message.content)))
        seed = task.round * 100 + context.node_id
        reply = Release(task=task.fingerprint, update=random_arrays(seed, trainable_shapes(plan.model)))
        record = to_record((answer(task, context.node_id) if answer else reply).to_wire())
        return Message(with_anchor(record, (anchors or {}).get(context.node_id)), reply_to=message)

    client.brought = brought
    return client


def run(folder, client):
    with InProcessGrid(client, node_configs={node: {} for node in NODES}) as grid:
        context = grid.server_context()
        context.run_config["plan"] = folder.path.name
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PP_SERVER_HOME", str(folder.path.parents[1]))
            app(grid, context)


def test_a_plan_ends_with_a_model_that_everybody_can_check(tmp_path, capsys):
    home, folder, plan = prepared(tmp_path)
    run(folder, merchants(plan))
    with Registry(home.registry) as registry:
        (manifest,) = registry.manifests()
        assert [entry.merchants for entry in registry.rounds(1)] == [("bakery", "florist")] * 3
    assert pp_server(home, "export", "1", "--out", str(tmp_path / "out")) == 0
    signed = verify_manifest((tmp_path / "out" / "manifest.json").read_bytes(), home.verify_key())
    assert signed == verify_manifest(manifest, home.verify_key())
    assert (signed.platform, signed.model_id, signed.plan_fingerprint) == (NAME, 1, plan.fingerprint)
    assert hashlib.sha256((tmp_path / "out" / "model.safetensors").read_bytes()).hexdigest() == signed.sha256
    assert hashlib.sha256((tmp_path / "out" / "model_card.md").read_bytes()).hexdigest() == signed.card_sha256
    links = json.loads((tmp_path / "out" / "chain.json").read_text())
    verify_chain(links, head=signed.chain_head, plan_fingerprint=plan.fingerprint, model_sha256=signed.sha256)
    last = sorted((folder.path / "checkpoints").glob("round-*"))[-1]
    assert links[-2]["content"]["checkpoint"] == hashlib.sha256(last.read_bytes()).hexdigest()
    assert links[1]["content"]["sha256"] == hashlib.sha256((home.plans / "may.offer.json").read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["model.safetensors", "model_card.md", "chain.json"])
def test_a_published_file_that_was_changed_is_not_exported(tmp_path, capsys, name):
    home, folder, plan = prepared(tmp_path)
    run(folder, merchants(plan))
    file = folder.path / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert pp_server(home, "export", "1", "--out", str(tmp_path / "out")) == 6
    assert not (tmp_path / "out").exists()
    assert "not what was published" in capsys.readouterr().err


def test_a_finished_plan_is_not_run_again(tmp_path, capsys):
    home, folder, plan = prepared(tmp_path)
    run(folder, merchants(plan))
    assert pp_server(home, "run", "may", "--json") == 0
    shown = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))
    assert (shown["plan"], shown["model"]) == ("may", 1)


def test_a_merchant_that_did_not_approve_is_never_asked(tmp_path):
    _, folder, plan = prepared(tmp_path)
    client = merchants(plan)
    run(folder, client)
    assert {node for _, node, _ in client.brought} == {11, 12}


def test_each_task_brings_the_furthest_anchor_of_the_merchants_ledger(tmp_path):
    home, folder, plan = prepared(tmp_path)
    anchor = Anchor(ledger="a" * 64, seq=4, hash="b" * 64)
    client = merchants(plan, anchors={11: anchor})
    run(folder, client)
    assert [brought for number, node, brought in client.brought if node == 11] == [None, anchor, anchor]
    assert all(brought is None for _, node, brought in client.brought if node == 12)
    with Roster(home.registry) as roster:
        assert roster.known_anchor("bakery") == anchor


def test_a_failure_is_kept_for_the_operator_and_flower_learns_nothing_of_it(tmp_path):
    _, folder, plan = prepared(tmp_path)
    refusing = merchants(plan, answer=lambda task, _: Refusal(task=task.fingerprint, code=RefusalCode.BUDGET))
    with pytest.raises(StoppedError) as stopped:
        run(folder, refusing)
    assert str(stopped.value) == "the run stopped"
    assert stopped.value.__cause__ is None
    assert "too few valid releases" in folder.failure_file.read_text()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("offer-00000001.json", b'"rounds":3', b'"rounds":2'), ("init.safetensors", b"\x00\x00", b"\x00\x01")],
)
def test_a_folder_that_was_tampered_with_trains_nothing(tmp_path, file, old, new):
    _, folder, plan = prepared(tmp_path)
    path = folder.path / file
    before, _, after = path.read_bytes().rpartition(old)
    path.write_bytes(before + new + after)
    client = merchants(plan)
    with pytest.raises(StoppedError):
        run(folder, client)
    assert client.brought == []
    assert folder.failure_file.read_text()


def test_a_model_knows_the_published_model_that_it_was_trained_from(tmp_path, capsys):
    home, folder, plan = prepared(tmp_path)
    run(folder, merchants(plan))
    model = folder.path / "model.safetensors"
    assert new_plan(home, "june", "--init", str(model)) == pp_server(home, "plan", "sign", "june") == 0
    data = (home.plans / "june.offer.json").read_bytes()
    offer = verify_offer(data, home.verify_key())
    second = RunFolder(home.run_folder("june"))
    with Roster(home.registry) as roster:
        roster.open_offer(data, offer)
        for name in ("bakery", "florist"):
            roster.decide(offer.id, name, DecisionState.APPROVED, None)
    second.prepare(offer, data, (home.plans / "june.init.safetensors").read_bytes())
    run(second, merchants(offer.plan))
    with Registry(home.registry) as registry:
        assert [(record.id, record.parent) for record in registry.models()] == [(1, None), (2, 1)]
