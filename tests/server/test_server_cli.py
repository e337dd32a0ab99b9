"""The commands of pp-server as functions: what they accept, write, print and return. No platform is up here."""

import datetime as dt
import json
import os
import stat

import pytest

from agreement.invitation import read_invitation
from agreement.offer import EVERYBODY, check_offer, verify_offer
from agreement.signing import SigningKey, VerifyKey
from pp_model.accounting import epsilon_spent
from server.cli import _parser, main
from server.commands.plans import read_plan
from server.pki import check_certificate, names_of
from server.roster import Roster
from simulations.ports import free_port
from tests.support.platform import NAME, as_json, new_plan, new_platform, pp_server, public_key_file
from tests.support.superlink import authority, server_certificate

NOW = dt.datetime.now(dt.UTC)


def read_offer(home, name="may", key=None):
    return verify_offer((home.plans / f"{name}.offer.json").read_bytes(), key or home.verify_key())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def commands(parser, prefix=()):
    """Every command below a parser, with the words that lead to it."""
    groups = [action for action in parser._actions if hasattr(action, "choices") and isinstance(action.choices, dict)]
    for group in groups:
        for name, child in group.choices.items():
            below = list(commands(child, (*prefix, name)))
            yield from below or [((*prefix, name), child)]


def test_every_command_has_help_with_a_worked_example_that_parses():
    found = dict(commands(_parser()))
    assert len(found) == 25
    for words, parser in found.items():
        example = parser.epilog.removeprefix("example:\n  ")
        assert example.startswith(f"pp-server {' '.join(words)}")
        arguments = [word.strip('"') for word in example.replace('"Example platform"', '"Example"').split()[1:]]
        assert _parser().parse_args(arguments).command == parser.get_default("command")


def test_init_makes_what_a_merchant_needs_and_keeps_the_rest_private(tmp_path, capsys):
    home = new_platform(tmp_path / "p")
    invitation = read_invitation(home.invitation.read_text())
    assert (invitation.platform, invitation.address) == (NAME, "127.0.0.1:8443")
    assert VerifyKey.from_text(invitation.plan_key) == home.verify_key()
    assert invitation.ca_certificate.strip() == home.ca_certificate.read_text().strip()
    for path in [home.root, *home.root.rglob("*")]:
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path
    secrets = {path.read_text() for path in (home.operator_secret, home.superexec_secret)}
    assert [len(secret) for secret in secrets] == [64, 64]
    shown = capsys.readouterr().out
    assert invitation.plan_key in shown
    assert not any(secret in shown + home.invitation.read_text() for secret in secrets)
    for host in ("127.0.0.1", "localhost"):
        check_certificate(ca=home.ca_certificate, certificate=home.certificate, key=home.certificate_key, host=host)


def test_the_certificate_has_the_names_that_were_asked_for(tmp_path, capsys):
    folder = tmp_path / "p"
    flags = ["--name", NAME, "--address", "pp.example.org:8443", "--san", "pp.internal", "10.0.0.9"]
    assert main(["init", str(folder), *flags]) == 0
    names = names_of((folder / "keys" / "server.crt").read_bytes())
    assert sorted(names) == sorted(["pp.example.org", "pp.internal", "localhost", "10.0.0.9", "127.0.0.1", "::1"])


def test_init_leaves_a_folder_that_is_not_empty_as_it_is(tmp_path, capsys):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "mine").write_text("mine")
    assert main(["init", str(tmp_path / "p"), "--name", NAME, "--address", "localhost:8443"]) == 2
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["mine"]
    assert "not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ["--address", "localhost"],
        ["--address", "localhost:8443", "--listen", "10.0.0.1:8443"],
        ["--address", "localhost:8443", "--name", 'a"b'],
        ["--address", "localhost:8443", "--san", "not a name"],
        ["--address", "localhost:8443", "--own-certs", "--ca", "x"],
        ["--address", "localhost:8443", "--cert", "x"],
    ],
)
def test_init_refuses_bad_flags_and_writes_nothing(tmp_path, capsys, flags):
    assert main(["init", str(tmp_path / "p"), "--name", NAME, *flags]) == 2
    assert not (tmp_path / "p").exists()
    assert capsys.readouterr().err.startswith("pp-server: ")


