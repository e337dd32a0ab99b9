"""The price of a private step: `python -m benchmarks.bench --only private_step`.

Ours is timed in our environment, each peer in its own, and both against the same plain PyTorch step in the same
process. JAX has no such step; how it is compared is said in its table.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.environments import ChildError, ask, installed, why_not
from benchmarks.harness import Spread, digits, pooled, spread
from benchmarks.report import Report, Row, reason, row_of, table
from benchmarks.step_memory import OPACUS, OWN, PRIVATE, memory

NAME, TITLE = "private_step", "The price of a private step"
MODELS, BATCHES = ("mlp", "transformer", "gru"), (64, 256, 1024)
JAX = "benchmarks.peers.jax_steps"
OPTIMISED, SECRET = "optimised", "private, secret noise"
TO_PLAIN = {
    "mlp": {64: "<= 0.70", 256: "<= 0.80", 1024: "<= 0.95"},
    "transformer": dict.fromkeys(BATCHES, "<= 1.35"),
    "gru": {64: "<= 1.25", 256: "<= 1.30", 1024: "<= 1.50"},
}
TO_OPTIMISED = {"mlp": {64: "<= 1.5", 256: "<= 1.25", 1024: "<= 1.15"}}
NO_BAR = "<="
_PROCESSES = 3
_EFFORT = {  # by whether it is the quick form
    True: ("--rounds", "5", "--seconds", "0.02", "--enough", "2"),
    False: ("--rounds", "7", "--seconds", "0.05"),
}
Cells = Mapping[tuple[str, int, str], Mapping[str, Any]]  # by model, batch size and method

_HOW = """\
**Plain step**: `zero_grad`, mean loss, `backward`, `torch.optim.SGD.step`, eager. **Private step**: every row is one
customer; gradients clipped one by one, Gaussian noise of the whole sum, update. **Optimised**: our private step's code
without norms, clip and noise. Ours takes a large batch of sequences in parts that fit the processor's cache; the plain
step and the peers take it whole, as is usual, which shows in the peak of memory and in the time at batch 1,024.

Models: MLP 64-128-64-3; Transformer of 32 events, width 64, 2 blocks, 4 heads, feed-forward 128, vocabulary 1000; GRU
of width 96 over embeddings of 64; the loss is that of the zero-inflated lognormal.

Every figure is the median [and quartiles] of ratios of CPU time, one thread: the mean of the plain step just before
and just after is 1. In the full form ours is the median of three processes, with their widest quartiles. All methods
draw the noise that Opacus draws by default, from torch's generator, which is not cryptographic; "secret noise" draws
the product's own, from the operating system."""


def measure(*, quick: bool) -> Report:
    """Everything about one step."""
    effort = _EFFORT[quick]
    peer = "opacus" if installed("opacus") else ""
    times = 1 if quick else _PROCESSES
    own, versions = _own([PRIVATE] if quick else [PRIVATE, SECRET], effort, times=times)
    opacus, opacus_versions = _opacus(effort, BATCHES[:1] if quick else BATCHES, peer)
    to_plain = own | {(m, b, f"Opacus {name}"): cell for (m, b, name), cell in opacus.items() if name != "plain"}
    to_optimised, _ = _own([PRIVATE], effort, times=times, reference=OPTIMISED)
    rows = [*_rows("plain", to_plain, PRIVATE, TO_PLAIN), *_rows("optimised", to_optimised, PRIVATE, TO_OPTIMISED)]
    parts = [_HOW, "## Against the plain PyTorch step", _methods_table(to_plain)]
    memory_rows, memory_text = memory(MODELS, quick=quick)
    left = "JAX, secret noise and Opacus with larger batches are left to the full form."
    jax_text, jax_versions = (left, {}) if quick else _jax(effort)
    note = "" if peer else "Opacus was measured in the project's own environment."
    versions = {**jax_versions, **opacus_versions, **versions}
    text = "\n\n".join(part for part in [*parts, note, memory_text, jax_text] if part)
    return Report(name=NAME, title=TITLE, rows=[*rows, *memory_rows], text=text, versions=versions)


def _cells(
    module: str,
    methods: Sequence[str],
    effort: Sequence[str],
    *,
    models: Sequence[str] = MODELS,
    batches: Sequence[int] = BATCHES,
    reference: str = "plain",
    peer: str = "",
) -> tuple[dict[tuple[str, int, str], dict[str, Any]], dict[str, str]]:
    """The cells that a child measured, and its versions."""
    what = ["--models", *models, "--batches", *map(str, batches), "--methods", *methods, "--reference", reference]
    answer = ask(module, *what, *effort, peer=peer)
    return {(cell["model"], cell["batch"], cell["method"]): cell for cell in answer["cells"]}, answer["versions"]


