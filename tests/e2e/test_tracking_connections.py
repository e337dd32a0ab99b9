"""Checklist: D37.

Whom `pp-server track` speaks to: nobody, whichever writer it is for. MLflow would call its makers.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from server.registry import Registry
from simulations.deployment import clean_environment
from tests.support.platform import new_platform
from tests.support.published import outcome, plan_for, record
from tests.support.traced import Contact, Trace, read_trace, strace_is_missing, traced

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
OF_THIS_MACHINE = {Contact("/var/run/nscd/socket", 0)}  # glibc asks it for the names of users
COMMAND = "import sys\nfrom server.cli import main\nsys.exit(main(sys.argv[1:]))"
WITH_TELEMETRY = (  # what the program would do if it did not switch it off; waits for the thread that reports
    "import server.tracking_writers as writers\n"
    "writers._NOBODY_IS_TOLD.clear()\n"
    "import sys, threading\n"
    "from server.cli import main\n"
    "code = main(sys.argv[1:])\n"
    "from mlflow.telemetry.client import get_telemetry_client\n"
    "client = get_telemetry_client()\n"
    "client and client.flush(terminate=True)\n"
    "sys.exit(code)\n"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    made = new_platform(tmp_path_factory.mktemp("platform") / "p")
    made.registry.touch(mode=0o600)
    with Registry(made.registry) as registry:
        run = registry.start_run(plan_for("may"), first_round=1)
        for number in (1, 2):
            record(registry, run, outcome(round=number))
        registry.end_run(run, "finished")
    return made


def trace_of(home, kind: str, folder: Path, *, program: str = COMMAND) -> Trace:
    """Whom the command speaks to, in an environment that no test runs in: there MLflow keeps still by itself."""
    if why := strace_is_missing():
        pytest.skip(why)
    file = folder.with_suffix(".trace")
    line = [sys.executable, "-c", program, "track", "--to", kind, str(folder), "--home", str(home.root)]
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    hidden = ("PYTEST", "CI", "GITHUB", "MLFLOW", "DO_NOT_TRACK")
    environment = {name: value for name, value in environment.items() if not name.startswith(hidden)}
    done = subprocess.run(
        traced(line, file), env=environment, capture_output=True, text=True, timeout=300, check=False, cwd=folder.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rounds written" in done.stdout
    return read_trace(file)


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_writing_figures_speaks_to_nobody_and_looks_up_no_name(home, tmp_path, kind):
    assert trace_of(home, kind, tmp_path / "curves").all - OF_THIS_MACHINE == set()


def test_the_search_would_notice_what_mlflow_does_of_its_own(home, tmp_path):
    assert trace_of(home, "mlflow", tmp_path / "curves", program=WITH_TELEMETRY).all - OF_THIS_MACHINE != set()