def own_certificates(tmp_path, **changes):
    ca = authority()
    (tmp_path / "ca.crt").write_bytes(ca.pem)
    certificate, key = server_certificate(tmp_path, ca, **changes)
    return ["--own-certs", "--ca", str(tmp_path / "ca.crt"), "--cert", str(certificate), "--key", str(key)]


def test_certificates_of_ones_own_are_taken_where_merchants_would_trust_them(tmp_path, capsys):
    flags = own_certificates(tmp_path, hosts=("pp.example.org", "localhost"))
    arguments = ["init", str(tmp_path / "p"), "--name", NAME, "--address", "pp.example.org:8443", *flags]
    assert main(arguments) == 0
    assert (tmp_path / "p" / "keys" / "server.crt").read_bytes() == (tmp_path / "server.crt").read_bytes()
    assert not (tmp_path / "p" / "keys" / "ca.key").exists()
    assert main(["renew", "--home", str(tmp_path / "p")]) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"hosts": ("other.example.org", "localhost")},
        {"hosts": ("pp.example.org",)},
        {"hosts": ("pp.example.org", "localhost"), "not_after": dt.timedelta(hours=-1)},
    ],
    ids=["another-name", "no-name-of-this-machine", "expired"],
)
def test_certificates_of_ones_own_that_could_not_work_are_refused(tmp_path, capsys, changes):
    flags = own_certificates(tmp_path, **changes)
    assert main(["init", str(tmp_path / "p"), "--name", NAME, "--address", "pp.example.org:8443", *flags]) == 2
    assert not (tmp_path / "p").exists()


def test_renew_makes_a_certificate_of_the_same_authority_for_the_same_names(tmp_path, capsys):
    home = new_platform(tmp_path / "p")
    before, authority_before = home.certificate.read_bytes(), home.ca_certificate.read_bytes()
    assert pp_server(home, "renew") == 0
    assert home.certificate.read_bytes() != before
    assert names_of(home.certificate.read_bytes()) == names_of(before)
    assert home.ca_certificate.read_bytes() == authority_before
    assert mode(home.certificate_key) == 0o600


@pytest.mark.parametrize("command", [["up"], ["runs"], ["merchants", "list"], ["plan", "sign", "may"], ["run", "may"]])
def test_no_command_works_with_a_secret_that_others_can_read(tmp_path, capsys, command):
    home = new_platform(tmp_path / "p")
    home.operator_secret.chmod(0o644)
    assert pp_server(home, *command) == 6
    assert f"chmod 600 {home.operator_secret}" in capsys.readouterr().err


def test_merchants_are_added_listed_and_removed_while_the_platform_is_down(tmp_path, capsys):
    home = new_platform(tmp_path / "p", port=free_port())
    key = str(public_key_file(tmp_path, "bakery"))
    assert pp_server(home, "merchants", "add", "bakery", "--key", key) == 0
    assert "takes effect when it is: pp-server up" in capsys.readouterr().out
    assert pp_server(home, "merchants", "list", "--json") == 0
    (listed,) = as_json(capsys.readouterr().out)
    with Roster(home.registry) as roster:
        assert listed == {
            "name": "bakery",
            "state": "unknown",
            "added": NOW.date().isoformat(),
            "fingerprint": roster.merchants()[0].fingerprint,
        }
    assert pp_server(home, "merchants", "add", "bakery", "--key", key) == 2
    assert pp_server(home, "merchants", "remove", "bakery") == 0
    assert pp_server(home, "merchants", "remove", "bakery") == 2
    capsys.readouterr()
    assert pp_server(home, "merchants", "list", "--json") == 0
    assert as_json(capsys.readouterr().out) == []


def test_a_file_that_is_no_public_key_is_refused(tmp_path, capsys):
    home = new_platform(tmp_path / "p", port=free_port())
    for key in (tmp_path / "missing", home.certificate_key):
        assert pp_server(home, "merchants", "add", "bakery", "--key", str(key)) == 2


