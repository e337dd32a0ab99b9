"""rules.toml: conditions and nothing else, for purposes that are allowed and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from client.insight.rules import COLUMNS, MOST_RULES, PURPOSES, Condition, Rule, read_rules
from client.score_file import SCHEMA
from pp_model.errors import ConfigError

HIGH = {"column": "tier", "equals": "high"}
LEAVING = {"column": "churn_risk", "at_least": 0.6}


def rule_table(**changes: Any) -> dict[str, Any]:
    """A good rule, with `changes`; None leaves a key out."""
    fields = {"name": "Keep the best", "when": [HIGH, LEAVING], "then": "list", "purpose": "retention", **changes}
    return {key: value for key, value in fields.items() if value is not None}


def read(folder: Path, *rules: dict[str, Any], **others: Any) -> tuple[Rule, ...]:
    path = folder / "rules.toml"
    path.write_text(tomli_w.dumps({"rule": list(rules), **others}), encoding="utf-8")
    return read_rules(path, slices=("region",))


def refusal(folder: Path, *rules: dict[str, Any], **others: Any) -> str:
    with pytest.raises(ConfigError) as error:
        read(folder, *rules, **others)
    assert str(error.value).startswith(str(folder / "rules.toml"))
    return str(error.value)


def test_a_rule_is_read_as_it_is_written(tmp_path):
    (rule,) = read(tmp_path, rule_table(at_least_customers=5, alert={"file": "alerts.jsonl"}, only_changes=True))
    assert rule.when == (Condition(column="tier", one_of=("high",)), Condition(column="churn_risk", at_least=0.6))
    assert (rule.name, rule.purpose, rule.at_least_customers, rule.only_changes) == (
        "Keep the best",
        "retention",
        5,
        True,
    )
    assert rule.alert.file == "alerts.jsonl"
    assert rule.slug == "keep-the-best"


def test_every_column_of_the_scores_and_every_slice_can_be_asked_about_but_who_it_is(tmp_path):
    example: dict[str, Any] = {"number": {"at_least": 1}, "text": {"equals": "a"}, "yes_or_no": {"equals": True}}
    rules = [
        rule_table(name=f"rule {name}", when=[{"column": name, **example[kind]}]) for name, kind in COLUMNS.items()
    ]
    assert len(read(tmp_path, *rules)) == len(SCHEMA) - 1
    assert read(tmp_path, rule_table(when=[{"column": "slice.region", "one_of": ["north", "east"]}]))
    said = refusal(tmp_path, rule_table(when=[{"column": "customer_id", "equals": "ann"}]))
    assert "known columns: purchase_probability" in said


def test_no_file_is_no_rule(tmp_path):
    assert read_rules(tmp_path / "rules.toml", slices=()) == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"when": None}, "missing key when"),
        ({"name": None}, "missing key name"),
        ({"purpose": None}, "missing key purpose"),
        ({"then": "call"}, "then is 'call'; allowed: 'list'"),
        ({"when": []}, "1 to 20 conditions"),
        ({"when": [HIGH] * 21}, "1 to 20 conditions"),
        ({"when": "tier == 'high'"}, "1 to 20 conditions"),
        ({"when": [{"column": "tear", "equals": "high"}]}, "when\\[0\\].column is 'tear'; known columns: "),
        ({"when": [HIGH, {"column": "slice.colour", "equals": "red"}]}, "when\\[1\\].column is 'slice.colour'"),
        ({"when": [{"column": "tier"}]}, "has 0 checks"),
        ({"when": [{"column": "score", "equals": 5, "at_least": 3}]}, "has 2 checks"),
        (
            {"when": [{"column": "score", "above": 3}]},
            "unknown key when\\[0\\].above; known keys here: column, at_least",
        ),
        ({"when": [{"column": "tier", "at_least": 3}]}, "use equals or one_of"),
        ({"when": [{"column": "score", "at_least": "high"}]}, "when\\[0\\].at_least is 'high'; expected a number"),
        ({"when": [{"column": "score", "at_least": float("nan")}]}, "expected a number"),
        ({"when": [{"column": "score", "at_least": True}]}, "expected a number"),
        ({"when": [{"column": "score", "at_least": 9, "at_most": 8}]}, "which nothing fulfils"),
        ({"when": [{"column": "tier", "equals": 3}]}, "expected a text"),
        ({"when": [{"column": "newcomer", "equals": "yes"}]}, "expected true or false"),
        ({"when": [{"column": "tier", "one_of": []}]}, "not a list of values"),
        ({"when": [{"column": "tier", "one_of": "high"}]}, "not a list of values"),
        ({"at_least_customers": 0}, "allowed: 1 or more"),
        ({"include_customers": True}, "there is no alert"),
        ({"only_changes": True}, "there is no alert"),
        ({"alert": {}}, "both or neither"),
        ({"alert": {"webhook": "http://example.org", "token_file": "k"}}, "allowed: https"),
        ({"name": " "}, "1 to 80 printable characters"),
        ({"name": "a\x1b[31m"}, "1 to 80 printable characters"),
        ({"code": "import os"}, "unknown key code"),
    ],
)
def test_a_wrong_rule_is_an_error_that_names_rule_and_key(tmp_path, changes, said):
    import re

    message = refusal(tmp_path, rule_table(name="first"), rule_table(**changes))
    assert "rule 2" in message
    assert re.search(said, message)


def test_what_is_not_a_list_of_rules_is_an_error(tmp_path):
    assert "known keys here: rule" in refusal(tmp_path, rule_table(), rules=1)
    path = tmp_path / "rules.toml"
    for text in ("rule = 3", "rule = ['tier']", "[rule]\nname = 'x'"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"\[\[rule\]\]"):
            read_rules(path, slices=())
    path.write_text("[[rule]\n")
    with pytest.raises(ConfigError, match=r"rules\.toml"):
        read_rules(path, slices=())


def test_two_rules_may_not_write_the_same_file(tmp_path):
    assert "another rule has this name" in refusal(tmp_path, rule_table(name="Keep"), rule_table(name="keep!"))
    assert "allowed: 100" in refusal(tmp_path, *[rule_table(name=f"r{i}") for i in range(MOST_RULES + 1)])


def test_a_name_in_any_script_has_a_file_of_its_own(tmp_path):
    first, second = read(tmp_path, rule_table(name="挽留高价值顾客"), rule_table(name="挽留顾客"))
    assert first.slug != second.slug
    assert all(rule.slug.isascii() and rule.slug.startswith("rule-") for rule in (first, second))
    assert read(tmp_path, rule_table(name="../../etc/passwd"))[0].slug == "etc-passwd"


@pytest.mark.parametrize("purpose", PURPOSES)
def test_an_allowed_purpose_is_allowed(tmp_path, purpose):
    assert read(tmp_path, rule_table(purpose=purpose))[0].purpose == purpose


@pytest.mark.parametrize(
    ("purpose", "what"),
    [
        ("credit", "credit"),
        ("Credit decisions", "credit"),
        ("loan_limits", "credit"),
        ("fraud", "fraud"),
        ("anti-FRAUD", "fraud"),
        ("accusation", "fraud"),
        ("blacklist", "fraud"),
        ("personal_pricing", "pricing"),
        ("prices", "pricing"),
    ],
)
def test_a_refused_purpose_is_refused_with_its_reason(tmp_path, purpose, what):
    said = refusal(tmp_path, rule_table(purpose=purpose))
    assert f"lists for {what} are refused, because " in said
    assert "docs/insight.md" in said
    assert "retention" in said


def test_a_purpose_that_nobody_knows_is_not_allowed_either(tmp_path):
    assert f"allowed: {', '.join(PURPOSES)}" in refusal(tmp_path, rule_table(purpose="fun"))
