"""Deployments for tests: small shops' orders, commands without a process each, and what a deployment leaves behind."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import client.cli
import server.cli
from agreement.offer import verify_offer
from client.settings import MerchantSettings, load_settings
from server.home import PlatformHome
from server.roster import Roster
from simulations.deployment import Deployment, DeploymentError, Program, wait_until
from tests.support.ledgers import entries
from tests.support.orders import Row, write_csv
from tests.support.shops import market_rows

ROOT = Path(__file__).parents[2]
MERCHANTS = ("bakery", "florist", "grocer")
HOLDOUT, HORIZON_DAYS = "2023-09-01", "28"
CUSTOMERS = 260  # a little more than what every merchant declares
DECLARED = "250"
RUN_SECONDS = 420.0  # for a whole run on a busy machine

Process = tuple[int, int]  # its number, and when it was started: numbers come again


def shop_rows(seed: int, *, customers: int = CUSTOMERS) -> list[dict[str, str]]:
    """One merchant's orders from January to October 2023, before and after the plan's holdout."""
    rows = market_rows(customers=customers, merchants=1, seed=seed)
    return [{name: cell for name, cell in row.items() if name != "merchant"} for row in rows]


def open_shop(
    deployment: Deployment,
    name: str,
    *flags: str,
    rows: Sequence[Row] | None = None,
    approve: str = "automatic",
    keys: Mapping[str, str] | None = None,
) -> Program:
    """A merchant of the deployment, not started, who asks for offers every second.

    Args:
        flags: more of `pp-client init`; the last one of a kind counts.
        rows: its orders; some of `shop_rows` where none are given.
        keys: lines of merchant.toml to change.
    """
    orders = Path(write_csv(deployment.root / f"{name}.csv", rows or shop_rows(len(deployment.merchants))))
    today = dt.datetime.now(dt.UTC).date()
    usual = [
        *("--population", f"customers of {name}", "--epsilon", "3", "--delta", "1e-5"),
        *("--declared-customers", DECLARED, "--period", "this-year", "--approve", approve),
        *("--period-starts", str(today - dt.timedelta(days=1)), "--period-ends", str(today + dt.timedelta(days=100))),
        *(("--approve-under", "3") if approve == "automatic" else ()),
    ]
    changes = {"poll_seconds": "1.0", "device": '"cpu"', **(keys or {})}
    return deployment.make_merchant(name, orders, *usual, *flags, keys=changes)


def offer_plan(deployment: Deployment, name: str, *flags: str, rounds: int = 3, epsilon: str = "1") -> None:
    """`plan new` and `plan sign`: a plan of few rounds in which one missing merchant is borne."""
    deployment.pp_server(
        *("plan", "new", name, "--epsilon", epsilon, "--holdout", HOLDOUT, "--horizon-days", HORIZON_DAYS),
        *("--rounds", str(rounds), "--min-merchants", "2", "--round-timeout", "90", *flags),
    )
    deployment.pp_server("plan", "sign", name)


def run_plan(deployment: Deployment, name: str, *flags: str, wait: str = "120") -> str:
    """`pp-server run`, to the end."""
    return deployment.pp_server("run", name, "--wait", wait, *flags, timeout=RUN_SECONDS)


def here(program: str, *arguments: str, timeout: float = 0.0) -> str:
    """What a command prints. It runs in this process, where PyTorch is loaded already, and takes the time it takes.

    Raises:
        DeploymentError: it failed.
    """
    del timeout
    main = {"pp-server": server.cli.main, "pp-client": client.cli.main}[program]
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(arguments)
    if code:
        shown = " ".join([program, *arguments])
        raise DeploymentError(f"{shown} ended with {code}:\n{out.getvalue()}{err.getvalue()}", exit_code=code)
    return out.getvalue()


def settings_of(deployment: Deployment, name: str) -> MerchantSettings:
    """A merchant's configuration."""
    return load_settings(deployment.merchant_home(name) / "merchant.toml")


def ledger_entries(deployment: Deployment, name: str) -> list[dict[str, Any]]:
    """The entries of a merchant's ledger, in order, read past the program; [] where there is no ledger."""
    path = settings_of(deployment, name).paths.ledger
    return [json.loads(body) for _, body, _ in entries(path)] if path.exists() else []


def charges(deployment: Deployment, name: str) -> list[dict[str, Any]]:
    """The charges among them."""
    return [entry for entry in ledger_entries(deployment, name) if entry["kind"] == "charge"]


def rounds_of(deployment: Deployment, run: int) -> list[dict[str, Any]]:
    """The rounds of a run, as `pp-server runs RUN --json` shows them."""
    played: list[dict[str, Any]] = json.loads(deployment.pp_server("runs", str(run), "--json"))["played"]
    return played


def family(programs: Iterable[Program]) -> set[Process]:
    """The programs' processes and all that these have started, at this moment."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has ended just now
            continue
        parents[int(folder.name)] = (int(fields[1]), int(fields[19]))
    found = {program.process.pid for program in programs if program.process is not None}
    while more := {pid for pid, (parent, _) in parents.items() if parent in found} - found:
        found |= more
    return {(pid, parents[pid][1]) for pid in found if pid in parents}


def still_there(processes: Iterable[Process]) -> set[Process]:
    """Those that have not ended. One that has ended and that nobody has asked after, a zombie, has."""
    there = set()
    for pid, started in processes:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[19]) == started and fields[0] != "Z":
            there.add((pid, started))
    return there


def with_product(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with the product and these helpers on Python's path."""
    return {**environment, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])}


def await_agreement(deployment: Deployment, plan: str, merchants: Iterable[str]) -> None:
    """Offers the plan, and returns when all these merchants have approved it and are connected.

    A run begins as soon as enough have; this is for a run that needs them all from its first round on.
    """
    home, wanted = PlatformHome(deployment.platform_home), set(merchants)
    offer = verify_offer((home.plans / f"{plan}.offer.json").read_bytes(), home.verify_key())
    with suppress(DeploymentError):  # that nobody has approved it yet
        here("pp-server", "run", plan, "--wait", "0", "--home", str(home.root))

    def ready() -> bool:
        with Roster(home.registry) as roster:
            approved = set(roster.approved_nodes(offer.id).values())
        listed = json.loads(here("pp-server", "merchants", "list", "--json", "--home", str(home.root)))
        online = {merchant["name"] for merchant in listed if merchant["state"] == "online"}
        return wanted <= approved and wanted <= online

    wait_until(
        ready, RUN_SECONDS, what=f"{', '.join(sorted(wanted))} to take part in {plan}", log=deployment.server.log
    )