def test_a_plan_is_priced_as_its_events_cost(tmp_path, capsys):
    home = new_platform(tmp_path / "p")
    assert new_plan(home) == 0
    plan = read_plan(home.plans / "may.toml")
    capsys.readouterr()
    assert pp_server(home, "plan", "price", "may", "--json") == 0
    price = as_json(capsys.readouterr().out)
    assert list(price["epsilon"]) == ["1", "2", "3", "5", "10"]
    assert price["epsilon"]["1"] <= 3.0
    for shops, epsilon in price["epsilon"].items():
        assert epsilon == epsilon_spent(plan.events * int(shops), delta=plan.delta)
    assert price["rounds"] == 3
    assert price["seconds_estimate"] == 3 * (3.0 + 2.0)  # answers come at whole seconds, and training takes 1.5
    down = (home.plans / "may.init.safetensors").stat().st_size / 1e6
    assert price["megabytes_down"] == pytest.approx(down, rel=0.2)
    assert 0 < price["megabytes_up"] < price["megabytes_down"]
    assert pp_server(home, "plan", "price", "may") == 0
    text = capsys.readouterr().out
    assert "an estimate" in text
    assert "shops of one person" in text


def test_a_plan_without_privacy_says_so(tmp_path, capsys):
    home = new_platform(tmp_path / "p")
    assert new_plan(home, "open", "--epsilon", "inf") == 0
    capsys.readouterr()
    assert pp_server(home, "plan", "price", "open") == 0
    assert "NO PRIVACY" in capsys.readouterr().out
    assert pp_server(home, "plan", "price", "open", "--json") == 0
    assert as_json(capsys.readouterr().out)["epsilon"]["1"] == "inf"


def test_a_plan_is_never_written_over(tmp_path, capsys):
    home = new_platform(tmp_path / "p")
    assert new_plan(home) == 0
    before = (home.plans / "may.toml").read_bytes()
    assert new_plan(home, "may", "--delta", "1e-6") == 6
    assert (home.plans / "may.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("../may", []),
        ("May", []),
        ("may", ["--epsilon", "-1"]),
        ("may", ["--epsilon", "nan"]),
        ("may", ["--holdout", "soon"]),
        ("may", ["--rounds", "0"]),
        ("may", ["--horizon-days", "0"]),
        ("may", ["--declared-customers", "0"]),
        ("may", ["--delta", "0.5"]),
        ("may", ["--min-merchants", "0"]),
        ("may", ["--round-timeout", "nan"]),
        ("may", ["--trust", "secure_sum"]),
    ],
)
def test_values_that_make_no_plan_are_refused_and_leave_nothing(tmp_path, capsys, name, flags):
    home = new_platform(tmp_path / "p")
    assert new_plan(home, name, *flags) == 2
    assert list(home.plans.iterdir()) == []


def test_a_signed_offer_is_what_merchants_check(tmp_path, capsys):
    home = new_platform(tmp_path / "p")
    key = public_key_file(tmp_path, "bakery")
    assert pp_server(home, "merchants", "add", "bakery", "--key", str(key)) == 0
    assert new_plan(home) == 0
    assert pp_server(home, "plan", "sign", "may", "--for", "bakery", "--days", "3") == 0
    first = read_offer(home)
    with Roster(home.registry) as roster:
        fingerprint = roster.merchants()[0].fingerprint
    check_offer(first, now=dt.datetime.now(dt.UTC), addressee=fingerprint, newest_serial=0)
    assert (first.platform, first.audience, first.plan) == (NAME, (fingerprint,), read_plan(home.plans / "may.toml"))
    assert first.expires - first.not_before == dt.timedelta(days=3)
    assert pp_server(home, "plan", "sign", "may") == 0
    second = read_offer(home)
    assert second.audience == EVERYBODY
    assert second.serial > first.serial
    assert mode(home.plans / "may.offer.json") == 0o600