def _own(
    methods: Sequence[str], effort: Sequence[str], *, times: int, reference: str = "plain"
) -> tuple[dict[tuple[str, int, str], dict[str, Any]], dict[str, str]]:
    """Our cells, each pooled over `times` processes, and our versions."""
    runs = [_cells(OWN, methods, effort, reference=reference) for _ in range(times)]
    cells, versions = runs[0]
    for key, cell in cells.items():
        others = [run[key] for run, _ in runs]
        if all("ratio" in other for other in others):
            cell["ratio"] = vars(pooled([Spread(**other["ratio"]) for other in others]))
    return cells, versions


def _opacus(
    effort: Sequence[str], batches: Sequence[int], peer: str
) -> tuple[dict[tuple[str, int, str], dict[str, Any]], dict[str, str]]:
    """The cells of Opacus; if its process breaks down, every one says so."""
    methods = ("hooks", "ghost")
    try:
        return _cells(OPACUS, methods, effort, batches=batches, peer=peer)
    except ChildError as error:
        failed = {"failed": str(error)}
        return {(model, batch, name): failed for model in MODELS for batch in batches for name in methods}, {}


def _rows(reference: str, cells: Cells, method: str, bars: Mapping[str, Mapping[int, str]]) -> Iterable[Row]:
    """One row for every model and batch size that could be measured."""
    for (model, batch, name), cell in cells.items():
        if name == method and "failed" not in cell:
            bar = bars.get(model, {}).get(batch, NO_BAR)
            detail = f"first call {cell['first_seconds']:.2f} s"
            yield row_of(
                f"private step / {reference} step, {model}, batch {batch}",
                Spread(**cell["ratio"]),
                bar,
                detail=detail,
            )


def _methods_table(cells: Cells) -> str:
    """Methods down, models and batches across."""
    methods = list(dict.fromkeys(name for _, _, name in cells if not name.endswith("plain")))
    lines = []
    for model in MODELS:
        plain = [cells.get((model, batch, "plain"), {}) for batch in BATCHES]
        scale = [f"{digits(1e3 * cell['cpu_seconds']['middle'])} ms" if cell else "" for cell in plain]
        lines.append([model, "plain, CPU time for scale", *scale, ""])
        for method in methods:
            found = [cells.get((model, batch, method)) for batch in BATCHES]
            first = [cell["first_seconds"] for cell in found if cell and "failed" not in cell]
            lines.append([model, method, *map(_cell, found), f"{max(first):.2f} s" if first else ""])
    return table(["model", "method", *(f"batch {batch}" for batch in BATCHES), "first call, at most"], lines)


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "not measured"
    return reason(cell["failed"]) if "failed" in cell else str(Spread(**cell["ratio"]))


def _jax(effort: Sequence[str]) -> tuple[str, dict[str, str]]:
    """jax-privacy against plain jit, and its CPU time a step beside ours, process by process."""
    if not installed("jax_privacy"):
        return f"## JAX\n\n{reason(why_not('jax_privacy'))}.", {}
    mine: dict[tuple[int, str], list[float]] = {}
    theirs: dict[tuple[int, str], list[dict[str, Any]]] = {}
    versions: dict[str, str] = {}
    for _ in range(3):
        try:
            answer = ask(JAX, "--batches", *map(str, BATCHES), *effort, peer="jax_privacy")
        except ChildError as error:
            return f"## JAX\n\n{reason(str(error))}.", {}
        versions = {package: number for package, number in answer["versions"].items() if package != "python"}
        for cell in answer["cells"]:
            theirs.setdefault((cell["batch"], cell["method"]), []).append(cell)
        for (_, batch, name), cell in _cells(OWN, [PRIVATE], effort, models=["mlp"])[0].items():
            if "failed" not in cell:
                mine.setdefault((batch, name), []).append(cell["cpu_seconds"]["middle"])
    lines = []
    for (batch, method), cells in theirs.items():
        ratios = spread([cell["ratio"]["middle"] for cell in cells])
        seconds = [cell["cpu_seconds"]["middle"] for cell in cells]
        beside = [
            str(spread([own / their for own, their in zip(mine[batch, name], seconds, strict=True)]))
            if (batch, name) in mine
            else "not measured"
            for name in ("plain", PRIVATE)
        ]
        milliseconds = digits(1e3 * statistics.median(seconds))
        lines.append([str(batch), method, "" if method == "plain jit" else str(ratios), f"{milliseconds} ms", *beside])
    lines.sort(key=lambda line: int(line[0]))
    text = (
        "## JAX, MLP\n\nThe first ratio is to JAX's own plain jitted step, alternated with it in one process. The last "
        "two columns compare absolute CPU time a step of two processes that ran one after the other: weaker evidence "
        "than any ratio above, which two programs in one process share a machine for.\n\n"
    )
    titles = ["batch", "method", "/ plain jit", "CPU time", "PyTorch plain / this", "our private step / this"]
    return text + table(titles, lines), versions
