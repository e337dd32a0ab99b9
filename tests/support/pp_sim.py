"""The command line as a person runs it, on a small orders file of three merchants."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pp_model.accounting import PrivacyEvent
from tests.support.ledgers import entries
from tests.support.orders import Row, write_csv
from tests.support.shops import market_rows, tiny_recipe

ROOT = Path(__file__).parents[2]
ROUNDS = 4
CUTOFF, HORIZON_DAYS = "2023-09-01", "28"
THEIR_NAMES = {"customer_id": "Client", "timestamp": "When", "amount": "Total"}


def write_orders(folder: Path, rows: Sequence[Row] | None = None) -> Path:
    """An orders file under its own column names; sixty customers of three merchants where no rows are given."""
    table = [{THEIR_NAMES.get(name, name): cell for name, cell in row.items()} for row in rows or market_rows()]
    return Path(write_csv(folder / "orders.csv", table))


def run_arguments(folder: Path, orders: Path, *, engine: str = "in_process", **recipe: Any) -> list[str]:
    """`run`, with a scenario file for the recipe and flags for the rest; the run goes to `folder`/out.

    Args:
        engine: "" for the default.
    """
    scenario = folder / "scenario.toml"
    table = {**tiny_recipe(rounds=ROUNDS), **recipe}
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    scenario.write_text('name = "small"\ndelta = 1e-3\ndevice = "cpu"\n[recipe]\n' + "\n".join(lines) + "\n")
    columns = [part for ours, theirs in THEIR_NAMES.items() for part in ("--column", f"{ours}={theirs}")]
    return [
        *("run", str(scenario), "--orders", str(orders), *columns, "--merchant-column", "merchant"),
        *("--merchants", "3", "--cutoff", CUTOFF, "--horizon-days", HORIZON_DAYS, "--epsilon", "3"),
        *(("--engine", engine) if engine else ()),
        *("--out", str(folder / "out")),
    ]


def command(*arguments: str) -> list[str]:
    """What starts the program."""
    return [sys.executable, "-m", "simulations.cli", *arguments]


def environment() -> dict[str, str]:
    """One thread, and the product on the path."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def pp_sim(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The finished command, with what it printed."""
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=180, check=False
    )


def charges(run: Path) -> list[list[dict[str, Any]]]:
    """The charges of each merchant's ledger, in order, read past the program."""
    files = sorted((run / "merchants").glob("*.ledger"))
    bodies = [[json.loads(body) for _, body, _ in entries(path)] for path in files]
    return [[body for body in ledger if body["kind"] == "charge"] for ledger in bodies]


def charged_events(run: Path) -> list[list[PrivacyEvent]]:
    """The events of `charges`."""
    return [[PrivacyEvent(**charge["event"]) for charge in ledger] for ledger in charges(run)]
