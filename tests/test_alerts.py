"""The alert file: valid YAML, expressions that Prometheus takes, and no metric that the daemons do not have."""

from __future__ import annotations

import datetime as dt
import re
import shutil
import subprocess

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agreement.node_keys import new_node_key, public_text
from client.metrics import DaemonState
from client.metrics import metrics_registry as merchant_metrics
from client.settings import LocalSettings, load_settings
from client.shop_status import StatusKeeper
from daemons.supervisor import ChildState, State
from server.home import ServerConfig
from server.metrics import Live
from server.metrics import metrics_registry as platform_metrics
from server.registry import Registry
from server.roster import Roster
from tests.support.alerts import ALERTS, FOLDER, PROMETHEUS, groups, named_in, rules
from tests.support.market import market_plan
from tests.support.merchant_home import new_shop
from tests.support.published import outcome, record, troubled

NOW = dt.datetime.now(dt.UTC)
CHILD = ChildState(name="child", state=State.RUNNING, pid=7, waits_until=None, last_exit=1, restarts=4)
SEVERITIES = {"info", "warning", "critical"}


def names_in(registry: CollectorRegistry) -> set[str]:
    text = generate_latest(registry).decode()
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


@pytest.fixture(scope="module")
def platform_names(tmp_path_factory) -> set[str]:
    """What a platform shows in whose life everything has happened."""
    path, plan = tmp_path_factory.mktemp("platform") / "registry.sqlite", market_plan()
    with Registry(path) as registry, Roster(path) as roster:
        roster.seen(roster.add("bakery", public_text(new_node_key().public_key())), now=NOW, version="0.1.0")
        run = registry.start_run(plan, first_round=1)
        record(registry, run, outcome())
        registry.record_round(run, troubled(round=2), seconds=1.0)
        registry.ask_round(run, 3, deadline=NOW)
        made = {"file": "m", "sha256": "a" * 64, "epsilon": 1.0, "epsilon_two": 2.0, "parent": None}
        registry.sign_model(registry.add_model(plan=plan, run=run, **made), b"signed", "card")
    live = Live(children=[CHILD], online=frozenset({"bakery"}), certificate_days=30)
    return names_in(platform_metrics(path, lambda: live))


@pytest.fixture(scope="module")
def merchant_names(tmp_path_factory) -> set[str]:
    """The same of a merchant."""
    settings, plan = load_settings(new_shop(tmp_path_factory.mktemp("m") / "shop").config), market_plan()
    with settings.open_ledger() as ledger:
        ledger.charge("t", plan.dp.event, plan=plan.fingerprint, most_tasks=plan.rounds)
    StatusKeeper(settings.paths.agreements.parent, pid=1).update(ready=True, newest_order=str(NOW.date()))
    state = DaemonState(connected=True, clock_apart=0.5, waiting=0, children=[CHILD])
    return names_in(merchant_metrics(settings, lambda: state))


@pytest.mark.parametrize("rule", rules("platform"), ids=lambda rule: rule["alert"])
def test_every_metric_of_a_platforms_alert_is_one_that_the_platform_shows(platform_names, rule):
    assert named_in(rule["expr"]) - platform_names == set()


@pytest.mark.parametrize("rule", rules("merchant"), ids=lambda rule: rule["alert"])
def test_every_metric_of_a_merchants_alert_is_one_that_the_merchant_shows(merchant_names, rule):
    assert named_in(rule["expr"]) - merchant_names == set()


def test_what_the_issue_of_monitoring_is_about_has_an_alert():
    platform, merchant = ({rule["alert"] for rule in rules(side)} for side in ("platform", "merchant"))
    assert {"MerchantBudgetNearlySpent", "MerchantOrdersStale", "MerchantPlatformUnreachable"} <= merchant
    assert {"MerchantClockOff", "MerchantLedgerUnreadable"} <= merchant
    assert {"PlatformRoundOverdue", "PlatformRoundVoid", "PlatformModelBad", "PlatformCheckpointOld"} <= platform
    assert {"PlatformMerchantUnseen", "PlatformCertificateExpires", "PlatformRunFailed"} <= platform


@pytest.mark.parametrize("rule", [*rules("platform"), *rules("merchant")], ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule):
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in SEVERITIES
    assert set(rule["annotations"]) == {"summary", "action"}
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0m"))
    labels = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    assert labels <= {"child", "merchant", "plan", "run", "code"}
    assert labels <= set(re.findall(r"\w+", rule["expr"])) | {"child", "merchant", "plan", "code"}


def test_every_alert_has_a_name_of_its_own_and_its_line_in_the_manual():
    names = [rule["alert"] for group in groups().values() for rule in group]
    assert len(set(names)) == len(names) >= 20
    page = (FOLDER.parents[1] / "docs" / "monitoring.md").read_text()
    assert [name for name in names if f"`{name}`" not in page] == []


def test_the_scrape_example_names_the_ports_that_the_daemons_have():
    config = yaml.safe_load(PROMETHEUS.read_text())
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    assert targets == {
        "purchase-power-platform": [ServerConfig.health_http],
        "purchase-power-merchant": [LocalSettings.health_http],
    }
    assert config["rule_files"] == [ALERTS.name]


def test_every_job_that_an_alert_names_is_one_of_the_example():
    jobs = {job["job_name"] for job in yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]}
    assert set(re.findall(r'job="([^"]*)"', ALERTS.read_text())) == jobs


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
@pytest.mark.parametrize(("verb", "file"), [("rules", ALERTS), ("config", PROMETHEUS)])
def test_prometheus_own_tool_takes_the_files(verb, file):
    done = subprocess.run(["promtool", "check", verb, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("pp_a > 3 * 3600", {"pp_a"}),
        ('sum by (plan, run) (pp_a{code!="no_reply"}) > 0.5 * pp_b', {"pp_a", "pp_b"}),
        ("increase(pp_a_total[30m]) > 3", {"pp_a_total"}),
        ("abs(pp_a) > 20 and on (plan) pp_b == 1", {"pp_a", "pp_b"}),
        ('up{job="x"} == 0', set()),
        ('delta(pp_a{state="pp_b"}[1h]) > 0', {"pp_a"}),
    ],
)
def test_the_names_in_an_expression_are_found(expression, names):
    assert named_in(expression) == names


def test_a_metric_that_nobody_has_would_be_noticed(platform_names):
    assert named_in("pp_server_marchants > 0") - platform_names == {"pp_server_marchants"}
