"""Checklist: D26, D27, D28, D36.

The import rules, as a test: what each folder may import and call, read from the source and not from running it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EDGE = "flower_edge"
SHARED = {"pp_model", EDGE, "agreement", "daemons", "secure_sum", "web"}
MAY_IMPORT = {  # product packages that a package may import, besides itself
    "pp_model": set(),
    EDGE: {"pp_model"},
    "agreement": {"pp_model"},
    "secure_sum": {"pp_model", "agreement"},
    "daemons": {"pp_model"},
    "web": {"pp_model"},
    "client": SHARED,
    "synthetic": {"pp_model"},
    "server": {*SHARED, "synthetic"},
    "simulations": {*SHARED, "client", "server", "synthetic"},
}
EDGE_MAY_IMPORT = {"flwr", "numpy", "pp_model", EDGE} | set(sys.stdlib_module_names)
PURE_MAY_NOT_IMPORT = {
    *("flwr", "ray", "grpc", "requests", "httpx", "urllib", "http", "socket", "ssl", "asyncio"),
    *("os", "pathlib", "io", "shutil", "tempfile", "glob", "fileinput", "subprocess", "multiprocessing", "threading"),
    *("time", "random", "secrets", "sqlite3", "sqlalchemy", "logging", "getpass", "platform", "signal", "pickle"),
}
PURE_MAY_NOT_CALL = {
    "open",
    "eval",
    "exec",
    "print",
    "input",
    "__import__",
    "torch.manual_seed",
    "torch.seed",
    "torch.load",
    "torch.save",
    "torch.randn",
    "torch.rand",
    "torch.normal",
    "torch.bernoulli",
}
CLOCK_ENDINGS = (".now", ".today", ".utcnow")
PURE = ("pp_model", "secure_sum")
OS_ALLOWED_IN = ("pp_model/randomness.py", "secure_sum/member.py")  # for os.urandom, and nothing else of it
MOST_LINES_A_FILE = 400
MOST_LINES_OF_PURE = 4_200  # with the fast private step, written out layer by layer, and sums in whole numbers


def product_files() -> list[tuple[str, str]]:
    """(path from the root, source) of every product file."""
    return [
        (path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for package in MAY_IMPORT
        for path in sorted((ROOT / package).rglob("*.py"))
    ]


def imported(tree: ast.AST, *, path: str) -> Iterator[str]:
    """Full names of the modules imported anywhere in the file, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.split("/")[:-1][: None if node.level <= 1 else 1 - node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or a chain of attributes, with "?" for anything else in front."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def full_names(tree: ast.AST) -> dict[str, str]:
    """What local names stand for: `np` -> `numpy`, `dt` -> `datetime`."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def resolved(node: ast.AST, names: dict[str, str]) -> str:
    first, *rest = dotted(node).split(".")
    return ".".join([names.get(first, first), *rest])


def import_faults(path: str, source: str) -> list[str]:
    """Imports that go up, sideways, or out of what the package may know."""
    package, tree = path.split("/")[0], ast.parse(source)
    faults = []
    for name in imported(tree, path=path):
        top = name.split(".")[0]
        if top in MAY_IMPORT and top != package and top not in MAY_IMPORT[package]:
            faults.append(f"{path} imports {name}")
        if top in {"tests", "benchmarks"}:
            faults.append(f"{path} imports {name}")
        if package == EDGE and top not in EDGE_MAY_IMPORT:
            faults.append(f"{path} imports {name}")
        if package in PURE and top in PURE_MAY_NOT_IMPORT and not (path in OS_ALLOWED_IN and name == "os"):
            faults.append(f"{path} imports {name}")
    return faults


def purity_faults(path: str, source: str) -> list[str]:
    """Files, clocks, the environment and global randomness in the pure packages."""
    if path.split("/")[0] not in PURE:
        return []
    tree = ast.parse(source)
    names = full_names(tree)
    faults = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            call = resolved(node.func, names)
            if call in PURE_MAY_NOT_CALL or call.endswith(CLOCK_ENDINGS):
                faults.append(f"{path}:{node.lineno} calls {call}")
        if isinstance(node, ast.Attribute):
            name = resolved(node, names)
            touches_os = name.startswith("os.") and name != "os.urandom"
            if touches_os or name.startswith("numpy.random.") or name == "numpy.random":
                faults.append(f"{path}:{node.lineno} uses {name}")
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("numpy.random"):
            faults.append(f"{path}:{node.lineno} uses {node.module}")
    return faults


def print_faults(path: str, source: str) -> list[str]:
    """`print` anywhere but where a command line talks to a person."""
    if Path(path).stem == "cli":
        return []
    calls = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and dotted(node.func) == "print"
    ]
    return [f"{path}:{node.lineno} prints" for node in calls]


def random_faults(path: str, source: str) -> list[str]:
    """Everybody's randomness, seeded or drawn from, in any product file."""
    tree = ast.parse(source)
    names = full_names(tree)
    allowed = {"numpy.random.Generator", "numpy.random.Philox", "numpy.random.PCG64", "numpy.random.default_rng"}
    found = [resolved(node.func, names) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        f"{path} calls {name}"
        for name in found
        if name in {"torch.manual_seed", "random.seed"} or (name.startswith("numpy.random.") and name not in allowed)
    ]


def names_of(test: object) -> str:
    return getattr(test, "__name__", str(test))


CHECKS = [import_faults, purity_faults, print_faults, random_faults]


@pytest.mark.parametrize("check", CHECKS, ids=names_of)
def test_the_product_keeps_the_rule(check):
    files = product_files()
    assert len(files) >= 15
    assert [fault for path, source in files for fault in check(path, source)] == []


def test_no_file_is_longer_than_one_sitting():
    lengths = {path: len(source.splitlines()) for path, source in product_files()}
    assert {path: lines for path, lines in lengths.items() if lines > MOST_LINES_A_FILE} == {}


def test_the_pure_library_stays_short_enough_to_read():
    assert sum(len(source.splitlines()) for path, source in product_files() if path.startswith("pp_model/")) <= (
        MOST_LINES_OF_PURE
    )


PLANTED = [
    (import_faults, "client/task.py", "from server.registry import Registry"),
    (import_faults, "client/task.py", "def f():\n    import simulations.seeded"),
    (import_faults, "client/sources/csv.py", "from simulations.seeded import SeededSource"),
    (import_faults, "server/app.py", "import client.ledger as l"),
    (import_faults, "web/site.py", "from client.ledger import PrivacyLedger"),
    (import_faults, "synthetic/shops.py", "from simulations.seeded import SeededSource"),
    (import_faults, "client/task.py", "from synthetic.shops import synthetic_shop"),
    (import_faults, "server/app.py", "from tests.support.plans import tiny_plan"),
    (import_faults, "flower_edge/messages.py", "from client.task import answer"),
    (import_faults, "flower_edge/messages.py", "import torch"),
    (import_faults, "pp_model/loss.py", "from client import ledger"),
    (import_faults, "pp_model/loss.py", "from flower_edge import messages"),
    (import_faults, "pp_model/loss.py", "from ..client import ledger"),
    (import_faults, "pp_model/randomness.py", "import os.path"),
    (import_faults, "secure_sum/member.py", "from client import ledger"),
    (import_faults, "secure_sum/member.py", "import flwr"),
    (import_faults, "secure_sum/collector.py", "import os"),
    (import_faults, "secure_sum/collector.py", "import logging"),
    (purity_faults, "secure_sum/member.py", "import os\nx = os.environ['SEED']"),
    (purity_faults, "secure_sum/member.py", "x = open('f')"),
    (import_faults, "pp_model/randomness.py", "from os import urandom, environ"),
    *[
        (import_faults, "pp_model/loss.py", f"import {name}")
        for name in ("flwr", "os", "pathlib", "socket", "time", "random", "sqlite3", "logging", "tempfile")
    ],
    (import_faults, "pp_model/loss.py", "from subprocess import run"),
    (import_faults, "pp_model/loss.py", "if True:\n    import requests"),
    (purity_faults, "pp_model/loss.py", "x = open('f')"),
    (purity_faults, "pp_model/loss.py", "import torch\ntorch.manual_seed(42)"),
    (purity_faults, "pp_model/loss.py", "from torch import manual_seed as s\ns(42)"),
    (purity_faults, "pp_model/loss.py", "import numpy as np\nx = np.random.normal(0, 1, 3)"),
    (purity_faults, "pp_model/loss.py", "import numpy as np\ndraw = np.random"),
    (purity_faults, "pp_model/loss.py", "from numpy.random import default_rng"),
    (purity_faults, "pp_model/loss.py", "import datetime as dt\nx = dt.datetime.now()"),
    (purity_faults, "pp_model/loss.py", "from datetime import date\nx = date.today()"),
    (purity_faults, "pp_model/randomness.py", "import os\nx = os.environ['SEED']"),
    (purity_faults, "pp_model/loss.py", "import torch\nx = torch.randn(3)"),
    (print_faults, "client/ledger.py", "print('spent')"),
    (print_faults, "synthetic/shops.py", "print('spent')"),
    (random_faults, "client/task.py", "import torch\ntorch.manual_seed(1)"),
    (random_faults, "synthetic/shops.py", "import numpy as np\nnp.random.seed(1)"),
]


@pytest.mark.parametrize(("check", "path", "source"), PLANTED, ids=names_of)
def test_a_planted_violation_is_found(check, path, source):
    assert len(check(path, source)) >= 1


ALLOWED = [
    (import_faults, "simulations/grid.py", "from client.task import answer\nfrom server.app import app"),
    (import_faults, "client/app.py", "import flwr\nfrom flower_edge import messages\nfrom pp_model import plan"),
    (import_faults, "flower_edge/messages.py", "import json\nimport flwr.app\nfrom pp_model.protocol import Wire"),
    (import_faults, "pp_model/randomness.py", "import os"),
    (import_faults, "pp_model/loss.py", "from pp_model.schema import Order\nfrom . import model"),
    (purity_faults, "pp_model/randomness.py", "import os\nkey = os.urandom(32)"),
    (purity_faults, "client/task.py", "import time\nx = open('f')"),
    (print_faults, "simulations/cli.py", "print('table')"),
    (random_faults, "synthetic/shops.py", "import numpy as np\nrng = np.random.default_rng(3)"),
]


@pytest.mark.parametrize(("check", "path", "source"), ALLOWED, ids=names_of)
def test_what_is_allowed_is_not_a_fault(check, path, source):
    assert check(path, source) == []
