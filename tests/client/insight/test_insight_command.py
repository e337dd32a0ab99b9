import argparse
import json
import stat

import pytest

from client.commands import insight
from client.insight import NAMES
from client.insight.store import read_report, reports_in
from pp_model.errors import ConfigError
from tests.support.merchant_home import TODAY
from tests.support.scored import scored_shop


def run(shop, *arguments):
    """The exit code of `pp-client insight` in the shop."""
    parser = argparse.ArgumentParser()
    insight.add(parser.add_subparsers())
    args = parser.parse_args(["insight", "--config", str(shop.config), "--cutoff", str(TODAY), *arguments])
    code: int = args.command(args)
    return code


def folder_of(shop):
    return shop.settings.paths.insight / str(TODAY)


def test_all_reports_are_made_and_the_merchant_is_told_where(tmp_path, capsys):
    shop = scored_shop(tmp_path)

    assert run(shop) == 0

    assert reports_in(folder_of(shop)) == NAMES
    said = capsys.readouterr().out
    assert str(folder_of(shop)) in said
    assert "300 customers" in said
    assert str(shop.settings.paths.insight_options) in said
    files = [path for path in folder_of(shop).iterdir() if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_reports_can_be_made_alone(tmp_path):
    shop = scored_shop(tmp_path)

    assert run(shop, "--only", "churn", "demand") == 0

    assert reports_in(folder_of(shop)) == ("churn", "demand")


def test_the_summary_is_json_for_programs(tmp_path, capsys):
    shop = scored_shop(tmp_path)

    run(shop, "--only", "newcomers", "--json")

    found = json.loads(capsys.readouterr().out)
    assert (found["reports"], found["customers"], found["cutoff"]) == (["newcomers"], 300, str(TODAY))


def test_what_the_merchant_states_is_used(tmp_path):
    shop = scored_shop(tmp_path)
    stated = "[campaigns]\nbudget = 1\ncost_per_contact = 0.25\nuplift = { low = 0.9, middle = 0.9, high = 0.9 }\n"
    shop.settings.paths.insight_options.write_text(stated)

    run(shop, "--only", "campaigns")

    figures = {figure.label.key: figure.value for figure in read_report(folder_of(shop), "campaigns").figures}
    assert figures["campaigns.figure.affordable"] == figures["campaigns.figure.contacts"] == 4


def test_without_a_model_nothing_is_made(tmp_path):
    shop = scored_shop(tmp_path, model=False)

    with pytest.raises(ConfigError, match="pp-client pull"):
        run(shop)
    assert not folder_of(shop).exists()


def test_a_mistake_in_the_rules_is_told_before_anything_is_read(tmp_path):
    shop = scored_shop(tmp_path)
    (shop.config.parent / "rules.toml").write_text("[[rule]]\nnaem = 'x'\n")
    shop.orders.unlink()

    with pytest.raises(ConfigError, match=r"rules\.toml"):
        run(shop)


@pytest.mark.parametrize("name", ["credit", "../churn"])
def test_a_report_that_does_not_exist_is_refused_by_name(name, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(scored_shop(tmp_path), "--only", name)
    assert "portraits" in capsys.readouterr().err
