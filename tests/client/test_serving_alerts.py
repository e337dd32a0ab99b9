"""The alerts on what is served: metrics that the service has, with labels that it gives them, and what to do."""

from __future__ import annotations

import argparse
import re

import pytest
import yaml

from client.commands import serve
from client.serving.http_guard import METRICS
from tests.support.alerts import PROMETHEUS, named_in, rules
from tests.support.serving import behind, keeper_of, samples, served_shop

SIDE = "serving"


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What the service shows once it has answered."""
    keeper = keeper_of(served_shop(tmp_path_factory.mktemp("served"), customers=30))
    keeper.load_first()
    whole = behind(keeper)
    whole.desk.metrics.answered("http", "score_customer", "busy", 0.001)
    return samples(whole)


@pytest.mark.parametrize("rule", rules(SIDE), ids=lambda rule: rule["alert"])
def test_every_metric_and_label_of_an_alert_is_one_that_the_service_shows(shown, rule):
    assert named_in(rule["expr"]) - {each.name for each in shown} == set()
    for label, value in re.findall(r'(\w+)="([^"]*)"', rule["expr"]):
        assert any(each.labels.get(label) == value for each in shown), (label, value)


@pytest.mark.parametrize("rule", rules(SIDE), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule):
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "action"}
    assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= {"door", "reason"}


def test_the_job_that_the_scrape_example_holds_as_a_comment_asks_the_service_with_its_token():
    commented = re.findall(r"^  # (?=- |  )(.*)$", PROMETHEUS.read_text(), re.MULTILINE)
    parsed = argparse.ArgumentParser()
    serve.add(parsed.add_subparsers())
    served_at = parsed.parse_args(["serve"]).http
    (job,) = yaml.safe_load("\n".join(commented))
    assert (job["static_configs"], METRICS) == ([{"targets": [served_at]}], "/metrics")
    assert job["authorization"]["credentials_file"]
