"""Every measurement, beside its peers where it has any, as pages and as figures: `make bench`, or `make bench-quick`.

The full form writes benchmarks/results, which is committed; the quick form, under three minutes, writes runs/bench.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import aggregation, features_scale, insight, many_merchants, private_step, scoring, serving
from benchmarks.environments import PEERS, ROOT, ChildError, installed, why_not
from benchmarks.report import Report, machine

RESULTS, QUICK_RESULTS = ROOT / "benchmarks" / "results", ROOT / "runs" / "bench"
RATIOS = "ratios.json"
_PARTS = (private_step, many_merchants, features_scale, aggregation, scoring, insight, serving)
PARTS = {part.NAME: part.measure for part in _PARTS}


def measure_all(parts: Sequence[str], *, quick: bool) -> tuple[list[Report], list[str]]:
    """The reports, and what is missing from them, in words."""
    reports, missing = [], [f"{peer}: {why_not(peer)}" for peer in PEERS if not installed(peer)]
    for part in parts:
        began = time.monotonic()
        try:
            reports.append(PARTS[part](quick=quick))
        except ChildError as error:
            missing.append(f"{part}: {error}")
        print(f"{part}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return reports, missing


def write(reports: Sequence[Report], folder: Path) -> None:
    """A page for each report, and all rows in one file; the rows of parts that were not measured stay in it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RATIOS
    kept = json.loads(path.read_text(encoding="utf-8"))["parts"] if path.exists() else {}
    for report in reports:
        (folder / f"{report.name}.md").write_text(report.page(), encoding="utf-8")
        kept[report.name] = [row.to_json() for row in report.rows]
    text = json.dumps({"machine": machine(), "parts": kept}, indent=2, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def main() -> int:
    """Measures, prints the pages and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, and without the slowest peers")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, help="the folder to write; default: as above")
    args = parser.parse_args()
    torch.set_num_threads(1)
    reports, missing = measure_all(args.only, quick=args.quick)
    write(reports, args.out or (QUICK_RESULTS if args.quick else RESULTS))
    print("\n".join(report.page() for report in reports))
    for line in missing:
        print(f"Not measured: {line}")
    missed = [row.what for report in reports for row in report.rows if row.verdict == "missed"]
    print(f"{len(missed)} bars missed" + "".join(f"\n- {what}" for what in missed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
