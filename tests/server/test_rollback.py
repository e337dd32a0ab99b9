"""Going back to an older model: signed, under a new number, and nothing that was is another."""

from __future__ import annotations

import json

import pytest

from agreement.manifest import verify_manifest
from agreement.signing import SignatureError, SigningKey
from daemons.exit_codes import Exit
from pp_model.errors import ConfigError
from server.dashboard.audit import TERMINAL, Action, AuditLog, audit_file
from server.registry import Registry
from server.rollback import roll_back
from tests.support.platform import new_platform, pp_server
from tests.support.published import publish


@pytest.fixture
def home(tmp_path, capsys):
    made = new_platform(tmp_path / "p")
    capsys.readouterr()
    return made


def state(home):
    with Registry(home.registry) as registry:
        return registry.models(), registry.manifests()


def test_the_older_model_is_the_newest_for_merchants_and_history_is_as_it_was(home):
    first, second = publish(home, "may"), publish(home, "june", parent=1)
    models, manifests = state(home)
    made = roll_back(home, first)
    after, signed = state(home)
    assert after[:2] == models
    assert signed[1:] == manifests
    assert (made.id, made.rollback_of, made.sha256, made.parent) == (3, first, models[0].sha256, None)
    newest = verify_manifest(signed[0], home.verify_key())
    older = verify_manifest(manifests[-1], home.verify_key())
    assert newest.model_id == 3 > second
    assert {**vars(newest), "model_id": first} == vars(older)


def test_forward_again_is_another_rollback(home):
    first, second = publish(home, "may"), publish(home, "june")
    roll_back(home, first)
    made = roll_back(home, second)
    assert (made.id, made.rollback_of) == (4, second)


def test_what_merchants_have_already_is_not_published_again(home):
    first, second = publish(home, "may"), publish(home, "june")
    with pytest.raises(ConfigError, match="what merchants get already; name an older one"):
        roll_back(home, second)
    roll_back(home, first)
    with pytest.raises(ConfigError, match="what merchants get already, under the number 3"):
        roll_back(home, first)
    assert len(state(home)[0]) == 3


def test_a_model_that_is_not_there_or_was_never_signed_is_refused(home):
    with pytest.raises(ConfigError, match="no model 7; there are: none"):
        roll_back(home, 7)
    first = publish(home, "may")
    publish(home, "june")
    with Registry(home.registry) as registry:
        registry._db.execute("UPDATE models SET manifest = NULL WHERE id = ?", (first,))
    with pytest.raises(ConfigError, match="never signed"):
        roll_back(home, first)


@pytest.mark.parametrize("name", ["model.safetensors", "model_card.md", "chain.json"])
def test_a_file_that_was_changed_since_is_not_published_again(home, name):
    first = publish(home, "may")
    publish(home, "june")
    file = home.run_folder("may") / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(SignatureError, match="not what was published"):
        roll_back(home, first)
    assert len(state(home)[0]) == 2


def test_what_another_key_signed_is_not_published_again(home):
    first = publish(home, "may")
    publish(home, "june")
    home.plan_key_file.write_bytes(SigningKey.generate().to_pem())
    with pytest.raises(SignatureError):
        roll_back(home, first)


def test_the_command_says_what_merchants_get_and_the_list_what_it_was(home, capsys):
    publish(home, "may")
    publish(home, "june")
    assert pp_server(home, "models", "rollback", "1") == Exit.DONE
    assert "Model 1 is the newest again, as model 3" in capsys.readouterr().out
    assert pp_server(home, "models") == Exit.DONE
    assert "Model 3 is a rollback: model 1 published again." in capsys.readouterr().out
    assert pp_server(home, "models", "--json") == Exit.DONE
    listed = json.loads(capsys.readouterr().out)
    assert [(model["id"], model["rollback_of"]) for model in listed] == [(1, None), (2, None), (3, 1)]
    assert pp_server(home, "models", "rollback", "9") == Exit.BAD_INPUT
    assert pp_server(home, "export", "3", "--out", str(home.root / "out")) == Exit.DONE


def test_the_folder_may_be_named_before_or_behind_the_verb(home, capsys):
    from server.cli import main

    publish(home, "may")
    publish(home, "june")
    assert main(["models", "--home", str(home.root), "rollback", "1", "--json"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["rollback_of"] == 1
    assert main(["models", "rollback", "2", "--home", str(home.root)]) == Exit.DONE


def test_a_rollback_on_the_terminal_is_in_the_audit_log(home):
    publish(home, "may")
    publish(home, "june")

    assert pp_server(home, "models", "rollback", "1") == Exit.DONE

    (entry,) = AuditLog(audit_file(home)).entries()
    assert (entry.who, entry.action, entry.subject) == (TERMINAL, Action.ROLLBACK_DONE, "model 1 as model 3")
