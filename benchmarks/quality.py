"""Quality on real orders, as a table: `python benchmarks/quality.py --seeds 5`.

Needs the shared data folder (the variable PP_SHARED, default ../shared). Every figure is a mean over seeds; a seed
deals the customers of the UK orders out anew, and every run draws fresh noise from the operating system.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from simulations.run import simulate
from simulations.scenario import resolve

SHARED = Path(os.environ.get("PP_SHARED", "../shared")) / "data"
FIGURES = ("gini", "auc", "average_precision", "log_loss", "mae", "decile_mape")
DATA: dict[str, dict[str, Any]] = {
    "uk": {
        "orders": {"file": str(SHARED / "uk_retail_lines.parquet")},
        "cutoff": "2011-09-10",
        "horizon_days": 90,
        "merchants": 8,
    },
    "grocery": {
        "orders": {"file": str(SHARED / "lgsr_baskets.parquet"), "merchant_column": "merchant_id"},
        "cutoff": "2008-06-09",
        "horizon_days": 28,
        "merchants": 12,
    },
}
EARLIER = {"uk": "2011-06-12", "grocery": "2008-05-12"}  # where the recipe was chosen
FEW = 2  # seeds for the baselines and the other encoders
EPSILONS = (3.0, 1.0, float("inf"))
TRUSTS = ["local", "secure_sum"]
BASELINES = ["local_only", "central_non_private", "fedavg_non_private", "synthetic_only"]


class Silent:
    """Nobody is told how far a run is."""

    def begin(self, phase: str, steps: int) -> Callable[[int], None]:
        """See `simulations.run.Progress`."""
        del phase, steps
        return lambda _: None


def runs(
    seeds: int, delta: float, *, earlier: bool, brief: bool, trusts: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(row name, scenario table) of everything that is measured; rows of one name are averaged.

    Secure sums are private runs of the default encoder. `brief` leaves out the runs without privacy, the baselines and
    the other encoders of local trust.
    """
    for data, table in DATA.items():
        base = {**table, "delta": delta, **({"cutoff": EARLIER[data]} if earlier else {})}
        for epsilon, seed in product(EPSILONS[:2], range(seeds if "secure_sum" in trusts else 0)):
            row = {**base, "epsilon": epsilon, "seed": seed, "recipe": {"trust": "secure_sum"}}
            yield f"{data}, mlp, secure sum, epsilon {epsilon:g}", row
        if "local" not in trusts:
            continue
        for epsilon, seed in product(EPSILONS[:2] if brief else EPSILONS, range(seeds)):
            extra = {"baselines": BASELINES} if epsilon == 3.0 and seed < FEW and not brief else {}
            yield f"{data}, mlp, epsilon {epsilon:g}", {**base, "epsilon": epsilon, "seed": seed, **extra}
        for encoder, seed in product(() if brief else ("linear", "gru", "transformer"), range(min(FEW, seeds))):
            row = {**base, "epsilon": float("inf"), "seed": seed, "recipe": {"encoder": encoder}}
            yield f"{data}, {encoder}, epsilon inf", row


def measure(
    seeds: int, delta: float, *, earlier: bool, brief: bool, trusts: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """The figures of every run, by row name; its baselines, and its readout without the merchants' own, have rows."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, table in runs(seeds, delta, earlier=earlier, brief=brief, trusts=trusts):
        with tempfile.TemporaryDirectory() as folder:
            result = simulate(resolve({"name": name[:40], **table}), Path(folder), Silent())
        rows.setdefault(name, []).append(result)
        shared = {**result["shared_readout"], "seconds": result["seconds"], "versions": result["versions"]}
        rows.setdefault(f"{name}, shared readout alone", []).append(shared)
        for key, baseline in result["baselines"].items():
            rows.setdefault(f"{name.split(',')[0]}, baseline {key}", []).append(baseline)
        print(
            name, {key: (round(result[key], 4), round(shared[key], 4)) for key in FIGURES}, file=sys.stderr, flush=True
        )
    return rows


def table_of(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: mean over seeds, and the standard deviation between them in brackets."""
    lines = ["| Run | seeds | " + " | ".join(FIGURES) + " | seconds |", "| --- " * (len(FIGURES) + 3) + "|"]
    for name in sorted(rows):
        cells = []
        for key in FIGURES:
            values = [result[key] for result in rows[name]]
            spread = f" ({statistics.stdev(values):.4f})" if len(values) > 1 else ""
            digits = 1 if key == "mae" else 4
            cells.append(f"{statistics.fmean(values):.{digits}f}{spread}")
        seconds = statistics.fmean(result["seconds"] for result in rows[name])
        lines.append(f"| {name} | {len(rows[name])} | " + " | ".join(cells) + f" | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, print the table, and write it with the machine and versions beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--earlier", action="store_true", help="one horizon earlier: the cutoffs for choosing")
    parser.add_argument("--brief", action="store_true", help="private runs of the default encoder alone")
    parser.add_argument("--trust", nargs="+", choices=TRUSTS, default=TRUSTS, help="default: both")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quality.md"))
    args = parser.parse_args()
    if not SHARED.exists():
        print(f"{SHARED} is missing: set PP_SHARED to the folder that holds data/", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    rows = measure(args.seeds, args.delta, earlier=args.earlier, brief=args.brief, trusts=args.trust)
    versions = json.dumps(next(iter(rows.values()))[0]["versions"])
    note = f"delta {args.delta:g}; {platform.machine()}, {os.cpu_count()} cores; {versions}"
    text = f"{table_of(rows)}\n\n{note}\n"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("# Quality on real orders\n\n" + text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
