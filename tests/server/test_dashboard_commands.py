"""pp-server operators, audit and ui, as a terminal sees them."""

import json
import socket
import stat
from types import SimpleNamespace

import pytest

from daemons.exit_codes import Exit
from server import cli
from server.commands import audit, operators, ui
from server.dashboard.accounts import Accounts, accounts_file
from server.dashboard.audit import Action, AuditLog, audit_file
from tests.support.platform import new_platform, pp_server

GOOD = "copper lantern seven walrus"


@pytest.fixture
def home(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_COMMANDS", tuple(dict.fromkeys((*cli._COMMANDS, operators, audit, ui))))
    made = new_platform(tmp_path / "p")
    capsys.readouterr()
    return made


def password_file(tmp_path, text=GOOD + "\n", mode=0o600):
    file = tmp_path / "password"
    file.write_text(text)
    file.chmod(mode)
    return file


def add(home, tmp_path, name="ada", role="operator", **file):
    return pp_server(
        home, "operators", "add", name, "--role", role, "--password-file", str(password_file(tmp_path, **file))
    )


def test_an_account_is_made_listed_changed_and_removed_and_all_of_it_is_written_down(home, tmp_path, capsys):
    assert add(home, tmp_path) == 0
    accounts = Accounts(accounts_file(home))
    assert accounts.verify("ada", GOOD) is not None
    assert stat.S_IMODE(accounts_file(home).stat().st_mode) == 0o600
    new = password_file(tmp_path, "a wholly new set of words")
    assert pp_server(home, "operators", "passwd", "ada", "--password-file", str(new)) == 0
    assert accounts.verify("ada", GOOD) is None
    capsys.readouterr()
    assert pp_server(home, "operators", "list", "--json") == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["role"]) == ("ada", "operator")
    assert pp_server(home, "operators", "remove", "ada") == 0
    assert accounts.all() == []
    written = [(entry.action, entry.who, entry.subject) for entry in AuditLog(audit_file(home)).entries()][::-1]
    assert written == [
        ("account_added", "terminal", "ada (operator)"),
        ("password_changed", "terminal", "ada"),
        ("account_removed", "terminal", "ada"),
    ]


def test_a_password_is_asked_twice_on_a_terminal_and_is_never_an_argument(home, monkeypatch, capsys):
    answers = iter([GOOD, GOOD, GOOD, "another"])
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("getpass.getpass", lambda _: next(answers))
    assert pp_server(home, "operators", "add", "ada", "--role", "viewer") == 0
    assert pp_server(home, "operators", "passwd", "ada") == Exit.BAD_INPUT
    assert "the two passwords differ" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        pp_server(home, "operators", "add", "bob", "--role", "viewer", "--password", GOOD)
    assert len(Accounts(accounts_file(home)).all()) == 1


@pytest.mark.parametrize(
    ("file", "code", "said"),
    [
        ({"mode": 0o644}, Exit.INTEGRITY, "chmod 600"),
        ({"text": "short\n"}, Exit.BAD_INPUT, "5 characters"),
        ({"text": ""}, Exit.BAD_INPUT, "0 characters"),
    ],
)
def test_a_password_file_that_is_open_or_holds_an_easy_password_is_refused(home, tmp_path, capsys, file, code, said):
    assert add(home, tmp_path, **file) == code
    assert said in capsys.readouterr().err
    assert Accounts(accounts_file(home)).all() == []


