"""A merchant's first quarter of an hour: init, the blanks, doctor, as processes, with a platform over TLS."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from agreement.invitation import invitation_text
from server.roster import Roster
from tests.support.merchant_home import DAY, TODAY, invitation
from tests.support.orders import write_csv
from tests.support.superlink import authority
from tests.support.tls_server import running_platform

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "client.cli"]
BLANKS = {
    'population = "FILL-IN"': 'population = "customers of the web shop"',
    'epsilon_budget = "FILL-IN"': "epsilon_budget = 3.0",
    'declared_customers = "FILL-IN"': "declared_customers = 250",
    'delta = "FILL-IN"': "delta = 1e-5",
    'name = "FILL-IN"': 'name = "2026-h1"',
    'ends = "FILL-IN"': f"ends = {TODAY + 200 * DAY}",
}

pytestmark = pytest.mark.e2e


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def pp_client(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )


def on_a_terminal(folder: Path, *arguments: str) -> str:
    """All that the command shows on a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=folder, env=environment(), stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # the other side is closed
            pass
        finally:
            process.wait(timeout=120)
            os.close(ours)
    return shown.decode()


def levels(printed: str) -> dict[str, str]:
    """Check -> its worst level, of a printed report."""
    found: dict[str, str] = {}
    for line in printed.splitlines():
        if line[:8].strip() in {"ok", "warning", "fault", "skipped"}:
            name, level = line[9:22].strip(), line[:8].strip()
            found[name] = level if found.get(name) != "fault" else "fault"
    return found


def test_from_an_invitation_to_a_shop_in_order_with_only_what_the_screen_says(tmp_path):
    issuer = authority()
    rows = [{"Customer": f"customer-{n}", "Date": str(TODAY - DAY), "Total": "9.50"} for n in range(300)]
    write_csv(tmp_path / "export.csv", rows)
    with running_platform(tmp_path, issuer) as address:
        (tmp_path / "invitation.toml").write_text(invitation_text(invitation(address, ca_pem=issuer.pem)))

        made = pp_client(
            tmp_path, "init", "shop", "--invitation", "invitation.toml", "--name", "bakery", "--orders", "export.csv"
        )
        assert (made.returncode, made.stderr) == (0, "")
        assert "Fill in 6 blanks of shop/merchant.toml" in made.stdout
        assert "Send shop/keys/node.pub to Fair Prices" in made.stdout

        first = pp_client(tmp_path, "doctor", "--config", "shop/merchant.toml")
        assert first.returncode == 7
        found = levels(first.stdout)
        assert (found["configuration"], found["registered"], found["platform"]) == ("fault", "fault", "ok")
        assert "Send keys/node.pub to the platform" in first.stdout

        config = tmp_path / "shop" / "merchant.toml"
        for blank, value in BLANKS.items():
            config.write_text(config.read_text().replace(blank, value, 1))
        with Roster(tmp_path / "registry.sqlite") as roster:
            roster.add("bakery", (tmp_path / "shop/keys/node.pub").read_bytes())

        second = pp_client(tmp_path, "doctor", "--config", "shop/merchant.toml")
        assert (second.returncode, second.stderr) == (0, ""), second.stdout
        assert set(levels(second.stdout).values()) <= {"ok", "warning"}
        assert second.stdout.endswith("You can go on: pp-client run\n")
        assert "\x1b" not in second.stdout

        shown = on_a_terminal(tmp_path, "doctor", "--config", "shop/merchant.toml")
        assert "checking: orders" in shown
        assert "You can go on" in shown


def test_a_wrong_command_line_ends_with_2_and_no_traceback(tmp_path):
    for arguments in (
        [],
        ["doctr"],
        ["init"],
        ["init", "shop", "--invitation", "x", "--name", "a", "--epsilon", "much"],
    ):
        done = pp_client(tmp_path, *arguments)
        assert done.returncode == 2
        assert "usage: pp-client" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough_is_no_fault(tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "doctor", "--quick"], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0
    assert b"Traceback" not in told
