"""A round of a thousand merchants on one machine: `python -m benchmarks.bench --only many_merchants`.

Every engine is timed against the same plain loop in its own process, so engines of different environments are compared
by two ratios to one thing.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.environments import ChildError, ask, installed, why_not
from benchmarks.harness import Spread, digits, spread
from benchmarks.report import Report, Row, reason, row_of, table

NAME, TITLE = "many_merchants", "A thousand merchants on one machine"
OWN, OPACUS, PFL, FLOWER = (
    "benchmarks.own_engines",
    "benchmarks.peers.opacus_engines",
    "benchmarks.peers.pfl_engine",
    "benchmarks.peers.flower_ray",
)
PLAIN, OURS, SECRET, PFL_ENGINE = "plain loop", "ours", "ours, secret noise", "pfl-research"
HOOKS = "loop, Opacus hooks, rebuilt for every merchant"
GHOST = "loop, Opacus ghost, rebuilt for every merchant"
KEPT = "loop, Opacus hooks, built once"
TO_HOOKS = {"mlp": ">= 15", "transformer": ">= 2.2"}
TO_PFL, TO_FLOWER, GROWTH_BAR = ">= 4", ">= 25", "<= 1.1"
Cells = Mapping[str, Mapping[str, Any]]  # by engine

_HOW = """\
1,000 merchants of 64 to 512 customers (seeded); in a round each starts from the same parameters, takes 5 steps of 64
of its customers, and the updates are summed. One thread, CPU time; each engine alternates with the plain,
non-private loop of its own environment, and what is in the table is the median [and quartiles] of the ratios. The
slower engines train fewer of the 1,000 merchants in a reading, evenly spaced, and so does the plain loop beside them.
All private engines draw noise from torch's generator but "secret noise", which draws the product's own.

pfl-research runs FederatedAveraging with the same model and steps: it clips no customer, adds no noise here, and its
local evaluation is off. The loops with Opacus leave out its loader and accountant, in its favour."""


def measure(*, quick: bool) -> Report:
    """Everything about many merchants."""
    rows: list[Row] = []
    parts, versions = [_HOW], dict[str, str]()
    for model in ("mlp", "transformer"):
        cells, seen = _cells(model, quick=quick)
        versions |= seen
        rows += _rows(model, cells)
        parts += [f"## {model}", _engines_table(cells)]
    if quick:
        parts.append("Flower's Ray engine and 10,000 merchants are left to the full form.")
    else:
        flower_rows, text, seen = _flower()
        rows += [*flower_rows, *_growth()]
        versions |= seen
        parts.append(text)
    return Report(name=NAME, title=TITLE, rows=rows, text="\n\n".join(parts), versions=versions)


def _cells(model: str, *, quick: bool) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
    """What each engine's child measured; an engine that could not run has `failed`."""
    few = model == "transformer"
    rounds = 3 if quick else 7
    ours, opacus = (10 if quick else 60, 2 if quick else 8) if few else (300 if quick else 1_000, 30)
    asked: list[tuple[str, str, list[str], int]] = [
        (OWN, "", [OURS] if quick else [OURS, SECRET], ours),
        (
            OPACUS,
            "opacus" if installed("opacus") else "",
            [HOOKS, GHOST] if quick else [HOOKS, GHOST, KEPT],
            opacus,
        ),
    ]
    found: dict[str, Mapping[str, Any]] = {}
    versions: dict[str, str] = {}
    if not few and installed("pfl"):
        asked.append((PFL, "pfl", [PFL_ENGINE], 100 if quick else 200))
    elif not few:
        found[PFL_ENGINE] = {"failed": why_not("pfl")}
    for module, peer, engines, sample in asked:
        what = ["--model", model, "--engines", *engines, "--sample", str(sample), "--rounds", str(rounds)]
        try:
            answer = ask(module, *what, peer=peer)
        except ChildError as error:
            found |= {engine: {"failed": str(error)} for engine in engines}
            continue
        versions |= answer["versions"]
        found = {cell["engine"]: cell for cell in answer["cells"]} | found
    return found, versions


def _speed(cells: Cells, engine: str, other: str) -> Spread | None:
    """How many times as fast as another engine, if both could be measured."""
    if any("ratio" not in cells.get(name, {}) for name in (engine, other)):
        return None
    return Spread(**cells[other]["ratio"]).over(Spread(**cells[engine]["ratio"]))


def _rows(model: str, cells: Cells) -> list[Row]:
    compared = [("a loop with Opacus hooks", HOOKS, TO_HOOKS[model], ""), ("a plain non-private loop", PLAIN, ">=", "")]
    if model == "mlp":
        compared.append(("pfl-research", PFL_ENGINE, TO_PFL, "pfl"))
    rows = []
    for words, other, bar, needs in compared:
        speed = _speed(cells, OURS, other)
        if speed is not None:
            what = f"1,000 merchants, {model}: merchant-rounds per CPU second / {words}"
            rows.append(row_of(what, speed, bar, needs=needs))
    return rows


def _engines_table(cells: Cells) -> str:
    lines = []
    for name in sorted(cells, key=lambda name: (name != PLAIN, name)):
        cell = cells[name]
        if "failed" in cell:
            lines.append([name, "", reason(cell["failed"]), "", ""])
            continue
        rate = cell["sample"] / cell["cpu_seconds"]["middle"]
        beside = [_speed(cells, name, other) for other in (PLAIN, HOOKS)]
        lines.append([name, str(cell["sample"]), digits(rate), *("" if s is None else str(s) for s in beside)])
    titles = ["engine", "merchants a reading", "merchant-rounds per CPU second", "/ plain loop", "/ Opacus hooks"]
    return table(titles, lines)


def _flower() -> tuple[list[Row], str, dict[str, str]]:
    """Flower's Ray engine and ours in turn, by the wall clock, on two cores."""
    title = "## Flower's Ray engine with Opacus, MLP, wall clock, 2 cores\n\n"
    if not installed("flower"):
        return [], f"{title}{reason(why_not('flower'))}.", {}
    theirs: list[Mapping[str, Any]] = []
    mine: list[float] = []
    failed = ""
    for _ in range(2):
        try:
            theirs.append(ask(FLOWER, peer="flower"))
        except ChildError as error:
            return [], f"{title}{reason(str(error))}.", {}
        try:
            mine += ask(OWN, "cores", "--rounds", "5")["per_second"]
        except ChildError as error:
            failed = reason(str(error))
    flower = spread([rate for answer in theirs for rate in answer["per_second"]])
    start = statistics.median(answer["first_round_after_seconds"] for answer in theirs)
    rows, ours = [], failed
    if mine:
        speed, ours = spread(mine).over(flower), str(spread(mine))
        what = "1,000 merchants, mlp: merchant-rounds per second / Flower's Ray engine with Opacus, wall clock, 2 cores"
        rows.append(row_of(what, speed, TO_FLOWER, quick=False, needs="flower"))
    text = table(
        ["engine", "merchant-rounds a second, warm"],
        [["Flower, Ray, Opacus hooks, 200 of 1,000 merchants a round", str(flower)], ["ours, two processes", ours]],
    )
    versions = {package: number for package, number in theirs[0]["versions"].items() if package in ("flwr", "ray")}
    return (
        rows,
        f"{title}{text}\n\nFlower's first round was done {start:.0f} s after its start; it is not counted.",
        versions,
    )


def _growth() -> Sequence[Row]:
    try:
        found = ask(OWN, "growth")
    except ChildError:
        return []
    return [
        row_of("cost per merchant-round, mlp, at 10,000 merchants / at 100", Spread(**found), GROWTH_BAR, quick=False)
    ]
