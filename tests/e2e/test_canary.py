"""An unmistakable customer is planted in the orders, and looked for everywhere a run leaves something."""

import re
from pathlib import Path

import pytest

from flower_edge.records import wire_from_record
from simulations.run import simulate
from simulations.scenario import OrdersSpec
from tests.support.orders import Row, write_csv
from tests.support.pp_sim import ROUNDS, pp_sim, run_arguments, write_orders
from tests.support.shops import CANARIES, Silent, bytes_of, market_rows, record_wire, tiny_scenario

pytestmark = pytest.mark.e2e

NAME, EMAIL, AMOUNT, _ = CANARIES
INVALID_LINE = 2


def canary_rows(*, invalid: bool) -> list[Row]:
    """Everybody's rows and, at the first merchant, the canary's: as id, category, amount and text, and in a bad row."""
    ordinary = [{**row, "text": "two loaves"} for row in market_rows()]
    canary = [
        {
            "customer_id": EMAIL,
            "timestamp": f"2023-{month:02d}-11 09:00:00",
            "amount": AMOUNT,
            "category": NAME,
            "merchant": "shop 1",
            "text": f"for {NAME}, reply to {EMAIL}",
        }
        for month in range(1, 10)
    ]
    bad = [{**canary[0], "timestamp": NAME}] if invalid else []
    return [*bad, *canary, *ordinary]


def hits(data: bytes) -> list[str]:
    """The canaries in these bytes, whatever their case and in every encoding that Python or SQLite would choose."""
    text = data.lower()
    forms = [(canary, canary.lower().encode(encoding)) for canary in CANARIES for encoding in ("utf-8", "utf-16-le")]
    # Digits alone may be part of a longer number, which is then another number.
    return [canary for canary, form in forms if re.search(rb"(?<!\d)" + re.escape(form) + rb"(?!\d)", text)]


def hits_below(folder: Path) -> dict[str, list[str]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert files
    return {str(path.relative_to(folder)): found for path in files if (found := hits(path.read_bytes()))}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("canary")
    done = pp_sim(*run_arguments(folder, write_orders(folder, canary_rows(invalid=True))), "--bad-rows", "skip")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_search_finds_the_canary_in_the_orders_themselves(finished):
    folder, _ = finished
    assert set(hits((folder / "orders.csv").read_bytes())) == {NAME, EMAIL, AMOUNT}


def test_nothing_the_platform_keeps_has_the_canary(finished):
    folder, _ = finished
    platform = folder / "out" / "platform"
    assert {path.name for path in platform.iterdir()} >= {"checkpoints", "model.safetensors", "registry.sqlite"}
    assert hits_below(platform) == {}


def test_the_result_and_the_report_do_not_have_the_canary(finished):
    folder, _ = finished
    for name in ("result.json", "report.html", "config.json"):
        assert hits((folder / "out" / name).read_bytes()) == []


def test_nothing_printed_has_the_canary(finished):
    _, done = finished
    assert (hits(done.stdout.encode()), hits(done.stderr.encode())) == ([], [])


def test_the_merchants_own_folder_holds_ledgers_and_no_order_either(finished):
    """Charges, the hashes that chain them, and the last sealed replies, which are noise on a sum."""
    folder, _ = finished
    merchants = folder / "out" / "merchants"
    stems = {path.name.partition(".ledger")[0] for path in merchants.iterdir()}
    assert stems == {"00000", "00001", "00002"}
    assert hits_below(merchants) == {}


def test_a_run_leaves_no_file_but_these(finished):
    folder, _ = finished
    names = {path.name for path in (folder / "out").iterdir()}
    assert names == {"config.json", "merchants", "platform", "report.html", "result.json"}


@pytest.mark.parametrize("engine", ["in_process", "vectorised"])
def test_no_message_has_the_canary(tmp_path, monkeypatch, engine):
    wire = record_wire(monkeypatch)
    orders = OrdersSpec(file=write_csv(tmp_path / "orders.csv", canary_rows(invalid=False)), merchant_column="merchant")
    result = simulate(tiny_scenario(synthetic=None, orders=orders, engine=engine), tmp_path / "out", Silent())
    assert result["rounds"] * result["steps_per_round"] == ROUNDS
    assert len(wire) == ROUNDS * 3
    for sent, reply in wire:
        assert hits(bytes_of(sent.content) + bytes_of(reply.content)) == []
        assert hits(repr((sent.metadata, reply.metadata)).encode()) == []
        assert wire_from_record(reply.content).arrays  # what was searched are releases


def test_a_bad_row_ends_the_run_with_its_place_and_without_its_cells(tmp_path):
    done = pp_sim(*run_arguments(tmp_path, write_orders(tmp_path, canary_rows(invalid=True))))
    assert done.returncode == 2
    assert f"line {INVALID_LINE}" in done.stderr
    assert "'When'" in done.stderr  # the column, under the name that the merchant knows
    assert "Traceback" not in done.stderr
    assert (hits(done.stdout.encode()), hits(done.stderr.encode())) == ([], [])
    assert hits_below(tmp_path / "out") == {}


@pytest.mark.parametrize("canary", CANARIES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_the_search_would_notice_a_canary_in_the_middle_of_a_file(canary, encoding):
    assert hits(bytes(range(256)) + b"|" + canary.upper().encode(encoding) + b"|" + bytes(range(256))) == [canary]
