"""pp-client as a shell sees it: help, exit codes, and a message instead of a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agreement.signing import SignatureError
from client.agreements_file import AgreementsError
from client.cli import exit_code, main
from client.commands import doctor
from client.platform import RefusedError
from client.preflight import PlatformError, PlatformFault
from daemons.exit_codes import Exit
from daemons.files import PrivateFileError
from pp_model.errors import (
    BadOrdersError,
    BudgetExceededError,
    ConfigError,
    ExpiredError,
    LedgerError,
    NotApprovedError,
    PolicyError,
    PurchasePowerError,
)

COMMANDS = ("init", "doctor", "run", "plans", "approve", "reject", "budget", "statement", "pull")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert "example:\n  pp-client " + command in told
    assert ("--config" in told) == (command != "init")


def test_the_help_does_not_wait_for_pytorch_or_flower():
    script = (
        "import sys, client.cli\n"
        "try: client.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'flwr', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


CODES = [
    (ConfigError("x"), Exit.BAD_INPUT),
    (BadOrdersError("x", place="orders.csv"), Exit.BAD_INPUT),
    (PurchasePowerError("x"), Exit.BAD_INPUT),
    (PolicyError("x"), Exit.NOT_ALLOWED),
    (NotApprovedError("x"), Exit.NOT_ALLOWED),
    (ExpiredError("x"), Exit.NOT_ALLOWED),
    (BudgetExceededError(spent=1, needed=2, budget=1), Exit.NOT_ALLOWED),
    (PlatformError(PlatformFault.CLOSED, "p.example:1"), Exit.UNREACHABLE),
    (RefusedError("p.example:1", 401, "unknown"), Exit.UNREACHABLE),
    (LedgerError("x"), Exit.INTEGRITY),
    (SignatureError("x"), Exit.INTEGRITY),
    (AgreementsError("x"), Exit.INTEGRITY),
    (PrivateFileError("x"), Exit.INTEGRITY),
]


@pytest.mark.parametrize(("error", "code"), CODES, ids=[type(error).__name__ for error, _ in CODES])
def test_each_kind_of_trouble_has_its_exit_code(error, code):
    assert exit_code(error) is code


@pytest.mark.parametrize("command", [["doctor"], ["run"], ["plans"], ["approve", "abc"], ["budget"], ["statement"]])
def test_without_a_configuration_the_next_step_is_told(command, tmp_path, capsys):
    code = main([*command, "--config", str(tmp_path / "merchant.toml")])
    told = capsys.readouterr()
    assert code == (Exit.FAULT_FOUND if command == ["doctor"] else Exit.BAD_INPUT)
    assert "pp-client init" in told.out + told.err


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (KeyboardInterrupt(), Exit.INTERRUPTED, "interrupted"),
        (PermissionError(13, "Permission denied", "keys/node.key"), Exit.BAD_INPUT, "keys/node.key: Permission denied"),
    ],
    ids=["interrupted", "not permitted"],
)
def test_what_the_system_says_is_a_message_too(raised, code, told, monkeypatch, capsys):
    def run(args: object) -> int:
        raise raised

    monkeypatch.setattr(doctor, "_run", run)
    assert main(["doctor"]) == code
    assert told in capsys.readouterr().err
