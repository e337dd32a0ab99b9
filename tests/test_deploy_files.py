"""The deployment files, as far as a machine without Docker and systemd can tell: form, pins, rights, commands."""

import json
import re
import shutil
import subprocess
import tomllib

import pytest
import yaml

from client.settings import LocalSettings
from server.home import ServerConfig
from tests.support.documents import ROOT, SERVICES, command_lines, fault_of_call

DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
COMPOSE = yaml.safe_load((DEPLOY / "docker" / "compose.yml").read_text())
SETUP = DEPLOY / "docker" / "setup.sh"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HIGHEST_EXPOSURE = 1.2  # of 10; docs/deployment.md says what is left


def stages(text):
    """Each stage's name -> its instructions, those of the stages it stands on first. Comments are left out."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    found, current = {}, []
    for line in filter(None, map(str.strip, joined.splitlines())):
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            base, _, name = rest.partition(" AS ")
            current = found[name] = list(found.get(base, [("FROM", base)]))
        else:
            current.append((keyword, rest))
    return found


STAGES = stages(DOCKERFILE.read_text())
TARGETS = ("server", "client")


def last(target, keyword):
    return next(rest for word, rest in reversed(STAGES[target]) if word == keyword)


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_nobody_in_particular_and_tells_its_health(target):
    assert last(target, "USER") == "10001:10001"
    port = {"server": ServerConfig.health_http, "client": LocalSettings.health_http}[target]
    assert f"http://{port}/health" in last(target, "HEALTHCHECK")
    compile(json.loads(last(target, "HEALTHCHECK").partition("CMD ")[2])[2], "healthcheck", "exec")


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_starts_a_command_that_the_program_takes(target):
    words = [*json.loads(last(target, "ENTRYPOINT")), *json.loads(last(target, "CMD"))]
    assert words[0] == f"pp-{target}"
    assert fault_of_call(words) == ""


def test_what_is_installed_is_locked_and_nothing_is_fetched_from_elsewhere():
    text = DOCKERFILE.read_text()
    assert "pip install --require-hashes --no-deps -r requirements.lock" in " ".join(text.split())
    assert re.findall(r"^ARG PYTHON_IMAGE=(.*)$", text, re.MULTILINE) == ["python:3.11-slim-bookworm"]
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == [
        "${PYTHON_IMAGE}",
        "${PYTHON_IMAGE}",
        "runtime",
        "runtime",
    ]
    assert not re.search(r"https?://(?!127\.0\.0\.1)|\bADD\b|curl|wget", text)


def test_an_image_holds_the_product_and_nothing_else():
    copied = [rest.split()[0] for word, rest in STAGES["build"] if word == "COPY" and "requirements" not in rest]
    packages = {name.partition(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
    assert set(copied) == {*packages, "pyproject.toml"}
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_through == {
        *packages,
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "requirements.lock",
        "requirements-torch.txt",
    }
    assert all((ROOT / name).exists() for name in let_through)


def test_everything_that_the_product_reads_is_installed_with_it():
    packages = {name.partition(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    installed = {path for name in patterns for pattern in patterns[name] for path in (ROOT / name).glob(pattern)}
    there = {path for name in packages for path in (ROOT / name).rglob("*") if path.is_file()}
    kept = {path for path in there if path.suffix != ".py" and path.parent.name != "__pycache__"}
    assert sorted(path.relative_to(ROOT).as_posix() for path in kept - installed) == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_more_rights_than_it_needs(name):
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "network_mode", "pid", "user", "cap_add", "devices"} & set(service)
    own = [volume for volume in service["volumes"] if volume.endswith(":/data")]
    assert own == [f"{name}:/data"]
    assert all(volume.endswith(":ro") for volume in service["volumes"] if volume not in own)


def test_compose_has_one_platform_and_three_merchants_and_publishes_the_platform_alone():
    assert set(COMPOSE["services"]) == set(SERVICES)
    assert {name: s["ports"] for name, s in COMPOSE["services"].items() if "ports" in s} == {"platform": ["8443:8443"]}
    assert COMPOSE["networks"]["federation"] == {"internal": True}
    assert all(
        service["networks"] == ["federation"] for name, service in COMPOSE["services"].items() if name != "platform"
    )


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_has_the_version_of_the_product(name):
    service = COMPOSE["services"][name]
    target = SERVICES[name].removeprefix("pp-")
    assert service["image"] == f"purchase-power-{target}:{PROJECT['project']['version']}"
    assert service["build"]["target"] == target
    assert (DEPLOY / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == DOCKERFILE


def files():
    return [path for path in DEPLOY.rglob("*") if path.is_file()]


def test_every_command_of_a_deployment_file_is_one_that_the_program_takes():
    calls = [words for path in files() if path != DOCKERFILE for words in command_lines(path.read_text())]
    assert [fault for words in calls if (fault := fault_of_call(words))] == []
    made = [words[:2] for words in command_lines(SETUP.read_text())]
    assert made == [["pp-server", "init"], ["pp-client", "init"], ["pp-server", "merchants"]]


def test_nothing_is_latest_and_nothing_is_secret():
    for path in files():
        text = path.read_text()
        assert "latest" not in text, path
        assert not re.search(r"BEGIN [A-Z ]*PRIVATE KEY|ed25519:[A-Za-z0-9+/]{20}|(?i:password) *=", text), path


def test_the_setup_script_is_a_shell_script_and_wants_every_number_that_costs_privacy():
    subprocess.run(["sh", "-n", SETUP], check=True)
    done = subprocess.run(["sh", SETUP], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, check=False)
    assert done.returncode == 2
    assert "EPSILON" in done.stderr
    for name in ("EPSILON", "DELTA", "DECLARED_CUSTOMERS", "PERIOD", "PERIOD_ENDS"):
        assert f"${{{name}:?" in SETUP.read_text()


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_our_command_as_its_own_user_and_stops_where_a_person_is_needed(unit):
    lines = dict(line.split("=", 1) for line in unit.read_text().splitlines() if re.match(r"[A-Za-z]+=", line))
    program = re.match(r"pp-(client|server)", unit.stem)[0]  # pp-client-serve runs pp-client serve, as pp-client
    assert lines["User"] == program
    words = lines["ExecStart"].removeprefix("/opt/purchase-power/bin/").split()
    assert words[0] == program
    assert fault_of_call(words) == ""
    assert lines["RestartPreventExitStatus"] == "2 6"
    assert f"/var/lib/{lines['StateDirectory']}" in lines["ExecStart"]
    for heading in re.findall(r'docs/deployment\.md, "(.*?)"', unit.read_text()):
        assert f"## {heading}\n" in (ROOT / "docs" / "deployment.md").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_leaves_little_exposed(unit):
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= HIGHEST_EXPOSURE


def test_what_would_weaken_an_image_is_noticed():
    weak = stages("ARG A=x\nFROM ${A} AS base\nUSER 10001\nFROM base AS server\n# USER 10001\nUSER root\n")
    assert [rest for word, rest in weak["server"] if word == "USER"] == ["10001", "root"]
