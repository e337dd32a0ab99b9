"""The committed messages are those of the proto file, and the proto file says what the service asks and answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from client.serving import purchase_power_pb2 as pb
from client.serving import schemas

ROOT = Path(__file__).parents[2]
PAIRS = {
    "ScoreCustomerRequest": schemas.ScoreCustomer,
    "Order": schemas.PostedOrder,
    "ScoreOrdersRequest": schemas.ScoreOrders,
    "Score": schemas.Score,
    "Item": schemas.Item,
    "RerankRequest": schemas.Rerank,
    "RankedItem": schemas.RankedItem,
    "RerankAnswer": schemas.Reranked,
    "PortraitRequest": schemas.AskPortrait,
    "Interest": schemas.Interest,
    "PortraitAnswer": schemas.Portrait,
}


def test_the_committed_messages_are_made_of_the_proto_file(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "scripts" / "protos.py", tmp_path], cwd=ROOT, check=False)
    assert done.returncode == 0
    for name in ("purchase_power_pb2.py", "purchase_power_pb2.pyi"):
        committed = ROOT / "client" / "serving" / name
        fresh = tmp_path / "client" / "serving" / name
        assert fresh.read_text(encoding="utf-8") == committed.read_text(encoding="utf-8"), "run scripts/protos.py"


def test_every_message_has_its_schema():
    assert set(PAIRS) == set(pb.DESCRIPTOR.message_types_by_name)


@pytest.mark.parametrize("name", PAIRS)
def test_a_message_has_the_fields_of_its_schema(name):
    fields = {each.name for each in pb.DESCRIPTOR.message_types_by_name[name].fields}
    assert fields == set(PAIRS[name].model_fields)
