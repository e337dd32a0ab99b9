"""Rules on scores: exactly those of whom all conditions hold, lists before alerts, and no ids but where asked."""

from __future__ import annotations

import dataclasses
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pytest
import tomli_w

from client.insight.data import InsightData
from client.insight.rules import Condition, Rule
from client.insight.rules_run import MOST_IDS, chosen, columns_of, failed, run_rules
from pp_model.errors import ConfigError
from tests.support.insight_shops import insight_data, regulars

CUSTOMERS = 80
REGIONS = (np.arange(CUSTOMERS) % 3 - 1).astype(np.int32), ("north", "south")  # of a third nothing is known


@pytest.fixture(scope="module")
def data() -> InsightData:
    return insight_data(regulars(CUSTOMERS), slices={"region": REGIONS})


def rule(*when: Condition, **changes: Any) -> Rule:
    fields: dict[str, Any] = {"name": "Keep", "then": "list", "purpose": "retention", "when": when}
    return Rule(**{**fields, **changes})


def write_rules(home: Path, *changes: dict[str, Any]) -> None:
    high = [{"column": "tier", "equals": "high"}]
    rules = [{"name": "Keep", "when": high, "then": "list", "purpose": "retention", **change} for change in changes]
    (home / "rules.toml").write_text(tomli_w.dumps({"rule": rules}), encoding="utf-8")


def run(data: InsightData, home: Path, *, cutoff: str = "2024-09-01") -> Any:
    return run_rules(data, home=home, folder=home / "state" / "insight" / cutoff)


def listed(home: Path, *, cutoff: str = "2024-09-01", slug: str = "keep") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = csv.read_csv(home / "state" / "insight" / cutoff / f"rules.{slug}.csv").to_pylist()
    return rows


@pytest.mark.parametrize(
    "when",
    [
        (Condition(column="tier", one_of=("low",)), Condition(column="churn_risk", at_least=0.5)),
        (Condition(column="score", at_least=20.0, at_most=60.0),),
        (Condition(column="newcomer", one_of=(False,)),),
        (Condition(column="slice.region", one_of=("north", "east")),),
        (Condition(column="orders_seen", one_of=(3.0, 4.0)), Condition(column="tier", one_of=("low", "middle"))),
        (Condition(column="reason_1", one_of=("recency:-", "recency:+")),),
    ],
    ids=["tier and churn", "bounds", "yes or no", "slice", "numbers", "reason"],
)
def test_exactly_those_are_chosen_of_whom_all_conditions_hold(data, when):
    def holds(row: dict[str, Any], condition: Condition) -> bool:
        value = row[condition.column]
        if condition.one_of:
            return value in condition.one_of
        return value is not None and condition.at_least <= value <= condition.at_most

    rows = data.scores.to_pylist()
    for row in rows:
        code = REGIONS[0][row["customer"]]
        row["slice.region"] = None if code < 0 else REGIONS[1][code]
    truth = [all(holds(row, condition) for condition in when) for row in rows]
    assert chosen(rule(*when), columns_of(data)).tolist() == truth
    assert 0 < sum(truth) < len(truth) or when[0].column in ("newcomer", "reason_1")


def test_a_missing_value_fulfils_no_condition(data):
    everything = Condition(column="change", at_least=-1e9, at_most=1e9)  # nobody was scored before
    assert not chosen(rule(everything), columns_of(data)).any()
    regions = Condition(column="slice.region", one_of=("north", "south"))
    assert chosen(rule(regions), columns_of(data)).sum() == np.count_nonzero(REGIONS[0] >= 0)


