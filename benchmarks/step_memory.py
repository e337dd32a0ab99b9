"""How much memory a step needs at its peak, and whether a process that takes many grows: of `benchmarks.private_step`.

A peak is measured in processes with `GIVE_BACK`. As the C library comes, a tensor that is freed leaves a hole in the
heap, and whether the next one fits into it differs from process to process: the peak of the very same step then wanders
by a quarter, in whole tensors. With it, a tensor's memory goes back to the system when the tensor is freed, and the
peak is that of what is alive, the same in every process.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.environments import ChildError, ask, installed
from benchmarks.harness import spread
from benchmarks.report import Row, reason, row_of, table

OWN, OPACUS = "benchmarks.own_steps", "benchmarks.peers.opacus_steps"
PLAIN, PRIVATE = "plain", "private"
PROCESSES, BATCH = 3, 1024
PEAK_BAR, FLAT_BAR = "<= 1.35", "<= 1.01"
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc's name, underscore included; other libraries ignore it
_HOW = f"""\
## Memory

Peak above what the process held with model and batch made, batch {BATCH:,}, over 2 steps; {PROCESSES} processes each,
in turns. The C library gives large blocks back when they are freed, so it is the peak of what is alive."""


def memory(models: Sequence[str], *, quick: bool) -> tuple[list[Row], str]:
    """Rows and page of both; the quick form has one model for each, and no peers."""
    methods = {PLAIN: (OWN, ""), PRIVATE: (OWN, "")}
    if not quick:
        peer = "opacus" if installed("opacus") else ""
        methods |= {"hooks": (OPACUS, peer), "ghost": (OPACUS, peer)}
    rows, lines = [], []
    for model in ("transformer",) if quick else models:
        peaks, failed = _peaks(methods, model)
        for name in methods:
            if why := failed.get(name) or failed.get(PLAIN):
                lines.append([model, name, why, ""])
                continue
            to_plain = spread([peak / plain for peak, plain in zip(peaks[name], peaks[PLAIN], strict=True)])
            lines.append([model, name, f"{statistics.median(peaks[name]) / 2**20:.0f} MiB", str(to_plain)])
            if name == PRIVATE:
                what = f"peak memory of the private step / plain, {model}, batch {BATCH}"
                rows.append(row_of(what, to_plain, PEAK_BAR, quick=model == "transformer"))
    rows += _flat_rows(("mlp",) if quick else models)
    return rows, _HOW + "\n\n" + table(["model", "method", "peak", "/ plain"], lines)


def peak(module: str, model: str, method: str, *, batch: int = BATCH, peer: str = "") -> int:
    """Bytes that two steps need above what a fresh process held before them.

    Raises:
        ChildError: the step failed.
    """
    what = ("--models", model, "--batches", str(batch), "--methods", method, "--memory", "peak")
    return int(ask(module, *what, peer=peer, variables=GIVE_BACK)["bytes"])


def _peaks(methods: Mapping[str, tuple[str, str]], model: str) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Bytes by method, one figure a process; and why a method could not be measured."""
    peaks: dict[str, list[int]] = {name: [] for name in methods}
    failed: dict[str, str] = {}
    for _ in range(PROCESSES):
        for name, (module, peer) in methods.items():
            if name in failed:
                continue
            try:
                peaks[name].append(peak(module, model, name, peer=peer))
            except ChildError as error:
                failed[name] = reason(str(error).rpartition(": ")[2])
    return peaks, failed


def _flat_rows(models: Sequence[str]) -> Iterable[Row]:
    for model in models:
        what = ("--models", model, "--batches", "64", "--methods", PRIVATE, "--memory", "flat")
        try:
            grown = ask(OWN, *what)["growth"]
        except ChildError:
            continue
        name = f"memory of the process, last of 1,000 private steps / the second hundred, {model}, batch 64"
        yield row_of(name, spread([grown]), FLAT_BAR, quick=model == "mlp")
