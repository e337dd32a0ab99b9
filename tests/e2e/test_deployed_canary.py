"""An unmistakable customer is planted at three merchants, and looked for in all that the platform has and hears."""

import json
import sqlite3

import pytest

from simulations.deployment import Deployment
from tests.support.canary import ENCODINGS, hits, hits_below
from tests.support.deployed import (
    await_agreement,
    charges,
    here,
    offer_plan,
    open_shop,
    rounds_of,
    run_plan,
    shop_rows,
)
from tests.support.recording_superlink import record
from tests.support.shops import CANARIES

pytestmark = pytest.mark.e2e

NAME, EMAIL, AMOUNT, CENTS = CANARIES
ROUNDS = 3
CAREFUL, CARELESS, STRICT = "bakery", "florist", "grocer"  # without a bad row; skips bad rows; stops at them
BAD_LINE = 2


def canary_rows(seed, *, bad):
    """Everybody's rows, the canary's: as id, category, amount and text; and perhaps one that is no order."""
    ordinary = [{**row, "text": "two loaves"} for row in shop_rows(seed)]
    canary = [
        {
            "customer_id": EMAIL,
            "timestamp": f"2023-{month:02d}-11 09:00:00",
            "amount": AMOUNT,
            "category": NAME,
            "text": f"for {NAME}, reply to {EMAIL}",
        }
        for month in range(1, 10)
    ]
    return [*([{**canary[0], "timestamp": NAME, "amount": EMAIL}] * bad), *canary, *ordinary]


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """After a run, with all programs still there and their databases open; and the file of all that was received."""
    with Deployment(tmp_path_factory.mktemp("canary"), commands=here) as deployment:
        deployment.make_platform()
        open_shop(deployment, CAREFUL, rows=canary_rows(0, bad=False))
        open_shop(deployment, CARELESS, rows=canary_rows(1, bad=True), keys={"bad_rows": '"skip"'})
        open_shop(deployment, STRICT, rows=canary_rows(2, bad=True), keys={"bad_rows": '"error"'})
        record(deployment)
        deployment.start()
        offer_plan(deployment, "spring", rounds=ROUNDS)
        await_agreement(deployment, "spring", [CAREFUL, CARELESS, STRICT])
        run_plan(deployment, "spring")
        yield deployment


@pytest.fixture(scope="module")
def received(town):
    return (town.root / "received").read_bytes()


def test_the_canary_was_trained_with_and_the_strict_merchant_refused_by_a_code(town):
    played = rounds_of(town, 1)
    assert [entry["merchants"] for entry in played] == [[CAREFUL, CARELESS]] * ROUNDS
    assert [entry["refusals"] for entry in played] == [{"unavailable": 1}] * ROUNDS
    assert len(charges(town, CARELESS)) == ROUNDS


def test_the_search_finds_the_canary_in_the_orders_themselves(town):
    for name in (CAREFUL, CARELESS, STRICT):
        assert set(hits((town.root / f"{name}.csv").read_bytes())) == {NAME, EMAIL, AMOUNT}


def test_nothing_below_the_platforms_folder_has_the_canary(town):
    there = {path.relative_to(town.platform_home).as_posix() for path in town.platform_home.rglob("*")}
    assert there >= {
        "flower",
        "log/server.jsonl",
        "runs/spring/model.safetensors",
        "state/registry.sqlite",
        "state/superlink.db",
        "state/superlink.db-wal",
    }
    assert hits_below(town.platform_home) == {}


def test_nothing_that_the_platform_received_has_the_canary(town, received):
    releases = [charge["task"].encode() for charge in charges(town, CAREFUL)]
    assert all(received.count(task) >= 2 for task in releases)  # both merchants' releases, as plain bytes
    assert b"POST /pp/v1/decisions?" in received
    assert hits(received) == []


def test_nothing_on_a_terminal_has_the_canary(town):
    logs = [program.log for program in (town.server, *town.merchants.values())]
    assert all(log.stat().st_size for log in logs)
    assert {log.name: found for log in logs if (found := hits(log.read_bytes()))} == {}


def test_nothing_in_a_merchants_own_folder_has_the_canary(town):
    """Orders are read where they are. What is kept of them are charges, and sums with noise."""
    for name in town.merchants:
        assert hits_below(town.merchant_home(name)) == {}


def test_the_strict_merchants_log_says_where_the_bad_row_is(town):
    lines = (town.merchant_home(STRICT) / "log" / "client.jsonl").read_text().splitlines()
    assert any(f"line {BAD_LINE}" in line for line in lines)
    status = json.loads((town.merchant_home(STRICT) / "state" / "runner.json").read_text())
    assert f"line {BAD_LINE}" in status["fault"]


def test_nothing_has_the_canary_after_the_stop_either(town):
    town.stop()
    assert hits_below(town.platform_home) == {}


@pytest.mark.parametrize("canary", CANARIES)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_search_would_notice_a_canary_in_the_middle_of_a_file(canary, encoding):
    assert hits(bytes(range(256)) + b"|" + canary.upper().encode(encoding) + b"|" + bytes(range(256))) == [canary]


def test_the_search_would_notice_a_canary_in_what_a_database_has_deleted(tmp_path):
    database = sqlite3.connect(tmp_path / "superlink.db")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE objects (content BLOB)")
    database.execute("INSERT INTO objects VALUES (?)", (b"\0" * 300 + EMAIL.encode() + b"\0" * 300,))
    database.commit()
    database.execute("DELETE FROM objects")
    database.commit()
    assert database.execute("SELECT count(*) FROM objects").fetchone() == (0,)
    assert EMAIL in {canary for found in hits_below(tmp_path).values() for canary in found}
    database.close()