def test_without_a_terminal_or_a_file_nobody_is_asked(home, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    assert pp_server(home, "operators", "add", "ada", "--role", "viewer") == Exit.BAD_INPUT
    assert "--password-file" in capsys.readouterr().err


def test_a_mistake_is_one_line(home, tmp_path, capsys):
    assert add(home, tmp_path) == 0
    for command in (("add", "ada", "--role", "viewer"), ("passwd", "bob"), ("add", "B B", "--role", "viewer")):
        file = str(password_file(tmp_path))
        assert pp_server(home, "operators", *command, "--password-file", file) == Exit.BAD_INPUT
    assert pp_server(home, "operators", "remove", "bob") == Exit.BAD_INPUT
    err = capsys.readouterr().err
    assert err.count("pp-server: ") == 4
    assert "Traceback" not in err


def test_the_audit_log_is_verified_with_an_anchor_that_was_printed_before(home, capsys):
    log = AuditLog(audit_file(home))
    for at in range(4):
        log.append(Action.LOGIN, who=f"person-{at}")
    assert pp_server(home, "audit", "verify") == 0
    anchor = capsys.readouterr().out.split()[-1]
    log.append(Action.LOGOUT, who="person-0")
    assert pp_server(home, "audit", "verify", "--anchor", anchor) == 0
    audit_file(home).unlink()
    for path in audit_file(home).parent.glob("audit.sqlite-*"):
        path.unlink()
    log.append(Action.LOGIN, who="somebody")
    assert pp_server(home, "audit", "verify") == 0
    capsys.readouterr()
    assert pp_server(home, "audit", "verify", "--anchor", anchor) == Exit.INTEGRITY
    assert "cut off before it, or written anew" in capsys.readouterr().err
    assert pp_server(home, "audit", "verify", "--anchor", anchor, "--json") == Exit.INTEGRITY
    assert json.loads(capsys.readouterr().out)["fault"] == {"kind": "anchor", "seq": 4}


def test_the_audit_log_is_shown_newest_first(home, capsys):
    for who in ("ada", "bob"):
        AuditLog(audit_file(home)).append(Action.LOGIN, who=who, address="127.0.0.1")
    assert pp_server(home, "audit", "show", "--last", "1", "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["who"], entry["action"], entry["seq"]) == ("bob", "login", 2)
    assert pp_server(home, "audit", "show") == 0
    assert "ada" in capsys.readouterr().out


def test_the_dashboard_does_not_start_where_nobody_could_log_in(home, capsys):
    assert pp_server(home, "ui") == Exit.BAD_INPUT
    assert "operators add NAME --role operator" in capsys.readouterr().err


@pytest.mark.parametrize("listen", ["0.0.0.0:8490", "10.0.0.1:8490", "[::]:8490", "platform.example.org:8490"])
def test_on_an_address_that_others_reach_it_asks_for_tls(home, tmp_path, capsys, listen, monkeypatch):
    add(home, tmp_path)
    monkeypatch.setattr(ui, "_serve", lambda *_: None)  # where it does not ask, the test ends all the same
    assert pp_server(home, "ui", "--listen", listen) == Exit.BAD_INPUT
    assert "only over TLS" in capsys.readouterr().err


def test_a_certificate_and_its_key_come_together_and_the_key_is_private(home, tmp_path, capsys):
    add(home, tmp_path)
    assert pp_server(home, "ui", "--certificate", str(home.certificate)) == Exit.BAD_INPUT
    key = tmp_path / "open.key"
    key.write_bytes(home.certificate_key.read_bytes())
    key.chmod(0o644)
    both = ("--certificate", str(home.certificate), "--key", str(key))
    assert pp_server(home, "ui", "--listen", "0.0.0.0:8490", *both) == Exit.INTEGRITY
    assert "chmod 600" in capsys.readouterr().err


def test_over_tls_it_is_asked_under_the_names_of_its_certificate_alone():
    names = ui.names_pattern(["pp.example.org", "*.shop.example", "10.0.0.7", "::1"])
    for host in ("pp.example.org", "PP.example.org:8490", "a.shop.example", "10.0.0.7:443", "[::1]:8490"):
        assert names.fullmatch(host), host
    for host in ("evil.example", "ppxexample.org", "a.b.shop.example", "shop.example", "pp.example.org.evil:1", ""):
        assert not names.fullmatch(host), host


def test_a_port_that_is_taken_is_said(home, tmp_path, capsys):
    add(home, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert pp_server(home, "ui", "--listen", f"127.0.0.1:{port}") == Exit.BAD_INPUT
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["operators", "add"], ["audit", "verify"], ["audit", "show"], ["ui"]])
def test_every_command_has_its_worked_example(home, capsys, command):
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--help"])
    assert ended.value.code == 0
    assert f"example:\n  pp-server {' '.join(command)}" in capsys.readouterr().out
