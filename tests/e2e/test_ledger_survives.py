"""A ledger among many writers, on bad disks, under wrong clocks, cut, flipped and killed: it refuses, or it is right.

"Noticed" is: opening the ledger raises `LedgerError`, before anything is charged, read or sent. A flipped bit counts
as harmless only where opening and closing the files leaves them byte for byte as without it.
"""

import ast
import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import client.ledger
import client.ledger_file
import client.ledger_head
from pp_model.errors import LedgerError
from tests.support.ledgers import LIFE, entries, ledger_of_steps, live, payload_of
from tests.support.pp_sim import ROOT, environment

pytestmark = pytest.mark.e2e

ENDS = ("", "-wal", "-head")


def trial(name: str, folder: Path, *arguments: object, disk_kilobytes: int = 0) -> subprocess.CompletedProcess[str]:
    """The finished trial; on a small disk of its own, mounted where nobody else sees it, if a size is given."""
    command = [sys.executable, "-m", "tests.support.ledger_trials", name, str(folder), *map(str, arguments)]
    if disk_kilobytes:
        mount = f'mount -t tmpfs -o size={disk_kilobytes}k none "$0" && exec "$@"'
        command = [*MOUNTER, "sh", "-c", mount, str(folder), *command]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )


def told(program: subprocess.CompletedProcess[str]) -> Any:
    assert (program.returncode, program.stderr) == (0, "")
    return json.loads(program.stdout)