@pytest.mark.parametrize(
    "flags",
    [
        ["--for", "nobody"],
        ["--days", "0"],
        ["--expires", "2020-01-01"],
        ["--expires", "tomorrow"],
        ["--not-before", "2030-01-01", "--expires", "2029-01-01"],
    ],
)
def test_an_offer_that_nobody_could_take_is_not_signed(tmp_path, capsys, flags):
    home = new_platform(tmp_path / "p")
    assert new_plan(home) == 0
    assert pp_server(home, "plan", "sign", "may", *flags) == 2
    assert not (home.plans / "may.offer.json").exists()


@pytest.mark.parametrize(
    ("change", "exit_code"),
    [
        (lambda plans: (plans / "may.init.safetensors").unlink(), 6),
        (lambda plans: (plans / "may.init.safetensors").write_bytes(b"x"), 6),
        (lambda plans: replace_text(plans / "may.toml", "rounds = 3", "rounds = 0"), 2),
        (lambda plans: replace_text(plans / "may.toml", "rounds = 3", "round = 3"), 2),
        (lambda plans: replace_text(plans / "may.toml", 'plan_id = "may"', 'plan_id = "../x"'), 2),
        (lambda plans: replace_text(plans / "may.toml", "rounds = 3", "rounds = "), 2),
        (lambda plans: (plans / "may.toml").unlink(), 2),
    ],
    ids=["no-init", "bad-init", "range", "key", "name", "syntax", "no-plan"],
)
def test_a_plan_that_is_not_whole_is_not_signed(tmp_path, capsys, change, exit_code):
    home = new_platform(tmp_path / "p")
    assert new_plan(home) == 0
    change(home.plans)
    assert pp_server(home, "plan", "sign", "may") == exit_code
    assert not (home.plans / "may.offer.json").exists()


def test_the_starting_point_of_another_plan_is_noticed(tmp_path, capsys):
    home = new_platform(tmp_path / "p")
    assert new_plan(home) == new_plan(home, "other", "--init", "none") == 0
    (home.plans / "other.init.safetensors").replace(home.plans / "may.init.safetensors")
    assert pp_server(home, "plan", "sign", "may") == 6


def replace_text(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def test_a_plan_must_be_signed_by_this_platform_before_it_is_run(tmp_path, capsys):
    home = new_platform(tmp_path / "p", port=free_port())
    assert new_plan(home) == 0
    assert pp_server(home, "run", "may") == 2
    assert "pp-server plan sign may" in capsys.readouterr().err
    assert pp_server(home, "plan", "sign", "may") == 0
    key = home.plan_key_file.read_bytes()
    home.plan_key_file.write_bytes(SigningKey.generate().to_pem())
    assert pp_server(home, "run", "may") == 6
    home.plan_key_file.write_bytes(key)
    capsys.readouterr()
    assert pp_server(home, "run", "may", "--wait", "0") == 4
    assert "pp-server up" in capsys.readouterr().err
    with Roster(home.registry) as roster:
        assert roster.offers_for("anybody") == []  # nothing is offered while nobody could answer


@pytest.mark.parametrize(
    ("command", "exit_code", "said"),
    [
        (["runs"], 0, "No runs yet"),
        (["models"], 0, "No models yet"),
        (["runs", "7"], 2, "no run 7"),
        (["export", "7", "--out", "x"], 2, "no model 7"),
    ],
)
def test_nothing_to_show_says_the_next_step(tmp_path, capsys, command, exit_code, said):
    home = new_platform(tmp_path / "p")
    assert pp_server(home, *command) == exit_code
    shown = capsys.readouterr()
    assert said in shown.out + shown.err


def test_the_commands_leave_the_umask_as_it_was(tmp_path, capsys):
    before = os.umask(0o022)
    try:
        home = new_platform(tmp_path / "p")
        assert pp_server(home, "runs", "--json") == 0
        assert os.umask(0o022) == 0o022
        assert mode(home.registry) == 0o600
    finally:
        os.umask(before)
    assert json.loads(capsys.readouterr().out.rpartition("\n[")[2].join(["[", ""])) == []
