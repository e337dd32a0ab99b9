"""`pp-client rules`: what is said to the person at the terminal, and how it ends."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from client.commands import rules
from daemons.exit_codes import Exit
from pp_model.errors import ConfigError
from tests.support.merchant_home import TODAY
from tests.support.scored import scored_shop


def command(config: Path, *args: str) -> int:
    parser = argparse.ArgumentParser()
    rules.add(parser.add_subparsers(required=True))
    parsed = parser.parse_args(["rules", args[0], "--config", str(config), *args[1:]])
    code: int = parsed.command(parsed)
    return code


def write_rules(config: Path, **changes: Any) -> None:
    rule = {
        "name": "Keep the best",
        "when": [{"column": "tier", "equals": "high"}, {"column": "churn_risk", "at_least": 0.1}],
        "then": "list",
        "purpose": "retention",
        **changes,
    }
    (config.parent / "rules.toml").write_text(tomli_w.dumps({"rule": [rule]}))


def test_check_says_what_each_rule_does(tmp_path, capsys):
    shop = scored_shop(tmp_path, model=False)
    webhook = {"webhook": "https://example.org/a-secret-path", "token_file": "key"}
    write_rules(shop.config, alert=webhook, at_least_customers=5, only_changes=True)
    assert command(shop.config, "check") == Exit.DONE
    said = capsys.readouterr().out
    assert "Keep the best (retention)" in said
    assert "tier is high, and churn_risk is at least 0.1" in said
    assert "from 5 new customers on, counts only, to webhook at example.org" in said
    assert "a-secret-path" not in said


def test_run_makes_the_lists_and_says_where_they_are(tmp_path, capsys):
    shop = scored_shop(tmp_path)
    write_rules(shop.config, alert={"file": "alerts.jsonl"})
    assert command(shop.config, "run", "--cutoff", TODAY.isoformat(), "--json") == Exit.DONE
    said = json.loads(capsys.readouterr().out)
    (outcome,) = said["rules"]
    assert outcome["alert"] == "sent"
    assert (Path(said["folder"]) / outcome["file"]).exists()
    assert command(shop.config, "run", "--cutoff", TODAY.isoformat()) == Exit.DONE
    assert f"Keep the best: {outcome['customers']:,} customers" in capsys.readouterr().out


def test_an_alert_that_was_not_delivered_is_a_fault(tmp_path, capsys):
    shop = scored_shop(tmp_path)
    write_rules(shop.config, alert={"file": "no such folder/alerts.jsonl"})
    assert command(shop.config, "run", "--cutoff", TODAY.isoformat()) == Exit.FAULT_FOUND
    assert "NO ALERT" in capsys.readouterr().out


@pytest.mark.parametrize("part", [("check",), ("run", "--cutoff", "2026-06-01")])
def test_without_rules_the_command_says_how_to_write_some(tmp_path, part):
    shop = scored_shop(tmp_path, model=False)
    with pytest.raises(ConfigError, match=r"docs/insight\.md"):
        command(shop.config, *part)


@pytest.mark.parametrize("part", [("check",), ("run", "--cutoff", "2026-06-01")])
def test_refused_purposes_are_refused_before_an_order_is_read(tmp_path, part):
    shop = scored_shop(tmp_path, model=False)
    shop.orders.unlink()
    write_rules(shop.config, purpose="credit")
    with pytest.raises(ConfigError, match="lists for credit are refused"):
        command(shop.config, *part)