def _mounter() -> list[str]:
    """What gives a program mounts of its own, to an ordinary user too where the system allows it; [] if nothing."""
    for command in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        if shutil.which("unshare"):
            tried = subprocess.run([*command, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
            if tried.returncode == 0:
                return command
    return []


MOUNTER = _mounter()
needs_a_disk = pytest.mark.skipif(not MOUNTER, reason="this system lets nobody mount a small disk (unshare --mount)")


# Many writers


@pytest.mark.parametrize("killed", [0, 8], ids=["all live", "eight are killed"])
def test_sixteen_writers_never_pass_the_budget_and_lose_no_charge(tmp_path, killed):
    budget = 160
    ends = told(trial("writers", tmp_path, 16, budget, killed))["ends"]
    assert ends == [-signal.SIGKILL] * killed + [0] * (16 - killed)
    acknowledged = (tmp_path / "acknowledged").read_text().splitlines()
    with ledger_of_steps(tmp_path / "ledger.sqlite", budget=budget) as ledger:
        charged = [charge.task for charge in ledger.charges()]
        assert ledger.spent == len(charged) == budget
        last = charged[-1]
        assert ledger.sealed(last) in (payload_of(last), None)
    assert len(set(charged)) == len(charged)
    assert set(acknowledged) <= set(charged)
    assert len(charged) - len(acknowledged) <= killed  # at most the one that each was killed in


# Bad disks


def squeezed_is_right(results: list[dict[str, Any]]) -> None:
    """Whatever was acknowledged is there, at most one charge was wasted, and with room again all goes on."""
    for result in results:
        assert result["charged"] in ({1} if "charged" in result["told"] else {0, 1}), result
        assert result["sealed"] or "sealed" not in result["told"], result
        assert (result["charged_again"], result["same"]) == (1, True), result
        assert ("sealed" in result["told"]) != bool(result["error"]), result
        assert not result["error"] or "disk" in result["error"], result
    refused = [result for result in results if not result["told"]]
    half = [result for result in results if result["told"] == ["charged"]]
    done = [result for result in results if "sealed" in result["told"]]
    assert len(refused) > 2
    assert len(half) > 0
    assert len(done) > 20


@needs_a_disk
def test_a_full_disk_charges_nothing_that_is_not_there_later(tmp_path):
    squeezed_is_right(told(trial("full_disk", tmp_path, disk_kilobytes=512)))


def test_files_that_may_not_grow_charge_nothing_that_is_not_there_later(tmp_path):
    squeezed_is_right(told(trial("limited_files", tmp_path)))


@needs_a_disk
def test_a_read_only_disk_charges_nothing_and_says_what_to_do(tmp_path):
    said = told(trial("read_only_disk", tmp_path, disk_kilobytes=512))
    assert "Let this program write" in said["ro"] or "Check the path" in said["ro"], said
    assert said["rw"] == "charged 2"


# Wrong clocks


def test_a_clock_that_is_years_off_changes_no_byte(tmp_path):
    """Nor does one that jumps: a ledger begun at one time goes on at another, its files older or newer than now."""
    right = closed_files(tmp_path / "right")
    for years in (-1, 1):
        folder = tmp_path / str(years)
        folder.mkdir()
        told(trial("wrong_clock", folder, years))
        told(trial("wrong_clock", folder, -years))
        assert files_in(folder) == right
        with ledger_of_steps(folder / "ledger.sqlite") as ledger:
            assert [charge.task for charge in ledger.charges()] == list(LIFE)


def test_the_ledger_knows_no_clock():
    clocks = {"time", "datetime", "calendar", "sched"}
    for module in (client.ledger, client.ledger_file, client.ledger_head):
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        found |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert found & clocks == set(), module.__name__


# Flipped bits, and files that were cut off


def closed_files(folder: Path) -> dict[str, bytes]:
    """A life that ended well."""
    folder.mkdir()
    with ledger_of_steps(folder / "ledger.sqlite") as ledger:
        live(ledger, folder / "diary")
    return files_in(folder)


def killed_files(folder: Path, point: str) -> dict[str, bytes]:
    """A life that was killed at this point of its last task."""
    folder.mkdir()
    assert trial("killed", folder, point).returncode == -signal.SIGKILL
    return files_in(folder)


def files_in(folder: Path) -> dict[str, bytes]:
    paths = {end: folder / f"ledger.sqlite{end}" for end in ENDS}
    return {end: path.read_bytes() for end, path in paths.items() if path.exists()}


def left_after(folder: Path, files: dict[str, bytes]) -> dict[str, bytes] | None:
    """The files once a ledger of these files was opened and closed; None if it was noticed that they are damaged."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for end, content in files.items():
        (folder / f"ledger.sqlite{end}").write_bytes(content)
    try:
        ledger_of_steps(folder / "ledger.sqlite").close()
    except LedgerError:
        return None
    return files_in(folder)


def flips(files: dict[str, bytes], number: int, *, only: str | None = None) -> list[tuple[str, int, dict[str, bytes]]]:
    """So many single flipped bits, evenly over the files by their size and at least a tenth of them in each."""
    chance = random.Random(7)
    filled = [end for end, content in files.items() if content and only in (None, end)]
    total = sum(len(files[end]) for end in filled)
    chosen = []
    for end in filled:
        size = len(files[end])
        share = max(number // 10, round(number * size / total))
        for bit in sorted(chance.sample(range(8 * size), min(share, 8 * size))):
            content = bytearray(files[end])
            content[bit // 8] ^= 1 << bit % 8
            chosen.append((end, bit, {**files, end: bytes(content)}))
    return chosen


@pytest.mark.parametrize("state", ["closed", "charge in the file", "sealed"])
def test_every_flipped_bit_is_noticed_wherever_it_is(tmp_path, state):
    """Of a ledger that was closed, and of one whose program was killed after a charge or a seal: a thousand in all."""
    life = tmp_path / "life"
    files = closed_files(life) if state == "closed" else killed_files(life, state)
    assert left_after(tmp_path / "copy", files) is not None
    flipped = flips(files, 340)
    assert len(flipped) >= 340
    unnoticed = [(end, bit) for end, bit, changed in flipped if left_after(tmp_path / "copy", changed) is not None]
    assert unnoticed == []


@pytest.mark.parametrize("state", ["charge in the head", "seal in the head"])
def test_a_bit_flipped_while_the_log_was_not_yet_in_the_file_is_noticed_or_overwritten(tmp_path, state):
    """For the few milliseconds after a commit the log holds newer pages than the file. A bit flipped in the log or
    the head is noticed; one in the file is noticed, or lies in an old page that nobody reads and the log replaces.
    """
    files = killed_files(tmp_path / "life", state)
    assert len(files["-wal"]) > 4096
    healthy = left_after(tmp_path / "copy", files)
    assert healthy is not None
    for end, bit, changed in [*flips(files, 200, only="-wal"), *flips(files, 100, only="-head")]:
        assert left_after(tmp_path / "copy", changed) is None, (end, bit)
    in_the_file = [left_after(tmp_path / "copy", changed) for _, _, changed in flips(files, 200, only="")]
    assert [left for left in in_the_file if left not in (None, healthy)] == []
    assert in_the_file.count(None) > 20


@pytest.mark.parametrize("state", ["closed", "seal in the head"])
def test_a_file_cut_off_at_any_length_is_noticed(tmp_path, state):
    life = tmp_path / "life"
    files = closed_files(life) if state == "closed" else killed_files(life, state)
    for end, content in files.items():
        if end == "" and state != "closed":
            continue  # the pages that are cut off are in the log
        lengths = {*range(0, len(content), max(1, len(content) // 100)), max(0, len(content) - 1)} if content else set()
        for length in lengths:
            changed = {**files, end: content[:length]}
            assert left_after(tmp_path / "copy", changed) is None, (end, length)


def test_a_cut_off_file_whose_pages_are_all_in_the_log_loses_no_entry(tmp_path):
    files = killed_files(tmp_path / "life", "seal in the head")
    healthy = left_after(tmp_path / "copy", files)
    assert healthy is not None
    for length in range(0, len(files[""]), 1000):
        assert left_after(tmp_path / "copy", {**files, "": files[""][:length]}) in (None, healthy), length


@pytest.mark.parametrize("state", ["charge committed", "seal committed"])
def test_what_was_committed_and_not_yet_in_the_head_is_there(tmp_path, state):
    files = killed_files(tmp_path / "life", state)
    left = left_after(tmp_path / "copy", files)
    assert left is not None
    last = entries(tmp_path / "copy" / "ledger.sqlite")[-1]
    assert f'"kind":"{state.split()[0]}"' in last[1]
    assert int(left["-head"][:12]) == last[0] == int(files["-head"][:12]) + 1