def test_a_list_holds_the_chosen_and_what_was_asked_about_and_is_private(data, tmp_path):
    write_rules(
        tmp_path, {"when": [{"column": "slice.region", "equals": "north"}, {"column": "orders_seen", "at_least": 2}]}
    )
    (outcome,) = run(data, tmp_path)
    rows = listed(tmp_path)
    assert len(rows) == outcome.customers > 0
    assert {row["slice.region"] for row in rows} == {"north"}
    assert min(row["orders_seen"] for row in rows) >= 2
    spend = [row["expected_spend_cents"] for row in rows]
    assert spend == sorted(spend, reverse=True)
    folder = tmp_path / "state" / "insight" / "2024-09-01"
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_without_a_file_of_rules_nothing_is_written(data, tmp_path):
    assert run(data, tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


def test_wrong_rules_write_nothing(data, tmp_path):
    write_rules(tmp_path, {}, {"name": "second", "purpose": "credit"})
    with pytest.raises(ConfigError, match="refused"):
        run(data, tmp_path)
    assert not (tmp_path / "state").exists()


def test_an_alert_carries_counts_and_no_customer(data, tmp_path):
    write_rules(tmp_path, {"alert": {"file": "alerts.jsonl"}})
    (outcome,) = run(data, tmp_path)
    text = (tmp_path / "alerts.jsonl").read_text()
    body = json.loads(text)
    assert body["rule"] == "Keep"
    assert body["customers"] == outcome.customers == len(listed(tmp_path))
    assert outcome.alert == "sent"
    assert not any(row["customer_id"] in text for row in data.scores.to_pylist())
    assert set(body) == {"version", "id", "rule", "purpose", "cutoff", "horizon_days", "customers", "new", "gone"}


def test_an_alert_with_customers_carries_those_of_the_list(data, tmp_path):
    write_rules(tmp_path, {"alert": {"file": "alerts.jsonl"}, "include_customers": True})
    run(data, tmp_path)
    body = json.loads((tmp_path / "alerts.jsonl").read_text())
    assert body["customer_ids"] == [row["customer_id"] for row in listed(tmp_path)]
    assert body["customer_ids_left_out"] == max(0, len(listed(tmp_path)) - MOST_IDS)


def test_below_its_threshold_an_alert_is_not_due_and_the_list_is_there(data, tmp_path):
    write_rules(tmp_path, {"alert": {"file": "alerts.jsonl"}, "at_least_customers": CUSTOMERS + 1})
    (outcome,) = run(data, tmp_path)
    assert outcome.alert == "not_due"
    assert not (tmp_path / "alerts.jsonl").exists()
    assert len(listed(tmp_path)) == outcome.customers


def test_changes_are_counted_against_the_newest_earlier_cutoff(data, tmp_path):
    write_rules(tmp_path, {"alert": {"file": "alerts.jsonl"}, "only_changes": True, "include_customers": True})
    (first,) = run(data, tmp_path, cutoff="2024-08-01")
    assert (first.compared_with, first.new, first.gone) == (None, first.customers, 0)
    (same,) = run(data, tmp_path, cutoff="2024-08-15")
    assert (str(same.compared_with), same.new, same.gone, same.alert) == ("2024-08-01", 0, 0, "not_due")
    path = tmp_path / "state" / "insight" / "2024-08-15" / "rules.keep.csv"
    lines = path.read_text().splitlines()
    left, gone = lines[1].split(",")[0].strip('"'), '"somebody else",' + ",".join(lines[1].split(",")[1:])
    path.write_text("\n".join([lines[0], gone, *lines[2:]]) + "\n")
    (moved,) = run(data, tmp_path, cutoff="2024-09-01")
    assert (str(moved.compared_with), moved.new, moved.gone, moved.alert) == ("2024-08-15", 1, 1, "sent")
    bodies = [json.loads(line) for line in (tmp_path / "alerts.jsonl").read_text().splitlines()]
    assert [len(body["customer_ids"]) for body in bodies] == [first.customers, 1]
    assert bodies[1]["customer_ids"] == [left]
    (again,) = run(data, tmp_path, cutoff="2024-08-15")  # a later cutoff is no earlier list
    assert str(again.compared_with) == "2024-08-01"


@pytest.mark.parametrize("form", ["{:08d}", "=1+{}", "-{}"], ids=["number", "formula", "negative"])
def test_ids_of_any_form_are_compared_as_they_were_and_do_nothing_in_a_spreadsheet(tmp_path, form):
    numbers = insight_data(regulars(CUSTOMERS))
    ids = pa.array([form.format(number) for number in range(CUSTOMERS)], pa.string())
    scores = numbers.scores.set_column(0, "customer_id", ids.take(pa.array(numbers.scores["customer"].to_numpy())))
    numbers = dataclasses.replace(numbers, customer_ids=ids, scores=scores)
    write_rules(tmp_path, {"alert": {"file": "alerts.jsonl"}, "only_changes": True})
    run(numbers, tmp_path, cutoff="2024-08-01")
    (same,) = run(numbers, tmp_path, cutoff="2024-08-15")
    assert (same.new, same.gone) == (0, 0)
    text = (tmp_path / "state" / "insight" / "2024-08-15" / "rules.keep.csv").read_text()
    assert '\n"=' not in text


def test_a_failed_alert_loses_no_list_and_no_other_alert_and_is_said(data, tmp_path):
    write_rules(
        tmp_path,
        {"name": "first", "alert": {"file": "no such folder/alerts.jsonl"}},
        {"name": "second", "alert": {"file": "alerts.jsonl"}},
    )
    first, second = run(data, tmp_path)
    assert (first.alert, second.alert) == ("failed", "sent")
    assert "cannot be written" in first.fault
    assert "NO ALERT" in first.line
    assert failed((first, second))
    assert len(listed(tmp_path, slug="first")) == first.customers > 0
    said = json.loads((tmp_path / "state" / "insight" / "2024-09-01" / "rules.json").read_text())
    assert [each["alert"] for each in said] == ["failed", "sent"]


def test_the_same_alert_sent_twice_has_the_same_id(data, tmp_path):
    write_rules(tmp_path, {"alert": {"file": "alerts.jsonl"}})
    run(data, tmp_path)
    run(data, tmp_path)
    first, again = (json.loads(line) for line in (tmp_path / "alerts.jsonl").read_text().splitlines())
    assert first == again


def test_a_list_of_a_rule_that_is_gone_goes_too(data, tmp_path):
    write_rules(tmp_path, {}, {"name": "second"})
    run(data, tmp_path)
    write_rules(tmp_path, {})
    run(data, tmp_path)
    folder = tmp_path / "state" / "insight" / "2024-09-01"
    assert {path.name for path in folder.iterdir()} == {"rules.json", "rules.keep.csv"}
